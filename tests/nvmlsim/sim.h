/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* The shared state of the simulated machine and what works on it. Library and CLI are built from the same code. */
#ifndef NVMLSIM_SIM_H
#define NVMLSIM_SIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "functions.h"
#include "nvml_abi.h"
#include "profiles.h"

#define MAX_GPUS 32
#define MAX_CLIENTS 256
#define MAX_FAULTS 64
#define MAX_EVENTS 1024
#define MAX_PROCESSES 64
#define MAX_ACCOUNTING 128
#define MAX_LINKS 18
#define MAX_RETIRED 64
#define MAX_INSTANCES 8
#define MAX_FANS 4
#define LINK_ERROR_KINDS 5          /* replay, recovery, CRC flit, CRC data, ECC data */
#define REASON_BITS 9
#define PCIE_COUNTERS 12            /* field ids 169 and 173..183 */

enum load_kind { LOAD_IDLE, LOAD_CONSTANT, LOAD_TRAINING, LOAD_INFERENCE, LOAD_SINE, LOAD_SQUARE, LOAD_KINDS };
extern const char *const load_names[LOAD_KINDS];

struct load {
    int32_t kind;
    double level;                   /* 0..1: what a constant load, or the peak of a pattern, uses of the SMs */
    double memory;                  /* 0..1: of the DRAM bandwidth; < 0: follows level */
    double encoder, decoder;        /* 0..1 */
    double period_s;
    double memory_used;             /* 0..1 of the board's memory while the load runs; < 0: by kind */
    int64_t since_ns;
};

enum process_kind { PROCESS_COMPUTE, PROCESS_GRAPHICS, PROCESS_MPS };

struct process {
    uint32_t pid, kind;
    uint32_t gpu_instance, compute_instance;
    uint64_t memory_bytes;          /* VALUE_NOT_AVAILABLE: the driver can't say */
    uint32_t was_alive;             /* the pid existed when it was added: it leaves the list when it dies */
    uint32_t sm_percent;
    int64_t started_us;
};

struct accounting {
    uint32_t pid, running, gpu_util, memory_util;
    uint64_t max_memory_bytes;
    int64_t started_us, ended_us;
};

struct compute_instance { uint32_t used, id, profile, slices, start; };

struct gpu_instance {
    uint32_t used, id, profile_index, start;
    struct compute_instance compute[MAX_INSTANCES];
};

struct gpu {
    pthread_mutex_t lock;
    uint32_t profile, index, minor;
    char uuid[48], serial[32];
    uint32_t domain, bus, device;

    /* what an administrator set; these fall back to the defaults when the driver lets go of the GPU */
    uint32_t limit_mw, module_limit_mw;
    uint32_t lock_graphics_min, lock_graphics_max;      /* 0, 0: none */
    uint32_t lock_memory_min, lock_memory_max;
    uint32_t app_graphics, app_memory;
    int32_t graphics_offset, memory_offset;
    int32_t fan_manual[MAX_FANS];                       /* -1: automatic */
    int32_t acoustic_celsius;
    uint32_t compute_mode, accounting, api_restricted[2];
    uint32_t power_profiles[8];
    /* these do not */
    uint32_t persistence;
    uint32_t ecc_current, ecc_pending;
    uint32_t mig_current, mig_pending;

    /* outside influence and faults, set by the CLI */
    struct load load;
    int64_t bmc_cap_mw;                                 /* -1: none */
    uint32_t limit_step_mw;                             /* requested limits are rounded down to it; 0: kept as they are */
    double ambient_c;
    int32_t pinned_celsius;                             /* NO_LIMIT: moves by itself */
    uint64_t forced_reasons;
    _Atomic uint32_t lost, vanished;                    /* looked at without the lock */
    uint32_t drained;
    uint32_t reset_required;
    uint32_t recovery_action;
    uint32_t pcie_gen, pcie_width;                      /* 0: as the board would choose */
    uint32_t mig_needs_reboot;                          /* as on a passed-through GPU in a VM */
    uint64_t links_down;

    /* physics: everything is as of now_ns */
    int64_t now_ns, started_ns;
    double temperature_c, power_mw, average_mw, energy_mj;
    double utilization, memory_utilization;
    uint32_t graphics_mhz, memory_mhz, video_mhz, pstate;
    uint64_t reasons;
    uint64_t reason_ns[REASON_BITS];
    double link_tx_kib[MAX_LINKS], link_rx_kib[MAX_LINKS];
    double pcie_tx_bytes, pcie_rx_bytes;
    double util_seconds;                                /* time integrals, for GPM and accounting */
    double memory_util_seconds;

    /* health */
    uint64_t ecc[2][2][MEM_COUNT];                      /* [lifetime][kind][location] */
    uint64_t sram_parity[2];
    uint64_t sram_bucket[5];                            /* L2, SM, PCIe, microcontroller, other: aggregate */
    uint32_t sram_threshold_exceeded;
    uint32_t remapped_correctable, remapped_uncorrectable, remap_pending, remap_failed;
    uint32_t retired_count;
    struct { uint64_t address, time_us; uint32_t cause, pending; } retired[MAX_RETIRED];
    uint64_t link_errors[MAX_LINKS][LINK_ERROR_KINDS];
    uint32_t pcie_replays, pcie_replay_rollovers;
    uint64_t pcie_counters[PCIE_COUNTERS];
    uint32_t last_xid;

    uint32_t process_count;
    struct process processes[MAX_PROCESSES];
    uint32_t accounting_count;
    struct accounting accounted[MAX_ACCOUNTING];
    struct gpu_instance instances[MAX_INSTANCES];

    _Atomic uint32_t handle_epoch;                      /* handles taken before are invalid */
};

enum fault_kind { FAULT_NONE, FAULT_RETURN, FAULT_HANG };

struct fault {
    _Atomic uint32_t kind;
    uint32_t id;
    int32_t gpu;                                        /* -1: any, and calls without a GPU */
    int32_t code;                                       /* nvmlReturn_t of FAULT_RETURN */
    _Atomic int32_t skip;                               /* so many calls go through first */
    _Atomic int32_t remaining;                          /* -1: always */
    double seconds;                                     /* of FAULT_HANG; < 0: until cleared */
    uint8_t functions[(FN_COUNT + 7) / 8];
    char pattern[64];
};

struct event {
    uint64_t seq, type, data;
    int64_t time_us;
    uint32_t gpu, gpu_instance, compute_instance;
};

struct state {
    uint64_t magic;
    uint32_t layout, size;
    /* Order: lock before a GPU's lock before event_lock. */
    pthread_mutex_t lock;                               /* clients, faults, settings of the machine */
    pthread_mutex_t event_lock;
    uint32_t gpu_count;
    char driver_version[80];
    uint32_t driver_major, persistenced;
    _Atomic uint32_t driver_loaded;
    _Atomic uint32_t driver_epoch;
    uint32_t boot_epoch;
    _Atomic int64_t warp_ns;                            /* added to the monotonic clock by `nvmlsim advance` */
    int32_t pretend_uid;                                /* -1: the real one */
    uint32_t pretend_unprivileged;                      /* root without CAP_SYS_ADMIN */
    _Atomic uint32_t fault_count;
    uint32_t next_fault;
    struct fault faults[MAX_FAULTS];
    struct { uint32_t used; int32_t pid; } clients[MAX_CLIENTS];
    _Atomic uint32_t event_futex;
    _Atomic uint64_t event_seq;                         /* of the newest event; they count from 1 */
    struct event events[MAX_EVENTS];
    struct gpu gpus[MAX_GPUS];
};

/* state.c */
struct state *state_open(const char *path, int *fd, char *error, size_t error_size);
int state_create(const char *path, const char *spec, const char *driver, uint32_t seed, bool persistence,
                 char *error, size_t error_size);
void state_lock(struct state *s);
void state_unlock(struct state *s);
void events_lock(struct state *s);
void events_unlock(struct state *s);
void gpu_lock(struct gpu *g);
void gpu_unlock(struct gpu *g);
int64_t state_now(struct state *s);                     /* ns of simulated time */
int64_t wall_us(void);
int client_attach(struct state *s, int fd);             /* slot, or -1 when the table is full */
void client_detach(struct state *s, int fd, int slot);
void clients_reap(struct state *s, int fd, int own);    /* forget the dead ones; the last one's end lets the GPUs go */
uint32_t clients_alive(struct state *s);
uint32_t clients_other_than(struct state *s, int slot);
uint32_t cuda_version(uint32_t driver_major);
uint64_t hash64(const char *text, uint64_t seed);

static inline const struct profile *gpu_profile(const struct gpu *g) { return &profiles[g->profile]; }

/* physics.c */
void physics_advance(struct gpu *g, int64_t now_ns);
void physics_refresh(struct gpu *g);                    /* after a change: what the GPU does from now on */
double load_level(const struct load *l, uint32_t gpu_index, int64_t now_ns);
bool load_parse(const char *text, struct load *out);
uint32_t enforced_limit_mw(const struct gpu *g);
uint32_t reported_power_mw(const struct gpu *g);
int fan_percent(const struct gpu *g, uint32_t fan);
int gpu_celsius(const struct gpu *g);
int memory_celsius(const struct gpu *g);
int margin_celsius(const struct gpu *g);
int absolute_threshold(const struct gpu *g, int offset_or_absolute);
uint64_t used_memory_bytes(const struct gpu *g);
uint32_t pcie_current_gen(const struct gpu *g);
uint32_t pcie_current_width(const struct gpu *g);
double pcie_rate(const struct gpu *g, int receive);     /* bytes/s */
uint32_t link_mbps(const struct gpu *g, uint32_t link);

/* machine.c: what happens to the whole machine or one GPU */
void gpu_defaults(struct gpu *g);                       /* what the administrator set is gone */
void gpu_restarted(struct state *s, struct gpu *g);     /* ... and the counters start over */
void machine_reload_driver(struct state *s);
void machine_reboot(struct state *s);
void gpu_reset(struct state *s, struct gpu *g);
void event_post(struct state *s, struct gpu *g, uint64_t type, uint64_t data, uint32_t gpu_instance, uint32_t compute_instance);
void inject_xid(struct state *s, struct gpu *g, uint32_t xid);
void inject_ecc(struct state *s, struct gpu *g, int kind, int location, uint64_t count);
void processes_prune(struct gpu *g);
void process_remove(struct gpu *g, uint32_t i);
void row_remap_histogram(const struct gpu *g, nvmlRowRemapperHistogramValues_t *out);

/* mig_layout.c */
int mig_create_gpu_instance(struct gpu *g, uint32_t profile_index, int start);      /* slot or -1; start < 0: the first that fits */
int mig_create_compute_instance(struct gpu *g, uint32_t slot, uint32_t slices, int start);
int mig_compute_profile(uint32_t slices);                                            /* -1: there is none of that size */
void mig_uuid(const struct gpu *g, uint32_t gpu_instance, uint32_t compute_instance, char out[48]);
bool mig_compute_fits(const struct gpu *g, uint32_t slot, uint32_t slices, uint32_t start);
bool mig_fits(const struct gpu *g, uint32_t profile_index, uint32_t start);

/* show.c */
void show_json(struct state *s, FILE *out);
void show_table(struct state *s, FILE *out);

#endif
