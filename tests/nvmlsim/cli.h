/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Between cli.c (the command line) and commands.c (what the commands do). */
#ifndef NVMLSIM_CLI_H
#define NVMLSIM_CLI_H

#include "sim.h"

#include <stdarg.h>

#define MAX_ARGS 64

struct args {
    int count;
    const char *values[MAX_ARGS];
};

struct gpus {
    uint32_t count;
    struct gpu *gpus[MAX_GPUS];
};

int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));   /* says it and returns exit status 1 */
const char *take_option(struct args *a, const char *name);
bool take_flag(struct args *a, const char *name);
bool parse_number(const char *text, double low, double high, double *out);
bool parse_switch(const char *text, bool *out);
bool parse_gpus(struct state *s, const char *text, struct gpus *out);      /* says what is wrong */

/* Runs BODY for each GPU of a list, locked and brought up to now, then lets the change take effect. */
#define EACH_GPU(s, list, ...)                         \
    for (uint32_t i_ = 0; i_ < (list).count; i_++) {   \
        struct gpu *g = (list).gpus[i_];               \
        gpu_lock(g);                                   \
        physics_advance(g, state_now(s));              \
        __VA_ARGS__;                                   \
        physics_refresh(g);                            \
        gpu_unlock(g);                                 \
    }

typedef int command_function(struct state *s, struct args *a);
command_function command_set_load, command_process, command_advance, command_set_ambient, command_set_temp, command_bmc_cap,
    command_limit_step,
    command_pretend_uid, command_pretend_unprivileged, command_persistenced, command_set_driver_version, command_vm,
    command_inject, command_lose, command_restore, command_fail, command_hang, command_reload_driver, command_unload_driver,
    command_load_driver, command_reboot, command_reset, command_mig, command_clear;

#endif
