# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Load, power, temperature, clocks and energy answer to each other and to the limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
from nvmlsim import run

PROFILES = [line.split()[0] for line in run("profiles").splitlines()]
SW_POWER_CAP, HW_SLOWDOWN, SW_THERMAL, HW_THERMAL, POWER_BRAKE = 4, 8, 0x20, 0x40, 0x80


@pytest.mark.parametrize("key", PROFILES)
def test_idle_and_full_load_look_like_the_board(machine, key):
    sim = machine(key)
    idle = sim.gpu()
    assert idle["power_usage_mw"] < 0.25 * idle["default_limit_mw"]
    assert 25 <= idle["temperature_c"] <= 40
    assert idle["clock_event_reasons"] == 1 and idle["utilization_percent"] == 0
    sim("set-load", 0, 1)
    sim.advance(300)
    full = sim.gpu()
    assert 0.95 * full["enforced_limit_mw"] < full["power_usage_mw"] <= full["enforced_limit_mw"]
    assert 60 <= full["temperature_c"] <= 82
    assert full["utilization_percent"] == 100
    assert 0.8 * full["max_graphics_clock_mhz"] < full["graphics_clock_mhz"] <= full["max_graphics_clock_mhz"]
    assert full["clock_event_reasons"] == SW_POWER_CAP
    assert full["memory_used_bytes"] > 0.5 * full["memory_total_bytes"]
    sim("set-load", 0, "idle")
    sim.advance(300)
    again = sim.gpu()
    assert again["temperature_c"] == idle["temperature_c"] and again["power_usage_mw"] == idle["power_usage_mw"]


@pytest.mark.parametrize("key", PROFILES)
@pytest.mark.parametrize("load", ["0.3", "1.0", "training", "inference", "sine", "square"])
def test_power_never_exceeds_the_limit(machine, client, key, load):
    sim = machine(key, load=load)
    idle_mw = machine(key).gpu()["power_usage_mw"]
    low = sim.gpu()["min_limit_mw"]
    client(sim)(f"n.nvmlDeviceSetPowerManagementLimit(h(), {low})")
    for _ in range(5):
        sim.advance(3.1)
        assert sim.gpu()["power_instant_mw"] <= max(low, idle_mw)


def test_a_lower_limit_lowers_clocks_and_power(machine, client):
    sim = machine(load="0.9")
    c = client(sim)
    free = sim.gpu()
    assert free["clock_event_reasons"] == 0 and free["graphics_clock_mhz"] == 1980
    began = sim.gpu()["uptime_s"]
    c("n.nvmlDeviceSetPowerManagementLimit(h(), 400000)")
    sim.advance(5)
    capped = sim.gpu()
    assert 380000 < capped["power_usage_mw"] <= 400000
    assert capped["graphics_clock_mhz"] < 1700
    assert c("n.nvmlDeviceGetCurrentClocksEventReasons(h())") == SW_POWER_CAP
    ns = c("fields([74])")[0][1]
    assert 4.9e9 < ns <= (sim.gpu()["uptime_s"] - began) * 1e9
    assert c("n.nvmlDeviceGetViolationStatus(h(), 0)")["violationTime"] >= ns


def test_locked_clocks_hold_under_load_and_at_idle(machine, client):
    sim = machine(load="0.5")
    c = client(sim)
    c("n.nvmlDeviceSetGpuLockedClocks(h(), 1003, 1003)")
    assert c("n.nvmlDeviceGetClockInfo(h(), 0)") == 1005
    sim("set-load", 0, 0)
    assert c("n.nvmlDeviceGetClockInfo(h(), 0)") == 1005
    c("n.nvmlDeviceResetGpuLockedClocks(h())")
    assert c("n.nvmlDeviceGetClockInfo(h(), 0)") == 345
    c("n.nvmlDeviceSetMemoryLockedClocks(h(), 1500, 1600)")
    assert c("n.nvmlDeviceGetClockInfo(h(), 2)") == 1593


def test_energy_is_the_integral_of_power(machine, client):
    sim = machine(load="0.7")
    sim.advance(5)
    before = sim.gpu()
    sim.advance(100)
    after = sim.gpu()
    seconds = after["uptime_s"] - before["uptime_s"]
    assert after["energy_mj"] - before["energy_mj"] == pytest.approx(seconds * after["power_instant_mw"], abs=2)
    assert client(sim)("n.nvmlDeviceGetTotalEnergyConsumption(h())") >= after["energy_mj"]


@pytest.mark.parametrize("load", ["training", "inference", "sine:0.8:3", "square"])
def test_energy_does_not_depend_on_who_looks_when(machine, load):
    often, once = machine(load=load), machine(load=load)
    for sim in (often, once):
        sim("set-load", 0, load)
    started = often.gpu()["uptime_s"] - once.gpu()["uptime_s"]
    last = -1
    for _ in range(40):
        often.advance(0.5)
        now = often.gpu()["energy_mj"]
        assert now >= last
        last = now
    once.advance(20)
    a, b = often.gpu(), once.gpu()
    # the two were started a little apart and read a little apart: at most that many seconds of full power
    slack = abs(a["uptime_s"] - b["uptime_s"]) + abs(started) + 0.3
    assert abs(a["energy_mj"] - b["energy_mj"]) < slack * 700_000


def test_temperature_follows_power_with_delay(machine):
    sim = machine()
    sim("set-load", 0, 1)
    temperatures = []
    for _ in range(4):
        sim.advance(10)
        temperatures.append(sim.gpu()["temperature_exact_c"])
    steps = [b - a for a, b in pairwise(temperatures)]
    assert all(s > 0 for s in steps) and steps == sorted(steps, reverse=True)


def test_a_hot_room_throttles(machine, client):
    sim = machine(load="1.0")
    sim("set-ambient", 0, 55)
    sim.advance(300)
    g = sim.gpu()
    assert 84 <= g["temperature_c"] <= 88
    assert g["clock_event_ns"]["sw_thermal"] > 1e9
    sim("set-temp", 0, 95)
    c = client(sim)
    assert c("n.nvmlDeviceGetCurrentClocksEventReasons(h())") & (HW_SLOWDOWN | HW_THERMAL) == HW_SLOWDOWN | HW_THERMAL
    assert c("n.nvmlDeviceGetTemperature(h(), 0)") == 95
    assert c("n.nvmlDeviceGetMarginTemperature(h())") == -8
    assert c("n.nvmlDeviceGetClockInfo(h(), 0)") <= 990


def test_reported_power_is_an_average_where_the_board_averages(machine, client):
    sim = machine("h100,a100")
    c = client(sim)
    sim("set-load", "all", 1)
    averaged, instant = c("[n.nvmlDeviceGetPowerUsage(h(0)), fields([186])[0][1]]")
    assert averaged < instant
    assert c("n.nvmlDeviceGetPowerUsage(h(1))") == c("fields([186], 1)")[0][1] > 450000


def test_links_and_pcie_carry_more_under_load(machine, client):
    sim = machine()
    c = client(sim)
    sim.advance(10)
    assert c("fields([(138, 0), (139, 0)])") == [[0, 0], [0, 0]]
    idle_pcie = c("fields([198])")[0][1]
    sim("inject", "nvlink", 0, 3, "down")
    began = sim.gpu()["uptime_s"]
    sim("set-load", 0, 0.8)
    sim.advance(10)
    one, three, total = c("[v for _, v in fields([(138, 1), (138, 3), (138, 0xFFFFFFFF)])]")
    assert 10 * 0.95 < one * 1024 / (0.8 * 0.3 * 26562e6) < (sim.gpu()["uptime_s"] - began) * 1.05
    assert three < one / 100 and total == pytest.approx(17 * one, rel=0.01)
    assert c("fields([198])")[0][1] > 100 * idle_pcie
    before = c("time.monotonic()")
    assert c("n.nvmlDeviceGetPcieThroughput(h(), 1)") > 1_000_000
    assert c("time.monotonic()") - before >= 0.02


def test_p8_boards_idle_low(machine, client):
    sim = machine("l4")
    c = client(sim)
    look = "[n.nvmlDeviceGet" + ", n.nvmlDeviceGet".join(
        ("PerformanceState(h())", "ClockInfo(h(), 2)", "CurrPcieLinkGeneration(h())]")
    )
    assert c(look) == [8, 405, 1]
    sim("set-load", 0, 0.5)
    assert c(look) == [0, 6251, 4]


def test_gpm(machine, client):
    sim = machine("h100,a100", load="0.6")
    c = client(sim)
    c("a, b = n.nvmlGpmSampleAlloc(), n.nvmlGpmSampleAlloc()")
    c("n.nvmlGpmSampleGet(h(), a)")
    sim.advance(1)
    c("n.nvmlGpmSampleGet(h(), b)")
    c(
        "get = n.c_nvmlGpmMetricsGet_t(); get.version = 1; get.numMetrics = 5; get.sample1, get.sample2 = a, b\n"
        "for i, m in enumerate((1, 2, 10, 60, 333)): get.metrics[i].metricId = m\n"
        "n.nvmlGpmMetricsGet(get)"
    )
    codes = c("[get.metrics[i].nvmlReturn for i in range(5)]")
    values = c("[get.metrics[i].value for i in range(4)]")
    assert codes == [0, 0, 0, 0, 3]
    assert values[0] == pytest.approx(60, rel=0.01) and 50 < values[1] < 60 and 30 < values[2] < 60 and values[3] > 1000
    c("get.sample1, get.sample2 = b, a")
    assert c.code("n.nvmlGpmMetricsGet(get)") == 2
    assert c.code("n.nvmlGpmSampleGet(h(1), a)") == 3
    c("n.nvmlGpmSampleFree(a); n.nvmlGpmSampleFree(b)")


def test_samples(machine, client):
    sim = machine(load="0.5")
    c = client(sim)
    kind, samples = c(
        "(lambda r: [r[0], [[s.timeStamp, s.sampleValue.uiVal] for s in r[1]]])(n.nvmlDeviceGetSamples(h(), 1, 0))"
    )
    assert kind == 1 and len(samples) == 20 and {v for _, v in samples} == {50}
    assert [t for t, _ in samples] == sorted(t for t, _ in samples)
    assert c.code(f"n.nvmlDeviceGetSamples(h(), 1, {samples[-1][0] + 10**12})") == 6
