/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* ECC, retired pages, remapped rows, NVLink, fabric. */
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
