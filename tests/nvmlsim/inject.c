/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Faults on command. */
#include "cli.h"

#include <fnmatch.h>
#include <string.h>

static int index_of(const char *text, const char *const *names, int count)
{
    for (int i = 0; i < count; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    return -1;
}

/* The optional count at the end of many commands. */
static bool count_at(const struct args *a, int at, double *count)
{
    *count = 1;
    return a->count <= at || (a->count == at + 1 && parse_number(a->values[at], 0, 4e9, count));
}

static int inject_xid_(struct state *s, struct gpus list, struct args *a)
{
    bool reset = take_flag(a, "--reset-required"), lose = take_flag(a, "--lose");
    const char *recovery = take_option(a, "--recovery");
    double xid, action = 0;
    if (a->count != 1 || !parse_number(a->values[0], 1, 65535, &xid) || (recovery && !parse_number(recovery, 0, 7, &action)))
        return fail("inject xid takes a GPU, the XID and --reset-required, --lose, --recovery 0..7");
    EACH_GPU(s, list, {
        inject_xid(s, g, (uint32_t)xid);
        if (recovery)
            g->recovery_action = (uint32_t)action;
        if (reset)
            g->reset_required = 1;
        if (lose)
            g->lost = 1;
    });
    return 0;
}

static int inject_ecc_(struct state *s, struct gpus list, struct args *a)
{
    static const char *const places[MEM_COUNT] = { "l1", "l2", "dram", "register", "texture", "texture_shm", "cbu", "sram" };
    bool parity = take_flag(a, "--parity");
    const char *place = take_option(a, "--location");
    int location = place ? index_of(place, places, MEM_COUNT) : MEM_DRAM;
    double count;
    int kind = a->count && strcmp(a->values[0], "corrected") == 0     ? ECC_CORRECTED
               : a->count && strcmp(a->values[0], "uncorrected") == 0 ? ECC_UNCORRECTED
                                                                      : -1;
    if (kind < 0 || location < 0 || !count_at(a, 1, &count))
        return fail("inject ecc takes a GPU, corrected or uncorrected, a count and --location dram|sram|l1|l2|register|texture|cbu");
    for (uint32_t i = 0; i < list.count; i++)
        if (!list.gpus[i]->ecc_current)
            return fail("ECC is off on GPU %u", list.gpus[i]->index);
    EACH_GPU(s, list, {
        inject_ecc(s, g, kind, location, (uint64_t)count);
        if (parity && kind == ECC_UNCORRECTED)
            for (int l = 0; l < 2; l++)
                g->sram_parity[l] += (uint64_t)count;
    });
    return 0;
}

static int inject_throttle(struct state *s, struct gpus list, struct args *a)
{
    static const char *const names[REASON_BITS] = { "idle", "app_clocks", "sw_power_cap", "hw_slowdown", "sync_boost",
                                                    "sw_thermal", "hw_thermal", "power_brake", "display" };
    bool off = take_flag(a, "--off");
    int bit = a->count == 1 ? index_of(a->values[0], names, REASON_BITS) : -1;
    if (bit < 0)
        return fail("inject throttle takes a GPU and one of sw_power_cap hw_slowdown sync_boost sw_thermal hw_thermal power_brake");
    uint64_t mask = 1ull << bit;
    if (mask & (REASON_HW_THERMAL | REASON_POWER_BRAKE))
        mask |= REASON_HW_SLOWDOWN;         /* the two say why */
    EACH_GPU(s, list, g->forced_reasons = off ? g->forced_reasons & ~mask : g->forced_reasons | mask);
    return 0;
}

static int inject_remap(struct state *s, struct gpus list, struct args *a)
{
    bool pending = take_flag(a, "--pending"), failed = take_flag(a, "--failed");
    double count;
    bool uncorrected = a->count && strcmp(a->values[0], "uncorrected") == 0;
    if (!a->count || (!uncorrected && strcmp(a->values[0], "corrected") != 0) || !count_at(a, 1, &count))
        return fail("inject remap takes a GPU, corrected or uncorrected, a count and --pending, --failed");
    for (uint32_t i = 0; i < list.count; i++)
        if (gpu_profile(list.gpus[i])->row_remap_banks == NA)
            return fail("GPU %u (%s) retires pages, it does not remap rows", list.gpus[i]->index, gpu_profile(list.gpus[i])->name);
    EACH_GPU(s, list, {
        *(uncorrected ? &g->remapped_uncorrectable : &g->remapped_correctable) += (uint32_t)count;
        g->remap_pending |= pending;
        g->remap_failed |= failed;
        event_post(s, g, failed ? EVENT_DRAM_RETIREMENT_FAILURE : EVENT_DRAM_RETIREMENT, 0, NO_INSTANCE, NO_INSTANCE);
    });
    return 0;
}

static int inject_retired_page(struct state *s, struct gpus list, struct args *a)
{
    bool pending = take_flag(a, "--pending");
    double address = 0;
    int rc = 0;
    uint32_t cause = a->count && strcmp(a->values[0], "double") == 0;
    if (!a->count || (!cause && strcmp(a->values[0], "single") != 0) || a->count > 2 ||
        (a->count == 2 && !parse_number(a->values[1], 0, 1e15, &address)))
        return fail("inject retired-page takes a GPU, single or double, an address and --pending");
    EACH_GPU(s, list, {
        if (!gpu_profile(g)->has_retired_pages) {
            rc = fail("GPU %u (%s) remaps rows, it does not retire pages", g->index, gpu_profile(g)->name);
        } else if (g->retired_count == MAX_RETIRED) {
            rc = fail("GPU %u has retired all the pages it can (%d)", g->index, MAX_RETIRED);
        } else {
            uint32_t n = g->retired_count++;
            g->retired[n].address = a->count == 2 ? (uint64_t)address : 0x10000ull * (n + 1);
            g->retired[n].time_us = (uint64_t)wall_us();
            g->retired[n].cause = cause;
            g->retired[n].pending = pending;
            event_post(s, g, EVENT_DRAM_RETIREMENT, 0, NO_INSTANCE, NO_INSTANCE);
        }
    });
    return rc;
}

static bool parse_links(const struct gpu *g, const char *text, uint32_t *from, uint32_t *to)
{
    uint32_t n = gpu_profile(g)->nvlinks;
    double link;
    *from = 0;
    *to = n;
    if (n && strcmp(text, "all") == 0)
        return true;
    if (!n || !parse_number(text, 0, n - 1, &link))
        return fail("GPU %u (%s) has %u NVLinks; '%s' is none of them", g->index, gpu_profile(g)->name, n, text), false;
    *from = (uint32_t)link;
    *to = *from + 1;
    return true;
}

static int inject_nvlink(struct state *s, struct gpus list, struct args *a)
{
    uint32_t from, to;
    bool down = a->count == 2 && strcmp(a->values[1], "down") == 0;
    if (a->count != 2 || (!down && strcmp(a->values[1], "up") != 0))
        return fail("inject nvlink takes a GPU, a link or 'all', and down or up");
    for (uint32_t i = 0; i < list.count; i++)
        if (!parse_links(list.gpus[i], a->values[0], &from, &to))
            return 1;
    EACH_GPU(s, list, {
        for (uint32_t l = from; l < to; l++)
            g->links_down = down ? g->links_down | 1ull << l : g->links_down & ~(1ull << l);
    });
    return 0;
}

static int inject_nvlink_errors(struct state *s, struct gpus list, struct args *a)
{
    static const char *const kinds[LINK_ERROR_KINDS] = { "replay", "recovery", "crc_flit", "crc_data", "ecc_data" };
    uint32_t from, to;
    double count;
    int kind = a->count >= 2 ? index_of(a->values[1], kinds, LINK_ERROR_KINDS) : -1;
    if (kind < 0 || !count_at(a, 2, &count))
        return fail("inject nvlink-errors takes a GPU, a link or 'all', replay|recovery|crc_flit|crc_data|ecc_data and a count");
    for (uint32_t i = 0; i < list.count; i++)
        if (!parse_links(list.gpus[i], a->values[0], &from, &to))
            return 1;
    EACH_GPU(s, list, {
        for (uint32_t l = from; l < to; l++)
            g->link_errors[l][kind] += (uint64_t)count;
    });
    return 0;
}

static int inject_pcie(struct state *s, struct gpus list, struct args *a)
{
    const char *gen = take_option(a, "--gen"), *width = take_option(a, "--width");
    double g_ = 0, w = 0;
    if (a->count || (!gen && !width) || (gen && !parse_number(gen, 0, 6, &g_)) || (width && !parse_number(width, 0, 16, &w)))
        return fail("inject pcie takes a GPU and --gen 0..6, --width 0..16");
    EACH_GPU(s, list, {
        if (gen)
            g->pcie_gen = (uint32_t)g_;
        if (width)
            g->pcie_width = (uint32_t)w;
    });
    return 0;
}

static int inject_pcie_errors(struct state *s, struct gpus list, struct args *a)
{
    static const char *const kinds[] = { "recovery", "correctable", "naks_received", "receiver", "bad_tlp", "naks_sent", "bad_dllp",
                                         "non_fatal", "fatal", "unsupported", "lcrc", "lane", "replay", "rollover" };
    double count;
    int kind = a->count ? index_of(a->values[0], kinds, 14) : -1;
    if (kind < 0 || !count_at(a, 1, &count))
        return fail("inject pcie-errors takes a GPU, a kind (replay, rollover, correctable, ...) and a count");
    EACH_GPU(s, list, {
        if (kind == 12)
            g->pcie_replays += (uint32_t)count;
        else if (kind == 13)
            g->pcie_replay_rollovers += (uint32_t)count;
        else
            g->pcie_counters[kind] += (uint64_t)count;
    });
    return 0;
}

static int inject_recovery(struct state *s, struct gpus list, struct args *a)
{
    double action;
    if (a->count != 1 || !parse_number(a->values[0], 0, 7, &action))
        return fail("inject recovery takes a GPU and 0..7");
    EACH_GPU(s, list, {
        g->recovery_action = (uint32_t)action;
        event_post(s, g, EVENT_RECOVERY_ACTION, (uint64_t)action, NO_INSTANCE, NO_INSTANCE);
    });
    return 0;
}

static int inject_event(struct state *s, struct gpus list, struct args *a)
{
    double type, data = 0;
    if (a->count < 1 || a->count > 2 || !parse_number(a->values[0], 1, 1e15, &type) ||
        (a->count == 2 && !parse_number(a->values[1], 0, 1e15, &data)))
        return fail("inject event takes a GPU, an event type and data");
    EACH_GPU(s, list, event_post(s, g, (uint64_t)type, (uint64_t)data, NO_INSTANCE, NO_INSTANCE));
    return 0;
}

static int inject_sram_threshold(struct state *s, struct gpus list, struct args *a)
{
    bool on;
    if (a->count != 1 || !parse_switch(a->values[0], &on))
        return fail("inject sram-threshold takes a GPU and on or off");
    EACH_GPU(s, list, g->sram_threshold_exceeded = on);
    return 0;
}

int command_inject(struct state *s, struct args *a)
{
    static const struct { const char *name; int (*run)(struct state *, struct gpus, struct args *); } kinds[] = {
        { "xid", inject_xid_ }, { "ecc", inject_ecc_ }, { "throttle", inject_throttle }, { "remap", inject_remap },
        { "retired-page", inject_retired_page }, { "nvlink", inject_nvlink }, { "nvlink-errors", inject_nvlink_errors },
        { "pcie", inject_pcie }, { "pcie-errors", inject_pcie_errors }, { "recovery", inject_recovery },
        { "event", inject_event }, { "sram-threshold", inject_sram_threshold },
    };
    struct gpus list;
    if (a->count < 2)
        return fail("inject takes what, a GPU and more; see nvmlsim --help");
    const char *what = a->values[0], *gpu = a->values[1];
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(what, kinds[i].name) == 0) {
            if (!parse_gpus(s, gpu, &list))
                return 1;
            a->count -= 2;
            memmove(a->values, a->values + 2, (size_t)a->count * sizeof *a->values);
            return kinds[i].run(s, list, a);
        }
    return fail("inject knows no '%s'; see nvmlsim --help", what);
}

int command_lose(struct state *s, struct args *a)
{
    bool vanish = take_flag(a, "--vanish");
    struct gpus list;
    if (a->count != 1)
        return fail("lose takes a GPU");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, {
        g->lost = 1;
        g->vanished = vanish;
    });
    /* wakes those who wait for events: they learn that the GPU is gone */
    event_post(s, list.gpus[0], EVENT_UNAVAILABLE, 0, NO_INSTANCE, NO_INSTANCE);
    return 0;
}

int command_restore(struct state *s, struct args *a)
{
    struct gpus list;
    if (a->count != 1)
        return fail("restore takes a GPU");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, g->lost = g->vanished = g->reset_required = 0);
    return 0;
}

/* A name without a version suffix means all versions of the function. */
static bool same_function(const char *pattern, const char *name)
{
    size_t n = strlen(pattern);
    if (fnmatch(pattern, name, 0) == 0)
        return true;
    return strncmp(pattern, name, n) == 0 && name[n] == '_' && name[n + 1] == 'v' && strlen(name + n) == 3;
}

static int add_fault(struct state *s, struct args *a, uint32_t kind, int32_t code, double seconds)
{
    const char *gpu = take_option(a, "--gpu"), *times = take_option(a, "--times"), *after = take_option(a, "--after");
    struct gpus list = { 0 };
    double n = -1, skip = 0;
    bool matched = false;
    if (gpu && !parse_gpus(s, gpu, &list))
        return 1;
    if (times && !parse_number(times, 1, 1e9, &n))
        return fail("--times takes a count, not '%s'", times);
    if (after && !parse_number(after, 1, 1e9, &skip))
        return fail("--after takes a count, not '%s'", after);
    if (a->count != 2)
        return fail("the function, then %s", kind == FAULT_HANG ? "seconds or 'forever'" : "the return code");
    for (uint32_t k = 0; k < (list.count ? list.count : 1); k++) {
        state_lock(s);
        struct fault *f = NULL;
        for (int i = 0; i < MAX_FAULTS && !f; i++)
            if (atomic_load(&s->faults[i].kind) == FAULT_NONE)
                f = &s->faults[i];
        if (!f) {
            state_unlock(s);
            return fail("there are already %d faults; clear some", MAX_FAULTS);
        }
        memset(f->functions, 0, sizeof f->functions);
        for (int i = 0; i < FN_COUNT; i++)
            if (same_function(a->values[0], function_names[i])) {
                f->functions[i / 8] |= (uint8_t)(1u << i % 8);
                matched = true;
            }
        if (matched) {
            f->id = s->next_fault++;
            f->gpu = list.count ? (int32_t)list.gpus[k]->index : -1;
            f->code = code;
            f->seconds = seconds;
            atomic_store(&f->skip, (int32_t)skip);
            atomic_store(&f->remaining, (int32_t)n);
            snprintf(f->pattern, sizeof f->pattern, "%s", a->values[0]);
            atomic_store(&f->kind, kind);
            atomic_fetch_add(&s->fault_count, 1);
            printf("%u\n", f->id);
        }
        state_unlock(s);
        if (!matched)
            return fail("NVML has no function '%s'", a->values[0]);
    }
    return 0;
}

int command_fail(struct state *s, struct args *a)
{
    double code;
    if (a->count < 2 || !parse_number(a->values[1], 1, 999, &code))
        return fail("fail takes a function and a return code, 1 to 999");
    return add_fault(s, a, FAULT_RETURN, (int32_t)code, 0);
}

int command_hang(struct state *s, struct args *a)
{
    double seconds = -1;
    if (a->count < 2 || (strcmp(a->values[1], "forever") != 0 && !parse_number(a->values[1], 0, 1e6, &seconds)))
        return fail("hang takes a function and seconds or 'forever'");
    return add_fault(s, a, FAULT_HANG, 0, seconds);
}

static void clear_fault(struct state *s, struct fault *f)
{
    if (atomic_exchange(&f->kind, FAULT_NONE) != FAULT_NONE)
        atomic_fetch_sub(&s->fault_count, 1);
}

static void clear_health(struct gpu *g)
{
    g->bmc_cap_mw = -1;
    g->ambient_c = 25;
    g->pinned_celsius = NO_LIMIT;
    g->forced_reasons = 0;
    g->lost = g->vanished = g->reset_required = g->recovery_action = g->last_xid = 0;
    g->pcie_gen = g->pcie_width = 0;
    g->links_down = 0;
    memset(g->ecc, 0, sizeof g->ecc);
    memset(g->sram_parity, 0, sizeof g->sram_parity);
    memset(g->sram_bucket, 0, sizeof g->sram_bucket);
    g->sram_threshold_exceeded = 0;
    g->remapped_correctable = g->remapped_uncorrectable = g->remap_pending = g->remap_failed = 0;
    g->retired_count = 0;
    memset(g->link_errors, 0, sizeof g->link_errors);
    memset(g->pcie_counters, 0, sizeof g->pcie_counters);
    g->pcie_replays = g->pcie_replay_rollovers = 0;
}

int command_clear(struct state *s, struct args *a)
{
    struct gpus list;
    double id;
    const char *what = a->count ? a->values[0] : "";
    bool all = strcmp(what, "all") == 0, faults = all || strcmp(what, "faults") == 0, health = all || strcmp(what, "health") == 0;
    if (!faults && !health) {
        if (a->count != 1 || !parse_number(what, 1, 4e9, &id))
            return fail("clear faults, health, all, or the number of a fault");
        for (int i = 0; i < MAX_FAULTS; i++)
            if (atomic_load(&s->faults[i].kind) != FAULT_NONE && s->faults[i].id == (uint32_t)id)
                return clear_fault(s, &s->faults[i]), 0;
        return fail("there is no fault %s", what);
    }
    if (!parse_gpus(s, a->count > 1 ? a->values[1] : "all", &list))
        return 1;
    if (faults)
        for (int i = 0; i < MAX_FAULTS; i++)
            if (a->count < 2 || s->faults[i].gpu == (int32_t)list.gpus[0]->index)
                clear_fault(s, &s->faults[i]);
    if (health)
        EACH_GPU(s, list, clear_health(g));
    if (all) {
        s->pretend_uid = -1;
        s->pretend_unprivileged = 0;
    }
    return 0;
}
