# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""A simulated machine in this process: the real pynvml finds the simulator because its library is already loaded."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nvmlsim
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from esnode.collect import Roots, Settings, _gpu_slot, _nvml, gpu, gpu_events
from esnode.config import Agent, Collectors, Config


@pytest.fixture(autouse=True)
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library loaded, every wait of the collectors short, and NVML shut down afterwards."""
    ctypes.CDLL(str(nvmlsim.build() / "libnvidia-ml.so.1"))
    monkeypatch.setenv("NVMLSIM_STATE", "/nonexistent")
    for name in ("LOOK_S", "LOOK_IN_TROUBLE_S", "ABSENT_S", "FAILED_S"):
        monkeypatch.setattr(gpu, name, 0.0)
    monkeypatch.setattr(_gpu_slot, "BROKEN_S", 0.0)
    monkeypatch.setattr(_gpu_slot, "IDENTIFY_S", 0.0)
    yield
    wait_until(lambda: _nvml.SESSION.generation == 0)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., nvmlsim.Simulator]]:
    """Make the machine that NVML shows in this process: `machine("h100:8", load="training")`."""
    made: list[nvmlsim.Simulator] = []

    def make(gpus: str = "h100:1", **options: object) -> nvmlsim.Simulator:
        made.append(nvmlsim.Simulator(tmp_path / "nvml.state", gpus, **options))  # type: ignore[arg-type]
        monkeypatch.setenv("NVMLSIM_STATE", str(made[-1].path))
        return made[-1]

    yield make
    for sim in made:
        sim("clear", "faults")  # a call that still hangs would keep NVML open


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    """Empty trees: no PCI device, no kernel log, no process."""
    for name in ("sys", "proc", "dev"):
        (tmp_path / name).mkdir()
    return Roots(proc=tmp_path / "proc", sys=tmp_path / "sys", root=tmp_path, dev=tmp_path / "dev")


@pytest.fixture
def settings(roots: Roots) -> Callable[..., Settings]:
    """Settings with these keys of [collectors] and this interval."""

    def make(interval_s: float = 60.0, **collectors: bool) -> Settings:
        return Settings(
            Config(agent=Agent(scrape_interval_seconds=interval_s), collectors=Collectors(**collectors)), roots
        )

    return make


@pytest.fixture
def collector(settings: Callable[..., Settings]) -> Iterator[Callable[..., gpu.Gpu]]:
    """Make a GPU collector; closed at the end."""
    made: list[gpu.Gpu] = []

    def make(interval_s: float = 60.0, **collectors: bool) -> gpu.Gpu:
        made.append(gpu.create(settings(interval_s, **collectors)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def events(settings: Callable[..., Settings]) -> Iterator[Callable[[], gpu_events.GpuEvents]]:
    """Make a collector of events; closed at the end."""
    made: list[gpu_events.GpuEvents] = []

    def make() -> gpu_events.GpuEvents:
        made.append(gpu_events.create(settings()))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., None]:
    """Wait until something is so."""
    return wait_until


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is so; fail when it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not become so"
        time.sleep(0.005)
