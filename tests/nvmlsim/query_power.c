/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Power, clocks, temperature, fans, utilisation: what moves. */
#include "call.h"

#include <string.h>


/* Power */

UINT_GETTER(nvmlDeviceGetPowerUsage, NO_MIG, true, reported_power_mw(g))
UINT_GETTER(nvmlDeviceGetPowerManagementMode, NO_MIG, true, 1)
UINT_GETTER(nvmlDeviceGetPowerManagementLimit, NO_MIG, p->limit_max_mw != NA, g->limit_mw)
UINT_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, NO_MIG, p->limit_max_mw != NA, p->limit_default_mw)
UINT_GETTER(nvmlDeviceGetEnforcedPowerLimit, NO_MIG, true, enforced_limit_mw(g))

API nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, uint *min, uint *max)
{
    DEVICE_CALL(nvmlDeviceGetPowerManagementLimitConstraints, device, NO_MIG);
    REQUIRE(min && max);
    SUPPORTED_IF(p->limit_max_mw != NA);
    *min = (uint)p->limit_min_mw;
    *max = (uint)p->limit_max_mw;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, ull *millijoules)
{
    DEVICE_CALL(nvmlDeviceGetTotalEnergyConsumption, device, NO_MIG);
    REQUIRE(millijoules);
    SUPPORTED_IF(p->arch >= ARCH_VOLTA);
    *millijoules = (ull)g->energy_mj;
    return NVML_SUCCESS;
}

/* Clocks */

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

/* Temperature */

API nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, uint sensor, uint *celsius)
{
    DEVICE_CALL(nvmlDeviceGetTemperature, device, NO_MIG);
    REQUIRE(celsius && sensor == 0);
    *celsius = (uint)gpu_celsius(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetTemperatureV, device, NO_MIG);
    VERSION(out, nvmlTemperature_v1_t, 1u);
    REQUIRE(out->sensorType == 0);
    out->temperature = gpu_celsius(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetMarginTemperature, device, NO_MIG);
    VERSION(out, nvmlMarginTemperature_v1_t, 1u);
    SUPPORTED_IF(p->t_limit != NA);
    out->marginTemperature = margin_celsius(g);
    return NVML_SUCCESS;
}

/* Boards with T.Limit report their thresholds as field values 193 to 196 instead. */
API nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, uint type, uint *celsius)
{
    DEVICE_CALL(nvmlDeviceGetTemperatureThreshold, device, NO_MIG);
    REQUIRE(celsius && type < TEMP_THRESHOLD_COUNT);
    int value = NO_LIMIT;
    if (type <= TEMP_GPU_MAX && p->t_limit == NA) {
        const int by_type[] = { p->t_shutdown, p->t_slowdown, p->t_memory_max, p->t_gpu_max };
        value = by_type[type];
    } else if (p->t_target != NA) {
        if (type == TEMP_ACOUSTIC_CURR)
            value = g->acoustic_celsius;
        else if (type == TEMP_ACOUSTIC_MIN)
            value = 65;
        else if (type == TEMP_ACOUSTIC_MAX)
            value = 88;
    }
    SUPPORTED_IF(value != NO_LIMIT);
    *celsius = (uint)value;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetThermalSettings(nvmlDevice_t device, uint index, nvmlGpuThermalSettings_t *out)
{
    DEVICE_CALL(nvmlDeviceGetThermalSettings, device, NO_MIG);
    REQUIRE(out && (index == 15 || index == 0));
    out->count = 1;
    out->sensor[0].controller = 1;
    out->sensor[0].defaultMinTemp = 0;
    out->sensor[0].defaultMaxTemp = absolute_threshold(g, p->t_shutdown);
    out->sensor[0].currentTemp = gpu_celsius(g);
    out->sensor[0].target = 1;
    return NVML_SUCCESS;
}

/* Fans */

UINT_GETTER(nvmlDeviceGetNumFans, NO_MIG, true, p->fans)
UINT_GETTER(nvmlDeviceGetFanSpeed, NO_MIG, p->fans > 0, fan_percent(g, 0))

API nvmlReturn_t nvmlDeviceGetFanSpeed_v2(nvmlDevice_t device, uint fan, uint *percent)
{
    DEVICE_CALL(nvmlDeviceGetFanSpeed_v2, device, NO_MIG);
    REQUIRE(percent);
    SUPPORTED_IF(p->fans > 0);
    REQUIRE(fan < (uint)p->fans);
    *percent = (uint)fan_percent(g, fan);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetTargetFanSpeed(nvmlDevice_t device, uint fan, uint *percent)
{
    DEVICE_CALL(nvmlDeviceGetTargetFanSpeed, device, NO_MIG);
    REQUIRE(percent);
    SUPPORTED_IF(p->fans > 0);
    REQUIRE(fan < (uint)p->fans);
    *percent = (uint)fan_percent(g, fan);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetFanSpeedRPM(nvmlDevice_t device, nvmlFanSpeedInfo_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceGetFanSpeedRPM, device, NO_MIG);
    VERSION(info, nvmlFanSpeedInfo_v1_t, 1u);
    SUPPORTED_IF(p->fans > 0);
    REQUIRE(info->fan < (uint)p->fans);
    info->speed = (uint)fan_percent(g, info->fan) * 30;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMinMaxFanSpeed(nvmlDevice_t device, uint *min, uint *max)
{
    DEVICE_CALL(nvmlDeviceGetMinMaxFanSpeed, device, NO_MIG);
    REQUIRE(min && max);
    SUPPORTED_IF(p->fans > 0);
    *min = 30;
    *max = 100;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetFanControlPolicy_v2(nvmlDevice_t device, uint fan, uint *policy)
{
    DEVICE_CALL(nvmlDeviceGetFanControlPolicy_v2, device, NO_MIG);
    REQUIRE(policy);
    SUPPORTED_IF(p->fans > 0);
    REQUIRE(fan < (uint)p->fans);
    *policy = g->fan_manual[fan] >= 0;      /* 0 follows temperature, 1 manual */
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCoolerInfo(nvmlDevice_t device, nvmlCoolerInfo_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceGetCoolerInfo, device, NO_MIG);
    VERSION(info, nvmlCoolerInfo_v1_t, 1u);
    SUPPORTED_IF(p->fans > 0);
    REQUIRE(info->index < (uint)p->fans);
    info->signalType = 2;
    info->target = 2;
    return NVML_SUCCESS;
}

/* Utilisation: not known per GPU while MIG divides it */

static uint percent_of(double share) { return (uint)(share * 100 + 0.5); }

API nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *out)
{
    DEVICE_CALL(nvmlDeviceGetUtilizationRates, device, NO_MIG);
    REQUIRE(out);
    SUPPORTED_IF(!g->mig_current);
    out->gpu = percent_of(g->utilization);
    out->memory = percent_of(g->memory_utilization);
    return NVML_SUCCESS;
}

static nvmlReturn_t engine_utilization(const struct gpu *g, double share, uint *percent, uint *period_us)
{
    REQUIRE(percent && period_us);
    SUPPORTED_IF(!g->mig_current);
    *percent = percent_of(share);
    *period_us = 167000;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, uint *percent, uint *period_us)
{
    DEVICE_CALL(nvmlDeviceGetEncoderUtilization, device, NO_MIG);
    return engine_utilization(g, g->load.encoder, percent, period_us);
}

API nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, uint *percent, uint *period_us)
{
    DEVICE_CALL(nvmlDeviceGetDecoderUtilization, device, NO_MIG);
    return engine_utilization(g, g->load.decoder, percent, period_us);
}

API nvmlReturn_t nvmlDeviceGetJpgUtilization(nvmlDevice_t device, uint *percent, uint *period_us)
{
    DEVICE_CALL(nvmlDeviceGetJpgUtilization, device, NO_MIG);
    return engine_utilization(g, 0, percent, period_us);
}

API nvmlReturn_t nvmlDeviceGetOfaUtilization(nvmlDevice_t device, uint *percent, uint *period_us)
{
    DEVICE_CALL(nvmlDeviceGetOfaUtilization, device, NO_MIG);
    return engine_utilization(g, 0, percent, period_us);
}

API nvmlReturn_t nvmlDeviceGetDynamicPstatesInfo(nvmlDevice_t device, nvmlGpuDynamicPstatesInfo_t *out)
{
    DEVICE_CALL(nvmlDeviceGetDynamicPstatesInfo, device, NO_MIG);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    out->flags = 1;
    out->utilization[0].bIsPresent = out->utilization[1].bIsPresent = 1;
    out->utilization[0].percentage = percent_of(g->utilization);
    out->utilization[1].percentage = percent_of(g->memory_utilization);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, uint *sessions, uint *fps, uint *latency_us)
{
    DEVICE_CALL(nvmlDeviceGetEncoderStats, device, NO_MIG);
    REQUIRE(sessions && fps && latency_us);
    *sessions = g->load.encoder > 0;
    *fps = g->load.encoder > 0 ? 60 : 0;
    *latency_us = g->load.encoder > 0 ? 3200 : 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetEncoderCapacity(nvmlDevice_t device, uint type, uint *capacity)
{
    DEVICE_CALL(nvmlDeviceGetEncoderCapacity, device, NO_MIG);
    REQUIRE(capacity && type < 3);
    *capacity = (uint)(100 - 100 * g->load.encoder);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *out)
{
    DEVICE_CALL(nvmlDeviceGetFBCStats, device, NO_MIG);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

/* Samples. samples == NULL asks for the size and is SUCCESS, unlike every other array in NVML. */
API nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, uint type, ull last_seen_us, uint *value_type, uint *count, nvmlSample_t *samples)
{
    enum { HELD = 20, PERIOD_US = 100000 };
    DEVICE_CALL(nvmlDeviceGetSamples, device, NO_MIG);
    REQUIRE(value_type && count && type < SAMPLES_COUNT);
    SUPPORTED_IF(type != SAMPLES_MODULE_POWER || p->module_max_mw != NA);
    SUPPORTED_IF(!g->mig_current || type == SAMPLES_POWER || type == SAMPLES_CLK || type == SAMPLES_MEM_CLK);
    ull now = (ull)wall_us(), newest = now - now % PERIOD_US;
    *value_type = VALUE_UINT;
    if (!samples) {
        *count = HELD;
        return NVML_SUCCESS;
    }
    uint filled = 0;
    for (uint back = HELD; back-- > 0 && filled < *count;) {
        ull at = newest - (ull)back * PERIOD_US;
        if (at <= last_seen_us)
            continue;
        double level = load_level(&g->load, g->index, g->now_ns - (int64_t)(now - at) * 1000);
        double value = 0;
        switch (type) {
        case SAMPLES_POWER: value = g->power_mw; break;
        case SAMPLES_GPU_UTIL: value = level * 100; break;
        case SAMPLES_MEM_UTIL: value = g->memory_utilization * 100; break;
        case SAMPLES_ENC: value = g->load.encoder * 100; break;
        case SAMPLES_DEC: value = g->load.decoder * 100; break;
        case SAMPLES_CLK: value = g->graphics_mhz; break;
        case SAMPLES_MEM_CLK: value = g->memory_mhz; break;
        case SAMPLES_MODULE_POWER: value = g->power_mw + 150000; break;
        default: break;
        }
        samples[filled].timeStamp = at;
        samples[filled++].sampleValue.uiVal = (uint)(value + 0.5);
    }
    *count = filled;
    return filled ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
