/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* ECC, retired pages, remapped rows, NVLink, fabric, processes, accounting. */
#include "call.h"
#include "health.h"

#include <string.h>

/* ECC */

API nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, uint kind, uint lifetime, ull *count)
{
    DEVICE_CALL(nvmlDeviceGetTotalEccErrors, device, NO_MIG);
    REQUIRE(count && kind < 2 && lifetime < 2);
    SUPPORTED_IF(ecc_counts(g, (int)lifetime));
    *count = ecc_total(g, (int)lifetime, (int)kind);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, uint kind, uint lifetime, uint location, ull *count)
{
    DEVICE_CALL(nvmlDeviceGetMemoryErrorCounter, device, NO_MIG);
    REQUIRE(count && kind < 2 && lifetime < 2 && location < MEM_COUNT);
    SUPPORTED_IF(ecc_counts(g, (int)lifetime));
    if (location == MEM_SRAM) {
        *count = ecc_sram(g, (int)lifetime, (int)kind);
    } else {
        /* Ampere and later only tell SRAM from DRAM */
        SUPPORTED_IF(location == MEM_DRAM || p->arch < ARCH_AMPERE);
        *count = g->ecc[lifetime][kind][location];
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, uint kind, uint lifetime, nvmlEccErrorCounts_t *out)
{
    DEVICE_CALL(nvmlDeviceGetDetailedEccErrors, device, NO_MIG);
    REQUIRE(out && kind < 2 && lifetime < 2);
    SUPPORTED_IF(ecc_counts(g, (int)lifetime) && p->arch < ARCH_AMPERE);
    const uint64_t *by = g->ecc[lifetime][kind];
    *out = (nvmlEccErrorCounts_t){ by[MEM_L1], by[MEM_L2], by[MEM_DRAM], by[MEM_REGISTER] };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetSramEccErrorStatus, device, NO_MIG);
    VERSION(out, nvmlEccSramErrorStatus_v1_t, 1u);
    SUPPORTED_IF(g->ecc_current && p->arch >= ARCH_AMPERE);
    out->aggregateUncParity = g->sram_parity[ECC_AGGREGATE];
    out->aggregateUncSecDed = ecc_sram(g, ECC_AGGREGATE, ECC_UNCORRECTED) - g->sram_parity[ECC_AGGREGATE];
    out->aggregateCor = ecc_sram(g, ECC_AGGREGATE, ECC_CORRECTED);
    out->volatileUncParity = g->sram_parity[ECC_VOLATILE];
    out->volatileUncSecDed = ecc_sram(g, ECC_VOLATILE, ECC_UNCORRECTED) - g->sram_parity[ECC_VOLATILE];
    out->volatileCor = ecc_sram(g, ECC_VOLATILE, ECC_CORRECTED);
    out->aggregateUncBucketL2 = g->sram_bucket[0];
    out->aggregateUncBucketSm = g->sram_bucket[1];
    out->aggregateUncBucketPcie = g->sram_bucket[2];
    out->aggregateUncBucketMcu = g->sram_bucket[3];
    out->aggregateUncBucketOther = g->sram_bucket[4];
    out->bThresholdExceeded = g->sram_threshold_exceeded;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_v1_t *out)
{
    DEVICE_CALL(nvmlDeviceGetRepairStatus, device, NO_MIG);
    VERSION(out, nvmlRepairStatus_v1_t, 1u);
    SUPPORTED_IF(p->arch >= ARCH_ADA && p->ecc != NA);
    out->bChannelRepairPending = out->bTpcRepairPending = 0;
    return NVML_SUCCESS;
}

/* Retired pages (Volta, Turing) and remapped rows (Ampere and later): a board has one of the two. */

static nvmlReturn_t retired_pages(const struct gpu *g, uint cause, uint *count, ull *addresses, ull *times)
{
    uint need = 0, room;
    REQUIRE(count && cause < 2);
    SUPPORTED_IF(gpu_profile(g)->has_retired_pages);
    for (uint32_t i = 0; i < g->retired_count; i++)
        need += g->retired[i].cause == cause && !g->retired[i].pending;
    room = *count;
    *count = need;
    if (room < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    if (!addresses)     /* pynvml leaves `times` out of the call that asks for the size: don't touch it */
        return need ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
    for (uint32_t i = 0, n = 0; i < g->retired_count; i++)
        if (g->retired[i].cause == cause && !g->retired[i].pending) {
            if (times)
                times[n] = g->retired[i].time_us;
            addresses[n++] = g->retired[i].address;
        }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, uint cause, uint *count, ull *addresses)
{
    DEVICE_CALL(nvmlDeviceGetRetiredPages, device, NO_MIG);
    return retired_pages(g, cause, count, addresses, NULL);
}

API nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, uint cause, uint *count, ull *addresses, ull *times)
{
    DEVICE_CALL(nvmlDeviceGetRetiredPages_v2, device, NO_MIG);
    return retired_pages(g, cause, count, addresses, times);
}

API nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t device, uint *pending)
{
    DEVICE_CALL(nvmlDeviceGetRetiredPagesPendingStatus, device, NO_MIG);
    REQUIRE(pending);
    SUPPORTED_IF(p->has_retired_pages);
    *pending = retired_pending(g, -1);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, uint *corrected, uint *uncorrected, uint *pending, uint *failed)
{
    DEVICE_CALL(nvmlDeviceGetRemappedRows, device, NO_MIG);
    REQUIRE(corrected && uncorrected && pending && failed);
    SUPPORTED_IF(rows_can_be_read(g));
    *corrected = g->remapped_correctable;
    *uncorrected = g->remapped_uncorrectable;
    *pending = g->remap_pending;
    *failed = g->remap_failed;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t *out)
{
    DEVICE_CALL(nvmlDeviceGetRemappedRows_v2, device, NO_MIG);
    REQUIRE(out);
    SUPPORTED_IF(rows_can_be_read(g));
    *out = (nvmlRemappedRowsInfo_v2_t){ g->remapped_correctable, 0, g->remapped_uncorrectable, 0, g->remap_pending, g->remap_failed };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *out)
{
    DEVICE_CALL(nvmlDeviceGetRowRemapperHistogram, device, NO_MIG);
    REQUIRE(out);
    SUPPORTED_IF(rows_can_be_read(g));
    row_remap_histogram(g, out);
    return NVML_SUCCESS;
}

/* NVLink: a board without links answers NOT_SUPPORTED, a link number past the last INVALID_ARGUMENT */

#define LINK_CALL(name, device, link)    \
    DEVICE_CALL(name, device, NO_MIG);   \
    SUPPORTED_IF(p->nvlinks);            \
    REQUIRE((link) < p->nvlinks)

API nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, uint link, uint *active)
{
    LINK_CALL(nvmlDeviceGetNvLinkState, device, link);
    REQUIRE(active);
    *active = !(g->links_down >> link & 1);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, uint link, uint *version)
{
    LINK_CALL(nvmlDeviceGetNvLinkVersion, device, link);
    REQUIRE(version);
    *version = p->nvlink_version;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, uint link, uint capability, uint *result)
{
    LINK_CALL(nvmlDeviceGetNvLinkCapability, device, link);
    REQUIRE(result && capability < 6);
    *result = capability != 4;              /* everything but the SLI bridge */
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, uint link, uint counter, ull *value)
{
    LINK_CALL(nvmlDeviceGetNvLinkErrorCounter, device, link);
    REQUIRE(value && counter < LINK_ERROR_KINDS);
    SUPPORTED_IF(p->arch < ARCH_BLACKWELL);
    *value = g->link_errors[link][counter];
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceResetNvLinkErrorCounters(nvmlDevice_t device, uint link)
{
    LINK_CALL(nvmlDeviceResetNvLinkErrorCounters, device, link);
    ROOT_ONLY();
    memset(g->link_errors[link], 0, sizeof g->link_errors[link]);
    return NVML_SUCCESS;
}

/* A100 and later hang on NVSwitches; a V100's links go to its neighbours. */
static void remote_pci(const struct gpu *g, uint link, uint *domain, uint *bus)
{
    struct state *s = sim();
    if (gpu_profile(g)->arch == ARCH_VOLTA) {
        const struct gpu *peer = &s->gpus[(g->index + link + 1) % s->gpu_count];
        *domain = peer->domain;
        *bus = peer->bus;
    } else {
        *domain = g->domain;
        *bus = 0x05 + link % 4;
    }
}

API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, uint link, nvmlPciInfo_t *out)
{
    LINK_CALL(nvmlDeviceGetNvLinkRemotePciInfo_v2, device, link);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    remote_pci(g, link, &out->domain, &out->bus);
    snprintf(out->busIdLegacy, sizeof out->busIdLegacy, "%04X:%02X:00.0", out->domain & 0xFFFF, out->bus & 0xFF);
    snprintf(out->busId, sizeof out->busId, "%08X:%02X:00.0", out->domain, out->bus & 0xFF);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, uint link, nvmlPciInfo_v2_t *out)
{
    LINK_CALL(nvmlDeviceGetNvLinkRemotePciInfo, device, link);
    REQUIRE(out);
    memset(out, 0, sizeof *out);
    remote_pci(g, link, &out->domain, &out->bus);
    snprintf(out->busId, sizeof out->busId, "%04X:%02X:00.0", out->domain & 0xFFFF, out->bus & 0xFF);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, uint link, uint *type)
{
    LINK_CALL(nvmlDeviceGetNvLinkRemoteDeviceType, device, link);
    REQUIRE(type);
    *type = p->arch == ARCH_VOLTA ? 0 : 2;
    return NVML_SUCCESS;
}

/* Fabric */

static void fabric(const struct gpu *g, unsigned char uuid[16], uint *status, uint *clique, unsigned char *state)
{
    memset(uuid, 0, 16);
    *status = NVML_SUCCESS;
    *clique = 0;
    *state = 3;                             /* the probe has completed */
    if (gpu_profile(g)->is_superchip) {
        uuid[3] = uuid[15] = 1;
        *clique = 2;
    }
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuFabricInfo, device, NO_MIG);
    REQUIRE(out);
    SUPPORTED_IF(p->has_fabric);
    fabric(g, out->clusterUuid, &out->status, &out->cliqueId, &out->state);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *out)
{
    DEVICE_CALL(nvmlDeviceGetGpuFabricInfoV, device, NO_MIG);
    REQUIRE(out);
    bool v3 = out->version == STRUCT_VERSION(nvmlGpuFabricInfo_v3_t, 3u);
    if (!v3 && out->version != STRUCT_VERSION(nvmlGpuFabricInfo_v2_t, 2u))
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    SUPPORTED_IF(p->has_fabric);
    fabric(g, out->clusterUuid, &out->status, &out->cliqueId, &out->state);
    /* only rack-scale boards tell more than "bandwidth not degraded" */
    bool degraded = g->links_down != 0;
    out->healthMask = p->is_superchip ? (degraded ? 1u : 2u) | 2u << 2 | 2u << 4 | 2u << 6 : 0;
    if (v3)
        out->healthSummary = p->arch < ARCH_BLACKWELL ? 0 : degraded ? 2 : 1;
    return NVML_SUCCESS;
}

/* Processes */

static bool listed(const struct target *t, const struct process *x, uint kind)
{
    return x->kind == kind && (!t->mig || x->gpu_instance == t->gpu_instance);
}

enum { INFO_V1, INFO_V2 };

static nvmlReturn_t running(const struct target *t, uint kind, uint *count, void *infos, int layout)
{
    struct gpu *g = t->g;
    uint need = 0, room;
    REQUIRE(count);
    processes_prune(g);
    for (uint32_t i = 0; i < g->process_count; i++)
        need += listed(t, &g->processes[i], kind);
    room = *count;
    *count = need;
    if (room < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    REQUIRE(infos || !need);
    for (uint32_t i = 0, n = 0; i < g->process_count; i++) {
        const struct process *x = &g->processes[i];
        if (!listed(t, x, kind))
            continue;
        if (layout == INFO_V1)
            ((nvmlProcessInfo_v1_t *)infos)[n++] = (nvmlProcessInfo_v1_t){ x->pid, x->memory_bytes };
        else
            ((nvmlProcessInfo_v2_t *)infos)[n++] =
                (nvmlProcessInfo_v2_t){ x->pid, x->memory_bytes, x->gpu_instance, x->compute_instance };
    }
    return NVML_SUCCESS;
}

#define RUNNING(symbol, kind, layout)                                               \
    API nvmlReturn_t symbol(nvmlDevice_t device, uint *count, void *infos)          \
    {                                                                               \
        DEVICE_CALL(symbol, device, MIG_OK);                                        \
        return running(&t, kind, count, infos, layout);                             \
    }

RUNNING(nvmlDeviceGetComputeRunningProcesses, PROCESS_COMPUTE, INFO_V1)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, PROCESS_COMPUTE, INFO_V2)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, PROCESS_COMPUTE, INFO_V2)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses, PROCESS_GRAPHICS, INFO_V1)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, PROCESS_GRAPHICS, INFO_V2)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, PROCESS_GRAPHICS, INFO_V2)
RUNNING(nvmlDeviceGetMPSComputeRunningProcesses, PROCESS_MPS, INFO_V1)
RUNNING(nvmlDeviceGetMPSComputeRunningProcesses_v2, PROCESS_MPS, INFO_V2)
RUNNING(nvmlDeviceGetMPSComputeRunningProcesses_v3, PROCESS_MPS, INFO_V2)

API nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_v1_t *list)
{
    DEVICE_CALL(nvmlDeviceGetRunningProcessDetailList, device, MIG_OK);
    VERSION(list, nvmlProcessDetailList_v1_t, 1u);
    REQUIRE(list->mode < 3);
    SUPPORTED_IF(p->arch >= ARCH_HOPPER);
    uint need = 0, room = list->numProcArrayEntries;
    processes_prune(g);
    for (uint32_t i = 0; i < g->process_count; i++)
        need += listed(&t, &g->processes[i], list->mode);
    list->numProcArrayEntries = need;
    if (need > room)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    REQUIRE(list->procArray || !need);
    for (uint32_t i = 0, n = 0; i < g->process_count; i++) {
        const struct process *x = &g->processes[i];
        if (listed(&t, x, list->mode))
            list->procArray[n++] = (nvmlProcessDetail_v1_t){ x->pid, x->memory_bytes, x->gpu_instance, x->compute_instance, VALUE_NOT_AVAILABLE };
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, uint *count, ull last_seen_us)
{
    DEVICE_CALL(nvmlDeviceGetProcessUtilization, device, NO_MIG);
    REQUIRE(count);
    SUPPORTED_IF(!g->mig_current);
    processes_prune(g);
    ull now = (ull)wall_us();
    uint room = *count;
    *count = g->process_count;
    if (!g->process_count || last_seen_us >= now)
        return NVML_ERROR_NOT_FOUND;
    if (room < g->process_count || !samples)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < g->process_count; i++)
        samples[i] = (nvmlProcessUtilizationSample_t){
            .pid = g->processes[i].pid, .timeStamp = now,
            .smUtil = g->processes[i].sm_percent ? g->processes[i].sm_percent : (uint)(g->utilization * 100 / g->process_count),
            .memUtil = (uint)(g->memory_utilization * 100 / g->process_count),
        };
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_v1_t *info)
{
    DEVICE_CALL(nvmlDeviceGetProcessesUtilizationInfo, device, NO_MIG);
    VERSION(info, nvmlProcessesUtilizationInfo_v1_t, 1u);
    SUPPORTED_IF(!g->mig_current);
    processes_prune(g);
    ull now = (ull)wall_us();
    uint room = info->processSamplesCount;
    info->processSamplesCount = g->process_count;
    if (!g->process_count || info->lastSeenTimeStamp >= now)
        return NVML_ERROR_NOT_FOUND;
    if (room < g->process_count || !info->procUtilArray)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    for (uint32_t i = 0; i < g->process_count; i++)
        info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){
            .timeStamp = now, .pid = g->processes[i].pid,
            .smUtil = g->processes[i].sm_percent ? g->processes[i].sm_percent : (uint)(g->utilization * 100 / g->process_count),
            .memUtil = (uint)(g->memory_utilization * 100 / g->process_count),
        };
    return NVML_SUCCESS;
}

/* Accounting: works while it is switched on */

API nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, uint *count, uint *pids)
{
    DEVICE_CALL(nvmlDeviceGetAccountingPids, device, NO_MIG);
    REQUIRE(count);
    SUPPORTED_IF(g->accounting);
    processes_prune(g);
    uint room = *count;
    *count = g->accounting_count;
    if (room < g->accounting_count)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    REQUIRE(pids || !g->accounting_count);
    for (uint32_t i = 0; i < g->accounting_count; i++)
        pids[i] = g->accounted[i].pid;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, uint pid, nvmlAccountingStats_t *stats)
{
    DEVICE_CALL(nvmlDeviceGetAccountingStats, device, NO_MIG);
    REQUIRE(stats);
    SUPPORTED_IF(g->accounting);
    processes_prune(g);
    for (uint32_t i = 0; i < g->accounting_count; i++) {
        const struct accounting *a = &g->accounted[i];
        if (a->pid != pid)
            continue;
        memset(stats, 0, sizeof *stats);
        stats->isRunning = a->running;
        stats->maxMemoryUsage = a->max_memory_bytes;
        stats->startTime = (ull)a->started_us;
        /* the final numbers are there when the process has ended */
        stats->time = a->running ? 0 : (ull)(a->ended_us - a->started_us) / 1000;
        stats->gpuUtilization = a->running ? (uint)(g->utilization * 100) : a->gpu_util;
        stats->memoryUtilization = a->running ? (uint)(g->memory_utilization * 100) : a->memory_util;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_FOUND;
}
