/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* nvmlDeviceGetFieldValues: one number each, with its own return code. */
#include "call.h"
#include "health.h"

#include <string.h>

#define ALL_LINKS 0xFFFFFFFFu

/* One greater than the largest id that a driver knows: ids past it are INVALID_ARGUMENT. */
static uint field_max(uint driver_major)
{
    static const struct { uint driver, max; } table[] = {
        { 615, 308 }, { 610, 303 }, { 595, 296 }, { 590, 289 }, { 575, 274 }, { 570, 269 },
        { 560, 230 }, { 555, 223 }, { 550, 200 }, { 525, 197 }, { 460, 161 },
    };
    for (uint i = 0; i < sizeof table / sizeof *table; i++)
        if (driver_major >= table[i].driver)
            return table[i].max;
    return 146;
}

static nvmlReturn_t put_uint(nvmlFieldValue_t *f, uint v)
{
    f->valueType = VALUE_UINT;
    f->value.ullVal = 0;
    f->value.uiVal = v;
    return NVML_SUCCESS;
}

static nvmlReturn_t put_ull(nvmlFieldValue_t *f, ull v)
{
    f->valueType = VALUE_ULL;
    f->value.ullVal = v;
    return NVML_SUCCESS;
}

static nvmlReturn_t put_int(nvmlFieldValue_t *f, int v)
{
    if (v == NO_LIMIT)
        return NVML_ERROR_NOT_SUPPORTED;
    f->valueType = VALUE_SINT;
    f->value.ullVal = 0;
    f->value.siVal = v;
    return NVML_SUCCESS;
}

static nvmlReturn_t ecc_field(const struct gpu *g, nvmlFieldValue_t *f)
{
    static const struct { unsigned char lifetime, kind, location; } where[] = {
        /* 7.. volatile */
        { 0, 0, MEM_L1 }, { 0, 1, MEM_L1 }, { 0, 0, MEM_L2 }, { 0, 1, MEM_L2 }, { 0, 0, MEM_DRAM }, { 0, 1, MEM_DRAM },
        { 0, 0, MEM_REGISTER }, { 0, 1, MEM_REGISTER }, { 0, 0, MEM_TEXTURE }, { 0, 1, MEM_TEXTURE }, { 0, 1, MEM_CBU },
        /* 18.. aggregate */
        { 1, 0, MEM_L1 }, { 1, 1, MEM_L1 }, { 1, 0, MEM_L2 }, { 1, 1, MEM_L2 }, { 1, 0, MEM_DRAM }, { 1, 1, MEM_DRAM },
        { 1, 0, MEM_REGISTER }, { 1, 1, MEM_REGISTER }, { 1, 0, MEM_TEXTURE }, { 1, 1, MEM_TEXTURE }, { 1, 1, MEM_CBU },
    };
    if (gpu_profile(g)->ecc == NA)
        return NVML_ERROR_NOT_SUPPORTED;
    if (f->fieldId == 1 || f->fieldId == 2)
        return put_uint(f, f->fieldId == 1 ? g->ecc_current : g->ecc_pending);
    int lifetime = f->fieldId <= 6 ? f->fieldId >= 5 : where[f->fieldId - 7].lifetime;
    if (!ecc_counts(g, lifetime))
        return NVML_ERROR_NOT_SUPPORTED;
    if (f->fieldId <= 6)
        return put_ull(f, ecc_total(g, lifetime, f->fieldId % 2 == 0));
    uint location = where[f->fieldId - 7].location;
    if (location != MEM_DRAM && gpu_profile(g)->arch >= ARCH_AMPERE)
        return NVML_ERROR_NOT_SUPPORTED;
    return put_ull(f, g->ecc[lifetime][where[f->fieldId - 7].kind][location]);
}

static ull link_error_sum(const struct gpu *g, uint kind, uint link)
{
    ull sum = 0;
    for (uint i = 0; i < gpu_profile(g)->nvlinks; i++)
        if (link == ALL_LINKS || link == i)
            sum += g->link_errors[i][kind];
    return sum;
}

/* The fields of one link each: first the id of link 0 (six of them), then the id of link 6, then of the sum. */
static nvmlReturn_t lane_error_field(const struct gpu *g, nvmlFieldValue_t *f)
{
    static const struct { uint low, high, total, kind; } rows[] = {
        { 32, 96, 38, 2 }, { 39, 102, 45, 3 }, { 46, 108, 52, 0 }, { 53, 114, 59, 1 },
    };
    const struct profile *p = gpu_profile(g);
    uint id = f->fieldId;
    if (!p->nvlinks || p->arch >= ARCH_BLACKWELL)
        return NVML_ERROR_NOT_SUPPORTED;
    for (uint i = 0; i < 4; i++) {
        uint link = id >= rows[i].low && id < rows[i].low + 6 ? id - rows[i].low
                    : id >= rows[i].high && id < rows[i].high + 6 ? id - rows[i].high + 6 : ALL_LINKS;
        if (link == ALL_LINKS && id != rows[i].total)
            continue;
        if (link != ALL_LINKS && link >= p->nvlinks)
            return NVML_ERROR_NOT_SUPPORTED;
        return put_ull(f, link_error_sum(g, rows[i].kind, link));
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t link_speed_field(const struct gpu *g, nvmlFieldValue_t *f, uint link)
{
    const struct profile *p = gpu_profile(g);
    if (!p->nvlinks)
        return NVML_ERROR_NOT_SUPPORTED;
    if (link >= p->nvlinks)
        return NVML_ERROR_INVALID_ARGUMENT;
    return put_uint(f, link_mbps(g, link));
}

/* The fields whose scopeId is a link number, or all ones for the sum over the links. */
static nvmlReturn_t scoped_link_field(const struct gpu *g, nvmlFieldValue_t *f)
{
    const struct profile *p = gpu_profile(g);
    uint link = f->scopeId, id = f->fieldId;
    double kib = 0;
    if (!p->nvlinks)
        return NVML_ERROR_NOT_SUPPORTED;
    bool sums = id >= 138 && id <= 141;
    if (link >= p->nvlinks && !(sums && link == ALL_LINKS))
        return NVML_ERROR_INVALID_ARGUMENT;
    switch (id) {
    case 138: case 139: case 140: case 141:
        for (uint i = 0; i < p->nvlinks; i++)
            if (link == ALL_LINKS || link == i)
                kib += id % 2 == 0 ? g->link_tx_kib[i] : g->link_rx_kib[i];
        return put_ull(f, (ull)(id >= 140 ? kib * 1.14 : kib));
    case 146: return put_uint(f, link);
    case 161: case 162: case 163:
        if (p->arch >= ARCH_BLACKWELL)
            return NVML_ERROR_NOT_SUPPORTED;
        return put_ull(f, id == 161 ? g->link_errors[link][0] : id == 162 ? g->link_errors[link][1]
                                                               : g->link_errors[link][2] + g->link_errors[link][3]);
    case 164: return put_uint(f, link_mbps(g, link));
    case 165: return put_uint(f, link_mbps(g, link) != 0);
    case 166: return put_uint(f, p->nvlink_version);
    case 167: return put_uint(f, 0);
    }
    if (p->arch < ARCH_BLACKWELL)
        return NVML_ERROR_NOT_SUPPORTED;    /* 201.. are NVLink 5's counters */
    switch (id) {
    case 201: return put_ull(f, (ull)(g->link_tx_kib[link] * 1024 / 256));
    case 202: return put_ull(f, (ull)(g->link_tx_kib[link] * 1024));
    case 203: return put_ull(f, (ull)(g->link_rx_kib[link] * 1024 / 256));
    case 204: return put_ull(f, (ull)(g->link_rx_kib[link] * 1024));
    case 208: return put_ull(f, g->link_errors[link][2] + g->link_errors[link][3]);
    case 213: return put_ull(f, g->links_down >> link & 1 ? 0 : g->link_errors[link][1]);
    case 214: return put_ull(f, g->links_down >> link & 1);
    case 215: return put_ull(f, g->link_errors[link][1] + (g->links_down >> link & 1));
    case 219: case 221: return put_ull(f, g->link_errors[link][3]);
    case 206: case 207: case 209: case 210: case 211: case 212: return put_ull(f, 0);
    default: return NVML_ERROR_NOT_SUPPORTED;
    }
}

static uint module_power_mw(const struct gpu *g, double gpu_mw)
{
    /* one Grace with one Hopper, or with two Blackwells */
    return (uint)(gpu_profile(g)->arch == ARCH_BLACKWELL ? 2 * gpu_mw + 135000 : gpu_mw + 110000);
}

static nvmlReturn_t power_field(const struct gpu *g, nvmlFieldValue_t *f)
{
    const struct profile *p = gpu_profile(g);
    if (f->scopeId > POWER_SCOPE_MEMORY)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (f->scopeId == POWER_SCOPE_MEMORY) {
        if (f->fieldId != 185 || !p->has_memory_power)
            return NVML_ERROR_NOT_SUPPORTED;
        return put_uint(f, (uint)(p->memory_mib * 0.38 + g->memory_utilization * p->limit_default_mw * 0.17));
    }
    bool module = f->scopeId == POWER_SCOPE_MODULE;
    if (module && p->module_max_mw == NA)
        return NVML_ERROR_NOT_SUPPORTED;
    switch (f->fieldId) {
    case 185:
        if (!p->has_average_power)
            return NVML_ERROR_NOT_SUPPORTED;
        return put_uint(f, module ? module_power_mw(g, g->average_mw) : (uint)(g->average_mw + 0.5));
    case 186: return put_uint(f, module ? module_power_mw(g, g->power_mw) : (uint)(g->power_mw + 0.5));
    case 187: return put_uint(f, (uint)(module ? p->module_min_mw : p->limit_min_mw));
    case 188: return put_uint(f, (uint)(module ? p->module_max_mw : p->limit_max_mw));
    case 189: return put_uint(f, (uint)(module ? p->module_default_mw : p->limit_default_mw));
    case 190: return put_uint(f, module ? g->module_limit_mw : enforced_limit_mw(g));
    default: return put_uint(f, module ? g->module_limit_mw : g->limit_mw);
    }
}

static nvmlReturn_t fill(const struct gpu *g, nvmlFieldValue_t *f)
{
    const struct profile *p = gpu_profile(g);
    uint id = f->fieldId;
    if (id == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (id <= 28)
        return ecc_field(g, f);
    if ((id >= 32 && id <= 59) || (id >= 96 && id <= 119))
        return lane_error_field(g, f);
    if (id >= 84 && id <= 90)
        return link_speed_field(g, f, id == 90 ? 0 : id - 84);
    if (id >= 132 && id <= 137)
        return link_speed_field(g, f, id - 126);
    if ((id >= 138 && id <= 141) || id == 146 || (id >= 161 && id <= 167) || (id >= 201 && id <= 222))
        return scoped_link_field(g, f);
    if ((id >= 148 && id <= 160)) {
        if (!p->nvlinks || p->arch >= ARCH_BLACKWELL || (id < 160 && id - 148 >= p->nvlinks))
            return NVML_ERROR_NOT_SUPPORTED;
        return put_ull(f, link_error_sum(g, 4, id == 160 ? ALL_LINKS : id - 148));
    }
    if ((id >= 185 && id <= 190) || id == 192)
        return power_field(g, f);
    if ((id >= 193 && id <= 196) && p->t_limit == NA)
        return NVML_ERROR_NOT_SUPPORTED;
    if ((id >= 142 && id <= 145) && !rows_can_be_read(g))
        return NVML_ERROR_NOT_SUPPORTED;
    if ((id >= 29 && id <= 31) || id == 92 || id == 93) {
        if (!p->has_retired_pages)
            return NVML_ERROR_NOT_SUPPORTED;
    }
    if (id >= 251 && id <= 268)             /* power smoothing wants more than root on the boards that have it */
        return p->arch >= ARCH_BLACKWELL ? NVML_ERROR_NO_PERMISSION : NVML_ERROR_NOT_SUPPORTED;
    switch (id) {
    case 29: return put_ull(f, retired_total(g, 0));
    case 30: return put_ull(f, retired_total(g, 1));
    case 31: return put_ull(f, retired_pending(g, -1));
    case 92: return put_ull(f, retired_pending(g, 0));
    case 93: return put_ull(f, retired_pending(g, 1));
    case 74: return put_ull(f, g->reason_ns[2]);
    case 75: return put_ull(f, g->reason_ns[5] + g->reason_ns[6]);
    case 76: return put_ull(f, g->reason_ns[4]);
    case 77: return put_ull(f, g->reason_ns[7]);
    case 78: case 79: case 80: case 81: return put_ull(f, 0);
    case 82: return p->has_memory_temp ? put_uint(f, (uint)memory_celsius(g)) : NVML_ERROR_NOT_SUPPORTED;
    case 83: case 191: return put_ull(f, (ull)g->energy_mj);
    case 91: return p->nvlinks ? put_uint(f, p->nvlinks) : NVML_ERROR_NOT_SUPPORTED;
    case 94: return put_uint(f, g->pcie_replays);
    case 95: return put_uint(f, g->pcie_replay_rollovers);
    case 142: return put_uint(f, g->remapped_correctable);
    case 143: return put_uint(f, g->remapped_uncorrectable);
    case 144: return put_uint(f, g->remap_pending);
    case 145: return put_uint(f, g->remap_failed);
    case 147: return p->nvlinks && p->arch >= ARCH_AMPERE ? put_uint(f, p->nvlinks) : NVML_ERROR_NOT_SUPPORTED;
    case 170: return p->is_superchip ? put_uint(f, 10) : NVML_ERROR_NOT_SUPPORTED;
    case 171: return p->is_superchip ? put_uint(f, 1) : NVML_ERROR_NOT_SUPPORTED;
    case 172: return p->is_superchip ? put_uint(f, 44712) : NVML_ERROR_NOT_SUPPORTED;
    case 184: return p->mig ? put_uint(f, p->arch >= ARCH_HOPPER) : NVML_ERROR_NOT_SUPPORTED;
    case 193: return put_int(f, p->t_shutdown);
    case 194: return put_int(f, p->t_slowdown);
    case 195: return put_int(f, p->t_memory_max);
    case 196: return put_int(f, p->t_gpu_max);
    case 197: return p->arch >= ARCH_AMPERE ? put_ull(f, (ull)g->pcie_tx_bytes) : NVML_ERROR_NOT_SUPPORTED;
    case 198: return p->arch >= ARCH_AMPERE ? put_ull(f, (ull)g->pcie_rx_bytes) : NVML_ERROR_NOT_SUPPORTED;
    case 199: return put_uint(f, p->mig != NULL);
    case 226: return put_uint(f, g->recovery_action == 1);
    case 227: return put_uint(f, g->recovery_action == 4);
    case 230: return put_uint(f, g->recovery_action);
    case 269: return put_ull(f, g->reason_ns[5]);
    case 270: return put_ull(f, g->reason_ns[6]);
    case 271: return put_ull(f, g->reason_ns[7]);
    case 301: case 302: return rows_can_be_read(g) ? put_uint(f, 0) : NVML_ERROR_NOT_SUPPORTED;
    case 308:
        f->valueType = VALUE_DOUBLE;
        f->value.dVal = g->temperature_c;
        return NVML_SUCCESS;
    }
    if (id == 169 || (id >= 173 && id <= 183))
        return p->arch >= ARCH_AMPERE ? put_uint(f, (uint)g->pcie_counters[id == 169 ? 0 : id - 172]) : NVML_ERROR_NOT_SUPPORTED;
    return NVML_ERROR_NOT_SUPPORTED;
}

API nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE_CALL(nvmlDeviceGetFieldValues, device, NO_MIG);
    REQUIRE(values && count > 0);
    uint max = field_max(sim()->driver_major);
    int64_t now = wall_us();
    bool any = false;
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *f = &values[i];
        f->timestamp = now;
        f->latencyUsec = 0;
        f->nvmlReturn = f->fieldId >= max ? NVML_ERROR_INVALID_ARGUMENT : fill(g, f);
        any |= f->nvmlReturn == NVML_SUCCESS;
    }
    return any ? NVML_SUCCESS : (nvmlReturn_t)values[0].nvmlReturn;
}

API nvmlReturn_t nvmlDeviceClearFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values)
{
    DEVICE_CALL(nvmlDeviceClearFieldValues, device, NO_MIG);
    REQUIRE(values && count > 0);
    for (int i = 0; i < count; i++)
        values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    return NVML_ERROR_NOT_SUPPORTED;
}
