/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Power, temperature, fans, utilisation. */
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
