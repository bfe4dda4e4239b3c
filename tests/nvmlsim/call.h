/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* What every exported function begins with: is NVML up, is the call faulted, which GPU is meant, is it there. */
#ifndef NVMLSIM_CALL_H
#define NVMLSIM_CALL_H

#include "sim.h"

#define API __attribute__((visibility("default")))

enum { NO_MIG = 0, MIG_OK = 1, NO_ADVANCE = 2 };

struct target {
    struct gpu *g;
    bool mig;                       /* the handle is a MIG device's */
    uint32_t gpu_instance, compute_instance;    /* NO_INSTANCE unless mig */
};

struct state *sim(void);            /* the mapped state; NULL before init */
int sim_fd(void);
int sim_slot(void);

/* Without a GPU: checks and faults only. */
nvmlReturn_t call_plain(enum function f);
/* With one: also resolves the handle, locks the GPU and brings it up to now. */
nvmlReturn_t call_device(enum function f, nvmlDevice_t device, int flags, struct target *t);
void call_end(struct target *t);

nvmlDevice_t device_handle(uint32_t gpu);
nvmlDevice_t mig_device_handle(uint32_t gpu, uint32_t gpu_slot, uint32_t compute_slot);
bool device_resolve(nvmlDevice_t device, uint32_t *gpu, bool *mig, uint32_t *gpu_slot, uint32_t *compute_slot);

bool privileged(void);              /* root with CAP_SYS_ADMIN, or what the simulator pretends */
nvmlReturn_t copy_string(char *out, uint size, const char *text);

#define PLAIN_CALL(name)                                    \
    do {                                                    \
        nvmlReturn_t rc_ = call_plain(FN_##name);           \
        if (rc_ != NVML_SUCCESS)                            \
            return rc_;                                     \
    } while (0)

#define DEVICE_CALL(name, device, flags)                                                            \
    __attribute__((cleanup(call_end))) struct target t = { NULL, false, NO_INSTANCE, NO_INSTANCE }; \
    {                                                                                               \
        nvmlReturn_t rc_ = call_device(FN_##name, device, flags, &t);                               \
        if (rc_ != NVML_SUCCESS)                                                                    \
            return rc_;                                                                             \
    }                                                                                               \
    struct gpu *g __attribute__((unused)) = t.g;                                                    \
    const struct profile *p __attribute__((unused)) = gpu_profile(g)

#define REQUIRE(condition)                      \
    do {                                        \
        if (!(condition))                       \
            return NVML_ERROR_INVALID_ARGUMENT; \
    } while (0)

#define SUPPORTED_IF(condition)              \
    do {                                     \
        if (!(condition))                    \
            return NVML_ERROR_NOT_SUPPORTED; \
    } while (0)

#define ROOT_ONLY()                          \
    do {                                     \
        if (!privileged())                   \
            return NVML_ERROR_NO_PERMISSION; \
    } while (0)

#define VERSION(pointer, type, n)                                      \
    do {                                                               \
        REQUIRE(pointer);                                              \
        if ((pointer)->version != STRUCT_VERSION(type, n))             \
            return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;               \
    } while (0)

/* A getter of one number. */
#define UINT_GETTER(symbol, flags, supported, expression)     \
    API nvmlReturn_t symbol(nvmlDevice_t device, uint *out)   \
    {                                                         \
        DEVICE_CALL(symbol, device, flags);                   \
        REQUIRE(out);                                         \
        SUPPORTED_IF(supported);                              \
        *out = (uint)(expression);                            \
        return NVML_SUCCESS;                                  \
    }

#endif
