/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/*
 * The board models. Figures are those that real boards report (nvidia-smi -q); where a figure is not publicly known the
 * entry says so. idle_mw and full_celsius feed the physics and are chosen to look like the board.
 */
#include "profiles.h"

#include <string.h>

#define T15(mem, high, low) { mem, (high) * 2, (low) * 2, 30 }
#define T7(mem, high_half, low) { mem, high_half, (low) * 2, 15 }

/* 1g, 1g with media engines, 1g with double memory, 2g, 3g, 4g, 7g: the seven profiles of A100 and later boards. */
#define MIG_TABLE(n1, n1me, n1x2, n2, n3, n4, n7, m1, m2, m3, m7, s1, s2, s3, s4, s7, dec, jpg)                             \
    {                                                                                                                       \
        { 0, 19, n1, 1, 1, 7, s1, 1, 0, 0, 0, 0, m1, 1 },         { 7, 20, n1me, 1, 1, 1, s1, 1, 1, 0, 1, 1, m1, 1 },       \
        { 9, 15, n1x2, 1, 2, 4, s1, 1, 1, 0, jpg, 0, m2, 2 },     { 1, 14, n2, 2, 2, 3, s2, 2, 1, 0, jpg, 0, m2, 2 },       \
        { 2, 9, n3, 3, 4, 2, s3, 3, 2, 0, jpg * 2, 0, m3, 4 },    { 3, 5, n4, 4, 4, 1, s4, 4, 2, 0, jpg * 2, 0, m3, 8 },    \
        { 4, 0, n7, 7, 8, 1, s7, 7, dec, 0, jpg * 7, 1, m7, 8 }, { 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 },           \
    }

static const struct mig_profile mig_a100_40[] =
    MIG_TABLE("1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb",
              4864, 9856, 19968, 40192, 14, 28, 42, 56, 98, 5, 0);
static const struct mig_profile mig_80[] =
    MIG_TABLE("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb",
              9728, 19968, 40192, 80896, 14, 28, 42, 56, 98, 5, 0);
static const struct mig_profile mig_h100[] =
    MIG_TABLE("1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb",
              9984, 20096, 40448, 81153, 16, 32, 60, 64, 132, 7, 1);
static const struct mig_profile mig_h100nvl[] =
    MIG_TABLE("1g.12gb", "1g.12gb+me", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb",
              11776, 23808, 47616, 95232, 16, 32, 60, 64, 132, 7, 1);
static const struct mig_profile mig_gh200[] =
    MIG_TABLE("1g.12gb", "1g.12gb+me", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb",
              11904, 23808, 48128, 96768, 16, 32, 60, 64, 132, 7, 1);
static const struct mig_profile mig_h200[] =
    MIG_TABLE("1g.18gb", "1g.18gb+me", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb",
              17920, 35840, 71680, 143360, 16, 32, 60, 64, 132, 7, 1);
static const struct mig_profile mig_b200[] =
    MIG_TABLE("1g.23gb", "1g.23gb+me", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb",
              22784, 45824, 91648, 182784, 18, 36, 70, 74, 148, 7, 1);
static const struct mig_profile mig_gb200[] =
    MIG_TABLE("1g.23gb", "1g.23gb+me", "1g.47gb", "2g.47gb", "3g.93gb", "4g.93gb", "7g.186gb",
              23552, 47104, 94720, 188928, 18, 36, 70, 76, 152, 7, 1);

const struct profile profiles[] = {
    {
        .key = "v100", .name = "Tesla V100-SXM2-16GB", .vbios = "88.00.4F.00.09", .board_part = "900-2G503-0300-000",
        .gpu_part = "1DB1-895-A1", .inforom_image = "G503.0201.00.03", .inforom_oem = "1.1", .inforom_ecc = "5.0",
        .brand = BRAND_TESLA, .arch = ARCH_VOLTA, .cc_major = 7, .cc_minor = 0,
        .device_id = 0x1DB110DE, .subsystem_id = 0x121210DE, .memory_mib = 16384, .reserved_mib = 240, .bar1_mib = 16384,
        .limit_min_mw = 150000, .limit_default_mw = 300000, .limit_max_mw = 300000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1530, .memory_max = 877, .video_max = 1372, .app_graphics = 1312, .app_memory = 877, .boost_max = 1530,
        .idle_graphics = 135, .idle_memory = 877, .idle_video = 555, .idle_pstate = 0,
        .clocks = { T7(877, 3060, 135) },   /* inferred from the V100S table's steps */
        .t_shutdown = 90, .t_slowdown = 87, .t_gpu_max = 83, .t_memory_max = 85, .t_limit = NA, .t_target = NA,
        .has_memory_temp = 1, .pcie_gen = 3, .pcie_width = 16, .ecc = 1, .row_remap_banks = NA, .has_retired_pages = 1,
        .nvlinks = 6, .nvlink_mbps = 25781, .nvlink_version = 2, .has_serial = 1,
        .cores = 5120, .bus_width_bits = 4096, .multiprocessors = 80, .idle_mw = 42000, .full_celsius = 70,
    },
    {
        .key = "t4", .name = "Tesla T4", .vbios = "90.04.96.00.02", .board_part = "900-2G183-A800-001",
        .gpu_part = "1EB8-895-A1", .inforom_image = "G183.0200.00.02", .inforom_oem = "1.1", .inforom_ecc = "5.0",
        .brand = BRAND_NVIDIA, .arch = ARCH_TURING, .cc_major = 7, .cc_minor = 5,
        .device_id = 0x1EB810DE, .subsystem_id = 0x12A210DE, .memory_mib = 15360, .reserved_mib = 448, .bar1_mib = 256,
        .limit_min_mw = 60000, .limit_default_mw = 70000, .limit_max_mw = 70000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1590, .memory_max = 5001, .video_max = 1470, .app_graphics = 585, .app_memory = 5001, .boost_max = 1590,
        .idle_graphics = 300, .idle_memory = 405, .idle_video = 540, .idle_pstate = 8,
        .clocks = { T15(5001, 1590, 300), T15(405, 645, 300) },
        .t_shutdown = 96, .t_slowdown = 93, .t_gpu_max = 85, .t_memory_max = NO_LIMIT, .t_limit = NA, .t_target = NA,
        .pcie_gen = 3, .pcie_width = 16, .ecc = 1, .row_remap_banks = NA, .has_retired_pages = 1, .has_gsp = 1, .has_serial = 1,
        .cores = 2560, .bus_width_bits = 256, .multiprocessors = 40, .idle_mw = 9500, .full_celsius = 74,
    },
    {
        .key = "a100-40", .name = "NVIDIA A100-SXM4-40GB", .vbios = "92.00.45.00.03", .board_part = "692-2G506-0200-003",
        .gpu_part = "20B0-884-A1", .inforom_image = "G506.0200.00.04", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_AMPERE, .cc_major = 8, .cc_minor = 0,
        .device_id = 0x20B010DE, .subsystem_id = 0x134F10DE, .memory_mib = 40960, .reserved_mib = 518, .bar1_mib = 65536,
        .limit_min_mw = 100000, .limit_default_mw = 400000, .limit_max_mw = 400000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1410, .memory_max = 1215, .video_max = 1290, .app_graphics = 1095, .app_memory = 1215, .boost_max = 1410,
        .idle_graphics = 210, .idle_memory = 1215, .idle_video = 585, .idle_pstate = 0,
        .clocks = { T15(1215, 1410, 210) },
        .t_shutdown = 92, .t_slowdown = 89, .t_gpu_max = 85, .t_memory_max = 95, .t_limit = NA, .t_target = NA,
        .has_memory_temp = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .mig = mig_a100_40, .row_remap_banks = 640,
        .nvlinks = 12, .nvlink_mbps = 25000, .nvlink_version = 4, .has_gsp = 1, .has_serial = 1,
        .cores = 6912, .bus_width_bits = 5120, .multiprocessors = 108, .idle_mw = 49000, .full_celsius = 70,
    },
    {
        .key = "a100", .name = "NVIDIA A100-SXM4-80GB", .vbios = "92.00.9E.00.02", .board_part = "692-2G506-0212-005",
        .gpu_part = "20B2-896-A1", .inforom_image = "G506.0212.00.02", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_AMPERE, .cc_major = 8, .cc_minor = 0,
        .device_id = 0x20B210DE, .subsystem_id = 0x147F10DE, .memory_mib = 81920, .reserved_mib = 763, .bar1_mib = 131072,
        .limit_min_mw = 100000, .limit_default_mw = 500000, .limit_max_mw = 500000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1410, .memory_max = 1593, .video_max = 1290, .app_graphics = 1140, .app_memory = 1593, .boost_max = 1410,
        .idle_graphics = 210, .idle_memory = 1593, .idle_video = 585, .idle_pstate = 0,
        .clocks = { T15(1593, 1410, 210) },
        .t_shutdown = 92, .t_slowdown = 89, .t_gpu_max = 85, .t_memory_max = 95, .t_limit = NA, .t_target = NA,
        .has_memory_temp = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .mig = mig_80, .row_remap_banks = 640,
        .nvlinks = 12, .nvlink_mbps = 25000, .nvlink_version = 4, .has_gsp = 1, .has_serial = 1,
        .cores = 6912, .bus_width_bits = 5120, .multiprocessors = 108, .idle_mw = 62000, .full_celsius = 72,
    },
    {
        /* Another board of the same name with other numbers, as they exist. */
        .key = "a100-400w", .name = "NVIDIA A100-SXM4-80GB", .vbios = "92.00.36.00.02", .board_part = "692-2G506-0212-002",
        .gpu_part = "20B2-895-A1", .inforom_image = "G506.0212.00.01", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_AMPERE, .cc_major = 8, .cc_minor = 0,
        .device_id = 0x20B210DE, .subsystem_id = 0x147F10DE, .memory_mib = 81920, .reserved_mib = 869, .bar1_mib = 131072,
        .limit_min_mw = 100000, .limit_default_mw = 400000, .limit_max_mw = 400000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1410, .memory_max = 1593, .video_max = 1290, .app_graphics = 1275, .app_memory = 1593, .boost_max = 1410,
        .idle_graphics = 210, .idle_memory = 1593, .idle_video = 585, .idle_pstate = 0,
        .clocks = { T15(1593, 1410, 210) },
        .t_shutdown = 92, .t_slowdown = 89, .t_gpu_max = 85, .t_memory_max = 95, .t_limit = NA, .t_target = NA,
        .has_memory_temp = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .mig = mig_80, .row_remap_banks = 640,
        .nvlinks = 12, .nvlink_mbps = 25000, .nvlink_version = 4, .has_gsp = 1, .has_serial = 1,
        .cores = 6912, .bus_width_bits = 5120, .multiprocessors = 108, .idle_mw = 60000, .full_celsius = 70,
    },
    {
        .key = "a10", .name = "NVIDIA A10", .vbios = "94.02.5C.00.04", .board_part = "900-2G133-0020-100",
        .gpu_part = "2236-890-A1", .inforom_image = "G133.0210.00.04", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_AMPERE, .cc_major = 8, .cc_minor = 6,
        .device_id = 0x223610DE, .subsystem_id = 0x148210DE, .memory_mib = 23028, .reserved_mib = 526, .bar1_mib = 32768,
        .limit_min_mw = 100000, .limit_default_mw = 150000, .limit_max_mw = 150000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1695, .memory_max = 6251, .video_max = 1575, .app_graphics = 1695, .app_memory = 6251, .boost_max = 1695,
        .idle_graphics = 210, .idle_memory = 405, .idle_video = 555, .idle_pstate = 8,
        .clocks = { T15(6251, 1695, 210), T15(405, 420, 210) },
        .t_shutdown = 101, .t_slowdown = 98, .t_gpu_max = 91, .t_memory_max = NO_LIMIT, .t_limit = NA, .t_target = NA,
        .has_average_power = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .fans = 1, .row_remap_banks = 192,
        .has_gsp = 1, .has_serial = 1,
        .cores = 9216, .bus_width_bits = 384, .multiprocessors = 72, .idle_mw = 20000, .full_celsius = 72,
    },
    {
        .key = "a6000", .name = "NVIDIA RTX A6000", .vbios = "94.02.5C.00.02", .board_part = "900-5G133-1700-000",
        .gpu_part = "2230-875-A1", .inforom_image = "G133.0500.00.05", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA_RTX, .arch = ARCH_AMPERE, .cc_major = 8, .cc_minor = 6,
        .device_id = 0x223010DE, .subsystem_id = 0x145910DE, .memory_mib = 46068, .reserved_mib = 450, .bar1_mib = 65536,
        .limit_min_mw = 100000, .limit_default_mw = 300000, .limit_max_mw = 300000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 2100, .memory_max = 8001, .video_max = 1950, .app_graphics = 1800, .app_memory = 8001, .boost_max = NA,
        .idle_graphics = 210, .idle_memory = 405, .idle_video = 555, .idle_pstate = 8,
        .clocks = { T15(8001, 2100, 210), T15(405, 420, 210) },   /* table not publicly known */
        .t_shutdown = 98, .t_slowdown = 95, .t_gpu_max = 93, .t_memory_max = NO_LIMIT, .t_limit = NA, .t_target = 84,
        .has_average_power = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .fans = 1, .row_remap_banks = 192,
        .has_gsp = 1, .has_serial = 1,
        .cores = 10752, .bus_width_bits = 384, .multiprocessors = 84, .idle_mw = 22000, .full_celsius = 78,
    },
    {
        .key = "l4", .name = "NVIDIA L4", .vbios = "95.04.29.00.06", .board_part = "900-2G193-0000-000",
        .gpu_part = "27B8-895-A1", .inforom_image = "G193.0200.00.01", .inforom_oem = "2.1", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_ADA, .cc_major = 8, .cc_minor = 9,
        .device_id = 0x27B810DE, .subsystem_id = 0x16CA10DE, .memory_mib = 23034, .reserved_mib = 556, .bar1_mib = 32768,
        .limit_min_mw = 40000, .limit_default_mw = 72000, .limit_max_mw = 72000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 2040, .memory_max = 6251, .video_max = 1770, .app_graphics = 2040, .app_memory = 6251, .boost_max = 2040,
        .idle_graphics = 210, .idle_memory = 405, .idle_video = 765, .idle_pstate = 8,
        .clocks = { T15(6251, 2040, 210), T15(405, 405, 210) },
        .t_shutdown = -5, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = NO_LIMIT, .t_limit = 85, .t_target = NA,
        .has_average_power = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .row_remap_banks = 96, .has_gsp = 1, .has_serial = 1,
        .cores = 7424, .bus_width_bits = 192, .multiprocessors = 58, .idle_mw = 12500, .full_celsius = 73,
    },
    {
        .key = "l40s", .name = "NVIDIA L40S", .vbios = "95.02.66.00.02", .board_part = "900-2G133-0080-000",
        .gpu_part = "26B9-896-A1", .inforom_image = "G133.0242.00.03", .inforom_oem = "2.1", .inforom_ecc = "6.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_ADA, .cc_major = 8, .cc_minor = 9,
        .device_id = 0x26B910DE, .subsystem_id = 0x185110DE, .memory_mib = 46068, .reserved_mib = 609, .bar1_mib = 65536,
        .limit_min_mw = 100000, .limit_default_mw = 350000, .limit_max_mw = 350000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 2520, .memory_max = 9001, .video_max = 1965, .app_graphics = 2520, .app_memory = 9001, .boost_max = 2520,
        .idle_graphics = 210, .idle_memory = 405, .idle_video = 1185, .idle_pstate = 8,
        .clocks = { T15(9001, 2520, 210), T15(405, 405, 210) },
        .t_shutdown = -5, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = NO_LIMIT, .t_limit = 88, .t_target = NA,
        .has_average_power = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 1, .row_remap_banks = 192, .has_gsp = 1, .has_serial = 1,
        .cores = 18176, .bus_width_bits = 384, .multiprocessors = 142, .idle_mw = 33000, .full_celsius = 74,
    },
    {
        .key = "rtx4090", .name = "NVIDIA GeForce RTX 4090", .vbios = "95.02.18.80.5F", .gpu_part = "2684-300-A1",
        .inforom_image = "G002.0000.00.03", .inforom_oem = "2.0", .inforom_ecc = "6.16",
        .brand = BRAND_GEFORCE, .arch = ARCH_ADA, .cc_major = 8, .cc_minor = 9,
        .device_id = 0x268410DE, .subsystem_id = 0x40BF1458, .memory_mib = 24564, .reserved_mib = 346, .bar1_mib = 256,
        .limit_min_mw = 10000, .limit_default_mw = 450000, .limit_max_mw = 600000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 3120, .memory_max = 10501, .video_max = 2415, .app_graphics = NA, .app_memory = NA, .boost_max = NA,
        .idle_graphics = 210, .idle_memory = 405, .idle_video = 1185, .idle_pstate = 8,
        .clocks = { T15(10501, 3120, 225), T15(10251, 3120, 225), T15(5001, 3120, 225), T15(810, 3105, 210), T15(405, 645, 210) },
        .t_shutdown = -7, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = NO_LIMIT, .t_limit = 83, .t_target = 84,
        .has_average_power = 1, .pcie_gen = 4, .pcie_width = 16, .ecc = 0, .fans = 2, .row_remap_banks = 192,
        .cores = 16384, .bus_width_bits = 384, .multiprocessors = 128, .idle_mw = 26000, .full_celsius = 71,
    },
    {
        .key = "h100", .name = "NVIDIA H100 80GB HBM3", .vbios = "96.00.99.00.01", .board_part = "692-2G520-0200-000",
        .gpu_part = "2330-885-A1", .inforom_image = "G520.0200.00.05", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_HOPPER, .cc_major = 9, .cc_minor = 0,
        .device_id = 0x233010DE, .subsystem_id = 0x16C110DE, .memory_mib = 81559, .reserved_mib = 480, .bar1_mib = 131072,
        .limit_min_mw = 200000, .limit_default_mw = 700000, .limit_max_mw = 700000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1980, .memory_max = 2619, .video_max = 1545, .app_graphics = 1980, .app_memory = 2619, .boost_max = 1980,
        .idle_graphics = 345, .idle_memory = 2619, .idle_video = 765, .idle_pstate = 0,
        .clocks = { T15(2619, 1980, 345), T15(1593, 1980, 345) },
        .t_shutdown = -8, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 87, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 5, .pcie_width = 16, .ecc = 1,
        .mig = mig_h100, .row_remap_banks = 2560, .nvlinks = 18, .nvlink_mbps = 26562, .nvlink_version = 6, .has_fabric = 1,
        .has_gsp = 1, .has_serial = 1,
        .cores = 16896, .bus_width_bits = 5120, .multiprocessors = 132, .idle_mw = 68500, .full_celsius = 72,
    },
    {
        .key = "h100nvl", .name = "NVIDIA H100 NVL", .vbios = "96.00.74.00.11", .board_part = "900-21010-0020-000",
        .gpu_part = "2321-886-A1", .inforom_image = "1010.0200.00.02", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_HOPPER, .cc_major = 9, .cc_minor = 0,
        .device_id = 0x232110DE, .subsystem_id = 0x183910DE, .memory_mib = 95830, .reserved_mib = 594, .bar1_mib = 131072,
        .limit_min_mw = 200000, .limit_default_mw = 310000, .limit_max_mw = 400000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1785, .memory_max = 2619, .video_max = 1410, .app_graphics = 1785, .app_memory = 2619, .boost_max = 1785,
        .idle_graphics = 345, .idle_memory = 2619, .idle_video = 765, .idle_pstate = 0,
        .clocks = { T15(2619, 1785, 345), T15(1593, 1785, 345) },
        .t_shutdown = -8, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 87, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 5, .pcie_width = 16, .ecc = 1,
        .mig = mig_h100nvl, .row_remap_banks = 3072, .nvlinks = 12, .nvlink_mbps = 26562, .nvlink_version = 6,
        .has_gsp = 1, .has_serial = 1,
        .cores = 16896, .bus_width_bits = 6016, .multiprocessors = 132, .idle_mw = 62000, .full_celsius = 70,
    },
    {
        .key = "h200", .name = "NVIDIA H200", .vbios = "96.00.A5.00.03", .board_part = "695-2G520-0280-000",
        .gpu_part = "2335-895-A1", .inforom_image = "G520.0280.00.04", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_HOPPER, .cc_major = 9, .cc_minor = 0,
        .device_id = 0x233510DE, .subsystem_id = 0x18BE10DE, .memory_mib = 143771, .reserved_mib = 614, .bar1_mib = 262144,
        .limit_min_mw = 200000, .limit_default_mw = 700000, .limit_max_mw = 700000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1980, .memory_max = 3201, .video_max = 1545, .app_graphics = 1980, .app_memory = 3201, .boost_max = 1980,
        .idle_graphics = 345, .idle_memory = 3201, .idle_video = 765, .idle_pstate = 0,
        .clocks = { T15(3201, 1980, 345) },   /* table not publicly known: H100's graphics clocks */
        .t_shutdown = -8, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 87, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 5, .pcie_width = 16, .ecc = 1,
        .mig = mig_h200, .row_remap_banks = 3072, .nvlinks = 18, .nvlink_mbps = 26562, .nvlink_version = 6, .has_fabric = 1,
        .has_gsp = 1, .has_serial = 1,
        .cores = 16896, .bus_width_bits = 6144, .multiprocessors = 132, .idle_mw = 76000, .full_celsius = 72,
    },
    {
        .key = "gh200", .name = "NVIDIA GH200 480GB", .vbios = "96.00.8D.00.03", .board_part = "900-2G530-0060-000",
        .gpu_part = "2342-888-A1", .inforom_image = "G530.0200.00.05", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_HOPPER, .cc_major = 9, .cc_minor = 0,
        .device_id = 0x234210DE, .subsystem_id = 0x180910DE, .memory_mib = 97871, .reserved_mib = 1103, .bar1_mib = NA,
        .limit_min_mw = 100000, .limit_default_mw = 900000, .limit_max_mw = 900000, .enforced_cap_mw = 700000,
        .module_min_mw = 200000, .module_default_mw = 1000000, .module_max_mw = 1000000,
        .graphics_max = 1980, .memory_max = 2619, .video_max = 1545, .app_graphics = 1980, .app_memory = 2619, .boost_max = 1980,
        .idle_graphics = 345, .idle_memory = 2619, .idle_video = 765, .idle_pstate = 0,
        .clocks = { T15(2619, 1980, 345) },   /* table not publicly known: H100's graphics clocks */
        .t_shutdown = -8, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 87, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 4, .pcie_width = 1, .ecc = 1,
        .mig = mig_gh200, .row_remap_banks = 3071,   /* a single superchip: no NVLink peers */
        .has_gsp = 1, .has_serial = 1, .is_superchip = 1,
        .cores = 16896, .bus_width_bits = 6144, .multiprocessors = 132, .idle_mw = 83000, .full_celsius = 78,
    },
    {
        .key = "b200", .name = "NVIDIA B200", .vbios = "97.00.FA.00.09", .board_part = "692-2G525-0220-500",
        .gpu_part = "2901-886-A1", .inforom_image = "G525.0220.00.03", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_BLACKWELL, .cc_major = 10, .cc_minor = 0,
        .device_id = 0x290110DE, .subsystem_id = 0x199910DE, .memory_mib = 183359, .reserved_mib = 728, .bar1_mib = 262144,
        .limit_min_mw = 200000, .limit_default_mw = 1000000, .limit_max_mw = 1000000, .enforced_cap_mw = NA,
        .module_min_mw = NA, .module_default_mw = NA, .module_max_mw = NA,
        .graphics_max = 1965, .memory_max = 3996, .video_max = 1965, .app_graphics = 1965, .app_memory = 3996, .boost_max = 1965,
        .idle_graphics = 120, .idle_memory = 3996, .idle_video = 600, .idle_pstate = 0,
        .clocks = { T7(3996, 3930, 120), T7(3402, 3930, 120) },
        .t_shutdown = -5, .t_slowdown = -3, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 88, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 5, .pcie_width = 16, .ecc = 1,
        .mig = mig_b200, .row_remap_banks = 3840, .nvlinks = 18, .nvlink_mbps = 53125, .nvlink_version = 7, .has_fabric = 1,
        .has_gsp = 1, .has_serial = 1,
        .cores = 18944, .bus_width_bits = 7680, .multiprocessors = 148, .idle_mw = 195000, .full_celsius = 76,
    },
    {
        .key = "gb200", .name = "NVIDIA GB200", .vbios = "97.00.B9.00.69", .board_part = "900-2G548-A801-000",
        .gpu_part = "2941-892-A1", .inforom_image = "G548.0201.00.06", .inforom_oem = "2.1", .inforom_ecc = "7.16",
        .brand = BRAND_NVIDIA, .arch = ARCH_BLACKWELL, .cc_major = 10, .cc_minor = 0,
        .device_id = 0x294110DE, .subsystem_id = 0x204610DE, .memory_mib = 189471, .reserved_mib = 742, .bar1_mib = 262144,
        .limit_min_mw = 200000, .limit_default_mw = 1200000, .limit_max_mw = 1200000, .enforced_cap_mw = NA,
        .module_min_mw = 500000, .module_default_mw = 2500000, .module_max_mw = 2500000,
        .graphics_max = 2062, .memory_max = 3996, .video_max = 1890, .app_graphics = 2062, .app_memory = 3996, .boost_max = 2062,
        .idle_graphics = 120, .idle_memory = 3996, .idle_video = 600, .idle_pstate = 0,
        .clocks = { T7(3996, 4125, 120) },
        .t_shutdown = -5, .t_slowdown = -2, .t_gpu_max = 0, .t_memory_max = 0, .t_limit = 87, .t_target = NA,
        .has_memory_temp = 1, .has_average_power = 1, .has_memory_power = 1, .pcie_gen = 6, .pcie_width = 16, .ecc = 1,
        .mig = mig_gb200, .row_remap_banks = 3968, .nvlinks = 18, .nvlink_mbps = 53125, .nvlink_version = 7, .has_fabric = 1,
        .has_gsp = 1, .has_serial = 1, .is_superchip = 1,
        .cores = 19456, .bus_width_bits = 7680, .multiprocessors = 152, .idle_mw = 166000, .full_celsius = 70,
    },
};

const uint profile_count = sizeof profiles / sizeof *profiles;

const struct profile *profile_find(const char *key)
{
    for (uint i = 0; i < profile_count; i++)
        if (strcmp(profiles[i].key, key) == 0)
            return &profiles[i];
    return NULL;
}

uint clock_table_count(const struct profile *p)
{
    uint n = 0;
    while (n < MAX_CLOCK_TABLES && p->clocks[n].memory_mhz)
        n++;
    return n;
}

const struct clock_table *clock_table_for(const struct profile *p, uint memory_mhz)
{
    for (uint i = 0; i < clock_table_count(p); i++)
        if (p->clocks[i].memory_mhz == memory_mhz)
            return &p->clocks[i];
    return NULL;
}

uint clock_table_length(const struct clock_table *t)
{
    return (t->highest_half_mhz - t->lowest_half_mhz) / t->step_half_mhz + 1;
}

uint clock_table_at(const struct clock_table *t, uint i)
{
    return (t->highest_half_mhz - i * t->step_half_mhz) / 2;
}

uint clock_table_floor(const struct clock_table *t, double mhz)
{
    if (mhz * 2 >= t->highest_half_mhz)
        return clock_table_at(t, 0);
    /* the table shows whole MHz, so 1957 means 1957.5: half a MHz of slack keeps a table entry its own floor */
    double steps = (t->highest_half_mhz - (mhz * 2 + 1)) / (double)t->step_half_mhz;
    uint i = steps <= 0 ? 0 : (uint)steps + (steps > (uint)steps);
    uint last = clock_table_length(t) - 1;
    return clock_table_at(t, i < last ? i : last);
}

uint clock_table_nearest(const struct clock_table *t, double mhz)
{
    return clock_table_floor(t, mhz + t->step_half_mhz / 4.0 - 0.5);
}

uint mig_profile_count(const struct profile *p)
{
    uint n = 0;
    while (p->mig && p->mig[n].name)
        n++;
    return n;
}
