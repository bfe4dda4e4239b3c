/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* MIG: mode, GPU instances, compute instances and the devices they make. */
#include "call.h"

#include <string.h>

/* Handles are addresses in tables, as those of devices are. */
struct nvmlGpuInstance_st { char unused; };
struct nvmlComputeInstance_st { char unused; };
static struct nvmlGpuInstance_st gi_table[MAX_GPUS][MAX_INSTANCES];
static struct nvmlComputeInstance_st ci_table[MAX_GPUS][MAX_INSTANCES][MAX_INSTANCES];

static bool resolve_gi(nvmlGpuInstance_t handle, uint32_t *gpu, uint32_t *slot)
{
    uintptr_t i = (uintptr_t)handle - (uintptr_t)gi_table;
    *gpu = (uint32_t)(i / MAX_INSTANCES);
    *slot = (uint32_t)(i % MAX_INSTANCES);
    return (uintptr_t)handle >= (uintptr_t)gi_table && i < sizeof gi_table;
}

static bool resolve_ci(nvmlComputeInstance_t handle, uint32_t *gpu, uint32_t *slot, uint32_t *compute_slot)
{
    uintptr_t i = (uintptr_t)handle - (uintptr_t)ci_table;
    *gpu = (uint32_t)(i / (MAX_INSTANCES * MAX_INSTANCES));
    *slot = (uint32_t)(i / MAX_INSTANCES % MAX_INSTANCES);
    *compute_slot = (uint32_t)(i % MAX_INSTANCES);
    return (uintptr_t)handle >= (uintptr_t)ci_table && i < sizeof ci_table;
}

#define INSTANCE_CALL(name, handle)                                         \
    uint32_t gpu_, slot;                                                    \
    if (!sim())                                                             \
        return NVML_ERROR_UNINITIALIZED;                                    \
    REQUIRE(resolve_gi(handle, &gpu_, &slot) && gpu_ < sim()->gpu_count);   \
    DEVICE_CALL(name, device_handle(gpu_), MIG_OK);                         \
    struct gpu_instance *gi = &g->instances[slot];                          \
    REQUIRE(gi->used)

#define COMPUTE_CALL(name, handle)                                                  \
    uint32_t gpu_, slot, cslot;                                                     \
    if (!sim())                                                                     \
        return NVML_ERROR_UNINITIALIZED;                                            \
    REQUIRE(resolve_ci(handle, &gpu_, &slot, &cslot) && gpu_ < sim()->gpu_count);   \
    DEVICE_CALL(name, device_handle(gpu_), MIG_OK);                                 \
    struct gpu_instance *gi = &g->instances[slot];                                  \
    struct compute_instance *ci = &gi->compute[cslot];                              \
    REQUIRE(gi->used && ci->used)

/* Mode */

API nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, uint *current, uint *pending)
{
    DEVICE_CALL(nvmlDeviceGetMigMode, device, NO_MIG);
    REQUIRE(current && pending);
    SUPPORTED_IF(p->mig);
    *current = g->mig_current;
    *pending = g->mig_pending;
    return NVML_SUCCESS;
}

/*
 * The outer code tells whether the request was taken, activationStatus whether it is in force: IN_USE while somebody holds
 * the GPU (on Ampere any other process with NVML open, for the change needs a reset there), RESET_REQUIRED in a VM.
 */
API nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, uint mode, nvmlReturn_t *activation)
{
    if (!sim())
        return NVML_ERROR_UNINITIALIZED;
    clients_reap(sim(), sim_fd(), sim_slot());
    uint32_t others = clients_other_than(sim(), sim_slot());
    DEVICE_CALL(nvmlDeviceSetMigMode, device, NO_MIG);
    REQUIRE(activation && mode < 2);
    SUPPORTED_IF(p->mig);
    ROOT_ONLY();
    bool instances = false;
    for (int i = 0; i < MAX_INSTANCES; i++)
        instances |= g->instances[i].used;
    processes_prune(g);
    g->mig_pending = mode;
    *activation = NVML_SUCCESS;
    if (mode == g->mig_current)
        return NVML_SUCCESS;
    if (g->process_count || instances || (p->arch == ARCH_AMPERE && others)) {
        *activation = NVML_ERROR_IN_USE;
    } else if (g->mig_needs_reboot) {
        *activation = NVML_ERROR_RESET_REQUIRED;
    } else {
        g->mig_current = mode;
        g->compute_mode = COMPUTEMODE_DEFAULT;
        if (mode) {
            g->accounting = 0;
            g->accounting_count = 0;
        }
        event_post(sim(), g, EVENT_MIG_CONFIG, 0, NO_INSTANCE, NO_INSTANCE);
    }
    return NVML_SUCCESS;
}

/* GPU instance profiles */

static int profile_by_number(const struct profile *p, uint number)
{
    for (uint32_t i = 0; i < mig_profile_count(p); i++)
        if (p->mig[i].profile == number)
            return (int)i;
    return -1;
}

static int profile_by_id(const struct profile *p, uint id)
{
    for (uint32_t i = 0; i < mig_profile_count(p); i++)
        if (p->mig[i].id == id)
            return (int)i;
    return -1;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, uint number, nvmlGpuInstanceProfileInfo_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceProfileInfo, device, NO_MIG);
    REQUIRE(out && number < 18);
    int i = profile_by_number(p, number);
    SUPPORTED_IF(i >= 0);
    const struct mig_profile *m = &p->mig[i];
    *out = (nvmlGpuInstanceProfileInfo_t){ m->id, 0, m->slices, m->instances, m->multiprocessors, m->copy_engines, m->decoders,
                                           m->encoders, m->jpegs, m->ofas, m->memory_mib };
    return NVML_SUCCESS;
}

static nvmlReturn_t profile_info_versioned(const struct mig_profile *m, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    if (out->version == STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2u)) {
        *out = (nvmlGpuInstanceProfileInfo_v2_t){ out->version, m->id, 0, m->slices, m->instances, m->multiprocessors, m->copy_engines,
                                                  m->decoders, m->encoders, m->jpegs, m->ofas, m->memory_mib, "" };
        strcpy(out->name, m->name);
    } else if (out->version == STRUCT_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3u)) {
        nvmlGpuInstanceProfileInfo_v3_t *v3 = (nvmlGpuInstanceProfileInfo_v3_t *)out;
        *v3 = (nvmlGpuInstanceProfileInfo_v3_t){ out->version, m->id, m->slices, m->instances, m->multiprocessors, m->copy_engines,
                                                 m->decoders, m->encoders, m->jpegs, m->ofas, m->memory_mib, "", 0 };
        strcpy(v3->name, m->name);
    } else {
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, uint number, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceProfileInfoV, device, NO_MIG);
    REQUIRE(out && number < 18);
    int i = profile_by_number(p, number);
    SUPPORTED_IF(i >= 0);
    return profile_info_versioned(&p->mig[i], out);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, uint id, nvmlGpuInstanceProfileInfo_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceProfileInfoByIdV, device, NO_MIG);
    REQUIRE(out);
    int i = profile_by_id(p, id);
    SUPPORTED_IF(i >= 0);
    return profile_info_versioned(&p->mig[i], out);
}

static nvmlReturn_t possible_placements(const struct gpu *g, uint id, nvmlPlacement_t *placements, uint *count)
{
    const struct profile *p = gpu_profile(g);
    REQUIRE(count);
    SUPPORTED_IF(g->mig_current);
    int i = profile_by_id(p, id);
    REQUIRE(i >= 0);
    const struct mig_profile *m = &p->mig[i];
    uint need = 0, room = *count;
    for (uint at = 0; at < 8; at += m->placement_step)
        if (at + m->memory_slices <= 8 && at + m->slices <= 7) {
            if (placements && need < room)
                placements[need] = (nvmlPlacement_t){ at, m->memory_slices };
            need++;
        }
    *count = need;
    return placements && room < need ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, uint id, nvmlPlacement_t *placements, uint *count)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstancePossiblePlacements, device, NO_MIG);
    return possible_placements(g, id, placements, count);
}

API nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, uint id, nvmlPlacement_t *placements, uint *count)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstancePossiblePlacements_v2, device, NO_MIG);
    return possible_placements(g, id, placements, count);
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, uint id, uint *count)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceRemainingCapacity, device, NO_MIG);
    REQUIRE(count);
    SUPPORTED_IF(g->mig_current);
    int i = profile_by_id(p, id);
    REQUIRE(i >= 0);
    static _Thread_local struct gpu trial;  /* how many more fit is found out by putting them in */
    trial.profile = g->profile;
    memcpy(trial.instances, g->instances, sizeof trial.instances);
    for (*count = 0; mig_create_gpu_instance(&trial, (uint32_t)i, -1) >= 0; ++*count)
        ;
    return NVML_SUCCESS;
}

/* GPU instances */

static nvmlReturn_t create_gpu_instance(struct gpu *g, uint id, int start, nvmlGpuInstance_t *out)
{
    REQUIRE(out);
    SUPPORTED_IF(g->mig_current);
    ROOT_ONLY();
    int i = profile_by_id(gpu_profile(g), id);
    REQUIRE(i >= 0);
    int slot = mig_create_gpu_instance(g, (uint32_t)i, start);
    if (slot < 0)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    *out = &gi_table[g->index][slot];
    event_post(sim(), g, EVENT_MIG_CONFIG, 0, g->instances[slot].id, NO_INSTANCE);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, uint id, nvmlGpuInstance_t *out)
{
    DEVICE_CALL(nvmlDeviceCreateGpuInstance, device, NO_MIG);
    return create_gpu_instance(g, id, -1, out);
}

API nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, uint id, const nvmlPlacement_t *placement, nvmlGpuInstance_t *out)
{
    DEVICE_CALL(nvmlDeviceCreateGpuInstanceWithPlacement, device, NO_MIG);
    REQUIRE(placement && placement->start < 8);
    int i = profile_by_id(p, id);
    REQUIRE(i < 0 || placement->size == p->mig[i].memory_slices);
    return create_gpu_instance(g, id, (int)placement->start, out);
}

API nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t instance)
{
    INSTANCE_CALL(nvmlGpuInstanceDestroy, instance);
    ROOT_ONLY();
    for (int i = 0; i < MAX_INSTANCES; i++)
        if (gi->compute[i].used)
            return NVML_ERROR_IN_USE;
    gi->used = 0;
    event_post(sim(), g, EVENT_MIG_CONFIG, 0, gi->id, NO_INSTANCE);
    return NVML_SUCCESS;
}

/* The caller's array has room for the profile's instanceCount. */
API nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, uint id, nvmlGpuInstance_t *out, uint *count)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstances, device, NO_MIG);
    REQUIRE(out && count);
    SUPPORTED_IF(g->mig_current);
    int k = profile_by_id(p, id);
    REQUIRE(k >= 0);
    *count = 0;
    for (uint32_t i = 0; i < MAX_INSTANCES; i++)
        if (g->instances[i].used && g->instances[i].profile_index == (uint32_t)k)
            out[(*count)++] = &gi_table[g->index][i];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, uint id, nvmlGpuInstance_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceById, device, NO_MIG);
    REQUIRE(out);
    SUPPORTED_IF(g->mig_current);
    for (uint32_t i = 0; i < MAX_INSTANCES; i++)
        if (g->instances[i].used && g->instances[i].id == id) {
            *out = &gi_table[g->index][i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t instance, nvmlGpuInstanceInfo_t *info)
{
    INSTANCE_CALL(nvmlGpuInstanceGetInfo, instance);
    REQUIRE(info);
    const struct mig_profile *m = &p->mig[gi->profile_index];
    *info = (nvmlGpuInstanceInfo_t){ device_handle(g->index), gi->id, m->id, { gi->start, m->memory_slices } };
    return NVML_SUCCESS;
}

/* Compute instances */

static const uint32_t slices_of_profile[] = { 1, 2, 3, 4, 7, 8, 6 };

/* The compute profile `number` as it is within this GPU instance; false when it does not fit into it. */
static bool compute_profile(const struct mig_profile *m, uint number, nvmlComputeInstanceProfileInfo_v3_t *out)
{
    uint slices = number < 7 ? slices_of_profile[number] : 0;
    if (!slices || slices > m->slices || slices == 6 || slices == 8)
        return false;
    memset(out, 0, sizeof *out);
    out->id = number;
    out->sliceCount = slices;
    out->instanceCount = m->slices / slices;
    out->multiprocessorCount = m->multiprocessors / m->slices * slices;
    out->sharedCopyEngineCount = m->copy_engines;
    out->sharedDecoderCount = m->decoders;
    out->sharedEncoderCount = m->encoders;
    out->sharedJpegCount = m->jpegs;
    out->sharedOfaCount = m->ofas;
    if (slices == m->slices) {
        out->multiprocessorCount = m->multiprocessors;
        snprintf(out->name, sizeof out->name, "%s", m->name);
    } else {
        snprintf(out->name, sizeof out->name, "%uc.%s", slices, m->name);
    }
    return true;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t instance, uint number, uint engine, nvmlComputeInstanceProfileInfo_t *out)
{
    nvmlComputeInstanceProfileInfo_v3_t c;
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstanceProfileInfo, instance);
    REQUIRE(out && number < 9 && engine == 0);
    SUPPORTED_IF(compute_profile(&p->mig[gi->profile_index], number, &c));
    *out = (nvmlComputeInstanceProfileInfo_t){ c.id, c.sliceCount, c.instanceCount, c.multiprocessorCount, c.sharedCopyEngineCount,
                                               c.sharedDecoderCount, c.sharedEncoderCount, c.sharedJpegCount, c.sharedOfaCount };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t instance, uint number, uint engine, nvmlComputeInstanceProfileInfo_v2_t *out)
{
    nvmlComputeInstanceProfileInfo_v3_t c;
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstanceProfileInfoV, instance);
    REQUIRE(out && number < 9 && engine == 0);
    bool v3 = out->version == STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v3_t, 3u);
    if (!v3 && out->version != STRUCT_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    SUPPORTED_IF(compute_profile(&p->mig[gi->profile_index], number, &c));
    c.version = out->version;
    memcpy(out, &c, v3 ? sizeof c : sizeof *out);       /* the third version only adds at the end */
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t instance, uint id, uint *count)
{
    nvmlComputeInstanceProfileInfo_v3_t c;
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstanceRemainingCapacity, instance);
    REQUIRE(count && compute_profile(&p->mig[gi->profile_index], id, &c));
    uint free_slices = p->mig[gi->profile_index].slices;
    for (int i = 0; i < MAX_INSTANCES; i++)
        free_slices -= gi->compute[i].used ? gi->compute[i].slices : 0;
    *count = free_slices / c.sliceCount;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t instance, uint id, nvmlPlacement_t *placements, uint *count)
{
    nvmlComputeInstanceProfileInfo_v3_t c;
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstancePossiblePlacements, instance);
    REQUIRE(count && compute_profile(&p->mig[gi->profile_index], id, &c));
    uint need = p->mig[gi->profile_index].slices - c.sliceCount + 1, room = *count;
    *count = need;
    if (!placements)
        return NVML_SUCCESS;
    if (room < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint i = 0; i < need; i++)
        placements[i] = (nvmlPlacement_t){ i, c.sliceCount };
    return NVML_SUCCESS;
}

static nvmlReturn_t create_compute_instance(struct gpu *g, uint32_t slot, uint id, int start, nvmlComputeInstance_t *out)
{
    nvmlComputeInstanceProfileInfo_v3_t c;
    REQUIRE(out && compute_profile(&gpu_profile(g)->mig[g->instances[slot].profile_index], id, &c));
    ROOT_ONLY();
    int made = mig_create_compute_instance(g, slot, c.sliceCount, start);
    if (made < 0)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    *out = &ci_table[g->index][slot][made];
    event_post(sim(), g, EVENT_MIG_CONFIG, 0, g->instances[slot].id, (uint32_t)made);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t instance, uint id, nvmlComputeInstance_t *out)
{
    INSTANCE_CALL(nvmlGpuInstanceCreateComputeInstance, instance);
    return create_compute_instance(g, slot, id, -1, out);
}

API nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t instance, uint id, const nvmlPlacement_t *placement, nvmlComputeInstance_t *out)
{
    INSTANCE_CALL(nvmlGpuInstanceCreateComputeInstanceWithPlacement, instance);
    REQUIRE(placement && placement->start < 7);
    return create_compute_instance(g, slot, id, (int)placement->start, out);
}

API nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t instance)
{
    COMPUTE_CALL(nvmlComputeInstanceDestroy, instance);
    ROOT_ONLY();
    processes_prune(g);
    for (uint32_t i = 0; i < g->process_count; i++)
        if (g->processes[i].gpu_instance == gi->id && g->processes[i].compute_instance == ci->id)
            return NVML_ERROR_IN_USE;
    ci->used = 0;
    event_post(sim(), g, EVENT_MIG_CONFIG, 0, gi->id, ci->id);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance, uint id, nvmlComputeInstance_t *out, uint *count)
{
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstances, instance);
    REQUIRE(out && count);
    *count = 0;
    for (uint32_t i = 0; i < MAX_INSTANCES; i++)
        if (gi->compute[i].used && gi->compute[i].profile == id)
            out[(*count)++] = &ci_table[g->index][slot][i];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t instance, uint id, nvmlComputeInstance_t *out)
{
    INSTANCE_CALL(nvmlGpuInstanceGetComputeInstanceById, instance);
    REQUIRE(out);
    for (uint32_t i = 0; i < MAX_INSTANCES; i++)
        if (gi->compute[i].used && gi->compute[i].id == id) {
            *out = &ci_table[g->index][slot][i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t instance, nvmlComputeInstanceInfo_t *info)
{
    COMPUTE_CALL(nvmlComputeInstanceGetInfo_v2, instance);
    REQUIRE(info);
    *info = (nvmlComputeInstanceInfo_t){ device_handle(g->index), &gi_table[g->index][slot], ci->id, ci->profile, { ci->start, ci->slices } };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t instance, nvmlComputeInstanceInfo_v1_t *info)
{
    COMPUTE_CALL(nvmlComputeInstanceGetInfo, instance);
    REQUIRE(info);
    *info = (nvmlComputeInstanceInfo_v1_t){ device_handle(g->index), &gi_table[g->index][slot], ci->id, ci->profile };
    return NVML_SUCCESS;
}

/* MIG devices */

API nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, uint *is_mig)
{
    DEVICE_CALL(nvmlDeviceIsMigDeviceHandle, device, MIG_OK);
    REQUIRE(is_mig);
    *is_mig = t.mig;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, uint *id)
{
    DEVICE_CALL(nvmlDeviceGetGpuInstanceId, device, MIG_OK);
    REQUIRE(id);
    SUPPORTED_IF(t.mig);
    *id = t.gpu_instance;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, uint *id)
{
    DEVICE_CALL(nvmlDeviceGetComputeInstanceId, device, MIG_OK);
    REQUIRE(id);
    SUPPORTED_IF(t.mig);
    *id = t.compute_instance;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, uint *count)
{
    DEVICE_CALL(nvmlDeviceGetMaxMigDeviceCount, device, NO_MIG);
    REQUIRE(count);
    *count = p->mig ? 7 : 0;
    return NVML_SUCCESS;
}

/* Indexes count the compute instances, in the order of the instances' ids. */
API nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, uint index, nvmlDevice_t *mig_device)
{
    DEVICE_CALL(nvmlDeviceGetMigDeviceHandleByIndex, device, NO_MIG);
    REQUIRE(mig_device && index < 7);
    SUPPORTED_IF(p->mig);
    for (uint32_t id = 0; g->mig_current && id < 14; id++)
        for (uint32_t i = 0; i < MAX_INSTANCES; i++) {
            if (!g->instances[i].used || g->instances[i].id != id)
                continue;
            for (uint32_t k = 0; k < MAX_INSTANCES; k++)
                if (g->instances[i].compute[k].used && index-- == 0) {
                    *mig_device = mig_device_handle(g->index, i, k);
                    return NVML_SUCCESS;
                }
        }
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig_device, nvmlDevice_t *device)
{
    DEVICE_CALL(nvmlDeviceGetDeviceHandleFromMigDeviceHandle, mig_device, MIG_OK);
    REQUIRE(device && t.mig);
    *device = device_handle(g->index);
    return NVML_SUCCESS;
}

static nvmlReturn_t attributes(const struct target *t, nvmlDeviceAttributes_t *out)
{
    REQUIRE(out);
    SUPPORTED_IF(t->mig);
    for (int i = 0; i < MAX_INSTANCES; i++) {
        const struct gpu_instance *gi = &t->g->instances[i];
        nvmlComputeInstanceProfileInfo_v3_t c;
        if (!gi->used || gi->id != t->gpu_instance)
            continue;
        const struct mig_profile *m = &gpu_profile(t->g)->mig[gi->profile_index];
        const struct compute_instance *ci = &gi->compute[t->compute_instance];
        if (!compute_profile(m, ci->profile, &c))
            return NVML_ERROR_UNKNOWN;
        *out = (nvmlDeviceAttributes_t){ c.multiprocessorCount, m->copy_engines, m->decoders, m->encoders, m->jpegs, m->ofas,
                                         m->slices, ci->slices, m->memory_mib };
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    DEVICE_CALL(nvmlDeviceGetAttributes, device, MIG_OK);
    return attributes(&t, out);
}

API nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *out)
{
    DEVICE_CALL(nvmlDeviceGetAttributes_v2, device, MIG_OK);
    return attributes(&t, out);
}
