/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Event sets. Events lie in a ring in the shared state; a set sees those that came after its registration. */
#include "call.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct nvmlEventSet_st {
    pthread_mutex_t lock;
    uint64_t seen;                          /* the newest event that was looked at */
    uint64_t types[MAX_GPUS];
    uint64_t registered_at[MAX_GPUS];
    struct nvmlEventSet_st *next;
};

static pthread_mutex_t sets_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvmlEventSet_st *sets;        /* the living ones: a pointer that is not here is nobody's */

static bool is_set(nvmlEventSet_t set)
{
    bool found = false;
    pthread_mutex_lock(&sets_lock);
    for (struct nvmlEventSet_st *x = sets; x && !found; x = x->next)
        found = x == set;
    pthread_mutex_unlock(&sets_lock);
    return found;
}

static ull supported_types(const struct gpu *g)
{
    const struct profile *p = gpu_profile(g);
    uint driver = sim()->driver_major;
    ull types = EVENT_XID | EVENT_PSTATE | EVENT_CLOCK;
    if (p->ecc == 1)
        types |= EVENT_SINGLE_BIT_ECC | EVENT_DOUBLE_BIT_ECC;
    if (p->mig)
        types |= EVENT_MIG_CONFIG;
    if (driver >= 550 && p->arch >= ARCH_AMPERE && p->ecc == 1)
        types |= EVENT_ECC_STORM | EVENT_DRAM_RETIREMENT | EVENT_DRAM_RETIREMENT_FAILURE;
    if (driver >= 570 && p->arch >= ARCH_HOPPER)
        types |= EVENT_NON_FATAL_POISON | EVENT_FATAL_POISON | EVENT_UNAVAILABLE | EVENT_RECOVERY_ACTION;
    return types;
}

API nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, ull *types)
{
    DEVICE_CALL(nvmlDeviceGetSupportedEventTypes, device, NO_MIG);
    REQUIRE(types);
    *types = supported_types(g);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    PLAIN_CALL(nvmlEventSetCreate);
    REQUIRE(set);
    struct nvmlEventSet_st *x = calloc(1, sizeof *x);
    if (!x)
        return NVML_ERROR_MEMORY;
    pthread_mutex_init(&x->lock, NULL);
    x->seen = atomic_load(&sim()->event_seq);
    pthread_mutex_lock(&sets_lock);
    x->next = sets;
    sets = x;
    pthread_mutex_unlock(&sets_lock);
    *set = x;
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    bool found = false;
    PLAIN_CALL(nvmlEventSetFree);
    pthread_mutex_lock(&sets_lock);
    for (struct nvmlEventSet_st **at = &sets; *at && !found; at = &(*at)->next)
        if (*at == set) {
            *at = set->next;
            found = true;
            break;
        }
    pthread_mutex_unlock(&sets_lock);
    REQUIRE(found);
    pthread_mutex_destroy(&set->lock);
    free(set);
    return NVML_SUCCESS;
}

API nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, ull types, nvmlEventSet_t set)
{
    DEVICE_CALL(nvmlDeviceRegisterEvents, device, NO_MIG);
    REQUIRE(set && is_set(set));
    SUPPORTED_IF(!(types & ~supported_types(g)));
    pthread_mutex_lock(&set->lock);
    set->types[g->index] |= types;
    set->registered_at[g->index] = atomic_load(&sim()->event_seq);
    pthread_mutex_unlock(&set->lock);
    return NVML_SUCCESS;
}

static bool next_event(struct state *s, nvmlEventSet_t set, struct event *out)
{
    bool found = false;
    events_lock(s);
    uint64_t newest = atomic_load(&s->event_seq);
    if (newest > set->seen + MAX_EVENTS)
        set->seen = newest - MAX_EVENTS;    /* the ring has gone round: the oldest are lost */
    while (set->seen < newest && !found) {
        const struct event *e = &s->events[++set->seen % MAX_EVENTS];
        if (e->gpu < MAX_GPUS && (set->types[e->gpu] & e->type) && e->seq > set->registered_at[e->gpu]) {
            *out = *e;
            found = true;
        }
    }
    events_unlock(s);
    return found;
}

static bool a_gpu_is_lost(struct state *s, nvmlEventSet_t set)
{
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (set->types[i] && s->gpus[i].lost)
            return true;
    return false;
}

static int64_t monotonic_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static nvmlReturn_t wait_event(enum function f, nvmlEventSet_t set, struct event *event, uint timeout_ms)
{
    nvmlReturn_t rc = call_plain(f);
    if (rc != NVML_SUCCESS)
        return rc;
    REQUIRE(set && is_set(set));
    struct state *s = sim();
    uint32_t epoch = atomic_load(&s->driver_epoch);
    int64_t end = timeout_ms == UINT_MAX ? INT64_MAX : monotonic_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        uint32_t ticket = atomic_load(&s->event_futex);
        pthread_mutex_lock(&set->lock);
        bool found = next_event(s, set, event);
        pthread_mutex_unlock(&set->lock);
        if (found)
            return NVML_SUCCESS;
        if (a_gpu_is_lost(s, set))
            return NVML_ERROR_GPU_IS_LOST;
        if (!s->driver_loaded || atomic_load(&s->driver_epoch) != epoch)
            return NVML_ERROR_DRIVER_NOT_LOADED;
        int64_t left = end == INT64_MAX ? INT64_MAX : end - monotonic_ns();
        if (left <= 0)
            return NVML_ERROR_TIMEOUT;
        if (left > 1000000000)
            left = 1000000000;
        struct timespec ts = { left / 1000000000, left % 1000000000 };
        syscall(SYS_futex, &s->event_futex, FUTEX_WAIT, ticket, &ts, NULL, 0);
    }
}

API nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, uint timeout_ms)
{
    struct event e;
    REQUIRE(data || !sim());
    nvmlReturn_t rc = wait_event(FN_nvmlEventSetWait_v2, set, &e, timeout_ms);
    if (rc == NVML_SUCCESS)
        *data = (nvmlEventData_t){ device_handle(e.gpu), e.type, e.data, e.gpu_instance, e.compute_instance };
    return rc;
}

API nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_v1_t *data, uint timeout_ms)
{
    struct event e;
    REQUIRE(data || !sim());
    nvmlReturn_t rc = wait_event(FN_nvmlEventSetWait, set, &e, timeout_ms);
    if (rc == NVML_SUCCESS)
        *data = (nvmlEventData_v1_t){ device_handle(e.gpu), e.type, e.data };
    return rc;
}
