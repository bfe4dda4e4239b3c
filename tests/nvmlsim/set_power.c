/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Setters of power, clocks, fans. What they set is gone when the driver lets go of the GPU. */
#include "call.h"

#include <string.h>

/* Power limits, mW */

static nvmlReturn_t set_limit(struct gpu *g, uint scope, uint limit_mw)
{
    const struct profile *p = gpu_profile(g);
    bool module = scope == POWER_SCOPE_MODULE;
    REQUIRE(scope <= POWER_SCOPE_MEMORY);
    SUPPORTED_IF(scope != POWER_SCOPE_MEMORY && (module ? p->module_max_mw : p->limit_max_mw) != NA);
    ROOT_ONLY();
    REQUIRE(limit_mw >= (uint)(module ? p->module_min_mw : p->limit_min_mw));
    REQUIRE(limit_mw <= (uint)(module ? p->module_max_mw : p->limit_max_mw));
    if (g->limit_step_mw)
        limit_mw -= limit_mw % g->limit_step_mw;
    *(module ? &g->module_limit_mw : &g->limit_mw) = limit_mw;
    physics_refresh(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, uint limit_mw)
{
    DEVICE_CALL(nvmlDeviceSetPowerManagementLimit, device, NO_MIG);
    return set_limit(g, POWER_SCOPE_GPU, limit_mw);
}

API nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, nvmlPowerValue_v2_t *value)
{
    DEVICE_CALL(nvmlDeviceSetPowerManagementLimit_v2, device, NO_MIG);
    VERSION(value, nvmlPowerValue_v2_t, 2u);
    return set_limit(g, value->powerScope, value->powerValueMw);
}

/* Locked clocks, MHz. There is no getter for them in NVML. */

static bool symbolic(uint mhz) { return mhz == CLOCK_LIMIT_TDP || mhz == CLOCK_LIMIT_UNLIMITED; }

API nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, uint min, uint max)
{
    DEVICE_CALL(nvmlDeviceSetGpuLockedClocks, device, NO_MIG);
    SUPPORTED_IF(p->arch >= ARCH_VOLTA);
    ROOT_ONLY();
    REQUIRE(symbolic(min) == symbolic(max));
    if (symbolic(min)) {
        uint base = p->app_graphics != NA ? (uint)p->app_graphics : p->graphics_max;
        REQUIRE(!(min == CLOCK_LIMIT_UNLIMITED && max == CLOCK_LIMIT_TDP));
        if (min == CLOCK_LIMIT_UNLIMITED)
            min = max = 0;                  /* both unlimited: no lock */
        else {
            min = base;
            max = max == CLOCK_LIMIT_TDP ? base : p->graphics_max;
        }
    } else {
        REQUIRE(min <= max && max > 0);
    }
    g->lock_graphics_min = min;
    g->lock_graphics_max = max;
    physics_refresh(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
    DEVICE_CALL(nvmlDeviceResetGpuLockedClocks, device, NO_MIG);
    SUPPORTED_IF(p->arch >= ARCH_VOLTA);
    ROOT_ONLY();
    g->lock_graphics_min = g->lock_graphics_max = 0;
    physics_refresh(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetMemoryLockedClocks(nvmlDevice_t device, uint min, uint max)
{
    DEVICE_CALL(nvmlDeviceSetMemoryLockedClocks, device, NO_MIG);
    SUPPORTED_IF(p->arch >= ARCH_AMPERE);
    ROOT_ONLY();
    REQUIRE(min <= max && max > 0 && !symbolic(min) && !symbolic(max));
    g->lock_memory_min = min;
    g->lock_memory_max = max;
    physics_refresh(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceResetMemoryLockedClocks(nvmlDevice_t device)
{
    DEVICE_CALL(nvmlDeviceResetMemoryLockedClocks, device, NO_MIG);
    SUPPORTED_IF(p->arch >= ARCH_AMPERE);
    ROOT_ONLY();
    g->lock_memory_min = g->lock_memory_max = 0;
    physics_refresh(g);
    return NVML_SUCCESS;
}

/* Application clocks: open to everybody when the API restriction is lifted, gone from driver 590 on. */

static nvmlReturn_t application_clocks_allowed(const struct gpu *g)
{
    if (sim()->driver_major >= 590)
        return NVML_ERROR_DEPRECATED;
    SUPPORTED_IF(gpu_profile(g)->app_graphics != NA);
    return g->api_restricted[0] && !privileged() ? NVML_ERROR_NO_PERMISSION : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetApplicationsClocks(nvmlDevice_t device, uint memory, uint graphics)
{
    DEVICE_CALL(nvmlDeviceSetApplicationsClocks, device, NO_MIG);
    nvmlReturn_t rc = application_clocks_allowed(g);
    if (rc != NVML_SUCCESS)
        return rc;
    const struct clock_table *table = clock_table_for(p, memory);
    REQUIRE(table && clock_table_floor(table, graphics) == graphics);
    g->app_memory = memory;
    g->app_graphics = graphics;
    physics_refresh(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceResetApplicationsClocks(nvmlDevice_t device)
{
    DEVICE_CALL(nvmlDeviceResetApplicationsClocks, device, NO_MIG);
    nvmlReturn_t rc = application_clocks_allowed(g);
    if (rc != NVML_SUCCESS)
        return rc;
    g->app_memory = g->app_graphics = 0;
    physics_refresh(g);
    return NVML_SUCCESS;
}

/* Clock offsets, GeForce only */

API nvmlReturn_t nvmlDeviceSetClockOffsets(nvmlDevice_t device, nvmlClockOffset_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceSetClockOffsets, device, NO_MIG);
    VERSION(info, nvmlClockOffset_v1_t, 1u);
    REQUIRE(info->type < CLOCK_COUNT);
    SUPPORTED_IF(p->brand == BRAND_GEFORCE && info->pstate == 0 && info->type != CLOCK_VIDEO);
    ROOT_ONLY();
    bool memory = info->type == CLOCK_MEM;
    REQUIRE(info->clockOffsetMHz >= (memory ? -2000 : -1000) && info->clockOffsetMHz <= (memory ? 6000 : 1000));
    *(memory ? &g->memory_offset : &g->graphics_offset) = info->clockOffsetMHz;
    return NVML_SUCCESS;
}

/* Fans: only boards with fans of their own that software may turn */

static bool fan_is_ours(const struct profile *p) { return p->fans && (p->brand == BRAND_GEFORCE || p->brand == BRAND_NVIDIA_RTX); }

API nvmlReturn_t nvmlDeviceSetFanSpeed_v2(nvmlDevice_t device, uint fan, uint percent)
{
    DEVICE_CALL(nvmlDeviceSetFanSpeed_v2, device, NO_MIG);
    SUPPORTED_IF(fan_is_ours(p));
    ROOT_ONLY();
    REQUIRE(fan < (uint)p->fans && percent >= 30 && percent <= 100);
    g->fan_manual[fan] = (int32_t)percent;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetDefaultFanSpeed_v2(nvmlDevice_t device, uint fan)
{
    DEVICE_CALL(nvmlDeviceSetDefaultFanSpeed_v2, device, NO_MIG);
    SUPPORTED_IF(fan_is_ours(p));
    ROOT_ONLY();
    REQUIRE(fan < (uint)p->fans);
    g->fan_manual[fan] = -1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetFanControlPolicy(nvmlDevice_t device, uint fan, uint policy)
{
    DEVICE_CALL(nvmlDeviceSetFanControlPolicy, device, NO_MIG);
    SUPPORTED_IF(fan_is_ours(p));
    ROOT_ONLY();
    REQUIRE(fan < (uint)p->fans && policy < 2);
    g->fan_manual[fan] = policy ? fan_percent(g, fan) : -1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetTemperatureThreshold(nvmlDevice_t device, uint type, int *celsius)
{
    DEVICE_CALL(nvmlDeviceSetTemperatureThreshold, device, NO_MIG);
    REQUIRE(celsius && type < TEMP_THRESHOLD_COUNT);
    SUPPORTED_IF(type == TEMP_ACOUSTIC_CURR && p->t_target != NA);
    ROOT_ONLY();
    REQUIRE(*celsius >= 65 && *celsius <= 88);
    g->acoustic_celsius = *celsius;
    return NVML_SUCCESS;
}

/* Workload power profiles, Blackwell: a mask of requested ones, of which the highest priority is enforced */

#define POWER_PROFILES 0x1Fu            /* the ids 0..4 exist */

API nvmlReturn_t nvmlDeviceWorkloadPowerProfileGetProfilesInfo(nvmlDevice_t device, nvmlWorkloadPowerProfileProfilesInfo_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceWorkloadPowerProfileGetProfilesInfo, device, NO_MIG);
    VERSION(info, nvmlWorkloadPowerProfileProfilesInfo_v1_t, 1u);
    SUPPORTED_IF(p->arch >= ARCH_BLACKWELL);
    uint version = info->version;
    memset(info, 0, sizeof *info);
    info->version = version;
    info->perfProfilesMask.mask[0] = POWER_PROFILES;
    for (uint i = 0; i < 5; i++) {
        info->perfProfile[i].version = STRUCT_VERSION(nvmlWorkloadPowerProfileInfo_v1_t, 1u);
        info->perfProfile[i].profileId = i;
        info->perfProfile[i].priority = i;
        info->perfProfile[i].conflictingMask.mask[0] = i < 2 ? 3u & ~(1u << i) : 0;     /* max-Q and max-P exclude each other */
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceWorkloadPowerProfileGetCurrentProfiles(nvmlDevice_t device, nvmlWorkloadPowerProfileCurrentProfiles_v1_t *current)
{
    DEVICE_CALL(nvmlDeviceWorkloadPowerProfileGetCurrentProfiles, device, NO_MIG);
    VERSION(current, nvmlWorkloadPowerProfileCurrentProfiles_v1_t, 1u);
    SUPPORTED_IF(p->arch >= ARCH_BLACKWELL);
    memset(&current->perfProfilesMask, 0, 3 * sizeof(nvmlMask255_t));
    current->perfProfilesMask.mask[0] = POWER_PROFILES;
    memcpy(current->requestedProfilesMask.mask, g->power_profiles, sizeof g->power_profiles);
    uint requested = g->power_profiles[0];
    current->enforcedProfilesMask.mask[0] = (requested & 3) == 3 ? requested & ~2u : requested;
    return NVML_SUCCESS;
}

static nvmlReturn_t change_profiles(struct gpu *g, const nvmlMask255_t *mask, uint operation)
{
    SUPPORTED_IF(gpu_profile(g)->arch >= ARCH_BLACKWELL);
    ROOT_ONLY();
    REQUIRE(operation < 3);
    for (int i = 0; i < 8; i++)
        REQUIRE(!(mask->mask[i] & ~(i ? 0 : POWER_PROFILES)));
    if (operation == 0)
        g->power_profiles[0] &= ~mask->mask[0];
    else
        g->power_profiles[0] = mask->mask[0] | (operation == 1 ? g->power_profiles[0] : 0);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceWorkloadPowerProfileSetRequestedProfiles(nvmlDevice_t device, nvmlWorkloadPowerProfileRequestedProfiles_v1_t *x)
{
    DEVICE_CALL(nvmlDeviceWorkloadPowerProfileSetRequestedProfiles, device, NO_MIG);
    VERSION(x, nvmlWorkloadPowerProfileRequestedProfiles_v1_t, 1u);
    return change_profiles(g, &x->requestedProfilesMask, 1);
}

API nvmlReturn_t nvmlDeviceWorkloadPowerProfileClearRequestedProfiles(nvmlDevice_t device, nvmlWorkloadPowerProfileRequestedProfiles_v1_t *x)
{
    DEVICE_CALL(nvmlDeviceWorkloadPowerProfileClearRequestedProfiles, device, NO_MIG);
    VERSION(x, nvmlWorkloadPowerProfileRequestedProfiles_v1_t, 1u);
    return change_profiles(g, &x->requestedProfilesMask, 0);
}

API nvmlReturn_t nvmlDeviceWorkloadPowerProfileUpdateProfiles_v1(nvmlDevice_t device, nvmlWorkloadPowerProfileUpdateProfiles_v1_t *x)
{
    DEVICE_CALL(nvmlDeviceWorkloadPowerProfileUpdateProfiles_v1, device, NO_MIG);
    REQUIRE(x);
    return change_profiles(g, &x->updateProfilesMask, x->operation);
}
