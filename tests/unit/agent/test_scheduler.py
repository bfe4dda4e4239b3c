# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collectors that hang, fail, are late or are not there cost their own series and nothing else."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from esnode import catalogue
from esnode.collect import Collector, NotPresent
from esnode.scheduler import Scheduler
from esnode.snapshot import Reading, Samples, Snapshot
from esnode.worker import Late, Worker

LOAD = catalogue.LOAD1.series()
UP = catalogue.NETWORK_UP.series("eth0")


class Fake:
    def __init__(self, name: str, collect: Callable[[], Reading]) -> None:
        self.name = name
        self._collect = collect
        self.closed = False

    def collect(self) -> Reading:
        return self._collect()

    def close(self) -> None:
        self.closed = True


class Ticks:
    """A running scheduler and the snapshots that it publishes."""

    def __init__(self, *collectors: Collector, interval_s: float = 0.1) -> None:
        self._snapshots: queue.Queue[Snapshot] = queue.Queue()
        self.scheduler = Scheduler(collectors, interval_s, dict, self._snapshots.put)
        self.scheduler.start()

    def until(self, wanted: Callable[[Snapshot], bool]) -> Snapshot:
        for _ in range(200):
            snapshot = self._snapshots.get(timeout=20)
            if wanted(snapshot):
                return snapshot
        raise AssertionError("no snapshot was as wanted")

    def up(self, snapshot: Snapshot, name: str) -> float | None:
        return snapshot.parts["agent"].get(catalogue.COLLECTOR_UP.series(name))


@pytest.fixture
def ticks() -> Iterator[Callable[..., Ticks]]:
    made: list[Ticks] = []

    def make(*collectors: Collector, interval_s: float = 0.1) -> Ticks:
        made.append(Ticks(*collectors, interval_s=interval_s))
        return made[-1]

    yield make
    for one in made:
        one.scheduler.stop(5)


def good(series: catalogue.Series = LOAD) -> Callable[[], Reading]:
    return lambda: Reading({series: 1.0})


def test_a_hung_collector_is_absent_and_the_others_are_not_late(ticks: Callable[..., Ticks]) -> None:
    release = threading.Event()

    def hang() -> Reading:
        release.wait(30)
        return Reading({UP: 1.0})

    running = ticks(Fake("cpu", good()), Fake("network", hang))
    # On a busy machine the other one may be late, too, now and then.
    snapshot = running.until(lambda s: running.up(s, "network") == 0 and "cpu" in s.parts)
    assert snapshot.parts["cpu"] == {LOAD: 1.0}
    assert "network" not in snapshot.parts
    assert running.up(snapshot, "cpu") == 1
    first = running.until(lambda s: True).timestamp
    second = running.until(lambda s: True).timestamp
    assert second - first < 5, "a collector known to hang is not waited for again"
    release.set()
    back = running.until(lambda s: running.up(s, "network") == 1)
    assert back.parts["network"] == {UP: 1.0}


def test_a_collector_that_raises_says_why_and_comes_back(ticks: Callable[..., Ticks]) -> None:
    broken = threading.Event()
    broken.set()

    def collect() -> Reading:
        if broken.is_set():
            raise OSError("the disk is on fire")
        return Reading({UP: 1.0})

    running = ticks(Fake("network", collect))
    state = running.scheduler.runners["network"].state
    why = ("OSError: the disk is on fire",)
    snapshot = running.until(lambda s: running.up(s, "network") == 0 and state.errors == why)
    assert "network" not in snapshot.parts
    assert snapshot.parts["agent"][catalogue.COLLECTOR_ERRORS.series("network")] >= 1
    assert catalogue.COLLECTOR_LAST_SUCCESS.series("network") not in snapshot.parts["agent"]
    broken.clear()
    assert running.until(lambda s: running.up(s, "network") == 1).parts["network"] == {UP: 1.0}


def test_a_partial_run_serves_what_it_has_and_is_not_up(ticks: Callable[..., Ticks]) -> None:
    running = ticks(Fake("disk", lambda: Reading({UP: 1.0}, ["/mnt/dead: no answer"])))
    snapshot = running.until(lambda s: "disk" in s.parts)
    assert snapshot.parts["disk"] == {UP: 1.0}
    assert running.up(snapshot, "disk") == 0


def test_what_is_not_there_has_no_series_at_all(ticks: Callable[..., Ticks]) -> None:
    def absent() -> Reading:
        raise NotPresent("no NVIDIA GPU in this machine")

    running = ticks(Fake("gpu", absent), Fake("cpu", good()), interval_s=2.0)
    snapshot = running.until(lambda s: True)
    assert running.up(snapshot, "gpu") is None
    assert not any("gpu" in s.labels.values() for s in snapshot.parts["agent"])
    assert running.scheduler.runners["gpu"].state.errors == ("no NVIDIA GPU in this machine",)


def test_collectors_are_exchanged_between_two_ticks(ticks: Callable[..., Ticks]) -> None:
    old, kept = Fake("network", good(UP)), Fake("cpu", good())
    running = ticks(old, kept)
    running.until(lambda s: "network" in s.parts)
    running.scheduler.change([Fake("disk", lambda: Reading({UP: 2.0}))], frozenset({"cpu"}), 0.2)
    running.until(lambda s: set(s.parts) == {"agent", "cpu", "disk"})
    assert old.closed and not kept.closed
    assert running.scheduler.interval_s == 0.2


def test_a_tick_that_fails_does_not_end_the_next_ones() -> None:
    snapshots: queue.Queue[Snapshot] = queue.Queue()
    fail = iter([True])

    def publish(snapshot: Snapshot) -> None:
        if next(fail, False):
            raise RuntimeError("no")
        snapshots.put(snapshot)

    scheduler = Scheduler([Fake("cpu", good())], 1.0, lambda: Samples(), publish)
    scheduler.start()
    try:
        assert snapshots.get(timeout=20).parts["cpu"] == {LOAD: 1.0}
    finally:
        scheduler.stop(5)


def test_a_worker_refuses_a_second_call_while_the_first_hangs_and_serves_again_after() -> None:
    worker, release = Worker("test"), threading.Event()
    hung = worker.submit(lambda: release.wait(30))
    with pytest.raises(Late):
        hung.wait(0)
    with pytest.raises(Late):
        worker.submit(lambda: 1)
    release.set()
    assert hung.wait(time.monotonic() + 20) is True
    assert worker.submit(lambda: 7).wait(time.monotonic() + 20) == 7
    with pytest.raises(ZeroDivisionError):
        worker.submit(lambda: 1 // 0).wait(time.monotonic() + 20)
    worker.close()
