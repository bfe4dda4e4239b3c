/* SPDX-License-Identifier: GPL-3.0-or-later */
/* Copyright: the esnode authors */
/* A C program that links against libnvidia-ml.so.1 with prototypes of its own, old names and new ones. */
#include <stdio.h>
#include <string.h>

typedef void *device_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_v3;
typedef struct { char bus_id[16]; unsigned domain, bus, device, id, subsystem, reserved[4]; } pci_v2;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; unsigned long long memory; } process_v1;
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } process_v2;

int nvmlInit(void), nvmlInit_v2(void), nvmlInitWithFlags(unsigned), nvmlShutdown(void);
const char *nvmlErrorString(int);
int nvmlDeviceGetCount(unsigned *), nvmlDeviceGetCount_v2(unsigned *);
int nvmlDeviceGetHandleByIndex(unsigned, device_t *), nvmlDeviceGetHandleByIndex_v2(unsigned, device_t *);
int nvmlDeviceGetName(device_t, char *, unsigned);
int nvmlDeviceGetPciInfo(device_t, pci_v2 *), nvmlDeviceGetPciInfo_v3(device_t, pci_v3 *);
int nvmlDeviceGetMemoryInfo_v2(device_t, memory_v2 *);
int nvmlDeviceGetComputeRunningProcesses(device_t, unsigned *, process_v1 *);
int nvmlDeviceGetComputeRunningProcesses_v3(device_t, unsigned *, process_v2 *);
int nvmlDeviceGetSupportedGraphicsClocks(device_t, unsigned, unsigned *, unsigned *);
int nvmlDeviceGetPowerUsage(device_t, unsigned *);

static int failures;

static void is(const char *what, long long got, long long want)
{
    if (got != want) {
        printf("%s: %lld, not %lld\n", what, got, want);
        failures++;
    }
}

int main(void)
{
    unsigned n = 0, clocks[200];
    device_t d, d2;
    char name[96];
    pci_v2 old;
    pci_v3 pci;
    memory_v2 memory;
    process_v1 p1[4];
    process_v2 p2[4];

    is("a call before init", nvmlDeviceGetCount(&n), 1);
    is("init", nvmlInit(), 0);
    is("init again", nvmlInit_v2(), 0);
    is("an init flag that does not exist", nvmlInitWithFlags(64), 2);
    is("count", nvmlDeviceGetCount(&n), 0);
    is("GPUs", n, 2);
    is("handle", nvmlDeviceGetHandleByIndex(1, &d), 0);
    is("handle_v2", nvmlDeviceGetHandleByIndex_v2(1, &d2), 0);
    is("the same", d == d2, 1);
    is("name, short", nvmlDeviceGetName(d, name, 5), 7);
    is("name", nvmlDeviceGetName(d, name, sizeof name), 0);
    is("name is", strcmp(name, "NVIDIA L4"), 0);
    is("no handle", nvmlDeviceGetName(NULL, name, sizeof name), 2);
    is("a foreign handle", nvmlDeviceGetName((device_t)&n, name, sizeof name), 2);
    is("no buffer", nvmlDeviceGetPowerUsage(d, NULL), 2);
    is("pci", nvmlDeviceGetPciInfo(d, &old), 0);
    is("short bus id", strcmp(old.bus_id, "0000:43:00.0"), 0);
    is("pci_v3", nvmlDeviceGetPciInfo_v3(d, &pci), 0);
    is("long bus id", strcmp(pci.bus_id, "00000000:43:00.0"), 0);
    is("pci id", pci.id, 0x27B810DE);
    memory.version = sizeof memory | 1 << 24;
    is("memory, wrong version", nvmlDeviceGetMemoryInfo_v2(d, &memory), 25);
    memory.version = sizeof memory | 2 << 24;
    is("memory", nvmlDeviceGetMemoryInfo_v2(d, &memory), 0);
    n = 0;
    is("two processes into nothing", nvmlDeviceGetComputeRunningProcesses(d, &n, NULL), 7);
    is("their count", n, 2);
    n = 1;
    is("into one", nvmlDeviceGetComputeRunningProcesses_v3(d, &n, p2), 7);
    n = 4;
    is("into four", nvmlDeviceGetComputeRunningProcesses(d, &n, p1), 0);
    is("count again", n, 2);
    is("old layout", p1[1].pid, 4000000002u);
    n = 4;
    is("v3 into four", nvmlDeviceGetComputeRunningProcesses_v3(d, &n, p2), 0);
    is("new layout", p2[1].pid, 4000000002u);
    is("no instance", p2[1].gi, 0xFFFFFFFFu);
    n = 0;
    is("no processes", nvmlDeviceGetHandleByIndex(0, &d2), 0);
    is("is success with count 0", nvmlDeviceGetComputeRunningProcesses_v3(d2, &n, NULL), 0);
    n = 0;
    is("clocks", nvmlDeviceGetSupportedGraphicsClocks(d, 6251, &n, NULL), 7);
    is("their count", n, 123);
    is("clocks", nvmlDeviceGetSupportedGraphicsClocks(d, 6251, &n, clocks), 0);
    is("unknown memory clock", nvmlDeviceGetSupportedGraphicsClocks(d, 1, &n, clocks), 6);
    is("error string", strcmp(nvmlErrorString(15), "GPU is lost"), 0);
    is("shutdown", nvmlShutdown(), 0);
    is("still up", nvmlDeviceGetCount_v2(&n), 0);
    is("shutdown", nvmlShutdown(), 0);
    is("one too many", nvmlShutdown(), 1);
    return failures != 0;
}
