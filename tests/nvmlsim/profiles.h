/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* What a board model is: everything that does not change while it runs. Data in profiles.c. */
#ifndef NVMLSIM_PROFILES_H
#define NVMLSIM_PROFILES_H

#include "nvml_abi.h"

#define NA (-1)               /* the board has no such thing: NVML answers NOT_SUPPORTED */
#define NO_LIMIT (-1000)      /* as NA, for temperatures, where -1 is a value */
#define MAX_CLOCK_TABLES 5
#define MAX_MIG_PROFILES 8

/* One memory clock with its graphics clocks, in half MHz because Volta and Blackwell step by 7.5. */
struct clock_table {
    uint memory_mhz;
    uint highest_half_mhz, lowest_half_mhz, step_half_mhz;
};

struct mig_profile {
    uint profile;             /* NVML_GPU_INSTANCE_PROFILE_* */
    uint id;                  /* what nvidia-smi mig -cgi takes */
    const char *name;         /* "1g.10gb" */
    uint slices, memory_slices;
    uint instances;           /* at most this many at once */
    uint multiprocessors, copy_engines, decoders, encoders, jpegs, ofas;
    uint memory_mib;
    uint placement_step;      /* starts at 0, step, 2*step, ... while it fits */
};

struct profile {
    const char *key;
    const char *name;
    const char *vbios, *board_part, *gpu_part;      /* NULL: not supported */
    const char *inforom_image, *inforom_oem, *inforom_ecc;
    uint brand, arch, cc_major, cc_minor;
    uint device_id, subsystem_id;
    uint memory_mib, reserved_mib;
    int bar1_mib;                                   /* NA */
    int limit_min_mw, limit_default_mw, limit_max_mw;
    int enforced_cap_mw;                            /* the board's own lower cap, NA */
    int module_min_mw, module_default_mw, module_max_mw;
    uint graphics_max, memory_max, video_max;
    int app_graphics, app_memory;                   /* default application clocks, NA */
    int boost_max;                                  /* customer boost clock, NA */
    uint idle_graphics, idle_memory, idle_video, idle_pstate;
    struct clock_table clocks[MAX_CLOCK_TABLES];
    int t_shutdown, t_slowdown, t_gpu_max, t_memory_max;   /* deg C, or offsets when t_limit is set; NO_LIMIT */
    int t_limit;                                    /* deg C at which the T.Limit margin is 0; NA: absolute thresholds */
    int t_target;                                   /* acoustic target, NA */
    int has_memory_temp, has_average_power, has_memory_power;
    uint pcie_gen, pcie_width;
    int ecc;                                        /* NA, 0: supported but off by default, 1: on by default */
    const struct mig_profile *mig;                  /* NULL */
    int fans;
    int row_remap_banks;                            /* NA: retired pages instead */
    int has_retired_pages;
    uint nvlinks, nvlink_mbps, nvlink_version;
    int has_fabric, has_gsp, has_serial, is_superchip;
    uint cores, bus_width_bits, multiprocessors;
    uint idle_mw, full_celsius;                     /* physics: draw at idle, temperature at the default limit */
};

extern const struct profile profiles[];
extern const uint profile_count;

const struct profile *profile_find(const char *key);
uint clock_table_count(const struct profile *p);
const struct clock_table *clock_table_for(const struct profile *p, uint memory_mhz);
uint clock_table_length(const struct clock_table *t);
uint clock_table_at(const struct clock_table *t, uint i);
/* The highest clock of the table that is not above mhz, or the lowest. */
uint clock_table_floor(const struct clock_table *t, double mhz);
/* The clock of the table that is nearest to mhz. */
uint clock_table_nearest(const struct clock_table *t, double mhz);
uint mig_profile_count(const struct profile *p);

#endif
