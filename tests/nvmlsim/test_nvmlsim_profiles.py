# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Every board reads as the real one does, through pynvml."""

from __future__ import annotations

from itertools import pairwise

import pytest
from nvmlsim import run

NOT_SUPPORTED = 3
PROFILES = [line.split()[0] for line in run("profiles").splitlines()]

# name, MiB, reserved, min/default/max W, graphics and memory MHz,
# graphics clocks for each memory clock (count, highest, lowest)
BOARDS = {
    "v100": ("Tesla V100-SXM2-16GB", 16384, 240, (150, 300, 300), 1530, 877, {877: (187, 1530, 135)}),
    "t4": ("Tesla T4", 15360, 448, (60, 70, 70), 1590, 5001, {5001: (87, 1590, 300), 405: (24, 645, 300)}),
    "a100-40": ("NVIDIA A100-SXM4-40GB", 40960, 518, (100, 400, 400), 1410, 1215, {1215: (81, 1410, 210)}),
    "a100": ("NVIDIA A100-SXM4-80GB", 81920, 763, (100, 500, 500), 1410, 1593, {1593: (81, 1410, 210)}),
    "a10": ("NVIDIA A10", 23028, 526, (100, 150, 150), 1695, 6251, None),
    "a6000": ("NVIDIA RTX A6000", 46068, 450, (100, 300, 300), 2100, 8001, None),
    "l4": ("NVIDIA L4", 23034, 556, (40, 72, 72), 2040, 6251, None),
    "l40s": ("NVIDIA L40S", 46068, 609, (100, 350, 350), 2520, 9001, {9001: (155, 2520, 210), 405: (14, 405, 210)}),
    "rtx4090": (
        "NVIDIA GeForce RTX 4090", 24564, 346, (10, 450, 600), 3120, 10501,
        {10501: (194, 3120, 225), 10251: (194, 3120, 225),
         5001: (194, 3120, 225), 810: (194, 3105, 210), 405: (30, 645, 210)},
    ),
    "h100": ("NVIDIA H100 80GB HBM3", 81559, 480, (200, 700, 700), 1980, 2619,
        {2619: (110, 1980, 345), 1593: (110, 1980, 345)}),
    "h100nvl": ("NVIDIA H100 NVL", 95830, 594, (200, 310, 400), 1785, 2619, None),
    "h200": ("NVIDIA H200", 143771, 614, (200, 700, 700), 1980, 3201, None),
    "gh200": ("NVIDIA GH200 480GB", 97871, 1103, (100, 900, 900), 1980, 2619, None),
    "b200": ("NVIDIA B200", 183359, 728, (200, 1000, 1000), 1965, 3996,
        {3996: (247, 1965, 120), 3402: (247, 1965, 120)}),
    "gb200": ("NVIDIA GB200", 189471, 742, (200, 1200, 1200), 2062, 3996, {3996: (260, 2062, 120)}),
}  # fmt: skip
AMPERE_AND_OLDER = {"v100", "t4", "a100", "a100-40", "a100-400w", "a10", "a6000"}
HOPPER_AND_NEWER = {"h100", "h100nvl", "h200", "gh200", "b200", "gb200"}
WITH_MIG = {"a100", "a100-40", "a100-400w"} | HOPPER_AND_NEWER


@pytest.mark.parametrize("key", sorted(BOARDS))
def test_a_board_has_its_numbers(machine, client, key):
    name, mib, reserved, watts, graphics, memory_clock, tables = BOARDS[key]
    c = client(machine(key))
    assert c("n.nvmlDeviceGetName(h())") == name
    memory = c("n.nvmlDeviceGetMemoryInfo(h(), n.nvmlMemory_v2)")
    assert (memory["total"], memory["reserved"]) == (mib << 20, reserved << 20)
    assert memory["total"] == memory["free"] + memory["used"] + memory["reserved"]
    old = c("n.nvmlDeviceGetMemoryInfo(h())")
    assert old["used"] == memory["used"] + memory["reserved"] and old["free"] == memory["free"]
    low, default, high = (w * 1000 for w in watts)
    assert c("n.nvmlDeviceGetPowerManagementLimitConstraints(h())") == [low, high]
    assert c("n.nvmlDeviceGetPowerManagementDefaultLimit(h())") == default
    assert c("fields([187, 188, 189, 192])") == [[0, low], [0, high], [0, default], [0, default]]
    assert c("[n.nvmlDeviceGetMaxClockInfo(h(), i) for i in (0, 1, 2)]") == [graphics, graphics, memory_clock]
    supported = c(
        "{m: n.nvmlDeviceGetSupportedGraphicsClocks(h(), m) for m in n.nvmlDeviceGetSupportedMemoryClocks(h())}"
    )
    if tables:
        assert {int(m): (len(g), g[0], g[-1]) for m, g in supported.items()} == tables
    for clocks in supported.values():
        assert clocks == sorted(clocks, reverse=True) and len(set(clocks)) == len(clocks)
        assert {a - b for a, b in pairwise(clocks)} in ({15}, {7, 8})


@pytest.mark.parametrize("key", PROFILES)
def test_a_board_says_no_to_what_it_has_not(machine, client, key):
    sim = machine(key)
    c = client(sim)

    def has(call: str) -> bool:
        code = c.code(call)
        assert code in (0, NOT_SUPPORTED), f"{call}: {code}"
        return code == 0

    assert has("n.nvmlDeviceGetTemperatureThreshold(h(), 0)") == (key in AMPERE_AND_OLDER)
    assert [r == 0 for r, _ in c("fields([83, 193])")] == [True, key not in AMPERE_AND_OLDER]
    assert has("n.nvmlDeviceGetMarginTemperature(h())") == (key not in AMPERE_AND_OLDER)
    assert has("n.nvmlDeviceGetMigMode(h())") == (key in WITH_MIG)
    assert has("n.nvmlDeviceGetRemappedRows(h())") == (key not in {"v100", "t4"})
    assert has("n.nvmlDeviceGetRetiredPagesPendingStatus(h())") == (key in {"v100", "t4"})
    assert has("n.nvmlDeviceGetFanSpeed(h())") == (key in {"a10", "a6000", "rtx4090"})
    assert has("n.nvmlDeviceGetSerial(h())") == (key != "rtx4090")
    assert has("n.nvmlDeviceGetNvLinkState(h(), 0)") == (key in WITH_MIG - {"gh200"} | {"v100"})
    assert has("n.nvmlDeviceGetBAR1MemoryInfo(h())") == (key != "gh200")
    assert has("n.nvmlDeviceGetTotalEccErrors(h(), 0, 0)") == (key != "rtx4090")
    assert has("n.nvmlDeviceGetMaxCustomerBoostClock(h(), 0)") == (key not in {"rtx4090", "a6000"})
    assert has("n.nvmlDeviceGetApplicationsClock(h(), 0)") == (key != "rtx4090")
    average, instant = c("fields([185, 186])")
    assert instant[0] == 0
    assert (average[0] == 0) == (key not in {"v100", "t4", "a100", "a100-40", "a100-400w"})
    assert c("n.nvmlGpmQueryDeviceSupport(h()).isSupportedDevice") == (key in HOPPER_AND_NEWER)
    assert c.code("n.nvmlDeviceGetSupportedVgpus(h())") == NOT_SUPPORTED


def test_t_limit_offsets_and_margin(machine, client):
    c = client(machine("h100,b200,l4"))
    assert c("fields([193, 194, 195, 196])") == [[0, -8], [0, -2], [0, 0], [0, 0]]
    assert c("fields([193, 194, 196], 1)") == [[0, -5], [0, -3], [0, 0]]
    assert c("[r for r, _ in fields([193, 195], 2)]") == [0, NOT_SUPPORTED]
    temperature, margin = c("[n.nvmlDeviceGetTemperature(h(), 0), n.nvmlDeviceGetMarginTemperature(h())]")
    assert temperature + margin == 87


def test_absolute_thresholds(machine, client):
    c = client(machine("a100"))
    assert c("[n.nvmlDeviceGetTemperatureThreshold(h(), i) for i in range(4)]") == [92, 89, 95, 85]


def test_links(machine, client):
    c = client(machine("a100,h100,b200,v100"))
    assert [c(f"fields([91, (164, 0), (165, 0)], {i})") for i in range(4)] == [
        [[0, 12], [0, 25000], [0, 1]],
        [[0, 18], [0, 26562], [0, 1]],
        [[0, 18], [0, 53125], [0, 1]],
        [[0, 6], [0, 25781], [0, 1]],
    ]
    assert c.code("n.nvmlDeviceGetNvLinkState(h(), 12)") == 2
    assert c("fields([(165, 12), 83])")[0][0] == 2


def test_a_gh200_is_capped_below_what_was_asked_and_has_a_module(machine, client):
    c = client(machine("gh200"))
    assert c("[n.nvmlDeviceGetPowerManagementLimit(h()), n.nvmlDeviceGetEnforcedPowerLimit(h())]") == [900000, 700000]
    assert c("fields([190, 192, (187, 1), (188, 1), (189, 1)])") == [
        [0, 700000], [0, 900000], [0, 200000], [0, 1000000], [0, 1000000],
    ]  # fmt: skip
    assert c("[n.nvmlDeviceGetCurrPcieLinkGeneration(h()), n.nvmlDeviceGetCurrPcieLinkWidth(h())]") == [4, 1]


def test_identities_are_different_and_find_their_gpu(machine, client):
    sim = machine("h100:8,l4:2", seed=5)
    c = client(sim)
    assert c("n.nvmlDeviceGetCount()") == 10
    gpus = sim.state()["gpus"]
    for what in ("uuid", "serial", "pci_bus_id"):
        assert len({g[what] for g in gpus}) == 10
    for g in gpus:
        for find in (f"UUID('{g['uuid']}')", f"Serial('{g['serial']}')", f"PciBusId('{g['pci_bus_id']}')"):
            assert c(f"n.nvmlDeviceGetIndex(n.nvmlDeviceGetHandleBy{find})") == g["index"]
    assert c.code("n.nvmlDeviceGetHandleByUUID('GPU-00000000-0000-0000-0000-000000000000')") == 6
    assert c.code("h(10)") == 2
    assert machine("h100", seed=6).gpu()["uuid"] != gpus[0]["uuid"]
