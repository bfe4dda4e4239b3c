/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* The shared state file: making it, mapping it, its locks, and who holds it open. */
#include "sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x314D49534C4D564Eull     /* "NVMLSIM1" */
#define LAYOUT 1u

/* A client holds a lock on its own byte far behind the data: the kernel lets go of it however the process ends. */
#define CLIENT_BYTE(slot) ((off_t)1 << 40 | (slot))

static void robust_lock(pthread_mutex_t *m)
{
    if (pthread_mutex_lock(m) == EOWNERDEAD)    /* its holder was killed: what it left is good enough */
        pthread_mutex_consistent(m);
}

void state_lock(struct state *s) { robust_lock(&s->lock); }
void state_unlock(struct state *s) { pthread_mutex_unlock(&s->lock); }
void events_lock(struct state *s) { robust_lock(&s->event_lock); }
void events_unlock(struct state *s) { pthread_mutex_unlock(&s->event_lock); }
void gpu_lock(struct gpu *g) { robust_lock(&g->lock); }
void gpu_unlock(struct gpu *g) { pthread_mutex_unlock(&g->lock); }

int64_t state_now(struct state *s)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec + atomic_load_explicit(&s->warp_ns, memory_order_relaxed);
}

int64_t wall_us(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

uint64_t hash64(const char *text, uint64_t seed)
{
    uint64_t h = 0xCBF29CE484222325ull ^ seed * 0x9E3779B97F4A7C15ull;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 0x100000001B3ull;
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDull;
    return h ^ (h >> 33);
}

uint32_t cuda_version(uint32_t major)
{
    static const struct { uint32_t driver, cuda; } table[] = {
        { 610, 13030 }, { 595, 13020 }, { 590, 13010 }, { 580, 13000 }, { 575, 12090 }, { 570, 12080 }, { 565, 12070 },
        { 560, 12060 }, { 555, 12050 }, { 550, 12040 }, { 545, 12030 }, { 535, 12020 }, { 530, 12010 }, { 525, 12000 },
        { 520, 11080 }, { 515, 11070 }, { 510, 11060 }, { 495, 11050 }, { 470, 11040 }, { 460, 11020 }, { 450, 11000 },
    };
    for (uint32_t i = 0; i < sizeof table / sizeof *table; i++)
        if (major >= table[i].driver)
            return table[i].cuda;
    return 10020;
}

static void mutex_init(pthread_mutex_t *m)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(m, &a);
    pthread_mutexattr_destroy(&a);
}

static void gpu_create(struct state *s, uint32_t profile, uint32_t seed, bool persistence)
{
    /* where an eight-GPU baseboard has its GPUs */
    static const uint32_t buses[] = { 0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF };
    uint32_t i = s->gpu_count++;
    struct gpu *g = &s->gpus[i];
    const struct profile *p = &profiles[profile];
    char seed_text[32];

    mutex_init(&g->lock);
    g->profile = profile;
    g->index = g->minor = i;
    g->domain = i / 8;
    g->bus = buses[i % 8];
    snprintf(seed_text, sizeof seed_text, "%u/%u", seed, i);
    uint64_t a = hash64(p->key, hash64(seed_text, 1)), b = hash64(p->key, hash64(seed_text, 2));
    snprintf(g->uuid, sizeof g->uuid, "GPU-%08x-%04x-%04x-%04x-%012llx", (uint32_t)(a >> 32), (uint32_t)(a >> 16 & 0xFFFF),
             (uint32_t)(a & 0xFFFF), (uint32_t)(b >> 48), (ull)(b & 0xFFFFFFFFFFFFull));
    if (p->has_serial)
        snprintf(g->serial, sizeof g->serial, "165%010llu", (ull)(a % 10000000000ull));
    g->persistence = persistence;
    g->ecc_current = g->ecc_pending = p->ecc == 1;
    g->bmc_cap_mw = -1;
    g->ambient_c = 25;
    g->pinned_celsius = NO_LIMIT;
    g->load.memory = g->load.memory_used = -1;
    g->temperature_c = 30;
    g->average_mw = g->power_mw = p->idle_mw;
    g->now_ns = g->started_ns = state_now(s);
    gpu_defaults(g);
    physics_refresh(g);
    g->average_mw = g->power_mw;
}

/* spec: PROFILE[:COUNT][,PROFILE[:COUNT]...] */
static int add_gpus(struct state *s, const char *spec, uint32_t seed, bool persistence, char *error, size_t error_size)
{
    char text[512], *save = NULL;
    if (strlen(spec) >= sizeof text)
        return snprintf(error, error_size, "the list of GPUs is too long"), -1;
    strcpy(text, spec);
    for (char *part = strtok_r(text, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
        char *colon = strchr(part, ':'), *end;
        unsigned long count = 1;
        if (colon) {
            *colon = 0;
            count = strtoul(colon + 1, &end, 10);
            if (end == colon + 1 || *end)
                return snprintf(error, error_size, "'%s' is no count of GPUs (in '%s')", colon + 1, spec), -1;
        }
        const struct profile *p = profile_find(part);
        if (!p) {
            int n = snprintf(error, error_size, "no profile '%s'; there are:", part);
            for (uint32_t i = 0; i < profile_count && n < (int)error_size; i++)
                n += snprintf(error + n, error_size - (size_t)n, " %s", profiles[i].key);
            return -1;
        }
        if (s->gpu_count + count > MAX_GPUS)
            return snprintf(error, error_size, "more than %d GPUs", MAX_GPUS), -1;
        while (count--)
            gpu_create(s, (uint32_t)(p - profiles), seed, persistence);
    }
    return 0;
}

int state_create(const char *path, const char *spec, const char *driver, uint32_t seed, bool persistence,
                 char *error, size_t error_size)
{
    char temporary[4096];
    if (snprintf(temporary, sizeof temporary, "%s.%d.new", path, (int)getpid()) >= (int)sizeof temporary)
        return snprintf(error, error_size, "the path is too long"), -1;
    int fd = open(temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return snprintf(error, error_size, "%s: %s", temporary, strerror(errno)), -1;
    /* a service's own user must be able to use what root made, whatever the umask */
    if (fchmod(fd, 0666) || ftruncate(fd, sizeof(struct state))) {
        snprintf(error, error_size, "%s: %s", temporary, strerror(errno));
        goto fail;
    }
    struct state *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s == MAP_FAILED) {
        snprintf(error, error_size, "%s: %s", temporary, strerror(errno));
        goto fail;
    }
    mutex_init(&s->lock);
    mutex_init(&s->event_lock);
    s->layout = LAYOUT;
    s->size = sizeof *s;
    s->pretend_uid = -1;
    s->driver_loaded = 1;
    s->next_fault = 1;
    snprintf(s->driver_version, sizeof s->driver_version, "%s", driver);
    s->driver_major = (uint32_t)strtoul(driver, NULL, 10);
    int bad = add_gpus(s, spec, seed, persistence, error, error_size);
    s->magic = MAGIC;
    munmap(s, sizeof *s);
    if (bad)
        goto fail;
    if (rename(temporary, path)) {
        snprintf(error, error_size, "%s: %s", path, strerror(errno));
        goto fail;
    }
    close(fd);
    return 0;
fail:
    unlink(temporary);
    close(fd);
    return -1;
}

struct state *state_open(const char *path, int *fd_out, char *error, size_t error_size)
{
    struct stat st;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        snprintf(error, error_size, "%s: %s; make it with: nvmlsim init %s h100:8", path, strerror(errno), path);
        return NULL;
    }
    if (fstat(fd, &st) == 0 && st.st_size == (off_t)sizeof(struct state)) {
        struct state *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (s != MAP_FAILED && s->magic == MAGIC && s->layout == LAYOUT && s->size == sizeof *s) {
            *fd_out = fd;
            return s;
        }
        if (s != MAP_FAILED)
            munmap(s, sizeof *s);
    }
    snprintf(error, error_size, "%s is no state file of this build of nvmlsim (%ld bytes, wanted %zu); make it anew with: "
             "nvmlsim init %s ...", path, (long)st.st_size, sizeof(struct state), path);
    close(fd);
    return NULL;
}

static struct flock client_range(short type, int slot)
{
    return (struct flock){ .l_type = type, .l_whence = SEEK_SET, .l_start = CLIENT_BYTE(slot), .l_len = 1 };
}

static bool client_is_dead(int fd, int slot)
{
    struct flock range = client_range(F_WRLCK, slot);
    return fcntl(fd, F_OFD_GETLK, &range) == 0 && range.l_type == F_UNLCK;
}

static void let_go_of_gpus(struct state *s)
{
    for (uint32_t i = 0; i < s->gpu_count; i++) {
        struct gpu *g = &s->gpus[i];
        gpu_lock(g);
        if (!g->persistence)
            gpu_restarted(s, g);
        gpu_unlock(g);
    }
}

/* With the state's lock held. `own` is a slot whose lock this very file descriptor holds: GETLK would not see it. */
static void reap(struct state *s, int fd, int own)
{
    bool died = false;
    uint32_t alive = 0;
    for (int i = 0; i < MAX_CLIENTS; i++) {
        if (!s->clients[i].used)
            continue;
        if (i != own && client_is_dead(fd, i)) {
            s->clients[i].used = 0;
            died = true;
        } else {
            alive++;
        }
    }
    if (died && !alive)
        let_go_of_gpus(s);
}

void clients_reap(struct state *s, int fd, int own)
{
    state_lock(s);
    reap(s, fd, own);
    state_unlock(s);
}

int client_attach(struct state *s, int fd)
{
    int slot = -1;
    state_lock(s);
    reap(s, fd, -1);
    for (int i = 0; i < MAX_CLIENTS && slot < 0; i++) {
        struct flock range = client_range(F_WRLCK, i);
        if (!s->clients[i].used && fcntl(fd, F_OFD_SETLK, &range) == 0) {
            s->clients[i].used = 1;
            s->clients[i].pid = getpid();
            slot = i;
        }
    }
    state_unlock(s);
    return slot;
}

void client_detach(struct state *s, int fd, int slot)
{
    struct flock range = client_range(F_UNLCK, slot);
    state_lock(s);
    fcntl(fd, F_OFD_SETLK, &range);
    reap(s, fd, -1);
    state_unlock(s);
}

uint32_t clients_alive(struct state *s)
{
    return clients_other_than(s, -1);
}

uint32_t clients_other_than(struct state *s, int slot)
{
    uint32_t n = 0;
    for (int i = 0; i < MAX_CLIENTS; i++)
        n += s->clients[i].used && i != slot;
    return n;
}
