/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Health readings that the getters, the field values and `nvmlsim show` give. */
#include "health.h"

uint64_t ecc_total(const struct gpu *g, int lifetime, int kind)
{
    uint64_t sum = 0;
    for (int i = 0; i < MEM_COUNT; i++)
        sum += g->ecc[lifetime][kind][i];
    return sum;
}

uint64_t ecc_sram(const struct gpu *g, int lifetime, int kind)
{
    return ecc_total(g, lifetime, kind) - g->ecc[lifetime][kind][MEM_DRAM];
}

bool ecc_counts(const struct gpu *g, int lifetime)
{
    return g->ecc_current && !(g->mig_current && lifetime == ECC_VOLATILE);
}

uint retired_pending(const struct gpu *g, int cause)
{
    for (uint32_t i = 0; i < g->retired_count; i++)
        if (g->retired[i].pending && (cause < 0 || g->retired[i].cause == (uint)cause))
            return 1;
    return 0;
}

uint retired_total(const struct gpu *g, uint cause)
{
    uint n = 0;
    for (uint32_t i = 0; i < g->retired_count; i++)
        n += g->retired[i].cause == cause && !g->retired[i].pending;
    return n;
}

bool rows_can_be_read(const struct gpu *g)
{
    return gpu_profile(g)->row_remap_banks != NA && !g->mig_current;
}
