/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* killed_holder STATE die: takes every lock and is killed. killed_holder STATE check: all of them can be had. */
#include "sim.h"

#include <signal.h>
#include <string.h>

int main(int argc, char **argv)
{
    char error[5000];
    int fd;
    struct state *s = argc == 3 ? state_open(argv[1], &fd, error, sizeof error) : NULL;
    if (!s)
        return 2;
    for (int round = 0; round < 2; round++) {
        state_lock(s);
        for (uint32_t i = 0; i < s->gpu_count; i++)
            gpu_lock(&s->gpus[i]);
        events_lock(s);
        if (strcmp(argv[2], "die") == 0)
            raise(SIGKILL);
        events_unlock(s);
        for (uint32_t i = 0; i < s->gpu_count; i++)
            gpu_unlock(&s->gpus[i]);
        state_unlock(s);
    }
    /* after the second round a lock that was not made whole again could not be had */
    for (uint32_t i = 0; i < s->gpu_count; i++)
        if (pthread_mutex_lock(&s->gpus[i].lock))
            return 1;
    return pthread_mutex_lock(&s->lock) || pthread_mutex_lock(&s->event_lock);
}
