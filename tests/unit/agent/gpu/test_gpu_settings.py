# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Whether GPUs have what is recorded for them: against the simulator, with the record that the modules write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import nvmlsim
import pynvml
import pytest
from esnode.catalogue import GPU_SETTING_AS_RECORDED
from esnode.collect import NotPresent, Roots, Settings, gpu_settings
from esnode.gpu_state._nvml_power import PowerLimit
from esnode.gpu_state._nvml_records import DesiredState
from esnode.gpu_state.nvml import Session
from esnode.snapshot import Reading

Machine = Callable[..., nvmlsim.Simulator]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_settings, "EVERY_S", 0.0)


def record(roots: Roots, watts: int) -> None:
    limit = PowerLimit(f"{watts}W")
    with Session() as session:
        desired = DesiredState(str(roots.root / "etc/esnode/gpu-state.json"))
        for one in session.gpus():
            desired.put(one, limit.name, limit.record())
        desired.save()


def set_limit(index: int, watts: int) -> None:
    pynvml.nvmlInit()
    try:
        pynvml.nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(index), watts * 1000)
    finally:
        pynvml.nvmlShutdown()


def holds(reading: Reading, sim: nvmlsim.Simulator) -> list[float]:
    return [reading.samples[GPU_SETTING_AS_RECORDED.series(gpu["uuid"], "power_limit")] for gpu in sim.state()["gpus"]]


def read(collector: gpu_settings.GpuSettings) -> Reading:
    """Of a comparison that began now: the one under way may be older."""
    collector.collect()
    return collector.collect()


def test_what_holds_and_what_does_not(machine: Machine, roots: Roots, settings: Callable[..., Settings]) -> None:
    sim = machine("h100:2")
    collector = gpu_settings.create(settings())
    with pytest.raises(NotPresent, match="nothing is recorded in"):
        collector.collect()
    record(roots, 300)
    before = sim.state()["gpus"]
    assert holds(read(collector), sim) == [0, 0]
    set_limit(0, 300)
    reading = read(collector)
    assert holds(reading, sim) == [1, 0] and reading.errors == []
    assert sim.state()["gpus"][1]["power_limit_mw"] == before[1]["power_limit_mw"], "it only looks"
    set_limit(1, 300)
    assert holds(read(collector), sim) == [1, 1]
    sim("lose", 1)
    reading = read(collector)
    assert holds(reading, sim) == [1, 0]
    assert sim.state()["gpus"][1]["uuid"] in reading.errors[0]
    collector.close()


def test_a_driver_that_is_away_and_a_record_that_can_not_be_trusted(
    machine: Machine, roots: Roots, settings: Callable[..., Settings]
) -> None:
    sim = machine("h100:1")
    record(roots, 300)
    collector = gpu_settings.create(settings())
    path = roots.root / "etc/esnode/gpu-state.json"
    path.chmod(0o666)
    assert "writable by root alone" in read(collector).errors[0]
    path.chmod(0o644)
    sim("unload-driver", "--force")
    reading = read(collector)
    assert reading.samples == {} and "driver is not loaded" in reading.errors[0]
    path.write_text(json.dumps({"version": 1, "gpus": {}}))
    end = time.monotonic() + 20
    sim("load-driver")
    while read(collector).errors:
        assert time.monotonic() < end
    collector.close()
