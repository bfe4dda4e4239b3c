/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* What happens to the machine or to one GPU from outside: restarts, errors, processes. Shared by library and CLI. */
#include "sim.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

const char *const function_names[FN_COUNT] = {
#define F(name, since) #name,
#include "functions.def"
#undef F
};

const unsigned short function_since[FN_COUNT] = {
#define F(name, since) since,
#include "functions.def"
#undef F
};

void gpu_defaults(struct gpu *g)
{
    const struct profile *p = gpu_profile(g);
    g->limit_mw = p->limit_default_mw > 0 ? (uint32_t)p->limit_default_mw : 0;
    g->module_limit_mw = p->module_default_mw > 0 ? (uint32_t)p->module_default_mw : 0;
    g->lock_graphics_min = g->lock_graphics_max = g->lock_memory_min = g->lock_memory_max = 0;
    g->app_graphics = g->app_memory = 0;
    g->graphics_offset = g->memory_offset = 0;
    for (int i = 0; i < MAX_FANS; i++)
        g->fan_manual[i] = -1;
    g->acoustic_celsius = p->t_target;
    g->compute_mode = COMPUTEMODE_DEFAULT;
    g->accounting = 0;
    g->accounting_count = 0;
    g->api_restricted[0] = g->api_restricted[1] = 1;
    memset(g->power_profiles, 0, sizeof g->power_profiles);
}

void gpu_restarted(struct state *s, struct gpu *g)
{
    int64_t now = state_now(s);
    physics_advance(g, now);
    gpu_defaults(g);
    g->started_ns = now;
    g->energy_mj = 0;
    memset(g->reason_ns, 0, sizeof g->reason_ns);
    memset(g->ecc[ECC_VOLATILE], 0, sizeof g->ecc[ECC_VOLATILE]);
    g->sram_parity[ECC_VOLATILE] = 0;
    memset(g->link_tx_kib, 0, sizeof g->link_tx_kib);
    memset(g->link_rx_kib, 0, sizeof g->link_rx_kib);
    memset(g->link_errors, 0, sizeof g->link_errors);
    memset(g->pcie_counters, 0, sizeof g->pcie_counters);
    g->pcie_tx_bytes = g->pcie_rx_bytes = 0;
    g->pcie_replays = g->pcie_replay_rollovers = 0;
    /* pages and rows that waited for this are out of use from now on */
    for (uint32_t i = 0; i < g->retired_count; i++)
        g->retired[i].pending = 0;
    g->remap_pending = 0;
    physics_refresh(g);
}

static void apply_pending(struct gpu *g, bool keep_mig)
{
    g->ecc_current = g->ecc_pending;
    if (!keep_mig)
        g->mig_pending = 0;
    g->mig_current = g->mig_pending;
    memset(g->instances, 0, sizeof g->instances);
    g->process_count = 0;
    g->reset_required = 0;
    g->recovery_action = 0;
    g->last_xid = 0;
}

void gpu_reset(struct state *s, struct gpu *g)
{
    uint32_t compute_mode = g->compute_mode;
    apply_pending(g, true);
    gpu_restarted(s, g);
    g->compute_mode = compute_mode;
    g->handle_epoch++;
}

void machine_reload_driver(struct state *s)
{
    atomic_fetch_add(&s->driver_epoch, 1);
    s->driver_loaded = 1;
    atomic_fetch_add(&s->event_futex, 1);   /* whoever waits for events learns it */
    syscall(SYS_futex, &s->event_futex, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct gpu *g = &s->gpus[i];
        gpu_lock(g);
        g->process_count = 0;
        g->persistence = s->persistenced;
        gpu_restarted(s, g);
        gpu_unlock(g);
    }
}

void machine_reboot(struct state *s)
{
    s->boot_epoch++;
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct gpu *g = &s->gpus[i];
        gpu_lock(g);
        /* only Ampere keeps MIG mode in the board itself */
        apply_pending(g, gpu_profile(g)->arch == ARCH_AMPERE);
        g->lost = g->vanished = g->drained = 0;
        gpu_unlock(g);
    }
    machine_reload_driver(s);
}

void event_post(struct state *s, struct gpu *g, uint64_t type, uint64_t data, uint32_t gpu_instance, uint32_t compute_instance)
{
    events_lock(s);
    uint64_t seq = atomic_load(&s->event_seq) + 1;
    s->events[seq % MAX_EVENTS] = (struct event){
        .seq = seq, .type = type, .data = data, .time_us = wall_us(),
        .gpu = g->index, .gpu_instance = gpu_instance, .compute_instance = compute_instance,
    };
    atomic_store(&s->event_seq, seq);
    atomic_fetch_add(&s->event_futex, 1);
    events_unlock(s);
    syscall(SYS_futex, &s->event_futex, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void inject_xid(struct state *s, struct gpu *g, uint32_t xid)
{
    g->last_xid = xid;
    event_post(s, g, EVENT_XID, xid, NO_INSTANCE, NO_INSTANCE);
}

/* An uncorrected error raises the double-bit event; corrected ones raise the single-bit event. */
void inject_ecc(struct state *s, struct gpu *g, int kind, int location, uint64_t count)
{
    for (int lifetime = ECC_VOLATILE; lifetime <= ECC_AGGREGATE; lifetime++)
        g->ecc[lifetime][kind][location] += count;
    if (kind == ECC_UNCORRECTED && location == MEM_L2)
        g->sram_bucket[0] += count;
    if (kind == ECC_UNCORRECTED && (location == MEM_REGISTER || location == MEM_L1 || location == MEM_SRAM))
        g->sram_bucket[1] += count;
    event_post(s, g, kind == ECC_CORRECTED ? EVENT_SINGLE_BIT_ECC : EVENT_DOUBLE_BIT_ECC, 0, NO_INSTANCE, NO_INSTANCE);
}

void process_remove(struct gpu *g, uint32_t i)
{
    const struct process *gone = &g->processes[i];
    for (uint32_t k = 0; k < g->accounting_count; k++)
        if (g->accounted[k].pid == gone->pid && g->accounted[k].running) {
            g->accounted[k].running = 0;
            g->accounted[k].ended_us = wall_us();
        }
    memmove(&g->processes[i], &g->processes[i + 1], (g->process_count - i - 1) * sizeof *g->processes);
    g->process_count--;
}

void processes_prune(struct gpu *g)
{
    for (uint32_t i = g->process_count; i-- > 0;)
        if (g->processes[i].was_alive && kill((pid_t)g->processes[i].pid, 0) && errno == ESRCH)
            process_remove(g, i);
}

void row_remap_histogram(const struct gpu *g, nvmlRowRemapperHistogramValues_t *out)
{
    uint32_t banks = (uint32_t)gpu_profile(g)->row_remap_banks;
    uint32_t rows = g->remapped_correctable + g->remapped_uncorrectable;
    uint32_t touched = rows < banks ? rows : banks;
    /* each remapped row takes a spare of another bank; a failed remap means one bank has none left */
    *out = (nvmlRowRemapperHistogramValues_t){ .max = banks - touched, .high = touched };
    if (g->remap_failed) {
        out->none = 1;
        if (out->high)
            out->high--;
        else
            out->max--;
    }
}
