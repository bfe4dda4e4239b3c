/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* Init and shutdown, handles, faults: the way into every call. */
#include "call.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Handles are addresses in these tables, so a foreign pointer can be told from one of ours. */
struct nvmlDevice_st { _Atomic uint32_t taken_epoch; };
static struct nvmlDevice_st device_table[MAX_GPUS];
static struct nvmlDevice_st mig_table[MAX_GPUS][MAX_INSTANCES][MAX_INSTANCES];

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t init_count;
static struct state *_Atomic mapped;        /* NULL while not initialised */
/* pid: after a fork the child shares the parent's open file and must not act on the locks in it. */
static struct { struct state *s; int fd; dev_t dev; ino_t ino; pid_t pid; } file = { NULL, -1, 0, 0, 0 };
static int client_slot = -1;
static uint32_t client_driver_epoch;

struct state *sim(void) { return atomic_load_explicit(&mapped, memory_order_acquire); }
int sim_fd(void) { return file.fd; }
int sim_slot(void) { return client_slot; }

static struct state *map_file(void)
{
    const char *path = getenv("NVMLSIM_STATE");
    char error[4600];
    struct stat st;
    int fd;
    if (!path || !*path) {
        fprintf(stderr, "nvmlsim: NVMLSIM_STATE is not set: it names the state file that `nvmlsim init` made\n");
        return NULL;
    }
    if (file.s && file.pid == getpid() && stat(path, &st) == 0 && st.st_dev == file.dev && st.st_ino == file.ino)
        return file.s;
    struct state *s = state_open(path, &fd, error, sizeof error);
    if (!s) {
        fprintf(stderr, "nvmlsim: %s\n", error);
        return NULL;
    }
    /* An earlier mapping stays: another thread may still be in a call on it. */
    if (file.fd >= 0)
        close(file.fd);
    file.s = s;
    file.fd = fd;
    file.pid = getpid();
    if (fstat(fd, &st) == 0) {
        file.dev = st.st_dev;
        file.ino = st.st_ino;
    }
    return s;
}

static bool function_missing(const struct state *s, enum function f)
{
    return function_since[f] > s->driver_major;
}

static void pause_until(const struct fault *fault, uint32_t id)
{
    struct timespec now, step = { 0, 10000000 };
    clock_gettime(CLOCK_MONOTONIC, &now);
    double end = (double)now.tv_sec + (double)now.tv_nsec / 1e9 + fault->seconds;
    for (;;) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        double left = end - ((double)now.tv_sec + (double)now.tv_nsec / 1e9);
        if ((fault->seconds >= 0 && left <= 0) || fault->id != id || atomic_load(&fault->kind) != FAULT_HANG)
            return;
        step.tv_nsec = fault->seconds >= 0 && left < 0.01 ? (long)(left * 1e9) : 10000000;
        nanosleep(&step, NULL);
    }
}

/* The forced outcome of this call, or NVML_SUCCESS to go on. No lock is held: a hang concerns its caller alone. */
static nvmlReturn_t faulted(struct state *s, enum function f, int gpu)
{
    nvmlReturn_t forced = NVML_SUCCESS;
    if (atomic_load_explicit(&s->fault_count, memory_order_relaxed) == 0)
        return NVML_SUCCESS;
    for (int i = 0; i < MAX_FAULTS; i++) {
        struct fault *x = &s->faults[i];
        uint32_t kind = atomic_load(&x->kind), id = x->id;
        if (kind == FAULT_NONE || !(x->functions[f / 8] >> (f % 8) & 1) || (x->gpu >= 0 && x->gpu != gpu))
            continue;
        int32_t skip = atomic_load(&x->skip);
        while (skip > 0 && !atomic_compare_exchange_weak(&x->skip, &skip, skip - 1))
            ;
        if (skip > 0)
            continue;
        int32_t left = atomic_load(&x->remaining);
        while (left > 0 && !atomic_compare_exchange_weak(&x->remaining, &left, left - 1))
            ;
        if (left == 0)
            continue;
        if (kind == FAULT_HANG)
            pause_until(x, id);
        else
            forced = (nvmlReturn_t)x->code;
    }
    return forced;
}

static nvmlReturn_t call_checks(enum function f, struct state **s)
{
    *s = sim();
    if (!*s)
        return NVML_ERROR_UNINITIALIZED;
    if (function_missing(*s, f))
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    /* The driver that this client talked to is gone; a new nvmlInit finds the new one. */
    if (!(*s)->driver_loaded || atomic_load_explicit(&(*s)->driver_epoch, memory_order_relaxed) != client_driver_epoch)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    return NVML_SUCCESS;
}

nvmlReturn_t call_plain(enum function f)
{
    struct state *s;
    nvmlReturn_t rc = call_checks(f, &s);
    return rc == NVML_SUCCESS ? faulted(s, f, -1) : rc;
}

nvmlReturn_t call_device(enum function f, nvmlDevice_t device, int flags, struct target *t)
{
    struct state *s;
    uint32_t gpu, gpu_slot, compute_slot;
    bool mig;
    nvmlReturn_t rc = call_checks(f, &s);
    if (rc != NVML_SUCCESS)
        return rc;
    if (!device_resolve(device, &gpu, &mig, &gpu_slot, &compute_slot) || gpu >= s->gpu_count)
        return NVML_ERROR_INVALID_ARGUMENT;
    rc = faulted(s, f, (int)gpu);
    if (rc != NVML_SUCCESS)
        return rc;
    struct gpu *g = &s->gpus[gpu];
    if (g->lost)
        return NVML_ERROR_GPU_IS_LOST;
    gpu_lock(g);
    t->g = g;       /* from here on the caller's cleanup unlocks */
    if (device->taken_epoch != g->handle_epoch)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (mig) {
        const struct gpu_instance *gi = &g->instances[gpu_slot];
        if (!g->mig_current || !gi->used || !gi->compute[compute_slot].used)
            return NVML_ERROR_INVALID_ARGUMENT;
        if (!(flags & MIG_OK))
            return NVML_ERROR_NOT_SUPPORTED;
        t->mig = true;
        t->gpu_instance = gi->id;
        t->compute_instance = gi->compute[compute_slot].id;
    }
    if (g->reset_required && !(flags & MIG_OK))
        return NVML_ERROR_RESET_REQUIRED;
    if (!(flags & NO_ADVANCE))
        physics_advance(g, state_now(s));
    return NVML_SUCCESS;
}

void call_end(struct target *t)
{
    if (t->g)
        gpu_unlock(t->g);
}

nvmlDevice_t device_handle(uint32_t gpu)
{
    atomic_store(&device_table[gpu].taken_epoch, atomic_load(&sim()->gpus[gpu].handle_epoch));
    return &device_table[gpu];
}

nvmlDevice_t mig_device_handle(uint32_t gpu, uint32_t gpu_slot, uint32_t compute_slot)
{
    struct nvmlDevice_st *d = &mig_table[gpu][gpu_slot][compute_slot];
    atomic_store(&d->taken_epoch, atomic_load(&sim()->gpus[gpu].handle_epoch));
    return d;
}

bool device_resolve(nvmlDevice_t device, uint32_t *gpu, bool *mig, uint32_t *gpu_slot, uint32_t *compute_slot)
{
    uintptr_t at = (uintptr_t)device, plain = (uintptr_t)device_table, nested = (uintptr_t)mig_table;
    *gpu_slot = *compute_slot = 0;
    *mig = false;
    if (at >= plain && at < plain + sizeof device_table && (at - plain) % sizeof *device_table == 0) {
        *gpu = (uint32_t)((at - plain) / sizeof *device_table);
        return true;
    }
    if (at >= nested && at < nested + sizeof mig_table && (at - nested) % sizeof *device_table == 0) {
        uint32_t i = (uint32_t)((at - nested) / sizeof *device_table);
        *mig = true;
        *gpu = i / (MAX_INSTANCES * MAX_INSTANCES);
        *gpu_slot = i / MAX_INSTANCES % MAX_INSTANCES;
        *compute_slot = i % MAX_INSTANCES;
        return true;
    }
    return false;
}

bool privileged(void)
{
    struct state *s = sim();
    int uid = s->pretend_uid >= 0 ? s->pretend_uid : (int)geteuid();
    return uid == 0 && !s->pretend_unprivileged;
}

nvmlReturn_t copy_string(char *out, uint size, const char *text)
{
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!text)
        return NVML_ERROR_NOT_SUPPORTED;
    size_t need = strlen(text) + 1;
    if (size < need)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(out, text, need);
    return NVML_SUCCESS;
}

static nvmlReturn_t init(enum function f)
{
    nvmlReturn_t rc = NVML_SUCCESS;
    pthread_mutex_lock(&init_lock);
    struct state *s = init_count ? sim() : map_file();
    pthread_mutex_unlock(&init_lock);
    if (!s)
        return NVML_ERROR_DRIVER_NOT_LOADED;
    if (function_missing(s, f))
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    rc = faulted(s, f, -1);
    if (rc != NVML_SUCCESS)
        return rc;
    pthread_mutex_lock(&init_lock);
    if (init_count == 0) {
        if (!s->driver_loaded) {
            rc = NVML_ERROR_DRIVER_NOT_LOADED;
        } else if ((client_slot = client_attach(s, file.fd)) < 0) {
            fprintf(stderr, "nvmlsim: more than %d processes use the state file\n", MAX_CLIENTS);
            rc = NVML_ERROR_INSUFFICIENT_RESOURCES;
        } else {
            client_driver_epoch = atomic_load(&s->driver_epoch);
            atomic_store(&mapped, s);
        }
    }
    if (rc == NVML_SUCCESS)
        init_count++;
    pthread_mutex_unlock(&init_lock);
    return rc;
}

API nvmlReturn_t nvmlInit(void) { return init(FN_nvmlInit); }
API nvmlReturn_t nvmlInit_v2(void) { return init(FN_nvmlInit_v2); }

API nvmlReturn_t nvmlInitWithFlags(uint flags)
{
    return flags & ~3u ? NVML_ERROR_INVALID_ARGUMENT : init(FN_nvmlInitWithFlags);
}

API nvmlReturn_t nvmlShutdown(void)
{
    nvmlReturn_t rc = NVML_SUCCESS;
    struct state *s = sim();
    if (!s)
        return NVML_ERROR_UNINITIALIZED;
    rc = faulted(s, FN_nvmlShutdown, -1);
    if (rc != NVML_SUCCESS)
        return rc;
    pthread_mutex_lock(&init_lock);
    if (init_count == 0) {
        rc = NVML_ERROR_UNINITIALIZED;
    } else if (--init_count == 0) {
        atomic_store(&mapped, NULL);
        if (file.pid == getpid())
            client_detach(s, file.fd, client_slot);
        client_slot = -1;
    }
    pthread_mutex_unlock(&init_lock);
    return rc;
}

API const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED: return "Already Initialized";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_OPERATING_SYSTEM: return "GPU access blocked by the operating system";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: return "Requested vGPU operation is not available on target device because ECC is enabled";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient Resources";
    case NVML_ERROR_FREQ_NOT_SUPPORTED: return "Requested clock frequency is not supported";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED: return "Requested functionality has been deprecated";
    case NVML_ERROR_NOT_READY: return "System is not ready";
    case NVML_ERROR_GPU_NOT_FOUND: return "GPU not found";
    case NVML_ERROR_INVALID_STATE: return "Invalid state";
    case NVML_ERROR_RESET_TYPE_NOT_SUPPORTED: return "Reset type not supported";
    default: return "Unknown Error";
    }
}
