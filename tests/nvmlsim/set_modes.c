/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Setters of modes: persistence, compute, ECC, accounting, API restriction; taking a GPU off the bus. */
#include "call.h"

#include <string.h>

API nvmlReturn_t nvmlDeviceSetPersistenceMode(nvmlDevice_t device, uint mode)
{
    DEVICE_CALL(nvmlDeviceSetPersistenceMode, device, NO_MIG);
    ROOT_ONLY();
    REQUIRE(mode < 2);
    /* with a coherent link to the CPU the GPU goes away for a moment: handles taken before are void */
    if (p->is_superchip && g->persistence && !mode)
        g->handle_epoch++;
    g->persistence = mode;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, uint mode)
{
    DEVICE_CALL(nvmlDeviceSetComputeMode, device, NO_MIG);
    REQUIRE(mode <= COMPUTEMODE_EXCLUSIVE_PROCESS);
    ROOT_ONLY();
    SUPPORTED_IF(mode != COMPUTEMODE_EXCLUSIVE_THREAD);
    SUPPORTED_IF(!g->mig_current);          /* it is Default there and stays so */
    g->compute_mode = mode;
    return NVML_SUCCESS;
}

/* Takes effect at the next reset or reboot. */
API nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, uint mode)
{
    DEVICE_CALL(nvmlDeviceSetEccMode, device, NO_MIG);
    SUPPORTED_IF(p->ecc != NA);
    ROOT_ONLY();
    REQUIRE(mode < 2);
    g->ecc_pending = mode;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceClearEccErrorCounts(nvmlDevice_t device, uint lifetime)
{
    DEVICE_CALL(nvmlDeviceClearEccErrorCounts, device, NO_MIG);
    REQUIRE(lifetime < 2);
    SUPPORTED_IF(g->ecc_current);
    ROOT_ONLY();
    memset(g->ecc[lifetime], 0, sizeof g->ecc[lifetime]);
    g->sram_parity[lifetime] = 0;
    if (lifetime == ECC_AGGREGATE)
        memset(g->sram_bucket, 0, sizeof g->sram_bucket);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetAccountingMode(nvmlDevice_t device, uint mode)
{
    DEVICE_CALL(nvmlDeviceSetAccountingMode, device, NO_MIG);
    SUPPORTED_IF(!g->mig_current);
    ROOT_ONLY();
    REQUIRE(mode < 2);
    if (!mode)
        g->accounting_count = 0;
    g->accounting = mode;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceClearAccountingPids(nvmlDevice_t device)
{
    DEVICE_CALL(nvmlDeviceClearAccountingPids, device, NO_MIG);
    SUPPORTED_IF(g->accounting);
    ROOT_ONLY();
    uint32_t kept = 0;                      /* those of running processes stay */
    for (uint32_t i = 0; i < g->accounting_count; i++)
        if (g->accounted[i].running)
            g->accounted[kept++] = g->accounted[i];
    g->accounting_count = kept;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceSetAPIRestriction(nvmlDevice_t device, uint api, uint restricted)
{
    DEVICE_CALL(nvmlDeviceSetAPIRestriction, device, NO_MIG);
    REQUIRE(api < 2 && restricted < 2);
    SUPPORTED_IF(api == 0 && p->app_graphics != NA);
    ROOT_ONLY();
    g->api_restricted[api] = restricted;
    return NVML_SUCCESS;
}

/* Removing a GPU from the bus and finding it again. These take a PCI address, for there may be no handle. */

static struct gpu *gpu_at(const nvmlPciInfo_t *pci)
{
    struct state *s = sim();
    for (uint32_t i = 0; pci && i < s->gpu_count; i++)
        if (s->gpus[i].domain == pci->domain && s->gpus[i].bus == pci->bus && s->gpus[i].device == pci->device)
            return &s->gpus[i];
    return NULL;
}

API nvmlReturn_t nvmlDeviceQueryDrainState(nvmlPciInfo_t *pci, uint *state)
{
    PLAIN_CALL(nvmlDeviceQueryDrainState);
    struct gpu *g = gpu_at(pci);
    REQUIRE(g && state);
    *state = g->drained;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceModifyDrainState(nvmlPciInfo_t *pci, uint state)
{
    PLAIN_CALL(nvmlDeviceModifyDrainState);
    struct gpu *g = gpu_at(pci);
    REQUIRE(g && state < 2);
    ROOT_ONLY();
    if (g->persistence && state)
        return NVML_ERROR_IN_USE;           /* persistence mode holds it */
    g->drained = state;
    return NVML_SUCCESS;
}

static nvmlReturn_t remove_gpu(const nvmlPciInfo_t *pci)
{
    struct gpu *g = gpu_at(pci);
    REQUIRE(g && !g->vanished);
    ROOT_ONLY();
    if (g->process_count || !g->drained)
        return NVML_ERROR_IN_USE;
    g->lost = g->vanished = 1;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceRemoveGpu(nvmlPciInfo_t *pci)
{
    PLAIN_CALL(nvmlDeviceRemoveGpu);
    return remove_gpu(pci);
}

API nvmlReturn_t nvmlDeviceRemoveGpu_v2(nvmlPciInfo_t *pci, uint gpu_state, uint link_state)
{
    PLAIN_CALL(nvmlDeviceRemoveGpu_v2);
    REQUIRE(gpu_state < 2 && link_state < 2);
    return remove_gpu(pci);
}

API nvmlReturn_t nvmlDeviceDiscoverGpus(nvmlPciInfo_t *pci)
{
    PLAIN_CALL(nvmlDeviceDiscoverGpus);
    REQUIRE(pci);
    ROOT_ONLY();
    struct gpu *g = gpu_at(pci);
    if (g && g->vanished)
        g->lost = g->vanished = g->drained = 0;
    return NVML_SUCCESS;
}
