/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* GPM, Hopper and later: rates between two samples of running integrals. */
#include "call.h"

#include <stdlib.h>

struct nvmlGpmSample_st {
    bool taken;
    uint32_t gpu;
    int64_t at_ns;
    double util_seconds, memory_util_seconds, pcie_tx_bytes, pcie_rx_bytes, decoder;
    double link_tx_kib[MAX_LINKS], link_rx_kib[MAX_LINKS];
};

API nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    DEVICE_CALL(nvmlGpmQueryDeviceSupport, device, MIG_OK);
    REQUIRE(support);
    if (support->version != 1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = p->arch >= ARCH_HOPPER;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    PLAIN_CALL(nvmlGpmSampleAlloc);
    REQUIRE(sample);
    *sample = calloc(1, sizeof **sample);
    return *sample ? NVML_SUCCESS : NVML_ERROR_MEMORY;
}

API nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    PLAIN_CALL(nvmlGpmSampleFree);
    REQUIRE(sample);
    free(sample);
    return NVML_SUCCESS;
}

static nvmlReturn_t take_sample(const struct gpu *g, nvmlGpmSample_t sample)
{
    REQUIRE(sample);
    SUPPORTED_IF(gpu_profile(g)->arch >= ARCH_HOPPER);
    *sample = (struct nvmlGpmSample_st){
        .taken = true, .gpu = g->index, .at_ns = g->now_ns, .util_seconds = g->util_seconds,
        .memory_util_seconds = g->memory_util_seconds, .pcie_tx_bytes = g->pcie_tx_bytes, .pcie_rx_bytes = g->pcie_rx_bytes,
        .decoder = g->load.decoder,
    };
    for (int i = 0; i < MAX_LINKS; i++) {
        sample->link_tx_kib[i] = g->link_tx_kib[i];
        sample->link_rx_kib[i] = g->link_rx_kib[i];
    }
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    DEVICE_CALL(nvmlGpmSampleGet, device, NO_MIG);
    return take_sample(g, sample);
}

API nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, uint gpu_instance, nvmlGpmSample_t sample)
{
    DEVICE_CALL(nvmlGpmMigSampleGet, device, NO_MIG);
    SUPPORTED_IF(g->mig_current);
    for (int i = 0; i < MAX_INSTANCES; i++)
        if (g->instances[i].used && g->instances[i].id == gpu_instance)
            return take_sample(g, sample);
    return NVML_ERROR_NOT_FOUND;
}

API nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, uint *state)
{
    DEVICE_CALL(nvmlGpmQueryIfStreamingEnabled, device, NO_MIG);
    REQUIRE(state);
    SUPPORTED_IF(p->arch >= ARCH_HOPPER);
    *state = 1;
    return NVML_SUCCESS;
}

/* What of the time that the SMs are busy each kind of unit is: a mix as of training. */
static const struct { uint id; double share; const char *short_name, *long_name; } units[] = {
    { 1, 1.00, "graphics_util", "Graphics Engine Util" },  { 2, 0.93, "sm_util", "SM Util" },
    { 3, 0.55, "sm_occupancy", "SM Occupancy" },           { 4, 0.15, "integer_util", "Integer Util" },
    { 5, 0.62, "any_tensor_util", "Any Tensor Util" },     { 6, 0.00, "dfma_tensor_util", "DFMA Tensor Util" },
    { 7, 0.60, "hmma_tensor_util", "HMMA Tensor Util" },   { 8, 0.00, "dmma_tensor_util", "DMMA Tensor Util" },
    { 9, 0.02, "imma_tensor_util", "IMMA Tensor Util" },   { 11, 0.00, "fp64_util", "FP64 Util" },
    { 12, 0.18, "fp32_util", "FP32 Util" },                { 13, 0.05, "fp16_util", "FP16 Util" },
};

static double link_mib(const double *a, const double *b, uint from, uint to)
{
    double kib = 0;
    for (uint i = from; i < to; i++)
        kib += b[i] - a[i];
    return kib / 1024;
}

static nvmlReturn_t metric(const struct nvmlGpmSample_st *a, const struct nvmlGpmSample_st *b, nvmlGpmMetric_t *m)
{
    const struct profile *p = gpu_profile(&sim()->gpus[a->gpu]);
    double seconds = (double)(b->at_ns - a->at_ns) / 1e9;
    uint id = m->metricId;
    m->metricInfo.shortName = "gpm";
    m->metricInfo.longName = "GPM Metric";
    m->metricInfo.unit = id >= 20 && id < 22 ? "MiB/s" : id >= 60 ? "MiB/s" : "%";
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (units[i].id == id) {
            m->metricInfo.shortName = units[i].short_name;
            m->metricInfo.longName = units[i].long_name;
            m->value = 100 * units[i].share * (b->util_seconds - a->util_seconds) / seconds;
            return NVML_SUCCESS;
        }
    if (id == 10) {
        m->metricInfo.shortName = "dram_bw_util";
        m->metricInfo.longName = "DRAM Bandwidth Util";
        m->value = 100 * (b->memory_util_seconds - a->memory_util_seconds) / seconds;
        return NVML_SUCCESS;
    }
    if (id == 20 || id == 21) {
        m->value = (id == 20 ? b->pcie_tx_bytes - a->pcie_tx_bytes : b->pcie_rx_bytes - a->pcie_rx_bytes) / 1048576 / seconds;
        return NVML_SUCCESS;
    }
    if (id >= 30 && id <= 51) {
        m->value = id <= 37 ? 100 * b->decoder : 0;
        return NVML_SUCCESS;
    }
    if (id >= 60 && id <= 97) {
        uint link = (id - 62) / 2;
        if (!p->nvlinks || (id >= 62 && link >= p->nvlinks))
            return NVML_ERROR_NOT_SUPPORTED;
        uint from = id < 62 ? 0 : link, to = id < 62 ? p->nvlinks : link + 1;
        m->value = (id % 2 == 0 ? link_mib(a->link_rx_kib, b->link_rx_kib, from, to)
                                : link_mib(a->link_tx_kib, b->link_tx_kib, from, to)) / seconds;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

/* Version 1, with no size: the array is longer in newer headers. Only numMetrics entries are touched. */
API nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *get)
{
    PLAIN_CALL(nvmlGpmMetricsGet);
    REQUIRE(get);
    if (get->version != 1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    const struct nvmlGpmSample_st *a = get->sample1, *b = get->sample2;
    REQUIRE(a && b && a->taken && b->taken && a->gpu == b->gpu && a->at_ns < b->at_ns);
    for (uint i = 0; i < get->numMetrics; i++)
        get->metrics[i].nvmlReturn = metric(a, b, &get->metrics[i]);
    return NVML_SUCCESS;
}
