/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* How GPU and compute instances fit on a GPU: memory slices 0..7, compute slices 0..6. */
#include "sim.h"

#include <string.h>

static uint32_t occupied(const struct gpu *g)
{
    uint32_t mask = 0;
    for (int i = 0; i < MAX_INSTANCES; i++)
        if (g->instances[i].used) {
            uint32_t size = gpu_profile(g)->mig[g->instances[i].profile_index].memory_slices;
            mask |= ((1u << size) - 1) << g->instances[i].start;
        }
    return mask;
}

bool mig_fits(const struct gpu *g, uint32_t profile_index, uint32_t start)
{
    const struct mig_profile *m = &gpu_profile(g)->mig[profile_index];
    uint32_t same = 0;
    if (start % m->placement_step || start + m->memory_slices > 8 || start + m->slices > 7)
        return false;
    for (int i = 0; i < MAX_INSTANCES; i++)
        same += g->instances[i].used && g->instances[i].profile_index == profile_index;
    return same < m->instances && !(occupied(g) & ((1u << m->memory_slices) - 1) << start);
}

/* As nvidia-smi shows them: 0 the whole GPU, 2 and 1 its halves, 3 to 6 quarters, 7 to 13 single slices; 4g is 1. */
static uint32_t instance_id(const struct mig_profile *m, uint32_t start)
{
    switch (m->memory_slices) {
    case 8: return 0;
    case 4: return m->slices == 4 || start ? 1 : 2;
    case 2: return 3 + start / 2;
    default: return 7 + start;
    }
}

int mig_create_gpu_instance(struct gpu *g, uint32_t profile_index, int start)
{
    const struct mig_profile *m = &gpu_profile(g)->mig[profile_index];
    if (start < 0) {
        /* from the end, as the driver does, so that the large profiles keep their places at the start */
        for (int at = 7; at >= 0 && start < 0; at--)
            if (mig_fits(g, profile_index, (uint32_t)at))
                start = at;
        if (m->memory_slices >= 4)
            for (int at = 0; at < 8; at++)
                if (mig_fits(g, profile_index, (uint32_t)at)) {
                    start = at;
                    break;
                }
        if (start < 0)
            return -1;
    } else if (!mig_fits(g, profile_index, (uint32_t)start)) {
        return -1;
    }
    for (int slot = 0; slot < MAX_INSTANCES; slot++)
        if (!g->instances[slot].used) {
            memset(&g->instances[slot], 0, sizeof g->instances[slot]);
            g->instances[slot].used = 1;
            g->instances[slot].id = instance_id(m, (uint32_t)start);
            g->instances[slot].profile_index = profile_index;
            g->instances[slot].start = (uint32_t)start;
            return slot;
        }
    return -1;
}

/* NVML_COMPUTE_INSTANCE_PROFILE_*: its id is also its number */
int mig_compute_profile(uint32_t slices)
{
    static const int by_slices[8] = { -1, 0, 1, 2, 3, -1, 6, 4 };
    return slices < 8 ? by_slices[slices] : -1;
}

bool mig_compute_fits(const struct gpu *g, uint32_t slot, uint32_t slices, uint32_t start)
{
    const struct gpu_instance *gi = &g->instances[slot];
    uint32_t total = gpu_profile(g)->mig[gi->profile_index].slices, mask = 0;
    for (int i = 0; i < MAX_INSTANCES; i++)
        if (gi->compute[i].used)
            mask |= ((1u << gi->compute[i].slices) - 1) << gi->compute[i].start;
    return slices && start + slices <= total && !(mask & ((1u << slices) - 1) << start);
}

int mig_create_compute_instance(struct gpu *g, uint32_t slot, uint32_t slices, int start)
{
    struct gpu_instance *gi = &g->instances[slot];
    for (int at = 0; at < 7 && start < 0; at++)
        if (mig_compute_fits(g, slot, slices, (uint32_t)at))
            start = at;
    if (start < 0 || !mig_compute_fits(g, slot, slices, (uint32_t)start))
        return -1;
    for (uint32_t i = 0; i < MAX_INSTANCES; i++)
        if (!gi->compute[i].used) {
            gi->compute[i] = (struct compute_instance){
                .used = 1, .id = i, .profile = (uint32_t)mig_compute_profile(slices), .slices = slices, .start = (uint32_t)start,
            };
            return (int)i;
        }
    return -1;
}

void mig_uuid(const struct gpu *g, uint32_t gpu_instance, uint32_t compute_instance, char out[48])
{
    uint64_t a = hash64(g->uuid, 1000 + gpu_instance * 16 + compute_instance), b = hash64(g->uuid, 2000 + gpu_instance * 16 + compute_instance);
    snprintf(out, 48, "MIG-%08x-%04x-%04x-%04x-%012llx", (uint32_t)(a >> 32), (uint32_t)(a >> 16 & 0xFFFF),
             (uint32_t)(a & 0xFFFF), (uint32_t)(b >> 48), (ull)(b & 0xFFFFFFFFFFFFull));
}
