/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* The system and the ways to a handle. */
#include "call.h"

#include <string.h>
#include <strings.h>

API nvmlReturn_t nvmlSystemGetDriverVersion(char *version, uint length)
{
    PLAIN_CALL(nvmlSystemGetDriverVersion);
    return copy_string(version, length, sim()->driver_version);
}

API nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, uint length)
{
    char text[100];
    PLAIN_CALL(nvmlSystemGetNVMLVersion);
    snprintf(text, sizeof text, "%u.%s", cuda_version(sim()->driver_major) / 1000, sim()->driver_version);
    return copy_string(version, length, text);
}

static nvmlReturn_t cuda_driver_version(int *out)
{
    REQUIRE(out);
    *out = (int)cuda_version(sim()->driver_major);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *out)
{
    PLAIN_CALL(nvmlSystemGetCudaDriverVersion);
    return cuda_driver_version(out);
}

API nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    PLAIN_CALL(nvmlSystemGetCudaDriverVersion_v2);
    return cuda_driver_version(out);
}

API nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_v1_t *info, uint length)
{
    PLAIN_CALL(nvmlSystemGetDriverBranch);
    VERSION(info, nvmlSystemDriverBranchInfo_v1_t, 1u);
    char text[24];
    snprintf(text, sizeof text, "r%u_00", sim()->driver_major);
    return copy_string(info->branch, length < sizeof info->branch ? length : sizeof info->branch, text);
}

API nvmlReturn_t nvmlSystemGetProcessName(uint pid, char *name, uint length)
{
    char path[32], text[256] = "";
    PLAIN_CALL(nvmlSystemGetProcessName);
    REQUIRE(name && length);
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *f = fopen(path, "re");
    if (!f)
        return NVML_ERROR_NOT_FOUND;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;                            /* the first NUL ends argv[0] */
    return copy_string(name, length, text);
}

API nvmlReturn_t nvmlSystemGetHicVersion(uint *count, void *entries)
{
    (void)entries;
    PLAIN_CALL(nvmlSystemGetHicVersion);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlUnitGetCount(uint *count)
{
    PLAIN_CALL(nvmlUnitGetCount);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGetExcludedDeviceCount(uint *count)
{
    PLAIN_CALL(nvmlGetExcludedDeviceCount);
    REQUIRE(count);
    *count = 0;
    return NVML_SUCCESS;
}

/* Enumeration: a GPU that vanished from the bus is not counted and the others move up. */

static nvmlReturn_t count_gpus(uint *count)
{
    struct state *s = sim();
    REQUIRE(count);
    *count = 0;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        *count += !s->gpus[i].vanished;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCount(uint *count)
{
    PLAIN_CALL(nvmlDeviceGetCount);
    return count_gpus(count);
}

API nvmlReturn_t nvmlDeviceGetCount_v2(uint *count)
{
    PLAIN_CALL(nvmlDeviceGetCount_v2);
    return count_gpus(count);
}

static int nth_present(uint index)
{
    struct state *s = sim();
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (!s->gpus[i].vanished && index-- == 0)
            return (int)i;
    return -1;
}

static nvmlReturn_t take_handle(enum function f, int gpu, nvmlDevice_t *device)
{
    nvmlDevice_t handle = device_handle((uint32_t)gpu);
    struct target t __attribute__((cleanup(call_end))) = { NULL, false, NO_INSTANCE, NO_INSTANCE };
    nvmlReturn_t rc = call_device(f, handle, MIG_OK | NO_ADVANCE, &t);
    if (rc == NVML_SUCCESS)
        *device = handle;
    return rc;
}

static nvmlReturn_t handle_by_index(enum function f, uint index, nvmlDevice_t *device)
{
    if (!sim())
        return NVML_ERROR_UNINITIALIZED;
    int gpu = nth_present(index);
    if (gpu < 0 || !device) {
        nvmlReturn_t rc = call_plain(f);
        return rc == NVML_SUCCESS ? NVML_ERROR_INVALID_ARGUMENT : rc;
    }
    return take_handle(f, gpu, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex(uint index, nvmlDevice_t *device)
{
    return handle_by_index(FN_nvmlDeviceGetHandleByIndex, index, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(uint index, nvmlDevice_t *device)
{
    return handle_by_index(FN_nvmlDeviceGetHandleByIndex_v2, index, device);
}

static nvmlReturn_t handle_by_uuid(enum function f, const char *uuid, nvmlDevice_t *device)
{
    struct state *s = sim();
    if (!s)
        return NVML_ERROR_UNINITIALIZED;
    for (uint32_t i = 0; uuid && device && i < s->gpu_count; i++) {
        struct gpu *g = &s->gpus[i];
        char text[48];
        if (g->vanished)
            continue;
        if (strcasecmp(g->uuid, uuid) == 0)
            return take_handle(f, (int)i, device);
        if (!g->mig_current || g->lost || strncmp(uuid, "MIG-", 4) != 0)
            continue;
        for (uint32_t gi = 0; gi < MAX_INSTANCES; gi++)
            for (uint32_t ci = 0; ci < MAX_INSTANCES; ci++)
                if (g->instances[gi].used && g->instances[gi].compute[ci].used) {
                    mig_uuid(g, g->instances[gi].id, g->instances[gi].compute[ci].id, text);
                    if (strcasecmp(text, uuid) == 0) {
                        *device = mig_device_handle(i, gi, ci);
                        return call_plain(f);
                    }
                }
    }
    nvmlReturn_t rc = call_plain(f);
    return rc != NVML_SUCCESS ? rc : uuid && device ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    return handle_by_uuid(FN_nvmlDeviceGetHandleByUUID, uuid, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_v1_t *uuid, nvmlDevice_t *device)
{
    char text[48];
    if (!sim())
        return NVML_ERROR_UNINITIALIZED;
    VERSION(uuid, nvmlUUID_v1_t, 1u);
    if (uuid->type == 1)
        return handle_by_uuid(FN_nvmlDeviceGetHandleByUUIDV, uuid->value.str, device);
    REQUIRE(uuid->type == 2);
    const unsigned char *b = uuid->value.bytes;
    snprintf(text, sizeof text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3],
             b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
    return handle_by_uuid(FN_nvmlDeviceGetHandleByUUIDV, text, device);
}

API nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    struct state *s = sim();
    if (!s)
        return NVML_ERROR_UNINITIALIZED;
    for (uint32_t i = 0; serial && device && i < s->gpu_count; i++)
        if (!s->gpus[i].vanished && s->gpus[i].serial[0] && strcmp(s->gpus[i].serial, serial) == 0)
            return take_handle(FN_nvmlDeviceGetHandleBySerial, (int)i, device);
    PLAIN_CALL(nvmlDeviceGetHandleBySerial);
    REQUIRE(serial && device);
    return NVML_ERROR_NOT_FOUND;
}

/* "domain:bus:device.function", the domain and the function may be missing */
static bool parse_bus_id(const char *text, uint *domain, uint *bus, uint *device)
{
    uint function = 0;
    if (sscanf(text, "%x:%x:%x.%x", domain, bus, device, &function) >= 3)
        return true;
    *domain = 0;
    return sscanf(text, "%x:%x.%x", bus, device, &function) >= 2;
}

static int gpu_by_bus_id(const char *text)
{
    struct state *s = sim();
    uint domain, bus, device;
    if (!text || !parse_bus_id(text, &domain, &bus, &device))
        return -2;
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (!s->gpus[i].vanished && s->gpus[i].domain == domain && s->gpus[i].bus == bus && s->gpus[i].device == device)
            return (int)i;
    return -1;
}

static nvmlReturn_t handle_by_bus_id(enum function f, const char *id, nvmlDevice_t *device)
{
    if (!sim())
        return NVML_ERROR_UNINITIALIZED;
    int gpu = gpu_by_bus_id(id);
    if (gpu >= 0 && device)
        return take_handle(f, gpu, device);
    nvmlReturn_t rc = call_plain(f);
    return rc != NVML_SUCCESS ? rc : gpu == -1 && device ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT;
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *id, nvmlDevice_t *device)
{
    return handle_by_bus_id(FN_nvmlDeviceGetHandleByPciBusId, id, device);
}

API nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *id, nvmlDevice_t *device)
{
    return handle_by_bus_id(FN_nvmlDeviceGetHandleByPciBusId_v2, id, device);
}
