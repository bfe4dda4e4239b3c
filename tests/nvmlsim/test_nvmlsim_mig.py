# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""MIG: profiles, placements, instances, their devices."""

from __future__ import annotations

import pytest

INVALID, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, IN_USE, NO_RESOURCES = 2, 3, 4, 6, 19, 23

HELPERS = """
def placements(profile):
    count = ctypes.c_uint(0)
    n.nvmlDeviceGetGpuInstancePossiblePlacements(h(), profile, None, ctypes.byref(count))
    array = (n.c_nvmlGpuInstancePlacement_t * count.value)()
    n.nvmlDeviceGetGpuInstancePossiblePlacements(h(), profile, array, ctypes.byref(count))
    return [(p.start, p.size) for p in array]
def instances(profile):
    count = ctypes.c_uint(0)
    array = (n.c_nvmlGpuInstance_t * 8)()
    n.nvmlDeviceGetGpuInstances(h(), profile, array, ctypes.byref(count))
    return [n.nvmlGpuInstanceGetInfo(array[i]) for i in range(count.value)]
def create(profile, start=None):
    if start is None: return n.nvmlDeviceCreateGpuInstance(h(), profile)
    return n.nvmlDeviceCreateGpuInstanceWithPlacement(h(), profile, ctypes.byref(at(profile, start)))
def at(profile, start):
    p = n.c_nvmlGpuInstancePlacement_t()
    p.start, p.size = start, {19: 1, 20: 1, 15: 2, 14: 2, 9: 4, 5: 4, 0: 8}[profile]
    return p
def mig(i): return n.nvmlDeviceGetMigDeviceHandleByIndex(h(), i)
"""


@pytest.fixture
def a100(machine, client):
    sim = machine("a100")
    sim("mig", "mode", 0, "on")
    c = client(sim)
    c(HELPERS)
    return sim, c


def test_profiles_and_placements(a100):
    _, c = a100
    names = [c(f"n.nvmlDeviceGetGpuInstanceProfileInfo(h(), {i}).name") for i in (0, 7, 9, 1, 2, 3, 4)]
    assert names == ["1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"]
    info = c("n.nvmlDeviceGetGpuInstanceProfileInfo(h(), 2)")
    assert (info["id"], info["sliceCount"], info["instanceCount"], info["multiprocessorCount"]) == (9, 3, 2, 42)
    assert c("placements(9)") == [[0, 4], [4, 4]]
    assert c("placements(14)") == [[0, 2], [2, 2], [4, 2]]
    assert c("placements(19)") == [[i, 1] for i in range(7)]
    assert c("placements(0)") == [[0, 8]]
    assert c.code("n.nvmlDeviceGetGpuInstanceProfileInfo(h(), 6)") == NOT_SUPPORTED


def test_a_layout_is_made_and_taken_down(a100):
    sim, c = a100
    assert [c(f"n.nvmlDeviceGetGpuInstanceRemainingCapacity(h(), {p})") for p in (0, 9, 19)] == [1, 2, 7]
    c("big = create(9); small = create(14)")
    assert [c(f"n.nvmlDeviceGetGpuInstanceRemainingCapacity(h(), {p})") for p in (0, 9, 14, 19)] == [0, 0, 0, 1]
    assert c.code("create(0)") == NO_RESOURCES
    assert c("n.nvmlGpuInstanceGetComputeInstanceProfileInfo(big, 0, 0).name") == "1c.3g.40gb"
    assert c("n.nvmlGpuInstanceGetComputeInstanceProfileInfo(big, 2, 0).name") == "3g.40gb"
    c("whole = n.nvmlGpuInstanceCreateComputeInstance(big, 2); one = n.nvmlGpuInstanceCreateComputeInstance(small, 0)")
    assert c.code("n.nvmlGpuInstanceCreateComputeInstance(big, 0)") == NO_RESOURCES
    assert [x["profileId"] for x in c("instances(9)")] == [9]
    shown = sim.gpu()["gpu_instances"]
    assert [(g["name"], g["start"], [i["slices"] for i in g["compute_instances"]]) for g in shown] == [
        ("3g.40gb", 0, [3]), ("2g.20gb", 4, [1]),
    ]  # fmt: skip
    assert c.code("n.nvmlGpuInstanceDestroy(big)") == IN_USE
    c("n.nvmlComputeInstanceDestroy(whole); n.nvmlGpuInstanceDestroy(big)")
    assert c.code("n.nvmlGpuInstanceGetInfo(big)") == INVALID
    assert c("instances(9)") == []
    assert c("n.nvmlDeviceGetGpuInstanceRemainingCapacity(h(), 9)") == 1


def test_placement_is_kept_to(a100):
    _, c = a100
    c("create(9, 4)")
    assert c.code("create(9, 4)") == NO_RESOURCES
    assert c.code("create(9, 2)") == NO_RESOURCES
    assert c("instances(9)[0].placement.start") == 4
    assert c("instances(9)[0].id") == 1
    assert c.code("create(14, 4)") == NO_RESOURCES
    c("create(14, 2)")


def test_mig_devices(a100):
    sim, c = a100
    sim("mig", "create", 0, "3g.40gb,1g.10gb")
    assert c("n.nvmlDeviceGetMaxMigDeviceCount(h())") == 7
    assert c("[n.nvmlDeviceGetGpuInstanceId(mig(i)) for i in (0, 1)]") == [2, 13]
    assert c.code("mig(2)") == NOT_FOUND
    assert c("[n.nvmlDeviceIsMigDeviceHandle(x) for x in (h(), mig(0))]") == [0, 1]
    uuids = c("[n.nvmlDeviceGetUUID(mig(i)) for i in (0, 1)]")
    assert len(set(uuids)) == 2 and all(u.startswith("MIG-") for u in uuids)
    assert c(f"n.nvmlDeviceGetGpuInstanceId(n.nvmlDeviceGetHandleByUUID('{uuids[1]}'))") == 13
    assert c("n.nvmlDeviceGetName(mig(0))") == "NVIDIA A100-SXM4-80GB MIG 3g.40gb"
    assert c("n.nvmlDeviceGetMemoryInfo(mig(1)).total") == 9728 << 20
    attributes = c("n.nvmlDeviceGetAttributes(mig(0))")
    assert (attributes["multiprocessorCount"], attributes["gpuInstanceSliceCount"], attributes["memorySizeMB"]) == (
        42,
        3,
        40192,
    )
    assert c("n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig(0)))") == sim.gpu()["uuid"]
    sim("process", "add", 0, 4000000007, "--memory", 100, "--gpu-instance", 13, "--compute-instance", 0)
    assert c("[len(n.nvmlDeviceGetComputeRunningProcesses(x)) for x in (h(), mig(0), mig(1))]") == [1, 0, 1]
    assert c.code("n.nvmlDeviceGetPowerUsage(mig(0))") == NOT_SUPPORTED


def test_what_mig_takes_away(a100):
    _, c = a100
    for call in (
        "UtilizationRates(h())", "RemappedRows(h())", "TotalEccErrors(h(), 0, 0)", "Samples(h(), 1, 0)",
        "AccountingPids(h())",
    ):  # fmt: skip
        assert c.code(f"n.nvmlDeviceGet{call}") == NOT_SUPPORTED
    assert c("n.nvmlDeviceGetTotalEccErrors(h(), 0, 1)") == 0
    assert c("n.nvmlDeviceGetPowerUsage(h())") > 0
    assert c.code("n.nvmlDeviceSetComputeMode(h(), 3)") == NOT_SUPPORTED


def test_rules(machine, client):
    sim = machine("h100,l4")
    c = client(sim)
    c(HELPERS)
    assert c.code("create(9)") == NOT_SUPPORTED
    assert c.code("n.nvmlDeviceSetMigMode(h(1), 1)") == NOT_SUPPORTED
    assert c("n.nvmlDeviceSetMigMode(h(), 1)") == 0
    sim("pretend-uid", 1000)
    assert c.code("create(9)") == NO_PERMISSION
    sim("pretend-uid", 0)
    assert c.code("create(77)") == INVALID
    c("create(9)")
    assert c("n.nvmlDeviceSetMigMode(h(), 0)") == IN_USE
    assert c("n.nvmlDeviceGetMigMode(h())") == [1, 0]
    c.close()
    sim("reset", 0)
    assert (sim.gpu()["mig_current"], sim.gpu()["gpu_instances"]) == (0, [])


def test_mig_mode_outlives_a_reboot_on_ampere_alone(machine):
    sim = machine("a100,h100")
    sim("mig", "mode", "all", "on")
    sim("mig", "create", "all", "7g.80gb")
    sim("reboot")
    assert [(g["mig_current"], g["gpu_instances"]) for g in sim.state()["gpus"]] == [(1, []), (0, [])]
