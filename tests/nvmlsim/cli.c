/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* nvmlsim: makes and drives the simulated machine. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: nvmlsim init STATE PROFILE[:COUNT][,PROFILE[:COUNT]...] [options]\n"
    "       nvmlsim STATE COMMAND [ARGUMENT...]\n"
    "       nvmlsim profiles | functions | --help\n"
    "\n"
    "STATE is the shared file; processes find it in the environment variable NVMLSIM_STATE and the library with\n"
    "LD_LIBRARY_PATH. GPU is an index, a UUID or 'all'.\n"
    "\n"
    "init options:\n"
    "  --driver-version V      as NVML reports it (580.105.08); older drivers lack newer functions\n"
    "  --load LOAD             what every GPU does from the start (idle)\n"
    "  --persistence on|off    persistence mode to start with (on)\n"
    "  --seed N                other UUIDs and serial numbers\n"
    "\n"
    "look:\n"
    "  show [--json]                        the whole state; power in mW, energy in mJ, clocks in MHz, memory in bytes\n"
    "\n"
    "work:\n"
    "  set-load GPU LOAD [options]          LOAD: 0..1 or N%, idle, training, inference, sine, square; a pattern takes\n"
    "                                       :LEVEL[:PERIOD_SECONDS], as in sine:0.8:30\n"
    "      --memory-util X --encoder X --decoder X --memory-used X     shares, 0..1\n"
    "  process add GPU PID [--memory MIB|unknown] [--kind compute|graphics|mps] [--sm PERCENT]\n"
    "                      [--gpu-instance N --compute-instance N]     a pid that exists leaves when it ends\n"
    "  process remove GPU PID\n"
    "  advance SECONDS                      simulated time jumps ahead\n"
    "\n"
    "surroundings:\n"
    "  set-ambient GPU CELSIUS              25 by default\n"
    "  set-temp GPU CELSIUS|auto            hold the temperature\n"
    "  bmc-cap GPU WATTS|none               a cap set out of band: enforced < requested limit\n"
    "  limit-step GPU WATTS                 power limits are rounded down to it, as if by the driver\n"
    "  pretend-uid UID|real                 whom the setters take the callers for\n"
    "  pretend-unprivileged on|off          root without CAP_SYS_ADMIN\n"
    "  persistenced on|off                  persistence comes back after reboots and driver reloads\n"
    "  set-driver-version V                 as after an upgrade; takes effect at once\n"
    "  vm on|off                            as in a VM: a change of MIG mode waits for a reboot\n"
    "\n"
    "faults:\n"
    "  inject xid GPU XID [--reset-required] [--lose] [--recovery N]\n"
    "  inject ecc GPU corrected|uncorrected [COUNT] [--location dram|sram|l1|l2|register|texture|cbu] [--parity]\n"
    "  inject throttle GPU REASON [--off]   sw_power_cap hw_slowdown sync_boost sw_thermal hw_thermal power_brake\n"
    "  inject remap GPU corrected|uncorrected [COUNT] [--pending] [--failed]    event and counters\n"
    "  inject retired-page GPU single|double [ADDRESS] [--pending]\n"
    "  inject nvlink GPU LINK down|up       one link, or 'all'\n"
    "  inject nvlink-errors GPU LINK replay|recovery|crc_flit|crc_data|ecc_data [COUNT]\n"
    "  inject pcie GPU [--gen N] [--width N]    0: as it should be\n"
    "  inject pcie-errors GPU replay|rollover|recovery|correctable|naks_received|receiver|bad_tlp|naks_sent|bad_dllp|\n"
    "                     non_fatal|fatal|unsupported|lcrc|lane [COUNT]\n"
    "  inject recovery GPU ACTION           0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset\n"
    "  inject event GPU TYPE [DATA]         any NVML event type (a bit, 0x... allowed)\n"
    "  inject sram-threshold GPU on|off     the SRAM error threshold is exceeded\n"
    "  lose GPU [--vanish]                  off the bus: GPU_IS_LOST; --vanish: not enumerated either\n"
    "  restore GPU                          found again\n"
    "  fail FUNCTION CODE [--gpu GPU] [--times N] [--after N]    forced return code of a function; * and ? match;\n"
    "                                       with --after the first N calls go through\n"
    "  hang FUNCTION SECONDS|forever [--gpu GPU] [--times N] [--after N]    the call waits that long, or until cleared\n"
    "\n"
    "the machine:\n"
    "  reload-driver [--force]              settings and counters start over; refused while clients are attached\n"
    "  unload-driver [--force] | load-driver\n"
    "  reboot                               as reload-driver, with pending ECC and MIG modes applied\n"
    "  reset GPU [--force]                  as nvidia-smi --gpu-reset\n"
    "\n"
    "MIG:\n"
    "  mig mode GPU on|off                  at once\n"
    "  mig create GPU PROFILE[,PROFILE...]  by name (3g.40gb) or id, each with one compute instance\n"
    "  mig clear GPU\n"
    "\n"
    "clear:\n"
    "  clear faults|FAULT_ID|health|all [GPU]    faults: forced codes and hangs; health: errors and outside influence\n";

static int usage_error(const char *message, const char *what)
{
    fprintf(stderr, "nvmlsim: %s%s%s\nTry: nvmlsim --help\n", message, what ? ": " : "", what ? what : "");
    return 2;
}

int fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("nvmlsim: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

/* Takes `--name VALUE` out of the arguments; NULL when it is not there. */
const char *take_option(struct args *a, const char *name)
{
    for (int i = 0; i + 1 < a->count; i++)
        if (strcmp(a->values[i], name) == 0) {
            const char *value = a->values[i + 1];
            memmove(&a->values[i], &a->values[i + 2], (size_t)(a->count - i - 2) * sizeof *a->values);
            a->count -= 2;
            return value;
        }
    return NULL;
}

bool take_flag(struct args *a, const char *name)
{
    for (int i = 0; i < a->count; i++)
        if (strcmp(a->values[i], name) == 0) {
            memmove(&a->values[i], &a->values[i + 1], (size_t)(a->count - i - 1) * sizeof *a->values);
            a->count--;
            return true;
        }
    return false;
}

bool parse_number(const char *text, double low, double high, double *out)
{
    char *end;
    if (strncmp(text, "0x", 2) == 0)
        *out = (double)strtoull(text, &end, 16);
    else
        *out = strtod(text, &end);
    return end != text && !*end && *out >= low && *out <= high;
}

bool parse_switch(const char *text, bool *out)
{
    *out = strcmp(text, "on") == 0;
    return *out || strcmp(text, "off") == 0;
}

bool parse_gpus(struct state *s, const char *text, struct gpus *out)
{
    double index;
    out->count = 0;
    if (strcmp(text, "all") == 0) {
        for (uint32_t i = 0; i < s->gpu_count; i++)
            out->gpus[out->count++] = &s->gpus[i];
        return true;
    }
    if (parse_number(text, 0, s->gpu_count - 1, &index) && index == (uint32_t)index) {
        out->gpus[out->count++] = &s->gpus[(uint32_t)index];
        return true;
    }
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (strcmp(s->gpus[i].uuid, text) == 0) {
            out->gpus[out->count++] = &s->gpus[i];
            return true;
        }
    fail("'%s' is no GPU of this machine: give 0 to %u, a UUID or 'all'", text, s->gpu_count - 1);
    return false;
}

static int command_init(struct args *a)
{
    char error[5000];
    const char *driver = take_option(a, "--driver-version"), *load = take_option(a, "--load");
    const char *persistence = take_option(a, "--persistence"), *seed_text = take_option(a, "--seed");
    double seed = 0;
    bool on = true;
    struct load parsed = { 0 };
    if (a->count != 2)
        return usage_error("init takes a state file and a list of profiles", NULL);
    if (persistence && !parse_switch(persistence, &on))
        return usage_error("--persistence takes on or off, not", persistence);
    if (seed_text && !parse_number(seed_text, 0, 4294967295.0, &seed))
        return usage_error("--seed takes a whole number, not", seed_text);
    if (load && !load_parse(load, &parsed))
        return usage_error("--load does not know", load);
    if (driver && !(strtoul(driver, NULL, 10) >= 300 && strlen(driver) < 40))
        return usage_error("--driver-version takes something like 580.105.08, not", driver);
    if (state_create(a->values[0], a->values[1], driver ? driver : "580.105.08", (uint32_t)seed, on, error, sizeof error))
        return fail("%s", error);
    if (load) {
        struct args set = { .count = 2, .values = { "all", load } };
        int fd;
        struct state *s = state_open(a->values[0], &fd, error, sizeof error);
        return s ? command_set_load(s, &set) : fail("%s", error);
    }
    return 0;
}

static int command_show(struct state *s, struct args *a)
{
    bool json = take_flag(a, "--json");
    if (a->count)
        return fail("show takes --json or nothing, not '%s'", a->values[0]);
    if (json)
        show_json(s, stdout);
    else
        show_table(s, stdout);
    return fflush(stdout) ? fail("cannot write the state to standard output") : 0;
}

static int list_profiles(void)
{
    for (uint32_t i = 0; i < profile_count; i++)
        printf("%-10s %-26s %6u MiB %5d W%s\n", profiles[i].key, profiles[i].name, profiles[i].memory_mib,
               profiles[i].limit_default_mw / 1000, profiles[i].mig ? "  MIG" : "");
    return 0;
}

static int list_functions(void)
{
    for (int i = 0; i < FN_COUNT; i++)
        printf("%s %u\n", function_names[i], function_since[i]);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(struct state *, struct args *);
} commands[] = {
    { "show", command_show },
    { "set-load", command_set_load },
    { "process", command_process },
    { "advance", command_advance },
    { "set-ambient", command_set_ambient },
    { "set-temp", command_set_temp },
    { "bmc-cap", command_bmc_cap },
    { "limit-step", command_limit_step },
    { "pretend-uid", command_pretend_uid },
    { "pretend-unprivileged", command_pretend_unprivileged },
    { "persistenced", command_persistenced },
    { "set-driver-version", command_set_driver_version },
    { "vm", command_vm },
    { "inject", command_inject },
    { "lose", command_lose },
    { "restore", command_restore },
    { "fail", command_fail },
    { "hang", command_hang },
    { "reload-driver", command_reload_driver },
    { "unload-driver", command_unload_driver },
    { "load-driver", command_load_driver },
    { "reboot", command_reboot },
    { "reset", command_reset },
    { "mig", command_mig },
    { "clear", command_clear },
};

int main(int argc, char **argv)
{
    struct args a = { 0 };
    char error[5000];
    int fd;
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        fputs(usage, argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (argc > MAX_ARGS)
        return usage_error("too many arguments", NULL);
    if (strcmp(argv[1], "profiles") == 0)
        return list_profiles();
    if (strcmp(argv[1], "functions") == 0)
        return list_functions();
    bool making = strcmp(argv[1], "init") == 0;
    for (int i = making ? 2 : 3; i < argc; i++)
        a.values[a.count++] = argv[i];
    if (making)
        return command_init(&a);
    if (argc < 3)
        return usage_error("what shall be done? A state file is followed by a command", NULL);
    struct state *s = state_open(argv[1], &fd, error, sizeof error);
    if (!s)
        return fail("%s", error);
    clients_reap(s, fd, -1);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[2], commands[i].name) == 0)
            return commands[i].run(s, &a);
    return usage_error("no such command", argv[2]);
}
