# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Every fault that can be injected is what a process reads through pynvml, and only on its GPU."""

from __future__ import annotations

import time

import pytest

LOST, RESET_REQUIRED, UNKNOWN = 15, 16, 999


def test_ecc(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    sim("inject", "ecc", 0, "corrected", 7)
    sim("inject", "ecc", 0, "uncorrected", 2, "--location", "sram", "--parity")
    assert c("[[n.nvmlDeviceGetTotalEccErrors(h(), k, t) for k in (0, 1)] for t in (0, 1)]") == [[7, 2], [7, 2]]
    assert c("[v for _, v in fields([3, 4, 5, 6])]") == [7, 2, 7, 2]
    assert c("[n.nvmlDeviceGetMemoryErrorCounter(h(), 1, 0, where) for where in (2, 7)]") == [0, 2]
    assert c("n.nvmlDeviceGetTotalEccErrors(h(1), 0, 0)") == 0
    c("status = n.c_nvmlEccSramErrorStatus_v1_t(); status.version = n.nvmlEccSramErrorStatus_v1")
    assert c("call('nvmlDeviceGetSramEccErrorStatus', h(), ctypes.byref(status))") == 0
    assert c("[status.aggregateUncParity, status.aggregateUncSecDed, status.volatileUncParity]") == [2, 0, 2]
    c("n.nvmlDeviceClearEccErrorCounts(h(), 0)")
    assert c("[v for _, v in fields([3, 4, 5, 6])]") == [0, 0, 7, 2]
    sim("inject", "ecc", 0, "corrected", 1)
    c.close()
    sim("reload-driver")
    assert sim.gpu()["ecc_errors"]["volatile"]["corrected"]["total"] == 0
    assert sim.gpu()["ecc_errors"]["aggregate"]["corrected"]["total"] == 8


def test_rows(machine, client):
    sim = machine()
    c = client(sim)
    sim("inject", "remap", 0, "corrected", 3)
    sim("inject", "remap", 0, "uncorrected", 1, "--pending", "--failed")
    assert c("n.nvmlDeviceGetRemappedRows(h())") == [3, 1, 1, 1]
    assert [v for _, v in c("fields([142, 143, 144, 145])")] == [3, 1, 1, 1]
    histogram = c("n.nvmlDeviceGetRowRemapperHistogram(h())")
    assert histogram == {"max": 2556, "high": 3, "partial": 0, "low": 0, "none": 1}
    c("n.nvmlShutdown()")
    sim("reset", 0)
    c("n.nvmlInit()")
    assert c("n.nvmlDeviceGetRemappedRows(h())") == [3, 1, 0, 1]


def test_pages(machine, client):
    sim = machine("v100")
    c = client(sim)
    sim("inject", "retired-page", 0, "single", "0x5000")
    sim("inject", "retired-page", 0, "double", "--pending")
    pages = c("n.nvmlDeviceGetRetiredPages_v2(h(), 0)")
    assert [p["address"] for p in pages] == [0x5000] and pages[0]["timestamp"] > 1.6e15
    assert c("n.nvmlDeviceGetRetiredPages(h(), 1)") == []
    assert c("n.nvmlDeviceGetRetiredPagesPendingStatus(h())") == 1
    assert [v for _, v in c("fields([29, 30, 31, 92, 93])")] == [1, 0, 1, 0, 1]
    c.close()
    sim("reboot")
    assert sim.gpu()["retired_pages"] == {"single_bit": 1, "double_bit": 1, "pending": False}
    with pytest.raises(Exception, match="remaps rows"):
        machine("h100")("inject", "retired-page", 0, "single")


def test_links(machine, client):
    sim = machine()
    c = client(sim)
    sim("inject", "nvlink", 0, 5, "down")
    sim("inject", "nvlink-errors", 0, 4, "crc_flit", 12)
    sim("inject", "nvlink-errors", 0, 4, "replay", 3)
    assert c("[n.nvmlDeviceGetNvLinkState(h(), i) for i in (4, 5)]") == [1, 0]
    assert c("fields([(165, 5), (164, 5), (161, 4), (163, 4), 38, 36])") == [
        [0, 0],
        [0, 0],
        [0, 3],
        [0, 12],
        [0, 12],
        [0, 12],
    ]
    assert c("[n.nvmlDeviceGetNvLinkErrorCounter(h(), 4, k) for k in range(5)]") == [3, 0, 12, 0, 0]
    c("n.nvmlDeviceResetNvLinkErrorCounters(h(), 4)")
    assert c("n.nvmlDeviceGetNvLinkErrorCounter(h(), 4, 2)") == 0
    sim("inject", "nvlink", 0, 5, "up")
    assert c("n.nvmlDeviceGetNvLinkState(h(), 5)") == 1


def test_pcie(machine, client):
    sim = machine()
    c = client(sim)
    sim("inject", "pcie", 0, "--gen", 3, "--width", 8)
    sim("inject", "pcie-errors", 0, "replay", 40)
    sim("inject", "pcie-errors", 0, "bad_tlp", 6)
    assert c(
        "[n.nvmlDeviceGetCurrPcieLinkGeneration(h()), n.nvmlDeviceGetCurrPcieLinkWidth(h()),"
        " n.nvmlDeviceGetPcieReplayCounter(h())]"
    ) == [3, 8, 40]
    assert c("[n.nvmlDeviceGetMaxPcieLinkGeneration(h()), n.nvmlDeviceGetMaxPcieLinkWidth(h())]") == [5, 16]
    assert [v for _, v in c("fields([94, 176])")] == [40, 6]


def test_throttle(machine, client):
    sim = machine(load="0.9")
    c = client(sim)
    for reason, bits, field in (
        ("hw_thermal", 0x48, 270),
        ("power_brake", 0x88, 271),
        ("sw_thermal", 0x20, 269),
        ("sync_boost", 0x10, 76),
    ):
        before = c(f"fields([{field}])")[0][1]
        began = sim.gpu()["uptime_s"]
        sim("inject", "throttle", 0, reason)
        assert c("n.nvmlDeviceGetCurrentClocksEventReasons(h())") == bits
        assert c("n.nvmlDeviceGetClockInfo(h(), 0)") < 1900
        sim.advance(2)
        ns = c(f"fields([{field}])")[0][1] - before
        assert 2e9 <= ns <= (sim.gpu()["uptime_s"] - began) * 1e9
        sim("inject", "throttle", 0, reason, "--off")
        assert c("n.nvmlDeviceGetCurrentClocksEventReasons(h())") == 0


def test_recovery_action(machine, client):
    sim = machine()
    sim("inject", "recovery", 0, 2)
    assert client(sim)("fields([230])") == [[0, 2]]
    sim("reboot")
    assert sim.gpu()["recovery_action"] == 0


def test_a_lost_gpu(machine, client):
    sim = machine("h100:3")
    c = client(sim)
    c("gpu = h(1)")
    sim("lose", 1)
    for call in ("PowerUsage(gpu)", "Name(gpu)", "UtilizationRates(gpu)", "FieldValues(gpu, [83])", "HandleByIndex(1)"):
        assert c.code(f"n.nvmlDeviceGet{call}") == LOST
    assert c.code("n.nvmlDeviceSetPowerManagementLimit(gpu, 500000)") == LOST
    assert c("[n.nvmlDeviceGetCount(), n.nvmlDeviceGetPowerUsage(h(2)) > 0]") == [3, 1]
    sim("restore", 1)
    assert c("n.nvmlDeviceGetPowerUsage(gpu)") > 0
    sim("lose", 1, "--vanish")
    assert c("n.nvmlDeviceGetCount()") == 2
    assert c("n.nvmlDeviceGetUUID(h(1))") == sim.gpu(2)["uuid"]
    c.close()
    sim("reboot")
    assert client(sim)("n.nvmlDeviceGetCount()") == 3


def test_reset_required(machine, client):
    sim = machine()
    c = client(sim)
    sim("inject", "xid", 0, 95, "--reset-required", "--recovery", 1)
    assert c.code("n.nvmlDeviceGetPowerUsage(h())") == RESET_REQUIRED
    c("n.nvmlShutdown()")
    sim("reset", 0)
    c("n.nvmlInit()")
    assert c("n.nvmlDeviceGetPowerUsage(h())") > 0
    assert sim.gpu()["last_xid"] is None


def test_forced_codes(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    always = sim("fail", "nvmlDeviceGetTemperature", 999, "--gpu", 1).strip()
    sim("fail", "nvmlDeviceGetUtilizationRates", 4, "--times", 2)
    assert [c.code(f"n.nvmlDeviceGetTemperature(h({i}), 0)") for i in (0, 1, 1, 1)] == [0, UNKNOWN, UNKNOWN, UNKNOWN]
    assert [c.code("n.nvmlDeviceGetUtilizationRates(h())") for _ in range(4)] == [4, 4, 0, 0]
    sim("clear", always)
    assert c.code("n.nvmlDeviceGetTemperature(h(1), 0)") == 0
    sim("fail", "nvmlDeviceGetCount", 17)
    assert c.code("n.nvmlDeviceGetCount()") == 17
    sim("fail", "nvmlDeviceGetHandleByIndex_v2", 4, "--gpu", 1)
    assert [c.code(f"h({i})") for i in (0, 1)] == [0, 4]
    sim("clear", "faults")
    assert c.code("n.nvmlDeviceGetCount()") == 0
    sim("fail", "nvmlDeviceGetName", 15, "--after", 2, "--times", 1)
    assert [c.code("n.nvmlDeviceGetName(h())") for _ in range(4)] == [0, 0, 15, 0]
    sim("clear", "faults")
    sim("fail", "nvmlInit*", 18)
    assert client(sim, init=False).code("n.nvmlInit()") == 18
    with pytest.raises(Exception, match="no function"):
        sim("fail", "nvmlDeviceGetTempratur", 3)


def test_a_forced_code_is_used_up_once_a_call(machine, client):
    sim = machine()
    c = client(sim)
    for call in ("PcieThroughput(h(), 0)", f"HandleByUUID('{sim.gpu()['uuid']}')", "FieldValues(h(), [83])"):
        sim("fail", f"nvmlDeviceGet{call.split('(')[0]}", 999, "--times", 2)
        assert [c.code(f"n.nvmlDeviceGet{call}") for _ in range(3)] == [999, 999, 0]


def test_a_hang_keeps_only_its_caller(machine, client):
    sim = machine("h100:4")
    stuck, free = client(sim), client(sim)
    sim("hang", "nvmlDeviceGetPowerUsage", "forever", "--gpu", 3)
    stuck.send("n.nvmlDeviceGetPowerUsage(h(3))")
    time.sleep(0.1)
    started = time.monotonic()
    assert (
        free("[n.nvmlDeviceGetPowerUsage(h(i)) > 0 for i in range(3)] + [n.nvmlDeviceGetTemperature(h(3), 0) > 0]")
        == [1] * 4
    )
    sim("show")
    assert time.monotonic() - started < 5
    sim("clear", "faults")
    assert stuck.receive() > 0


def test_a_hang_lasts_as_long_as_asked(machine, client):
    sim = machine()
    c = client(sim)
    sim("hang", "nvmlDeviceGetName", 2, "--times", 1)
    took = "(lambda a, _, b: b - a)(time.monotonic(), n.nvmlDeviceGetName(h()), time.monotonic())"
    assert 2 <= c(took) < 20
    assert c(took) < 2


def test_clear_makes_it_healthy_again(machine):
    sim = machine()
    healthy = sim.gpu()
    sim("inject", "ecc", 0, "uncorrected", 4)
    sim("inject", "remap", 0, "corrected", 3)
    sim("inject", "nvlink", 0, "all", "down")
    sim("inject", "throttle", 0, "hw_thermal")
    sim("lose", 0)
    sim("clear", "all")
    again = sim.gpu()
    for key in ("ecc_errors", "remapped_rows", "nvlinks", "clock_event_reasons", "lost", "last_xid"):
        assert again[key] == healthy[key]
