# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Every series of every board, right to the unit, against the simulator's own state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import nvmlsim
import pytest
from esnode.collect import _gpu_device, gpu
from esnode.snapshot import Reading
from reading import GPM, assert_equal, expected, given

PROFILES = [line.split()[0] for line in nvmlsim.run("profiles").splitlines() if line.strip()]
Machine = Callable[..., nvmlsim.Simulator]
Collector = Callable[..., gpu.Gpu]

pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is read at each run."""
    monkeypatch.setattr(_gpu_device, "HEALTH_S", 0.0)
    monkeypatch.setattr(_gpu_device, "STATIC_S", 0.0)


def check(
    sim: nvmlsim.Simulator, collector: gpu.Gpu, change: Callable[[dict[Any, float]], Any] = lambda v: v
) -> Reading:
    """Compare every GPU with the state just before and just after."""
    before = sim.state()
    reading = collector.collect()
    after = sim.state()
    assert reading.errors == []
    for index, one in enumerate(before["gpus"]):
        got = given(reading.samples, one["uuid"])
        got = {k: v for k, v in got.items() if k[0] not in GPM and k[0] != "gpu_dram_active_ratio"}
        wanted = [expected(state, index) for state in (before, after)]
        for values in wanted:
            change(values)
        assert_equal(got, *wanted)
    return reading


@pytest.mark.parametrize("profile", PROFILES)
def test_every_board_under_load(machine: Machine, collector: Collector, profile: str) -> None:
    sim = machine(f"{profile}:2", load="0.7")
    sim.advance(300)
    check(sim, collector())


def test_errors_and_settings_right_to_the_unit(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:2,a100:1,b200:1,v100:1", load="0.5")
    sim.advance(120)
    one = collector()
    check(sim, one)
    for gpu_index in (0, 2, 3, 4):
        sim("inject", "ecc", gpu_index, "corrected", 7)
        sim("inject", "ecc", gpu_index, "uncorrected", 2)
        sim("inject", "pcie-errors", gpu_index, "replay", 41)
        for kind, count in (("replay", 3), ("recovery", 5), ("crc_flit", 11), ("crc_data", 13)):
            sim("inject", "nvlink-errors", gpu_index, 5, kind, count)
        sim("inject", "nvlink", gpu_index, 2, "down")
        sim("inject", "pcie", gpu_index, "--gen", 1, "--width", 8)
        sim("inject", "recovery", gpu_index, 1)
    sim("inject", "nvlink-errors", 0, 17, "crc_flit", 17)  # past the links that have field values of their own
    for gpu_index in (0, 2):
        sim("inject", "remap", gpu_index, "corrected", 3)
        sim("inject", "remap", gpu_index, "uncorrected", 1, "--pending", "--failed")
    sim("inject", "retired-page", 4, "single")
    sim("inject", "retired-page", 4, "double", "--pending")
    sim("process", "add", 0, 999_001, "--memory", 100)
    sim("process", "add", 0, 999_002, "--memory", 200, "--kind", "graphics")
    sim("process", "add", 0, 999_003, "--memory", 300, "--kind", "mps")
    sim("bmc-cap", 0, 500)
    reading = check(sim, one)
    values = given(reading.samples, sim.gpu(0)["uuid"])
    assert values["gpu_nvlink_errors_total", "17", "crc_flit"] == 17
    assert values["gpu_power_limit_watts", "enforced"] == 500
    assert values["gpu_power_limit_watts", "requested"] == 700
    assert values["gpu_processes", "mps"] == 1


@pytest.mark.parametrize(
    "reason", ["sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "power_brake"]
)
def test_reasons_are_seen_and_their_time_is_counted(machine: Machine, collector: Collector, reason: str) -> None:
    sim = machine("h100:1", load="0.5")
    one = collector()
    sim("inject", "throttle", 0, reason)
    sim.advance(100)
    reading = check(sim, one)
    values = given(reading.samples, sim.gpu()["uuid"])
    assert [k[1] for k, v in values.items() if k[0] == "gpu_clock_event_active" and v and reason in k[1]]


def test_gpm_is_the_share_of_time_between_two_runs(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:1,a100:1", load="0.6")
    one = collector()
    before = one.collect()
    assert not [s for s in before.samples if s.family.name.endswith("_ratio")]
    sim.advance(60)
    time.sleep(0.11)  # NVML wants two samples 100 ms apart, by the clock
    state = sim.state()
    values = given(one.collect().samples, state["gpus"][0]["uuid"])
    busy = state["gpus"][0]["utilization_percent"] / 100
    for family, share in GPM.items():
        assert values[family,] == pytest.approx(share * busy, abs=0.011)
    assert values["gpu_dram_active_ratio",] == pytest.approx(
        state["gpus"][0]["memory_utilization_percent"] / 100, abs=0.011
    )
    assert not [k for k in given(one.collect().samples, state["gpus"][1]["uuid"]) if k[0].endswith("_ratio")]


OLD_DRIVER_LACKS = {
    ("gpu_memory_reserved_bytes",),
    ("gpu_temperature_margin_celsius",),
    ("gpu_recovery_action",),
    ("gpu_clock_event_seconds_total", "sw_thermal_slowdown"),
    ("gpu_clock_event_seconds_total", "hw_thermal_slowdown"),
    ("gpu_clock_event_seconds_total", "hw_power_brake_slowdown"),
}


@pytest.mark.parametrize("profile", ["a100", "v100", "t4", "rtx4090"])
def test_an_old_driver_gives_what_it_has(machine: Machine, collector: Collector, profile: str) -> None:
    sim = machine(f"{profile}:1", driver_version="470.57.02", load="0.5")
    sim.advance(120)
    reserved = sim.gpu()["memory_reserved_bytes"]
    fans = len(sim.gpu()["fans_percent"])

    def old(values: dict[Any, float]) -> None:
        for key in OLD_DRIVER_LACKS:
            values.pop(key, None)
        values["gpu_memory_used_bytes",] += reserved  # that driver's `used` has it in
        for fan in range(1, fans):
            del values["gpu_fan_speed_percent", str(fan)]

    check(sim, collector(), old)


def test_mig_devices_come_and_go_with_their_memory(machine: Machine, collector: Collector) -> None:
    sim = machine("a100:1,h100:1", load="0.5")
    one = collector()
    check(sim, one)
    sim("mig", "mode", 0, "on")
    sim("mig", "create", 0, "3g.40gb,1g.10gb")
    one.collect()  # the layout is looked at rarely, a change of the mode makes it begin anew
    reading = one.collect()
    assert reading.errors == []
    uuid = sim.gpu(0)["uuid"]
    values = given(reading.samples, uuid)
    infos = {k[4]: k for k in values if k[0] == "mig_info"}
    assert sorted(infos) == ["1g.10gb", "3g.40gb"]
    created = {g["name"]: g for g in sim.gpu(0)["gpu_instances"]}
    for profile, key in infos.items():
        assert key[1].startswith("MIG-")
        assert key[2] == str(created[profile]["id"])
        assert key[3] == str(created[profile]["compute_instances"][0]["id"])
        total = values[("mig_memory_total_bytes", *key[1:4])]
        assert 0.8 < total / (int(profile.partition(".")[2].removesuffix("gb")) * 10**9) < 1.1
        assert values[("mig_memory_used_bytes", *key[1:4])] < total
    # NVML has these for no GPU in MIG mode
    for family in ("gpu_utilization_percent", "gpu_encoder_utilization_percent", "gpu_remapped_rows"):
        assert not [k for k in values if k[0] == family]
    assert values["gpu_power_watts",] > 0
    assert ("gpu_utilization_percent",) in given(reading.samples, sim.gpu(1)["uuid"])

    sim("mig", "clear", 0)
    sim("mig", "mode", 0, "off")
    one.collect()
    check(sim, one)


def test_ecc_off_has_modes_but_no_counts(machine: Machine, collector: Collector) -> None:
    sim = machine("rtx4090:1")
    values = given(check(sim, collector()).samples, sim.gpu()["uuid"])
    assert values["gpu_ecc_mode", "current"] == 0
    assert not [k for k in values if k[0] == "gpu_ecc_errors_total"]


def test_pcie_rates_are_read_when_wanted(
    machine: Machine, collector: Collector, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = machine("h100:1", load="0.5")
    sim.advance(10)
    one = collector(gpu_pcie_throughput=True)
    uuid = sim.gpu()["uuid"]

    def rates() -> dict[Any, float]:
        return {k: v for k, v in given(one.collect().samples, uuid).items() if "pcie_re" in k[0] or "pcie_tr" in k[0]}

    assert not [k for k in given(collector().collect().samples, uuid) if k[0] == "gpu_pcie_receive_bytes_per_second"]
    until(lambda: len([k for k in rates() if k[0].endswith("per_second")]) == 2)
    before = sim.gpu()
    sim.advance(10)
    after = sim.gpu()
    got = rates()
    for way, field in (("transmit", "tx"), ("receive", "rx")):
        rate = (after[f"pcie_{field}_bytes"] - before[f"pcie_{field}_bytes"]) / (after["uptime_s"] - before["uptime_s"])
        assert got[f"gpu_pcie_{way}_bytes_per_second",] == pytest.approx(rate, rel=0.02)
    sim("fail", "nvmlDeviceGetPcieThroughput", 999)
    monkeypatch.setattr(one._parts[0].pcie, "_every_s", 0.0)
    monkeypatch.setattr(one._parts[0].pcie, "_due", 0.0)
    until(lambda: one.collect().errors)
    assert "nvmlDeviceGetPcieThroughput" in one.collect().errors[0]
    assert not [k for k in rates() if k[0].endswith("per_second")]
