# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""GPUs that are lost, hang, vanish or are reset, and drivers that go away and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import nvmlsim
import pytest
from esnode.collect import NotPresent, Roots, _gpu_device, _nvml, gpu
from esnode.snapshot import Reading
from reading import given

Machine = Callable[..., nvmlsim.Simulator]
Collector = Callable[..., gpu.Gpu]


def sizes(sim: nvmlsim.Simulator, reading: Reading) -> list[int]:
    """How many series each GPU of the machine has, but for those of GPM, which take two runs."""
    values = [given(reading.samples, one["uuid"]) for one in sim.state()["gpus"]]
    return [len([key for key in one if not key[0].endswith("_ratio")]) for one in values]


def states(reading: Reading) -> list[str]:
    return [one["state"] for one in reading.detail["gpus"]]


def test_a_lost_gpu_has_no_series_and_comes_back(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:4")
    one = collector()
    whole = sizes(sim, one.collect())
    sim("lose", 2)
    for _ in range(3):
        reading = one.collect()
        assert sizes(sim, reading) == [whole[0], whole[1], 0, whole[3]]
        (error,) = reading.errors
        assert (
            "GPU 2" in error and sim.gpu(2)["uuid"] in error and sim.gpu(2)["pci_bus_id"] in error and "lost" in error
        )
        assert states(reading) == ["ok", "ok", "lost", "ok"]
        assert reading.detail["gpus"][2]["uuid"] == sim.gpu(2)["uuid"]
    sim("restore", 2)
    reading = one.collect()
    assert reading.errors == []
    assert sizes(sim, reading) == whole


def test_a_gpu_lost_before_the_start(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:2")
    sim("lose", 0)
    one = collector()
    reading = one.collect()
    assert sizes(sim, reading)[0] == 0 and sizes(sim, reading)[1] > 100
    assert states(reading) == ["lost", "ok"]
    sim("restore", 0)
    assert one.collect().errors == []


def test_a_gpu_that_needs_a_reset(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:2")
    one = collector()
    one.collect()
    sim("inject", "xid", 1, 95, "--reset-required")
    reading = one.collect()
    assert sizes(sim, reading)[1] == 0
    assert states(reading) == ["ok", "reset_required"]
    sim("reset", 1, "--force")
    assert one.collect().errors == []


def test_a_reset_leaves_no_gap(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:2", load="0.8")
    sim.advance(100)
    one = collector()
    energy = given(one.collect().samples, sim.gpu(1)["uuid"])["gpu_energy_joules_total",]
    sim("reset", 1, "--force")
    reading = one.collect()
    assert reading.errors == []
    assert given(reading.samples, sim.gpu(1)["uuid"])["gpu_energy_joules_total",] < energy


def test_a_gpu_that_vanishes_takes_its_series_along(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:3")
    one = collector()
    one.collect()
    uuids = [sim.gpu(i)["uuid"] for i in range(3)]
    sim("lose", 1, "--vanish")
    reading = one.collect()
    assert reading.errors == []
    assert {(s.labels["uuid"], s.labels["index"]) for s in reading.samples} == {(uuids[0], "0"), (uuids[2], "1")}
    sim("restore", 1)
    assert {s.labels["uuid"] for s in one.collect().samples} == set(uuids)


def test_a_hung_gpu_costs_its_own_series_alone(machine: Machine, collector: Collector, until: Any) -> None:
    sim = machine("h100:3")
    one = collector(interval_s=2.0)
    whole = sizes(sim, one.collect())
    sim("hang", "nvmlDeviceGetTotalEnergyConsumption", "forever", "--gpu", 1)
    for _ in range(2):
        reading = one.collect()
        assert sizes(sim, reading) == [whole[0], 0, whole[2]]
        (error,) = reading.errors
        assert "GPU 1" in error and sim.gpu(1)["uuid"] in error
        assert states(reading) == ["ok", "hung", "ok"]
        assert reading.detail["gpus"][1]["hung_seconds"] > 0
    sim("clear", "faults")
    until(lambda: one.collect().errors == [])
    assert sizes(sim, one.collect()) == whole


def test_a_gpu_that_hangs_from_the_start(machine: Machine, collector: Collector, until: Any) -> None:
    sim = machine("h100:2")
    sim("hang", "nvmlDeviceGetHandleByIndex", "forever", "--gpu", 0)
    one = collector(interval_s=1.0)
    reading = one.collect()
    assert sizes(sim, reading)[0] == 0 and sizes(sim, reading)[1] > 100
    assert states(reading) == ["hung", "ok"]
    sim("clear", "faults")
    until(lambda: one.collect().errors == [])


def test_at_short_intervals_a_slow_answer_is_no_hang(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:1")
    one = collector(interval_s=0.1)
    while not one.collect().samples:
        pass
    sim("hang", "nvmlDeviceGetPowerUsage", 0.2, "--times", 1)
    reading = one.collect()
    assert reading.errors == []
    assert sizes(sim, reading)[0] > 100


def test_nvml_that_hangs_while_it_starts(machine: Machine, collector: Collector, until: Any) -> None:
    sim = machine("h100:1")
    sim("hang", "nvmlInitWithFlags", "forever")
    one = collector(interval_s=0.5)
    reading = one.collect()
    assert reading.samples == {}
    assert "does not answer" in reading.errors[0]
    sim("clear", "faults")
    until(lambda: one.collect().samples)


@pytest.mark.parametrize(
    ("code", "says"), [(18, "reload"), (4, "nvidiactl"), (17, "nvidiactl"), (999, "does not start")]
)
def test_nvml_that_does_not_start_says_what_to_do(machine: Machine, collector: Collector, code: int, says: str) -> None:
    sim = machine("h100:1")
    sim("fail", "nvmlInitWithFlags", code)
    one = collector()
    reading = one.collect()
    assert reading.samples == {}
    assert len(reading.errors) == 1 and says in reading.errors[0]
    sim("clear", "faults")
    assert one.collect().errors == []


def test_the_driver_is_reloaded_below(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:2", load="0.8")
    sim.advance(100)
    one = collector()
    before = one.collect()
    sim("set-driver-version", "570.86.15")
    sim("reload-driver", "--force")
    reading = one.collect()
    assert reading.errors == []
    uuid = sim.gpu(0)["uuid"]
    energy = ("gpu_energy_joules_total",)
    assert given(reading.samples, uuid)[energy] < given(before.samples, uuid)[energy]
    assert reading.detail["driver"] == "570.86.15"
    assert next(k for k in given(reading.samples, uuid) if k[0] == "gpu_info")[5] == "570.86.15"


def test_the_driver_is_unloaded_and_loaded(machine: Machine, collector: Collector) -> None:
    sim = machine("h100:1")
    one = collector()
    one.collect()
    sim("unload-driver", "--force")
    for _ in range(2):
        reading = one.collect()
        assert reading.samples == {}
        assert "modprobe nvidia" in reading.errors[0]
    sim("load-driver")
    reading = one.collect()
    assert reading.errors == [] and len(reading.samples) > 100


def test_nvml_is_started_anew_when_no_gpu_answers_for_long(
    machine: Machine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RESTART_S", 0.0)
    sim = machine("h100:1")
    one = collector()
    one.collect()
    generation = _nvml.SESSION.generation
    sim("lose", 0)
    for _ in range(4):
        assert states(one.collect()) == ["lost"]
    assert _nvml.SESSION.generation > generation
    sim("restore", 0)
    assert one.collect().errors == []


def test_nvml_is_not_started_anew_while_a_gpu_works(
    machine: Machine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "RESTART_S", 0.0)
    sim = machine("h100:2")
    one = collector()
    one.collect()
    generation = _nvml.SESSION.generation
    sim("lose", 0)
    for _ in range(4):
        one.collect()
    assert _nvml.SESSION.generation == generation


def test_an_event_makes_the_health_be_read_at_once(
    machine: Machine, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu_device, "HEALTH_S", 3600.0)
    sim = machine("h100:2")
    one = collector()
    key = ("gpu_ecc_errors_total", "corrected", "volatile")
    uuid = sim.gpu(0)["uuid"]
    one.collect()
    sim("inject", "ecc", 0, "corrected", 5)
    assert given(one.collect().samples, uuid)[key] == 0
    _nvml.SESSION.touch(uuid)
    assert given(one.collect().samples, uuid)[key] == 5


def test_slow_things_are_read_rarely(machine: Machine, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gpu_device, "HEALTH_S", 3600.0)
    sim = machine("h100:1", load="0.5")
    one = collector()
    uuid = sim.gpu()["uuid"]
    one.collect()
    sim("inject", "pcie-errors", 0, "replay", 9)
    sim.advance(60)
    values = given(one.collect().samples, uuid)
    assert values["gpu_pcie_replays_total",] == 0
    assert values["gpu_temperature_celsius", "gpu"] == pytest.approx(sim.gpu()["temperature_c"], abs=1)


def test_no_driver_and_no_gpu_is_nothing(collector: Collector) -> None:
    one = collector()
    for _ in range(2):
        with pytest.raises(NotPresent, match="no NVIDIA GPU"):
            one.collect()


def _pci_device(roots: Roots, address: str, vendor: str, kind: str, driver: str | None) -> None:
    device = roots.sys / "bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    if driver:
        (device / "driver").symlink_to(f"../../drivers/{driver}")


def test_a_gpu_without_its_driver_is_an_error(collector: Collector, roots: Roots) -> None:
    _pci_device(roots, "0000:53:00.0", "0x10de", "0x030200", None)
    reading = collector().collect()
    assert reading.samples == {}
    assert "0000:53:00.0" in reading.errors[0] and "modprobe nvidia" in reading.errors[0]


@pytest.mark.parametrize(
    ("vendor", "kind", "driver"),
    [("0x10de", "0x0c0330", None), ("0x1002", "0x030000", None), ("0x10de", "0x030200", "vfio-pci")],
)
def test_other_devices_are_no_gpu_of_ours(
    collector: Collector, roots: Roots, vendor: str, kind: str, driver: str | None
) -> None:
    _pci_device(roots, "0000:53:00.0", vendor, kind, driver)
    with pytest.raises(NotPresent):
        collector().collect()


def test_a_driver_that_comes_later_is_found(machine: Machine, collector: Collector) -> None:
    one = collector()
    with pytest.raises(NotPresent):
        one.collect()
    sim = machine("h100:1")
    assert sizes(sim, one.collect())[0] > 100


def test_close_never_waits_and_leaves_no_thread(machine: Machine, collector: Collector, until: Any) -> None:
    sim = machine("h100:2")
    before = set(threading.enumerate())
    one = collector(interval_s=0.5, gpu_pcie_throughput=True)
    one.collect()
    sim("hang", "nvmlDeviceGetPowerUsage", "forever", "--gpu", 0)
    one.collect()
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 0.2
    _nvml.SESSION.join()  # the fixture closes it once more
    sim("clear", "faults")
    until(lambda: set(threading.enumerate()) <= before)
