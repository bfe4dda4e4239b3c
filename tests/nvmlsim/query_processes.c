/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Processes and accounting. */
#include "call.h"

#include <string.h>

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
