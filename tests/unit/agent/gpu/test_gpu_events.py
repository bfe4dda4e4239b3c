# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""XID errors from NVML and the kernel log, counted once and none missed; the other events; faults meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import nvmlsim
import pytest
from esnode.collect import NotPresent, Roots, _gpu_event_set, _nvml, gpu_events
from esnode.collect._gpu_event_set import CLOCK, TYPES

Machine = Callable[..., nvmlsim.Simulator]
Events = Callable[[], gpu_events.GpuEvents]
Counts = dict[tuple[str, str], float]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of the event thread that a test can wait for."""
    monkeypatch.setattr(_gpu_event_set, "PAUSE_S", 0.05)
    monkeypatch.setattr(_gpu_event_set, "SCAN_S", 0.05)
    monkeypatch.setattr(_gpu_event_set, "FAILED_S", 0.05)
    monkeypatch.setattr(_gpu_event_set, "ABSENT_S", 0.05)
    monkeypatch.setattr(_gpu_event_set, "WAIT_MS", 50)


@pytest.fixture
def kernel_log(roots: Roots) -> Callable[[str], None]:
    """Write a line into a kernel log that can be read."""
    path = roots.dev / "kmsg"
    path.write_text("")
    number = 0

    def write(text: str) -> None:
        nonlocal number
        number += 1
        with path.open("a") as log:
            log.write(f"4,{number},{time.monotonic_ns() // 1000},-;{text}\n SUBSYSTEM=pci\n")

    return write


def counts(collector: gpu_events.GpuEvents) -> Counts:
    """Number of XID errors by index and code."""
    samples = collector.collect().samples
    return {
        (s.labels["index"], s.labels["xid"]): v
        for s, v in samples.items()
        if s.family.name == "esnode_gpu_xid_errors_total"
    }


def ready(collector: gpu_events.GpuEvents, until: Any, gpus: int) -> None:
    until(lambda: len(collector.collect().detail["event_gpus"]) == gpus)


def xid_line(sim: nvmlsim.Simulator, index: int, xid: int) -> str:
    pci = sim.gpu(index)["pci_bus_id"].lower().removesuffix(".0")[4:]
    return f"NVRM: Xid (PCI:{pci}): {xid}, pid=4711, name=python3, Ch 00000008"


def count_waits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The timeout and NVML's answer of every wait for an event from now on."""
    waits: list[tuple[int, int]] = []
    take = _gpu_event_set.EventSet._take

    def counted(self: Any, timeout_ms: int) -> int:
        code = take(self, timeout_ms)
        waits.append((timeout_ms, code))
        return code

    monkeypatch.setattr(_gpu_event_set.EventSet, "_take", counted)
    return waits


def assert_no_busy_loop(waits: list[tuple[int, int]]) -> None:
    """Every wait takes 50 ms or is followed by a pause of 50 ms; a rebuilt set adds a look at the old one."""
    before, started = len(waits), time.monotonic()
    time.sleep(0.5)
    assert len(waits) - before < 4 + 3 * (time.monotonic() - started) / 0.05


def test_no_error_no_series(machine: Machine, events: Events, until: Any) -> None:
    machine("h100:2")
    one = events()
    ready(one, until, 2)
    reading = one.collect()
    assert reading.samples == {} and reading.errors == []


def test_every_event_between_two_runs_is_counted(machine: Machine, events: Events, until: Any) -> None:
    sim = machine("h100:3")
    one = events()
    ready(one, until, 3)
    for _ in range(25):
        sim("inject", "xid", 0, 31)
    sim("inject", "xid", 0, 13)
    sim("inject", "xid", 2, 79)
    wanted = {("0", "31"): 25, ("0", "13"): 1, ("2", "79"): 1}
    until(lambda: counts(one) == wanted)
    samples = {s.family.name: v for s, v in one.collect().samples.items() if s.labels["index"] == "2"}
    assert samples["esnode_gpu_last_xid"] == 79
    assert 0 <= time.time() - samples["esnode_gpu_last_xid_timestamp_seconds"] < 20


def test_what_was_in_the_log_before_is_not_counted(
    machine: Machine, events: Events, until: Any, kernel_log: Callable[[str], None]
) -> None:
    sim = machine("h100:1")
    kernel_log(xid_line(sim, 0, 79))
    sim("inject", "xid", 0, 79)
    one = events()
    ready(one, until, 1)
    assert counts(one) == {}


def test_both_streams_tell_of_one_error(
    machine: Machine, events: Events, until: Any, kernel_log: Callable[[str], None]
) -> None:
    sim = machine("h100:2")
    one = events()
    ready(one, until, 2)
    assert one.collect().detail["kernel_log"] == "read"
    for _ in range(3):
        sim("inject", "xid", 1, 94)
        kernel_log(xid_line(sim, 1, 94))
    until(lambda: counts(one) == {("1", "94"): 3})
    kernel_log(xid_line(sim, 1, 94))  # one that NVML did not tell
    assert counts(one) == {("1", "94"): 4}
    sim("inject", "xid", 1, 63)  # one that the kernel did not log
    until(lambda: counts(one) == {("1", "94"): 4, ("1", "63"): 1})
    assert counts(one) == {("1", "94"): 4, ("1", "63"): 1}


def test_the_kernel_log_alone_is_enough(
    machine: Machine, events: Events, until: Any, kernel_log: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    sim = machine("h100:2")
    one = events()
    ready(one, until, 2)
    kernel_log("usb 1-1: new high-speed USB device")
    kernel_log(xid_line(sim, 1, 119))
    kernel_log("NVRM: Xid (PCI:0000:ff:00): 79, GPU has fallen off the bus.")  # of no GPU that NVML knows
    with caplog.at_level(logging.WARNING, "esnode.gpu_events"):
        assert counts(one) == {("1", "119"): 1}
    told = [(r.gpu, r.xid) for r in caplog.records]  # type: ignore[attr-defined]
    assert told == [(sim.gpu(1)["uuid"], 119), ("0000:ff:00", 79)]


def test_xid_999_of_nvml_is_left_to_the_kernel_log(
    machine: Machine, events: Events, until: Any, kernel_log: Callable[[str], None]
) -> None:
    sim = machine("h100:1")
    one = events()
    ready(one, until, 1)
    sim("inject", "xid", 0, 999)
    kernel_log(xid_line(sim, 0, 171))
    sim("inject", "xid", 0, 13)
    until(lambda: ("0", "13") in counts(one))
    assert counts(one) == {("0", "171"): 1, ("0", "13"): 1}


def test_a_lost_gpu_neither_stops_the_others_nor_makes_a_busy_loop(
    machine: Machine, events: Events, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = machine("h100:3")
    waits = count_waits(monkeypatch)
    one = events()
    ready(one, until, 3)
    sim("inject", "xid", 1, 79, "--lose")
    ready(one, until, 2)
    assert counts(one) == {("1", "79"): 1}  # it stays: it says why the GPU is lost
    sim("inject", "xid", 2, 31)
    until(lambda: counts(one) == {("1", "79"): 1, ("2", "31"): 1})
    assert_no_busy_loop(waits)
    sim("restore", 1)
    ready(one, until, 3)
    sim("inject", "xid", 1, 43)
    until(lambda: ("1", "43") in counts(one))


def test_a_gpu_that_vanishes_takes_its_errors_along(machine: Machine, events: Events, until: Any) -> None:
    sim = machine("h100:2")
    one = events()
    ready(one, until, 2)
    sim("inject", "xid", 0, 79)
    until(lambda: counts(one) == {("0", "79"): 1})
    sim("lose", 0, "--vanish")
    until(lambda: counts(one) == {})


def test_events_go_on_after_the_driver_was_reloaded(machine: Machine, events: Events, until: Any) -> None:
    sim = machine("h100:2")
    one = events()
    ready(one, until, 2)
    sim("inject", "xid", 0, 13)
    until(lambda: counts(one) == {("0", "13"): 1})
    generation = _nvml.SESSION.generation
    sim("reload-driver", "--force")
    until(lambda: _nvml.SESSION.generation > generation)
    ready(one, until, 2)
    sim("inject", "xid", 0, 13)
    until(lambda: counts(one) == {("0", "13"): 2})
    assert one.collect().errors == []


def test_other_events_are_logged_and_make_the_health_be_read(
    machine: Machine, events: Events, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sim = machine("h100:1")
    one = events()
    ready(one, until, 1)
    uuid = sim.gpu()["uuid"]
    touches = _nvml.SESSION.touches(uuid)
    with caplog.at_level(logging.INFO, "esnode.gpu_events"):
        sim("inject", "ecc", 0, "uncorrected", 1)
        sim("inject", "recovery", 0, 1)
        until(lambda: len(caplog.records) >= 2)
    assert [(r.levelname, r.event, r.gpu) for r in caplog.records[:2]] == [  # type: ignore[attr-defined]
        ("ERROR", "uncorrected ECC error", uuid),
        ("WARNING", "change of the recovery action", uuid),
    ]
    assert _nvml.SESSION.touches(uuid) >= touches + 2


def test_throttling_is_logged_when_it_begins_and_ends(
    machine: Machine, events: Events, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    sim = machine("h100:1", load="0.9")
    one = events()
    ready(one, until, 1)
    with caplog.at_level(logging.INFO, "esnode.gpu_events"):
        sim("inject", "throttle", 0, "hw_thermal")
        sim("inject", "event", 0, CLOCK)
        until(lambda: len(caplog.records) == 1)
        sim("inject", "event", 0, CLOCK)
        sim("inject", "throttle", 0, "hw_thermal", "--off")
        sim("inject", "event", 0, CLOCK)
        until(lambda: len(caplog.records) == 2)
    assert [r.reasons for r in caplog.records] == [["hw_slowdown", "hw_thermal_slowdown"], []]  # type: ignore[attr-defined]


def test_clocks_that_change_all_the_time_are_not_waited_for(
    machine: Machine, events: Events, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gpu_event_set, "_CLOCK_EVENTS_PER_S", 3)
    sim = machine("h100:1")
    one = events()
    ready(one, until, 1)
    first_set = one._events._set
    while one._events._types & CLOCK:
        sim("inject", "event", 0, CLOCK)
    # NVML does not replay what comes while the set is made anew, so wait until it is.
    until(lambda: one._events._set is not first_set and one._events.registered)
    sim("inject", "xid", 0, 31)
    until(lambda: counts(one) == {("0", "31"): 1})


def test_a_driver_without_event_support(machine: Machine, events: Events, until: Any) -> None:
    sim = machine("h100:2")
    sim("fail", "nvmlDeviceGetSupportedEventTypes", 3, "--gpu", 0)
    one = events()
    ready(one, until, 1)
    assert one.collect().errors == []
    assert one.collect().detail["event_gpus"] == [sim.gpu(1)["uuid"]]


@pytest.mark.parametrize("code", [2, 3, 10, 15, 999])
def test_whatever_the_wait_answers_there_is_no_busy_loop(
    machine: Machine, events: Events, until: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    sim = machine("h100:2")
    waits = count_waits(monkeypatch)
    one = events()
    ready(one, until, 2)
    sim("fail", "nvmlEventSetWait", code)
    assert_no_busy_loop(waits)
    sim("clear", "faults")
    cleared = len(waits)
    until(lambda: one.collect().errors == [])
    # While a new set is made, an error would be lost: wait for a real wait with it to run out.
    until(lambda: any(ms and answer == _nvml.TIMEOUT for ms, answer in waits[cleared:]))
    until(lambda: not one._events._rebuild_wanted)
    ready(one, until, 2)
    sim("inject", "xid", 0, 31)
    until(lambda: counts(one) == {("0", "31"): 1})


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlEventSetWait", "nvmlDeviceGetCount"])
def test_calls_that_fail_are_an_error_until_they_work(
    machine: Machine, events: Events, until: Any, function: str
) -> None:
    sim = machine("h100:1")
    sim("fail", function, 999)
    one = events()
    until(lambda: one.collect().errors)
    assert "Unknown Error" in one.collect().errors[0]
    sim("clear", "faults")
    until(lambda: one.collect().errors == [])
    ready(one, until, 1)
    sim("inject", "xid", 0, 31)
    until(lambda: counts(one) == {("0", "31"): 1})


def test_no_nvml_is_nothing(events: Events, until: Any) -> None:
    one = events()

    def absent() -> bool:
        try:
            one.collect()
        except NotPresent:
            return True
        return False

    until(absent)


def test_a_hung_gpu_does_not_keep_the_events_of_the_others(machine: Machine, events: Events, until: Any) -> None:
    sim = machine("h100:2")
    one = events()
    ready(one, until, 2)
    sim("hang", "nvmlDeviceGetHandleByIndex", "forever", "--gpu", 0)
    until(lambda: one._events._scanning is not None)
    sim("inject", "xid", 1, 31)
    until(lambda: counts(one) == {("1", "31"): 1})
    sim("clear", "faults")


def test_close_ends_the_thread_within_a_second(machine: Machine, settings: Any, until: Any) -> None:
    machine("h100:1")
    before = set(threading.enumerate())
    one = gpu_events.create(settings())
    ready(one, until, 1)
    started = time.monotonic()
    one.close()
    assert time.monotonic() - started < 0.1
    until(lambda: set(threading.enumerate()) <= before, 1.0)


def test_every_type_that_is_waited_for_has_a_name() -> None:
    assert all(name and kind & (kind - 1) == 0 for kind, (name, _) in TYPES.items())
