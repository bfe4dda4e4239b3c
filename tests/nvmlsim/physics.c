/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/*
 * How a GPU moves. Nothing runs in the background: whoever looks brings the GPU from the moment it was last looked at to
 * now. Patterns of load are constant within a tick of 100 ms, so the integrals (energy, throttle time, link traffic) do
 * not depend on who looked when.
 */
#include "sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS 100000000ll
#define THERMAL_TAU_S 15.0
#define AVERAGE_TAU_S 0.35
#define ROOM_C 25.0
#define IDLE_C 30.0
#define STATIC_SHARE 0.10           /* of the dynamic power that does not follow the graphics clock */
#define CLOCK_EXPONENT 2.4          /* power over frequency, voltage included */
#define FULL_LOAD_OF_LIMIT 1.04     /* what a full load would draw of the default limit */
#define MAX_TICKS 400000            /* of catching up: 11 h; past that the rest is one step */

const char *const load_names[LOAD_KINDS] = { "idle", "constant", "training", "inference", "sine", "square" };

/* Noise in -1..1 that depends on the tick and the GPU alone. */
static double tick_noise(int64_t tick, uint32_t gpu)
{
    uint64_t x = (uint64_t)tick * 0x9E3779B97F4A7C15ull + gpu * 0xD1B54A32D192ED03ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    x ^= x >> 31;
    return (double)(x >> 11) / 4503599627370496.0 - 1.0;
}

static bool load_moves(const struct load *l)
{
    return l->kind > LOAD_CONSTANT;
}

double load_level(const struct load *l, uint32_t gpu, int64_t now_ns)
{
    int64_t tick = now_ns / TICK_NS;
    double t = (double)(tick * TICK_NS - l->since_ns) / 1e9 + gpu * 0.7;
    double phase = l->period_s > 0 ? fmod(t, l->period_s) / l->period_s : 0;
    double x;
    if (phase < 0)
        phase += 1;
    switch (l->kind) {
    case LOAD_CONSTANT: return l->level;
    case LOAD_TRAINING: x = (phase < 0.9 ? 0.97 : 0.35) * l->level + 0.02 * tick_noise(tick, gpu); break;
    case LOAD_INFERENCE: x = (0.5 + 0.25 * sin(2 * M_PI * phase) + 0.15 * tick_noise(tick, gpu)) * l->level; break;
    case LOAD_SINE: x = (0.5 + 0.5 * sin(2 * M_PI * phase)) * l->level; break;
    case LOAD_SQUARE: x = phase < 0.5 ? l->level : 0; break;
    default: return 0;
    }
    return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* "idle", "0.8", "80%", "training", "inference:0.6", "sine:0.9:30" (level, period in seconds) */
bool load_parse(const char *text, struct load *out)
{
    static const double periods[LOAD_KINDS] = { 0, 0, 8, 60, 60, 20 };
    struct load l = { .level = 1, .memory = -1, .memory_used = -1 };
    const char *colon = strchr(text, ':');
    size_t length = colon ? (size_t)(colon - text) : strlen(text);
    char *end;
    int kind = -1;
    for (int k = 0; k < LOAD_KINDS; k++)
        if (strlen(load_names[k]) == length && strncmp(text, load_names[k], length) == 0)
            kind = k;
    if (kind < 0) {
        l.level = strtod(text, &end);
        if (end == text)
            return false;
        if (*end == '%') {
            l.level /= 100;
            end++;
        }
        if (*end)
            return false;
        l.kind = l.level > 0 ? LOAD_CONSTANT : LOAD_IDLE;
    } else {
        l.kind = kind;
        l.period_s = periods[kind];
        if (colon) {
            l.level = strtod(colon + 1, &end);
            if (end == colon + 1)
                return false;
            if (*end == ':')
                l.period_s = strtod(end + 1, &end);
            if (*end)
                return false;
        }
    }
    if (!(l.level >= 0 && l.level <= 1) || !(l.period_s >= 0))
        return false;
    *out = l;
    return true;
}

uint32_t enforced_limit_mw(const struct gpu *g)
{
    const struct profile *p = gpu_profile(g);
    int64_t limit = g->limit_mw;
    if (p->enforced_cap_mw != NA && p->enforced_cap_mw < limit)
        limit = p->enforced_cap_mw;
    if (g->bmc_cap_mw >= 0 && g->bmc_cap_mw < limit)
        limit = g->bmc_cap_mw;
    return (uint32_t)limit;
}

/* GA100 and everything before Ampere report the moment, the others a one second average. */
uint32_t reported_power_mw(const struct gpu *g)
{
    return (uint32_t)((gpu_profile(g)->has_average_power ? g->average_mw : g->power_mw) + 0.5);
}

int absolute_threshold(const struct gpu *g, int value)
{
    const struct profile *p = gpu_profile(g);
    return value == NO_LIMIT ? 1000 : p->t_limit == NA ? value : p->t_limit - value;
}

int gpu_celsius(const struct gpu *g)
{
    return (int)lround(g->temperature_c);
}

int memory_celsius(const struct gpu *g)
{
    return (int)lround(g->temperature_c + 4 + 6 * g->memory_utilization);
}

int margin_celsius(const struct gpu *g)
{
    return gpu_profile(g)->t_limit - gpu_celsius(g);
}

int fan_percent(const struct gpu *g, uint32_t fan)
{
    const struct profile *p = gpu_profile(g);
    if (g->fan_manual[fan] >= 0)
        return g->fan_manual[fan];
    double floor = p->brand == BRAND_NVIDIA_RTX ? 30 : 0;
    double t = g->temperature_c;
    double percent = t < 50 ? floor : 30 + (t - 50) * 70 / 40;
    return (int)(percent < floor ? floor : percent > 100 ? 100 : percent);
}

uint64_t used_memory_bytes(const struct gpu *g)
{
    static const double by_kind[LOAD_KINDS] = { 0, -1, 0.86, 0.62, -1, -1 };
    const struct profile *p = gpu_profile(g);
    uint64_t usable = ((uint64_t)p->memory_mib - p->reserved_mib) << 20, sum = 1ull << 20;
    double share = g->load.memory_used;
    if (share < 0)
        share = by_kind[g->load.kind] >= 0 ? by_kind[g->load.kind] : 0.8 * g->load.level;
    for (uint32_t i = 0; i < g->process_count; i++)
        if (g->processes[i].memory_bytes != VALUE_NOT_AVAILABLE)
            sum += g->processes[i].memory_bytes;
    uint64_t loaded = (uint64_t)(share * (double)usable) >> 20 << 20;
    sum = loaded > sum ? loaded : sum;
    return sum < usable ? sum : usable;
}

uint32_t pcie_current_gen(const struct gpu *g)
{
    uint32_t gen = gpu_profile(g)->pcie_gen;
    if (g->pstate >= 8)
        gen = 1;
    return g->pcie_gen && g->pcie_gen < gen ? g->pcie_gen : gen;
}

uint32_t pcie_current_width(const struct gpu *g)
{
    return g->pcie_width ? g->pcie_width : gpu_profile(g)->pcie_width;
}

double pcie_rate(const struct gpu *g, int receive)
{
    double lane_bytes = 0.25e9 * (1u << (pcie_current_gen(g) - 1)) * 0.9;
    double peak = lane_bytes * pcie_current_width(g);
    return 400e3 + g->utilization * (receive ? 0.12 : 0.07) * peak;
}

uint32_t link_mbps(const struct gpu *g, uint32_t link)
{
    return g->links_down >> link & 1 ? 0 : gpu_profile(g)->nvlink_mbps;
}

static double steady_celsius(const struct gpu *g, double power_mw)
{
    const struct profile *p = gpu_profile(g);
    double per_mw = (p->full_celsius - IDLE_C) / ((double)p->limit_default_mw - p->idle_mw);
    return g->ambient_c - ROOM_C + IDLE_C + per_mw * (power_mw - p->idle_mw);
}

static double power_for_celsius(const struct gpu *g, double celsius)
{
    const struct profile *p = gpu_profile(g);
    double per_mw = (p->full_celsius - IDLE_C) / ((double)p->limit_default_mw - p->idle_mw);
    return p->idle_mw + (celsius - (g->ambient_c - ROOM_C + IDLE_C)) / per_mw;
}

static uint32_t memory_clock(const struct gpu *g, const struct profile *p, bool idle)
{
    uint32_t want = idle ? p->idle_memory : p->memory_max, best = 0;
    if (!idle && g->app_memory)
        want = g->app_memory;
    if (g->lock_memory_max) {
        want = want < g->lock_memory_min ? g->lock_memory_min : want > g->lock_memory_max ? g->lock_memory_max : want;
        for (uint32_t i = 0; i < clock_table_count(p); i++)     /* the nearest that exists */
            if (!best || abs((int)p->clocks[i].memory_mhz - (int)want) < abs((int)best - (int)want))
                best = p->clocks[i].memory_mhz;
        return best;
    }
    return want;
}

/* What the GPU does at this moment under its load, limits and temperature: clocks, power, reasons. */
static void evaluate(struct gpu *g, int64_t now_ns)
{
    const struct profile *p = gpu_profile(g);
    double level = g->lost || g->reset_required ? 0 : load_level(&g->load, g->index, now_ns);
    bool idle = level < 0.005;
    uint64_t reasons = idle ? REASON_IDLE : 0;
    uint32_t memory = memory_clock(g, p, idle);
    const struct clock_table *table = clock_table_for(p, memory);
    double share = g->load.memory >= 0 ? g->load.memory : 0.7;
    double target, limit = enforced_limit_mw(g);

    if (!table)
        table = &p->clocks[0];
    g->utilization = level;
    g->memory_utilization = idle ? 0 : g->load.memory >= 0 ? share : level * share;

    target = idle ? p->idle_graphics : p->graphics_max;
    if (!idle && g->app_graphics && g->app_graphics < target) {
        target = g->app_graphics;
        reasons |= REASON_APP_CLOCKS;
    }
    if (g->lock_graphics_max) {             /* holds at idle too */
        double low = clock_table_nearest(table, g->lock_graphics_min), high = clock_table_nearest(table, g->lock_graphics_max);
        target = target < low ? low : target > high ? high : target;
    }

    if (g->temperature_c >= absolute_threshold(g, p->t_slowdown)) {
        reasons |= REASON_HW_SLOWDOWN | REASON_HW_THERMAL;
        target /= 2;
    } else if (g->temperature_c >= absolute_threshold(g, p->t_gpu_max)) {
        double cool = power_for_celsius(g, absolute_threshold(g, p->t_gpu_max) - 1);
        reasons |= REASON_SW_THERMAL;
        limit = cool < limit ? cool : limit;
    }
    if (g->forced_reasons) {
        uint64_t f = g->forced_reasons;
        reasons |= f;
        if (f & (REASON_HW_SLOWDOWN | REASON_HW_THERMAL | REASON_POWER_BRAKE))
            target /= 2;
        else if (f & (REASON_SW_THERMAL | REASON_SW_POWER_CAP | REASON_SYNC_BOOST))
            target *= 0.85;
    }

    double dynamic = (p->limit_default_mw * FULL_LOAD_OF_LIMIT - p->idle_mw) * (0.85 + 0.15 * memory / p->memory_max);
    double power;
    uint32_t graphics;
    if (idle) {
        graphics = clock_table_floor(table, target);
        double r = (double)graphics / p->graphics_max, r0 = (double)p->idle_graphics / p->graphics_max;
        power = p->idle_mw + (r > r0 ? 0.06 * dynamic * (r * r - r0 * r0) : 0);
    } else {
        double room = ((limit - p->idle_mw) / (dynamic * level) - STATIC_SHARE) / (1 - STATIC_SHARE);
        double cap = room >= 1 ? p->graphics_max : room <= 0 ? 0 : p->graphics_max * pow(room, 1 / CLOCK_EXPONENT);
        if (cap < target) {
            target = cap;
            if (!(reasons & REASON_SW_THERMAL))
                reasons |= REASON_SW_POWER_CAP;
        }
        graphics = clock_table_floor(table, target);
        power = p->idle_mw + dynamic * level *
                (STATIC_SHARE + (1 - STATIC_SHARE) * pow((double)graphics / p->graphics_max, CLOCK_EXPONENT));
    }
    /* the lowest clock may still be too much: the board then skips cycles, it never stays above its limit */
    double most = limit > p->idle_mw ? limit : p->idle_mw;
    if (power > most) {
        power = most;
        if (!idle && !(reasons & REASON_SW_THERMAL))
            reasons |= REASON_SW_POWER_CAP;
    }
    g->power_mw = power;
    g->graphics_mhz = graphics;
    g->memory_mhz = memory;
    g->video_mhz = idle ? p->idle_video
                        : p->idle_video + (uint32_t)((p->video_max - p->idle_video) * ((double)graphics / p->graphics_max) / 15) * 15;
    g->pstate = idle && memory < p->memory_max ? p->idle_pstate : memory < p->memory_max / 4 ? 8 : 0;
    g->reasons = reasons;
}

static void integrate(struct gpu *g, int64_t dt_ns)
{
    const struct profile *p = gpu_profile(g);
    double dt = (double)dt_ns / 1e9, steady = steady_celsius(g, g->power_mw);
    g->energy_mj += g->power_mw * dt;
    g->average_mw = g->power_mw + (g->average_mw - g->power_mw) * exp(-dt / AVERAGE_TAU_S);
    g->temperature_c = g->pinned_celsius != NO_LIMIT
                           ? g->pinned_celsius
                           : steady + (g->temperature_c - steady) * exp(-dt / THERMAL_TAU_S);
    for (uint32_t bit = 0; bit < REASON_BITS; bit++)
        if (g->reasons >> bit & 1)
            g->reason_ns[bit] += (uint64_t)dt_ns;
    g->pcie_tx_bytes += pcie_rate(g, 0) * dt;
    g->pcie_rx_bytes += pcie_rate(g, 1) * dt;
    g->util_seconds += g->utilization * dt;
    g->memory_util_seconds += g->memory_utilization * dt;
    if (g->utilization > 0 && p->nvlinks) {
        double kib = g->utilization * 0.3 * p->nvlink_mbps * 1e6 / 1024 * dt;
        for (uint32_t link = 0; link < p->nvlinks; link++)
            if (link_mbps(g, link)) {
                g->link_tx_kib[link] += kib;
                g->link_rx_kib[link] += kib * 0.98;
            }
    }
}

void physics_advance(struct gpu *g, int64_t now_ns)
{
    if (now_ns - g->now_ns < -1000000000)   /* the host was restarted under the state file */
        g->now_ns = g->started_ns = g->load.since_ns = now_ns;
    if (now_ns - g->now_ns < 1000000)       /* a millisecond: nothing has moved */
        return;
    double throttle_at = absolute_threshold(g, gpu_profile(g)->t_gpu_max) - 0.01;
    for (uint32_t ticks = 0; g->now_ns < now_ns; ticks++) {
        int64_t end = now_ns;
        evaluate(g, g->now_ns);
        bool hot = g->temperature_c >= throttle_at || steady_celsius(g, g->power_mw) >= throttle_at;
        if ((load_moves(&g->load) || hot) && ticks < MAX_TICKS) {
            int64_t tick_end = (g->now_ns / TICK_NS + 1) * TICK_NS;
            end = tick_end < now_ns ? tick_end : now_ns;
        }
        integrate(g, end - g->now_ns);
        g->now_ns = end;
    }
    evaluate(g, g->now_ns);
}

void physics_refresh(struct gpu *g)
{
    if (g->pinned_celsius != NO_LIMIT)
        g->temperature_c = g->pinned_celsius;
    evaluate(g, g->now_ns);
}
