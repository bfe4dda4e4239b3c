/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Identity, PCI, memory, modes, topology: what mostly stands still. */
#include "call.h"

#include <string.h>
#include <time.h>

/* Identity */

API nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, uint length)
{
    DEVICE_CALL(nvmlDeviceGetName, device, MIG_OK);
    if (t.mig) {
        char text[128];
        for (int i = 0; i < MAX_INSTANCES; i++)
            if (g->instances[i].used && g->instances[i].id == t.gpu_instance)
                snprintf(text, sizeof text, "%s MIG %s", p->name, p->mig[g->instances[i].profile_index].name);
        return copy_string(name, length, text);
    }
    return copy_string(name, length, p->name);
}

API nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, uint length)
{
    DEVICE_CALL(nvmlDeviceGetUUID, device, MIG_OK);
    char text[48];
    if (t.mig)
        mig_uuid(g, t.gpu_instance, t.compute_instance, text);
    return copy_string(uuid, length, t.mig ? text : g->uuid);
}

API nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, uint length)
{
    DEVICE_CALL(nvmlDeviceGetSerial, device, NO_MIG);
    return copy_string(serial, length, g->serial[0] ? g->serial : NULL);
}

API nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, uint length)
{
    DEVICE_CALL(nvmlDeviceGetVbiosVersion, device, NO_MIG);
    return copy_string(version, length, p->vbios);
}

API nvmlReturn_t nvmlDeviceGetBoardPartNumber(nvmlDevice_t device, char *number, uint length)
{
    DEVICE_CALL(nvmlDeviceGetBoardPartNumber, device, NO_MIG);
    return copy_string(number, length, p->board_part);
}

API nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, uint object, char *version, uint length)
{
    DEVICE_CALL(nvmlDeviceGetInforomVersion, device, NO_MIG);
    REQUIRE(object < 4);
    return copy_string(version, length, object == 0 ? p->inforom_oem : object == 1 ? p->inforom_ecc : NULL);
}

API nvmlReturn_t nvmlDeviceGetInforomImageVersion(nvmlDevice_t device, char *version, uint length)
{
    DEVICE_CALL(nvmlDeviceGetInforomImageVersion, device, NO_MIG);
    return copy_string(version, length, p->inforom_image);
}

API nvmlReturn_t nvmlDeviceGetInforomConfigurationChecksum(nvmlDevice_t device, uint *checksum)
{
    DEVICE_CALL(nvmlDeviceGetInforomConfigurationChecksum, device, NO_MIG);
    REQUIRE(checksum);
    *checksum = (uint)hash64(p->inforom_image, 7);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    DEVICE_CALL(nvmlDeviceValidateInforom, device, NO_MIG);
    return NVML_SUCCESS;
}


static uint present_index(const struct gpu *g)
{
    uint n = 0;
    for (uint32_t i = 0; i < g->index; i++)
        n += !sim()->gpus[i].vanished;
    return n;
}

UINT_GETTER(nvmlDeviceGetIndex, NO_MIG, true, present_index(g))
UINT_GETTER(nvmlDeviceGetMinorNumber, MIG_OK, true, g->minor)
UINT_GETTER(nvmlDeviceGetBrand, NO_MIG, true, p->brand)
UINT_GETTER(nvmlDeviceGetArchitecture, NO_MIG, true, p->arch)
UINT_GETTER(nvmlDeviceGetBoardId, NO_MIG, true, g->domain << 16 | g->bus << 8)
UINT_GETTER(nvmlDeviceGetMultiGpuBoard, NO_MIG, true, 0)
UINT_GETTER(nvmlDeviceGetModuleId, NO_MIG, true, p->nvlinks ? g->index % 8 + 1 : 1)
UINT_GETTER(nvmlDeviceGetNumGpuCores, NO_MIG, true, p->cores)
UINT_GETTER(nvmlDeviceGetMemoryBusWidth, NO_MIG, true, p->bus_width_bits)
UINT_GETTER(nvmlDeviceGetBusType, NO_MIG, true, 2)
UINT_GETTER(nvmlDeviceGetIrqNum, NO_MIG, true, 64 + g->index)
UINT_GETTER(nvmlDeviceGetPowerSource, NO_MIG, true, 0)
UINT_GETTER(nvmlDeviceGetDisplayActive, NO_MIG, true, 0)
UINT_GETTER(nvmlDeviceGetPersistenceMode, NO_MIG, true, g->persistence)
UINT_GETTER(nvmlDeviceGetComputeMode, NO_MIG, true, g->compute_mode)
UINT_GETTER(nvmlDeviceGetAccountingMode, NO_MIG, true, g->accounting)
UINT_GETTER(nvmlDeviceGetAccountingBufferSize, NO_MIG, true, 4000)
UINT_GETTER(nvmlDeviceGetDefaultEccMode, NO_MIG, p->ecc != NA, p->ecc)
UINT_GETTER(nvmlDeviceGetMaxPcieLinkGeneration, NO_MIG, true, p->pcie_gen)
UINT_GETTER(nvmlDeviceGetGpuMaxPcieLinkGeneration, NO_MIG, true, p->pcie_gen)
UINT_GETTER(nvmlDeviceGetMaxPcieLinkWidth, NO_MIG, true, p->pcie_width)
UINT_GETTER(nvmlDeviceGetCurrPcieLinkGeneration, NO_MIG, true, pcie_current_gen(g))
UINT_GETTER(nvmlDeviceGetCurrPcieLinkWidth, NO_MIG, true, pcie_current_width(g))
UINT_GETTER(nvmlDeviceGetPcieReplayCounter, NO_MIG, true, g->pcie_replays)
UINT_GETTER(nvmlDeviceGetVirtualizationMode, NO_MIG, true, g->mig_needs_reboot ? 1 : 0)

API nvmlReturn_t nvmlDeviceGetDisplayMode(nvmlDevice_t device, uint *out)
{
    DEVICE_CALL(nvmlDeviceGetDisplayMode, device, NO_MIG);
    REQUIRE(out);
    if (sim()->driver_major >= 580)
        return NVML_ERROR_DEPRECATED;
    *out = 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    DEVICE_CALL(nvmlDeviceGetCudaComputeCapability, device, MIG_OK);
    REQUIRE(major && minor);
    *major = (int)p->cc_major;
    *minor = (int)p->cc_minor;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    DEVICE_CALL(nvmlDeviceGetGspFirmwareVersion, device, NO_MIG);
    return copy_string(version, 80, p->has_gsp ? sim()->driver_version : NULL);
}

API nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, uint *enabled, uint *default_mode)
{
    DEVICE_CALL(nvmlDeviceGetGspFirmwareMode, device, NO_MIG);
    REQUIRE(enabled && default_mode);
    *enabled = *default_mode = (uint)p->has_gsp;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPdi(nvmlDevice_t device, nvmlPdi_v1_t *pdi)
{
    DEVICE_CALL(nvmlDeviceGetPdi, device, NO_MIG);
    VERSION(pdi, nvmlPdi_v1_t, 1u);
    pdi->value = hash64(g->uuid, 3);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuUptime_v1(nvmlDevice_t device, nvmlGpuUptime_v1_t *uptime)
{
    DEVICE_CALL(nvmlDeviceGetGpuUptime_v1, device, NO_MIG);
    REQUIRE(uptime);
    uptime->uptime = (uint)((g->now_ns - g->started_ns) / 1000000000);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAddressingMode(nvmlDevice_t device, nvmlDeviceAddressingMode_v1_t *mode)
{
    DEVICE_CALL(nvmlDeviceGetAddressingMode, device, NO_MIG);
    VERSION(mode, nvmlDeviceAddressingMode_v1_t, 1u);
    mode->value = p->is_superchip ? 2 : p->arch >= ARCH_TURING && p->brand != BRAND_GEFORCE ? 1 : 0;
    return NVML_SUCCESS;
}

/* Its header version and pynvml's disagree on whether there is a version word, so none is looked at. */
API nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceGetC2cModeInfoV, device, NO_MIG);
    REQUIRE(info);
    SUPPORTED_IF(p->arch >= ARCH_HOPPER);
    info->isC2cEnabled = (uint)p->is_superchip;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPlatformInfo(nvmlDevice_t device, nvmlPlatformInfo_v2_t *info)
{
    DEVICE_CALL(nvmlDeviceGetPlatformInfo, device, NO_MIG);
    VERSION(info, nvmlPlatformInfo_v2_t, 2u);
    SUPPORTED_IF(p->arch >= ARCH_BLACKWELL);
    uint version = info->version;
    memset(info, 0, sizeof *info);
    info->version = version;
    info->ibGuid[0] = (unsigned char)(g->index + 1);
    memcpy(info->chassisSerialNumber, "1820000000001", 13);
    info->slotNumber = (unsigned char)(14 + g->index / 8);
    info->trayIndex = (unsigned char)(4 + g->index / 8);
    info->hostId = 1;
    info->peerType = 1;         /* through a switch */
    info->moduleId = (unsigned char)(g->index % 8 + 1);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBridgeChipInfo(nvmlDevice_t device, nvmlBridgeChipHierarchy_t *out)
{
    DEVICE_CALL(nvmlDeviceGetBridgeChipInfo, device, NO_MIG);
    REQUIRE(out);
    return NVML_ERROR_NOT_SUPPORTED;
}

/* PCI */

static void fill_pci(const struct gpu *g, nvmlPciInfo_t *out)
{
    const struct profile *p = gpu_profile(g);
    memset(out, 0, sizeof *out);
    out->domain = g->domain;
    out->bus = g->bus;
    out->device = g->device;
    out->pciDeviceId = p->device_id;
    out->pciSubSystemId = p->subsystem_id;
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:%02X.0", g->domain & 0xFFFF, g->bus & 0xFF, g->device & 0xFF);
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.0", g->domain, g->bus & 0xFF, g->device & 0xFF);
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *out)
{
    DEVICE_CALL(nvmlDeviceGetPciInfo_v3, device, MIG_OK);
    REQUIRE(out);
    fill_pci(g, out);
    return NVML_SUCCESS;
}

static void fill_pci_v2(const struct gpu *g, nvmlPciInfo_v2_t *out)
{
    nvmlPciInfo_t info;
    fill_pci(g, &info);
    memset(out, 0, sizeof *out);
    memcpy(out->busId, info.busIdLegacy, sizeof out->busId);
    out->domain = info.domain;
    out->bus = info.bus;
    out->device = info.device;
    out->pciDeviceId = info.pciDeviceId;
    out->pciSubSystemId = info.pciSubSystemId;
}

API nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetPciInfo_v2, device, MIG_OK);
    REQUIRE(out);
    fill_pci_v2(g, out);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetPciInfo, device, MIG_OK);
    REQUIRE(out);
    fill_pci_v2(g, out);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetPciInfoExt, device, MIG_OK);
    VERSION(out, nvmlPciInfoExt_v1_t, 1u);
    out->domain = g->domain;
    out->bus = g->bus;
    out->device = g->device;
    out->pciDeviceId = p->device_id;
    out->pciSubSystemId = p->subsystem_id;
    out->baseClass = 3;
    out->subClass = p->brand == BRAND_GEFORCE || p->brand == BRAND_NVIDIA_RTX ? 0 : 2;
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:%02X.0", g->domain, g->bus & 0xFF, g->device & 0xFF);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPcieLinkMaxSpeed(nvmlDevice_t device, uint *out)
{
    static const uint by_gen[] = { 0, 1, 2, 3, 4, 5, 6 };       /* NVML_PCIE_LINK_MAX_SPEED_2500MBPS ... */
    DEVICE_CALL(nvmlDeviceGetPcieLinkMaxSpeed, device, NO_MIG);
    REQUIRE(out);
    *out = by_gen[p->pcie_gen];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetPcieSpeed(nvmlDevice_t device, uint *mbps)
{
    static const uint by_gen[] = { 0, 2500, 5000, 8000, 16000, 32000, 64000 };
    DEVICE_CALL(nvmlDeviceGetPcieSpeed, device, NO_MIG);
    REQUIRE(mbps);
    *mbps = by_gen[pcie_current_gen(g)];
    return NVML_SUCCESS;
}

/* KB/s over 20 ms: the call takes those 20 ms, as on a board. */
API nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, uint counter, uint *kilobytes)
{
    static const struct timespec window = { 0, 20000000 };
    if (!sim())
        return NVML_ERROR_UNINITIALIZED;
    nanosleep(&window, NULL);
    DEVICE_CALL(nvmlDeviceGetPcieThroughput, device, NO_MIG);
    REQUIRE(kilobytes && counter < 2);
    *kilobytes = (uint)(pcie_rate(g, counter == 1) / 1000);
    return NVML_SUCCESS;
}

/* Memory */

static uint64_t mig_memory(const struct gpu *g, uint32_t gpu_instance)
{
    for (int i = 0; i < MAX_INSTANCES; i++)
        if (g->instances[i].used && g->instances[i].id == gpu_instance)
            return (uint64_t)gpu_profile(g)->mig[g->instances[i].profile_index].memory_mib << 20;
    return 0;
}

static void memory_numbers(const struct target *t, nvmlMemory_v2_t *m)
{
    const struct profile *p = gpu_profile(t->g);
    if (t->mig) {
        m->total = mig_memory(t->g, t->gpu_instance);
        m->reserved = 0;
        m->used = 16ull << 20;
        for (uint32_t i = 0; i < t->g->process_count; i++)
            if (t->g->processes[i].gpu_instance == t->gpu_instance && t->g->processes[i].memory_bytes != VALUE_NOT_AVAILABLE)
                m->used += t->g->processes[i].memory_bytes;
        if (m->used > m->total)
            m->used = m->total;
    } else {
        m->total = (uint64_t)p->memory_mib << 20;
        m->reserved = (uint64_t)p->reserved_mib << 20;
        m->used = used_memory_bytes(t->g);
    }
    m->free = m->total - m->reserved - m->used;
}

/* The old call counts what is reserved as used. */
API nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *out)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo, device, MIG_OK);
    REQUIRE(out);
    nvmlMemory_v2_t m;
    processes_prune(g);
    memory_numbers(&t, &m);
    *out = (nvmlMemory_t){ .total = m.total, .free = m.free, .used = m.used + m.reserved };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetMemoryInfo_v2, device, MIG_OK);
    VERSION(out, nvmlMemory_v2_t, 2u);
    processes_prune(g);
    memory_numbers(&t, out);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *out)
{
    DEVICE_CALL(nvmlDeviceGetBAR1MemoryInfo, device, MIG_OK);
    REQUIRE(out);
    SUPPORTED_IF(p->bar1_mib != NA);
    out->total = (uint64_t)p->bar1_mib << 20;
    out->used = (1 + 2 * g->process_count) * 1048576ull;
    out->free = out->total - out->used;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *out)
{
    DEVICE_CALL(nvmlDeviceGetConfComputeProtectedMemoryUsage, device, NO_MIG);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    return NVML_SUCCESS;
}

/* Modes that are only looked at here */

API nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, uint *current, uint *pending)
{
    DEVICE_CALL(nvmlDeviceGetEccMode, device, NO_MIG);
    REQUIRE(current && pending);
    SUPPORTED_IF(p->ecc != NA);
    *current = g->ecc_current;
    *pending = g->ecc_pending;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAPIRestriction(nvmlDevice_t device, uint api, uint *restricted)
{
    DEVICE_CALL(nvmlDeviceGetAPIRestriction, device, NO_MIG);
    REQUIRE(restricted && api < 2);
    SUPPORTED_IF(api == 0 && p->app_graphics != NA);
    *restricted = g->api_restricted[api];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCapabilities(nvmlDevice_t device, nvmlDeviceCapabilities_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetCapabilities, device, NO_MIG);
    VERSION(out, nvmlDeviceCapabilities_v1_t, 1u);
    out->capMask = 0;
    return NVML_SUCCESS;
}

/* Topology: the GPUs of four share a CPU socket; affinity is this machine's first CPUs */

API nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t device1, nvmlDevice_t device2, uint *path)
{
    uint32_t other, gs, cs;
    bool mig;
    DEVICE_CALL(nvmlDeviceGetTopologyCommonAncestor, device1, NO_MIG);
    REQUIRE(path && device_resolve(device2, &other, &mig, &gs, &cs) && !mig && other < sim()->gpu_count);
    *path = other == g->index ? 0 : other / 4 == g->index / 4 ? 40 : 50;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t device1, nvmlDevice_t device2, uint index, uint *status)
{
    uint32_t other, gs, cs;
    bool mig;
    DEVICE_CALL(nvmlDeviceGetP2PStatus, device1, NO_MIG);
    REQUIRE(status && index < 5 && device_resolve(device2, &other, &mig, &gs, &cs) && !mig && other < sim()->gpu_count);
    *status = index == 2 ? (p->nvlinks ? 0 : 5) : p->brand == BRAND_GEFORCE ? 5 : 0;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceOnSameBoard(nvmlDevice_t device1, nvmlDevice_t device2, int *same)
{
    DEVICE_CALL(nvmlDeviceOnSameBoard, device1, NO_MIG);
    REQUIRE(same);
    *same = device1 == device2;
    return NVML_SUCCESS;
}

static nvmlReturn_t cpu_mask(const struct gpu *g, uint words, unsigned long *mask)
{
    REQUIRE(words && mask);
    memset(mask, 0, words * sizeof *mask);
    mask[0] = g->index / 4 % 2 == 0 ? 0x1 : 0x2;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, uint words, unsigned long *mask)
{
    DEVICE_CALL(nvmlDeviceGetCpuAffinity, device, NO_MIG);
    return cpu_mask(g, words, mask);
}

API nvmlReturn_t nvmlDeviceGetCpuAffinityWithinScope(nvmlDevice_t device, uint words, unsigned long *mask, uint scope)
{
    DEVICE_CALL(nvmlDeviceGetCpuAffinityWithinScope, device, NO_MIG);
    REQUIRE(scope < 2);
    return cpu_mask(g, words, mask);
}

API nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, uint words, unsigned long *mask, uint scope)
{
    DEVICE_CALL(nvmlDeviceGetMemoryAffinity, device, NO_MIG);
    REQUIRE(words && mask && scope < 2);
    memset(mask, 0, words * sizeof *mask);
    mask[0] = 1ul << g->index / 4 % 2;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNumaNodeId(nvmlDevice_t device, uint *node)
{
    DEVICE_CALL(nvmlDeviceGetNumaNodeId, device, NO_MIG);
    REQUIRE(node);
    SUPPORTED_IF(p->is_superchip);
    *node = g->index + 2;
    return NVML_SUCCESS;
}
