/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* What the commands of the CLI do, apart from faults (inject.c). */
#include "cli.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

int command_set_load(struct state *s, struct args *a)
{
    static const struct { const char *option; size_t offset; } shares[] = {
        { "--memory-util", offsetof(struct load, memory) }, { "--encoder", offsetof(struct load, encoder) },
        { "--decoder", offsetof(struct load, decoder) }, { "--memory-used", offsetof(struct load, memory_used) },
    };
    struct gpus list;
    struct load load;
    const char *values[4];
    for (int i = 0; i < 4; i++)
        values[i] = take_option(a, shares[i].option);
    if (a->count != 2)
        return fail("set-load takes a GPU and a load");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    if (!load_parse(a->values[1], &load))
        return fail("'%s' is no load: give 0..1, N%%, or idle, training, inference, sine, square [:LEVEL[:PERIOD_SECONDS]]", a->values[1]);
    for (int i = 0; i < 4; i++)
        if (values[i]) {
            double v;
            if (!parse_number(values[i], 0, 1, &v))
                return fail("%s takes a share between 0 and 1, not '%s'", shares[i].option, values[i]);
            *(double *)((char *)&load + shares[i].offset) = v;
        }
    EACH_GPU(s, list, {
        g->load = load;
        g->load.since_ns = g->now_ns;
    });
    return 0;
}

static int process_add(struct state *s, struct args *a)
{
    static const char *const kinds[] = { "compute", "graphics", "mps" };
    const char *memory = take_option(a, "--memory"), *kind_name = take_option(a, "--kind"), *sm = take_option(a, "--sm");
    const char *gi = take_option(a, "--gpu-instance"), *ci = take_option(a, "--compute-instance");
    double pid, mib = 512, percent = 0, gpu_instance = NO_INSTANCE, compute_instance = NO_INSTANCE;
    uint32_t kind = 0;
    struct gpus list;
    if (a->count != 2 || !parse_number(a->values[1], 1, 4294967295.0, &pid))
        return fail("process add takes a GPU and a pid");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    if (memory && strcmp(memory, "unknown") != 0 && !parse_number(memory, 0, 1e9, &mib))
        return fail("--memory takes MiB or 'unknown', not '%s'", memory);
    if (sm && !parse_number(sm, 0, 100, &percent))
        return fail("--sm takes percent, not '%s'", sm);
    if ((gi && !parse_number(gi, 0, 64, &gpu_instance)) || (ci && !parse_number(ci, 0, 64, &compute_instance)))
        return fail("--gpu-instance and --compute-instance take the ids of instances");
    while (kind_name && kind < 3 && strcmp(kind_name, kinds[kind]) != 0)
        kind++;
    if (kind == 3)
        return fail("--kind takes compute, graphics or mps, not '%s'", kind_name);
    int rc = 0;
    EACH_GPU(s, list, {
        if (g->process_count == MAX_PROCESSES) {
            rc = fail("GPU %u already has %d processes", g->index, MAX_PROCESSES);
        } else if (g->compute_mode == COMPUTEMODE_PROHIBITED ||
                   (g->compute_mode == COMPUTEMODE_EXCLUSIVE_PROCESS && g->process_count)) {
            rc = fail("GPU %u's compute mode does not allow it", g->index);
        } else {
            struct process *x = &g->processes[g->process_count++];
            *x = (struct process){
                .pid = (uint32_t)pid, .kind = kind, .gpu_instance = (uint32_t)gpu_instance,
                .compute_instance = (uint32_t)compute_instance,
                .memory_bytes = memory && strcmp(memory, "unknown") == 0 ? VALUE_NOT_AVAILABLE : (uint64_t)mib << 20,
                .was_alive = pid <= 2147483647 && (kill((pid_t)pid, 0) == 0 || errno == EPERM), .sm_percent = (uint32_t)percent, .started_us = wall_us(),
            };
            if (g->accounting && g->accounting_count < MAX_ACCOUNTING)
                g->accounted[g->accounting_count++] = (struct accounting){
                    .pid = x->pid, .running = 1, .gpu_util = (uint32_t)percent, .started_us = x->started_us,
                    .max_memory_bytes = x->memory_bytes,
                };
        }
    });
    return rc;
}

static int process_drop(struct state *s, struct args *a)
{
    struct gpus list;
    double pid;
    bool found = false;
    if (a->count != 2 || !parse_number(a->values[1], 1, 4294967295.0, &pid))
        return fail("process remove takes a GPU and a pid");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, {
        for (uint32_t i = g->process_count; i-- > 0;)
            if (g->processes[i].pid == (uint32_t)pid) {
                process_remove(g, i);
                found = true;
            }
    });
    return found ? 0 : fail("no process %u there", (uint32_t)pid);
}

int command_process(struct state *s, struct args *a)
{
    const char *verb = a->count ? a->values[0] : "";
    bool add = strcmp(verb, "add") == 0;
    if (!add && strcmp(verb, "remove") != 0)
        return fail("process add GPU PID ... or process remove GPU PID");
    memmove(a->values, a->values + 1, (size_t)--a->count * sizeof *a->values);
    return add ? process_add(s, a) : process_drop(s, a);
}

int command_advance(struct state *s, struct args *a)
{
    double seconds;
    if (a->count != 1 || !parse_number(a->values[0], 0, 1e8, &seconds))
        return fail("advance takes seconds");
    atomic_fetch_add(&s->warp_ns, (int64_t)(seconds * 1e9));
    return 0;
}

int command_set_ambient(struct state *s, struct args *a)
{
    struct gpus list;
    double celsius;
    if (a->count != 2 || !parse_number(a->values[1], -40, 150, &celsius))
        return fail("set-ambient takes a GPU and degrees C");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, g->ambient_c = celsius);
    return 0;
}

int command_set_temp(struct state *s, struct args *a)
{
    struct gpus list;
    double celsius = NO_LIMIT;
    if (a->count != 2 || (strcmp(a->values[1], "auto") != 0 && !parse_number(a->values[1], -40, 150, &celsius)))
        return fail("set-temp takes a GPU and degrees C or 'auto'");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, g->pinned_celsius = (int32_t)celsius);
    return 0;
}

int command_bmc_cap(struct state *s, struct args *a)
{
    struct gpus list;
    double watts = -1;
    if (a->count != 2 || (strcmp(a->values[1], "none") != 0 && !parse_number(a->values[1], 1, 100000, &watts)))
        return fail("bmc-cap takes a GPU and watts or 'none'");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, g->bmc_cap_mw = watts < 0 ? -1 : (int64_t)(watts * 1000 + 0.5));
    return 0;
}

int command_limit_step(struct state *s, struct args *a)
{
    struct gpus list;
    double watts;
    if (a->count != 2 || !parse_number(a->values[1], 0, 1000, &watts))
        return fail("limit-step takes a GPU and watts, 0 for none");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    EACH_GPU(s, list, g->limit_step_mw = (uint32_t)(watts * 1000 + 0.5));
    return 0;
}

int command_pretend_uid(struct state *s, struct args *a)
{
    double uid = -1;
    if (a->count != 1 || (strcmp(a->values[0], "real") != 0 && !parse_number(a->values[0], 0, 2147483647, &uid)))
        return fail("pretend-uid takes a number or 'real'");
    s->pretend_uid = (int32_t)uid;
    return 0;
}

static int machine_switch(struct args *a, const char *command, uint32_t *out)
{
    bool on;
    if (a->count != 1 || !parse_switch(a->values[0], &on))
        return fail("%s takes on or off", command);
    *out = on;
    return 0;
}

int command_pretend_unprivileged(struct state *s, struct args *a)
{
    return machine_switch(a, "pretend-unprivileged", &s->pretend_unprivileged);
}

int command_persistenced(struct state *s, struct args *a)
{
    return machine_switch(a, "persistenced", &s->persistenced);
}

int command_vm(struct state *s, struct args *a)
{
    uint32_t on = 0;
    int rc = machine_switch(a, "vm", &on);
    for (uint32_t i = 0; rc == 0 && i < s->gpu_count; i++)
        s->gpus[i].mig_needs_reboot = on;
    return rc;
}

int command_set_driver_version(struct state *s, struct args *a)
{
    if (a->count != 1 || strtoul(a->values[0], NULL, 10) < 300 || strlen(a->values[0]) > 40)
        return fail("set-driver-version takes something like 580.105.08");
    snprintf(s->driver_version, sizeof s->driver_version, "%s", a->values[0]);
    s->driver_major = (uint32_t)strtoul(a->values[0], NULL, 10);
    return 0;
}

static bool held_by_clients(struct state *s, struct args *a)
{
    if (take_flag(a, "--force") || !clients_alive(s))
        return false;
    for (int i = 0; i < MAX_CLIENTS; i++)
        if (s->clients[i].used) {
            fail("the driver is in use by process %d%s; --force does it all the same", s->clients[i].pid,
                 clients_alive(s) > 1 ? " and others" : "");
            break;
        }
    return true;
}

int command_reload_driver(struct state *s, struct args *a)
{
    if (held_by_clients(s, a))
        return 1;
    machine_reload_driver(s);
    return 0;
}

int command_unload_driver(struct state *s, struct args *a)
{
    if (held_by_clients(s, a))
        return 1;
    machine_reload_driver(s);
    s->driver_loaded = 0;
    return 0;
}

int command_load_driver(struct state *s, struct args *a)
{
    (void)a;
    machine_reload_driver(s);
    return 0;
}

int command_reboot(struct state *s, struct args *a)
{
    (void)a;
    machine_reboot(s);
    return 0;
}

int command_reset(struct state *s, struct args *a)
{
    bool force = take_flag(a, "--force");
    struct gpus list;
    int rc = 0;
    if (a->count != 1)
        return fail("reset takes a GPU");
    if (!parse_gpus(s, a->values[0], &list))
        return 1;
    if (!force && clients_alive(s)) {
        struct args none = { 0 };
        held_by_clients(s, &none);
        return 1;
    }
    EACH_GPU(s, list, {
        processes_prune(g);
        if (g->lost)
            rc = fail("GPU %u is lost: only a reboot brings it back", g->index);
        else if (g->process_count && !force)
            rc = fail("GPU %u is in use by process %u", g->index, g->processes[0].pid);
        else
            gpu_reset(s, g);
    });
    return rc;
}

int command_mig(struct state *s, struct args *a)
{
    struct gpus list;
    const char *verb = a->count ? a->values[0] : "";
    int rc = 0;
    bool on = false;
    if (a->count < 2)
        return fail("mig mode GPU on|off, mig create GPU PROFILE[,PROFILE...] or mig clear GPU");
    if (!parse_gpus(s, a->values[1], &list))
        return 1;
    for (uint32_t i = 0; i < list.count; i++)
        if (!gpu_profile(list.gpus[i])->mig)
            return fail("GPU %u (%s) has no MIG", list.gpus[i]->index, gpu_profile(list.gpus[i])->name);
    if (strcmp(verb, "clear") == 0) {
        EACH_GPU(s, list, memset(g->instances, 0, sizeof g->instances));
    } else if (strcmp(verb, "mode") == 0) {
        if (a->count != 3 || !parse_switch(a->values[2], &on))
            return fail("mig mode takes a GPU and on or off");
        EACH_GPU(s, list, {
            g->mig_current = g->mig_pending = on;
            if (on) {
                g->compute_mode = COMPUTEMODE_DEFAULT;
                g->accounting = 0;
            }
            memset(g->instances, 0, sizeof g->instances);
        });
    } else if (strcmp(verb, "create") == 0 && a->count == 3) {
        EACH_GPU(s, list, {
            const struct profile *p = gpu_profile(g);
            char names[512];
            char *save = NULL;
            snprintf(names, sizeof names, "%s", a->values[2]);
            if (!g->mig_current)
                rc = fail("GPU %u is not in MIG mode", g->index);
            for (char *name = strtok_r(names, ",", &save); name && !rc; name = strtok_r(NULL, ",", &save)) {
                uint32_t k = 0;
                char id[12];
                for (; k < mig_profile_count(p); k++) {
                    snprintf(id, sizeof id, "%u", p->mig[k].id);
                    if (strcmp(p->mig[k].name, name) == 0 || strcmp(id, name) == 0)
                        break;
                }
                int slot = k < mig_profile_count(p) ? mig_create_gpu_instance(g, k, -1) : -2;
                if (slot < 0)
                    rc = fail(slot == -2 ? "GPU %u has no MIG profile '%s'" : "GPU %u has no room for '%s'", g->index, name);
                else
                    mig_create_compute_instance(g, (uint32_t)slot, p->mig[k].slices, -1);
            }
        });
    } else {
        return fail("mig %s: what? mode, create or clear", verb);
    }
    return rc;
}
