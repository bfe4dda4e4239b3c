/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Clocks, performance states and what holds them down. */
#include "call.h"

static uint current_clock(const struct gpu *g, uint type)
{
    return type == CLOCK_MEM ? g->memory_mhz : type == CLOCK_VIDEO ? g->video_mhz : g->graphics_mhz;
}

static uint max_clock(const struct profile *p, uint type)
{
    return type == CLOCK_MEM ? p->memory_max : type == CLOCK_VIDEO ? p->video_max : p->graphics_max;
}

API nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, uint type, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetClockInfo, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT);
    *mhz = current_clock(g, type);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, uint type, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetMaxClockInfo, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT);
    *mhz = max_clock(p, type);
    return NVML_SUCCESS;
}

/* Drivers from 590 on answer DEPRECATED on every board. */
static nvmlReturn_t application_clock(const struct gpu *g, uint type, bool target, uint *mhz)
{
    const struct profile *p = gpu_profile(g);
    if (sim()->driver_major >= 590)
        return NVML_ERROR_DEPRECATED;
    SUPPORTED_IF(p->app_graphics != NA && type != CLOCK_VIDEO);
    if (type == CLOCK_MEM)
        *mhz = target && g->app_memory ? g->app_memory : (uint)p->app_memory;
    else
        *mhz = target && g->app_graphics ? g->app_graphics : (uint)p->app_graphics;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, uint type, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetApplicationsClock, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT);
    return application_clock(g, type, true, mhz);
}

API nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t device, uint type, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetDefaultApplicationsClock, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT);
    return application_clock(g, type, false, mhz);
}

static nvmlReturn_t customer_boost(const struct profile *p, uint type, uint *mhz)
{
    SUPPORTED_IF(p->boost_max != NA && type != CLOCK_VIDEO);
    *mhz = type == CLOCK_MEM ? p->memory_max : (uint)p->boost_max;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, uint type, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetMaxCustomerBoostClock, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT);
    return customer_boost(p, type, mhz);
}

API nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, uint type, uint id, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetClock, device, NO_MIG);
    REQUIRE(mhz && type < CLOCK_COUNT && id < CLOCK_ID_COUNT);
    if (id == CLOCK_ID_CURRENT) {
        *mhz = current_clock(g, type);
        return NVML_SUCCESS;
    }
    if (id == CLOCK_ID_CUSTOMER_BOOST_MAX)
        return customer_boost(p, type, mhz);
    return application_clock(g, type, id == CLOCK_ID_APP_TARGET, mhz);
}

API nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, uint *count, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetSupportedMemoryClocks, device, NO_MIG);
    REQUIRE(count);
    uint need = clock_table_count(p), room = *count;
    *count = need;
    if (room < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    REQUIRE(mhz);
    for (uint i = 0; i < need; i++)
        mhz[i] = p->clocks[i].memory_mhz;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, uint memory_mhz, uint *count, uint *mhz)
{
    DEVICE_CALL(nvmlDeviceGetSupportedGraphicsClocks, device, NO_MIG);
    REQUIRE(count);
    const struct clock_table *table = clock_table_for(p, memory_mhz);
    if (!table)
        return NVML_ERROR_NOT_FOUND;
    uint need = clock_table_length(table), room = *count;
    *count = need;
    if (room < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    REQUIRE(mhz);
    for (uint i = 0; i < need; i++)
        mhz[i] = clock_table_at(table, i);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetClockOffsets(nvmlDevice_t device, nvmlClockOffset_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceGetClockOffsets, device, NO_MIG);
    VERSION(info, nvmlClockOffset_v1_t, 1u);
    REQUIRE(info->type < CLOCK_COUNT);
    SUPPORTED_IF(p->brand == BRAND_GEFORCE && info->pstate == 0 && info->type != CLOCK_VIDEO);
    info->clockOffsetMHz = info->type == CLOCK_MEM ? g->memory_offset : g->graphics_offset;
    info->minClockOffsetMHz = info->type == CLOCK_MEM ? -2000 : -1000;
    info->maxClockOffsetMHz = info->type == CLOCK_MEM ? 6000 : 1000;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCurrentClockFreqs(nvmlDevice_t device, nvmlDeviceCurrentClockFreqs_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetCurrentClockFreqs, device, NO_MIG);
    VERSION(out, nvmlDeviceCurrentClockFreqs_v1_t, 1u);
    snprintf(out->str, sizeof out->str, "perf=%u, nvclock=%u, memclock=%u", g->pstate, g->graphics_mhz, g->memory_mhz);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, uint *pstate)
{
    DEVICE_CALL(nvmlDeviceGetPerformanceState, device, NO_MIG);
    REQUIRE(pstate);
    if (sim()->driver_major >= 595)
        return NVML_ERROR_DEPRECATED;
    *pstate = g->pstate;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPowerState(nvmlDevice_t device, uint *pstate)
{
    DEVICE_CALL(nvmlDeviceGetPowerState, device, NO_MIG);
    REQUIRE(pstate);
    if (sim()->driver_major >= 595)
        return NVML_ERROR_DEPRECATED;
    *pstate = g->pstate;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSupportedPerformanceStates(nvmlDevice_t device, uint *states, uint size)
{
    DEVICE_CALL(nvmlDeviceGetSupportedPerformanceStates, device, NO_MIG);
    uint n = size / sizeof *states;
    REQUIRE(states);
    if (n < 2)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint i = 0; i < n; i++)
        states[i] = 32;                     /* NVML_PSTATE_UNKNOWN fills the rest */
    states[0] = 0;
    if (p->idle_pstate)
        states[1] = p->idle_pstate;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMinMaxClockOfPState(nvmlDevice_t device, uint type, uint pstate, uint *min, uint *max)
{
    DEVICE_CALL(nvmlDeviceGetMinMaxClockOfPState, device, NO_MIG);
    REQUIRE(min && max && type < CLOCK_COUNT && (pstate == 0 || pstate == p->idle_pstate));
    const struct clock_table *table = &p->clocks[pstate ? clock_table_count(p) - 1 : 0];
    if (type == CLOCK_MEM) {
        *min = *max = table->memory_mhz;
    } else if (type == CLOCK_VIDEO) {
        *min = p->idle_video;
        *max = p->video_max;
    } else {
        *min = table->lowest_half_mhz / 2;
        *max = table->highest_half_mhz / 2;
    }
    return NVML_SUCCESS;
}

static nvmlReturn_t current_reasons(const struct gpu *g, ull *reasons)
{
    REQUIRE(reasons);
    *reasons = g->reasons;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, ull *reasons)
{
    DEVICE_CALL(nvmlDeviceGetCurrentClocksEventReasons, device, NO_MIG);
    return current_reasons(g, reasons);
}

API nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, ull *reasons)
{
    DEVICE_CALL(nvmlDeviceGetCurrentClocksThrottleReasons, device, NO_MIG);
    return current_reasons(g, reasons);
}

static nvmlReturn_t supported_reasons(const struct gpu *g, ull *reasons)
{
    (void)g;
    REQUIRE(reasons);
    *reasons = 0x1FF;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSupportedClocksEventReasons(nvmlDevice_t device, ull *reasons)
{
    DEVICE_CALL(nvmlDeviceGetSupportedClocksEventReasons, device, NO_MIG);
    return supported_reasons(g, reasons);
}

API nvmlReturn_t nvmlDeviceGetSupportedClocksThrottleReasons(nvmlDevice_t device, ull *reasons)
{
    DEVICE_CALL(nvmlDeviceGetSupportedClocksThrottleReasons, device, NO_MIG);
    return supported_reasons(g, reasons);
}

/* policies: power, thermal, sync boost, board limit, low utilisation, reliability, then total app and base clocks */
API nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, uint policy, nvmlViolationTime_t *out)
{
    DEVICE_CALL(nvmlDeviceGetViolationStatus, device, NO_MIG);
    REQUIRE(out);
    out->referenceTime = (ull)((g->now_ns - g->started_ns) / 1000);
    switch (policy) {
    case 0: out->violationTime = g->reason_ns[2]; break;
    case 1: out->violationTime = g->reason_ns[5] + g->reason_ns[6]; break;
    case 2: out->violationTime = g->reason_ns[4]; break;
    case 3: out->violationTime = g->reason_ns[7]; break;
    case 4: case 5: case 10: case 11: out->violationTime = 0; break;
    default: return NVML_ERROR_INVALID_ARGUMENT;
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAutoBoostedClocksEnabled(nvmlDevice_t device, uint *enabled, uint *by_default)
{
    DEVICE_CALL(nvmlDeviceGetAutoBoostedClocksEnabled, device, NO_MIG);
    REQUIRE(enabled && by_default);
    return NVML_ERROR_NOT_SUPPORTED;        /* nothing newer than Kepler has it */
}

API nvmlReturn_t nvmlDeviceGetAdaptiveClockInfoStatus(nvmlDevice_t device, uint *status)
{
    DEVICE_CALL(nvmlDeviceGetAdaptiveClockInfoStatus, device, NO_MIG);
    REQUIRE(status);
    *status = 1;
    return NVML_SUCCESS;
}
