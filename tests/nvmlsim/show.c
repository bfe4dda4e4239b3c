/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* What the simulated machine is doing, read from the state itself and not through the NVML calls. */
#include "health.h"
#include "sim.h"

#include <math.h>
#include <string.h>

/* A JSON writer: every value is written with its key ("" inside a list). */
static FILE *to;
static bool first;

static void key(const char *name)
{
    fputs(first ? "" : ", ", to);
    first = false;
    if (*name)
        fprintf(to, "\"%s\": ", name);
}

static void open_(const char *name, char bracket)
{
    key(name);
    fputc(bracket, to);
    first = true;
}

static void close_(char bracket)
{
    fputc(bracket, to);
    first = false;
}

static void text(const char *name, const char *value)
{
    key(name);
    if (!value) {
        fputs("null", to);
        return;
    }
    fputc('"', to);
    for (; *value; value++)
        fprintf(to, *value == '"' || *value == '\\' ? "\\%c" : (unsigned char)*value < ' ' ? "\\u%04x" : "%c", *value);
    fputc('"', to);
}

static void integer(const char *name, long long value)
{
    key(name);
    fprintf(to, "%lld", value);
}

static void optional(const char *name, bool there, long long value)
{
    key(name);
    fprintf(to, there ? "%lld" : "null", value);
}

static void real(const char *name, double value)
{
    key(name);
    fprintf(to, "%.6f", value);
}

static void truth(const char *name, bool value)
{
    key(name);
    fputs(value ? "true" : "false", to);
}

static void show_links(const struct gpu *g)
{
    static const char *const kinds[] = { "replay", "recovery", "crc_flit", "crc_data", "ecc_data" };
    open_("nvlinks", '[');
    for (uint32_t i = 0; i < gpu_profile(g)->nvlinks; i++) {
        open_("", '{');
        truth("up", !(g->links_down >> i & 1));
        integer("speed_mbps", link_mbps(g, i));
        integer("tx_kib", (long long)g->link_tx_kib[i]);
        integer("rx_kib", (long long)g->link_rx_kib[i]);
        for (int k = 0; k < LINK_ERROR_KINDS; k++)
            integer(kinds[k], (long long)g->link_errors[i][k]);
        close_('}');
    }
    close_(']');
}

static void show_health(const struct gpu *g)
{
    static const char *const lifetimes[] = { "volatile", "aggregate" }, *const kinds[] = { "corrected", "uncorrected" };
    const struct profile *p = gpu_profile(g);
    open_("ecc_errors", '{');
    for (int l = 0; l < 2; l++) {
        open_(lifetimes[l], '{');
        for (int k = 0; k < 2; k++) {
            open_(kinds[k], '{');
            integer("total", (long long)ecc_total(g, l, k));
            integer("dram", (long long)g->ecc[l][k][MEM_DRAM]);
            integer("sram", (long long)ecc_sram(g, l, k));
            close_('}');
        }
        close_('}');
    }
    close_('}');
    if (p->row_remap_banks != NA) {
        nvmlRowRemapperHistogramValues_t h;
        row_remap_histogram(g, &h);
        open_("remapped_rows", '{');
        integer("correctable", g->remapped_correctable);
        integer("uncorrectable", g->remapped_uncorrectable);
        truth("pending", g->remap_pending);
        truth("failed", g->remap_failed);
        open_("histogram", '{');
        integer("max", h.max);
        integer("high", h.high);
        integer("partial", h.partial);
        integer("low", h.low);
        integer("none", h.none);
        close_('}');
        close_('}');
    }
    if (p->has_retired_pages) {
        open_("retired_pages", '{');
        integer("single_bit", retired_total(g, 0));
        integer("double_bit", retired_total(g, 1));
        truth("pending", retired_pending(g, -1));
        close_('}');
    }
    optional("last_xid", g->last_xid != 0, g->last_xid);
    integer("recovery_action", g->recovery_action);
}

static void show_gpu(struct state *s, struct gpu *g)
{
    static const char *const reasons[REASON_BITS] = { "idle", "app_clocks", "sw_power_cap", "hw_slowdown", "sync_boost",
                                                      "sw_thermal", "hw_thermal", "power_brake", "display" };
    const struct profile *p = gpu_profile(g);
    char bus_id[32];
    gpu_lock(g);
    physics_advance(g, state_now(s));
    processes_prune(g);
    snprintf(bus_id, sizeof bus_id, "%08X:%02X:%02X.0", g->domain, g->bus & 0xFF, g->device & 0xFF);
    open_("", '{');
    integer("index", g->index);
    text("profile", p->key);
    text("name", p->name);
    text("uuid", g->uuid);
    text("serial", g->serial[0] ? g->serial : NULL);
    text("pci_bus_id", bus_id);
    text("vbios", p->vbios);
    text("board_part", p->board_part);
    integer("architecture", p->arch);
    truth("lost", g->lost);
    truth("vanished", g->vanished);
    truth("reset_required", g->reset_required);
    open_("load", '{');
    text("kind", load_names[g->load.kind]);
    real("level", g->load.level);
    real("now", load_level(&g->load, g->index, g->now_ns));
    close_('}');
    real("uptime_s", (double)(g->now_ns - g->started_ns) / 1e9);

    integer("power_usage_mw", reported_power_mw(g));
    integer("power_instant_mw", llround(g->power_mw));
    optional("power_average_mw", p->has_average_power, llround(g->average_mw));
    integer("energy_mj", (long long)g->energy_mj);
    integer("power_limit_mw", g->limit_mw);
    integer("enforced_limit_mw", enforced_limit_mw(g));
    integer("default_limit_mw", p->limit_default_mw);
    integer("min_limit_mw", p->limit_min_mw);
    integer("max_limit_mw", p->limit_max_mw);
    optional("module_limit_mw", p->module_max_mw != NA, g->module_limit_mw);
    optional("bmc_cap_mw", g->bmc_cap_mw >= 0, g->bmc_cap_mw);

    integer("temperature_c", gpu_celsius(g));
    real("temperature_exact_c", g->temperature_c);
    optional("memory_temperature_c", p->has_memory_temp, memory_celsius(g));
    optional("margin_c", p->t_limit != NA, margin_celsius(g));
    open_("fans_percent", '[');
    for (int i = 0; i < p->fans; i++)
        integer("", fan_percent(g, (uint32_t)i));
    close_(']');

    integer("graphics_clock_mhz", g->graphics_mhz);
    integer("memory_clock_mhz", g->memory_mhz);
    integer("video_clock_mhz", g->video_mhz);
    integer("max_graphics_clock_mhz", p->graphics_max);
    integer("max_memory_clock_mhz", p->memory_max);
    integer("max_video_clock_mhz", p->video_max);
    integer("pstate", g->pstate);
    integer("clock_event_reasons", (long long)g->reasons);
    open_("clock_event_ns", '{');
    for (int i = 0; i < REASON_BITS; i++)
        integer(reasons[i], (long long)g->reason_ns[i]);
    close_('}');
    open_("gpu_locked_clocks", '[');
    if (g->lock_graphics_max) {
        integer("", g->lock_graphics_min);
        integer("", g->lock_graphics_max);
    }
    close_(']');
    open_("memory_locked_clocks", '[');
    if (g->lock_memory_max) {
        integer("", g->lock_memory_min);
        integer("", g->lock_memory_max);
    }
    close_(']');
    open_("application_clocks", '[');
    if (g->app_graphics) {
        integer("", g->app_memory);
        integer("", g->app_graphics);
    }
    close_(']');

    integer("utilization_percent", (long long)(g->utilization * 100 + 0.5));
    integer("memory_utilization_percent", (long long)(g->memory_utilization * 100 + 0.5));
    integer("memory_total_bytes", (long long)p->memory_mib << 20);
    integer("memory_reserved_bytes", (long long)p->reserved_mib << 20);
    integer("memory_used_bytes", (long long)used_memory_bytes(g));

    integer("persistence_mode", g->persistence);
    integer("compute_mode", g->compute_mode);
    optional("ecc_current", p->ecc != NA, g->ecc_current);
    optional("ecc_pending", p->ecc != NA, g->ecc_pending);
    optional("mig_current", p->mig != NULL, g->mig_current);
    optional("mig_pending", p->mig != NULL, g->mig_pending);
    integer("accounting_mode", g->accounting);
    open_("api_restricted", '[');
    integer("", g->api_restricted[0]);
    integer("", g->api_restricted[1]);
    close_(']');

    integer("pcie_gen", pcie_current_gen(g));
    integer("pcie_width", pcie_current_width(g));
    integer("pcie_max_gen", p->pcie_gen);
    integer("pcie_max_width", p->pcie_width);
    integer("pcie_replays", g->pcie_replays);
    integer("pcie_tx_bytes", (long long)g->pcie_tx_bytes);
    integer("pcie_rx_bytes", (long long)g->pcie_rx_bytes);
    show_links(g);
    show_health(g);

    open_("processes", '[');
    for (uint32_t i = 0; i < g->process_count; i++) {
        static const char *const kinds[] = { "compute", "graphics", "mps" };
        const struct process *x = &g->processes[i];
        open_("", '{');
        integer("pid", x->pid);
        text("kind", kinds[x->kind]);
        optional("memory_bytes", x->memory_bytes != VALUE_NOT_AVAILABLE, (long long)x->memory_bytes);
        optional("gpu_instance", x->gpu_instance != NO_INSTANCE, x->gpu_instance);
        optional("compute_instance", x->compute_instance != NO_INSTANCE, x->compute_instance);
        close_('}');
    }
    close_(']');
    open_("gpu_instances", '[');
    for (int i = 0; i < MAX_INSTANCES; i++) {
        const struct gpu_instance *gi = &g->instances[i];
        if (!gi->used)
            continue;
        open_("", '{');
        integer("id", gi->id);
        integer("profile_id", p->mig[gi->profile_index].id);
        text("name", p->mig[gi->profile_index].name);
        integer("start", gi->start);
        integer("size", p->mig[gi->profile_index].memory_slices);
        open_("compute_instances", '[');
        for (int k = 0; k < MAX_INSTANCES; k++)
            if (gi->compute[k].used) {
                open_("", '{');
                integer("id", gi->compute[k].id);
                integer("profile_id", gi->compute[k].profile);
                integer("slices", gi->compute[k].slices);
                close_('}');
            }
        close_(']');
        close_('}');
    }
    close_(']');
    close_('}');
    gpu_unlock(g);
}

void show_json(struct state *s, FILE *out)
{
    to = out;
    first = true;
    open_("", '{');
    text("driver_version", s->driver_version);
    integer("cuda_version", cuda_version(s->driver_major));
    truth("driver_loaded", s->driver_loaded);
    integer("driver_epoch", atomic_load(&s->driver_epoch));
    integer("boot_epoch", s->boot_epoch);
    integer("clients", clients_alive(s));
    open_("client_pids", '[');
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (s->clients[i].used)
            integer("", s->clients[i].pid);
    close_(']');
    integer("events", (long long)atomic_load(&s->event_seq));
    optional("pretend_uid", s->pretend_uid >= 0, s->pretend_uid);
    truth("pretend_unprivileged", s->pretend_unprivileged);
    open_("faults", '[');
    for (int i = 0; i < MAX_FAULTS; i++) {
        const struct fault *f = &s->faults[i];
        uint32_t kind = atomic_load(&f->kind);
        if (kind == FAULT_NONE)
            continue;
        open_("", '{');
        integer("id", f->id);
        text("kind", kind == FAULT_HANG ? "hang" : "return");
        text("functions", f->pattern);
        optional("gpu", f->gpu >= 0, f->gpu);
        optional("remaining", atomic_load(&f->remaining) >= 0, atomic_load(&f->remaining));
        if (kind == FAULT_HANG)
            real("seconds", f->seconds);
        else
            integer("code", f->code);
        close_('}');
    }
    close_(']');
    open_("gpus", '[');
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        show_gpu(s, &s->gpus[i]);
        fputc('\n', out);
    }
    close_(']');
    close_('}');
    fputc('\n', out);
}

void show_table(struct state *s, FILE *out)
{
    fprintf(out, "driver %s%s, CUDA %u.%u, %u client%s\n", s->driver_version, s->driver_loaded ? "" : " (not loaded)",
            cuda_version(s->driver_major) / 1000, cuda_version(s->driver_major) % 1000 / 10, clients_alive(s),
            clients_alive(s) == 1 ? "" : "s");
    fprintf(out, "%-3s %-24s %-10s %5s %5s %9s/%-9s %5s %6s %11s  %s\n", "GPU", "name", "load", "util", "temp", "power", "limit",
            "clock", "memclk", "memory MiB", "notes");
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct gpu *g = &s->gpus[i];
        const struct profile *p = gpu_profile(g);
        gpu_lock(g);
        physics_advance(g, state_now(s));
        fprintf(out, "%-3u %-24.24s %-10s %4.0f%% %4dC %8.2fW/%8.2fW %5u %6u %5llu/%5u  %s%s%s%s\n", i, p->name, load_names[g->load.kind],
                g->utilization * 100, gpu_celsius(g), reported_power_mw(g) / 1e3, enforced_limit_mw(g) / 1e3, g->graphics_mhz,
                g->memory_mhz, (ull)(used_memory_bytes(g) >> 20), p->memory_mib, g->lost ? "lost " : "", g->vanished ? "vanished " : "",
                g->mig_current ? "MIG " : "", g->reset_required ? "reset required " : "");
        gpu_unlock(g);
    }
}
