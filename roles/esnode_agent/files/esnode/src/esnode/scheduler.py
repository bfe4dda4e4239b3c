# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the collectors, each on a thread of its own, and makes one snapshot a tick of what they answered in time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from esnode import catalogue
from esnode.collect import Collector, NotPresent, deadline_s
from esnode.snapshot import Reading, Samples, Snapshot
from esnode.worker import Call, Late, Worker

log = logging.getLogger("esnode.collect")

_REPEAT_LOG_S = 3600.0


@dataclass(slots=True)
class State:
    """What is known of one collector, for `/status` and its own series."""

    state: str = "starting"
    """starting, ok, partial, failed, late or not_present"""
    duration_s: float | None = None
    last_success: float | None = None
    errors: tuple[str, ...] = ()
    errors_total: int = 0
    series: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


class Runner:
    """One collector with its thread and its state."""

    def __init__(self, collector: Collector) -> None:
        self.collector = collector
        self.state = State()
        self._worker = Worker(f"collect-{collector.name}")
        self._call: Call[tuple[Reading, float]] | None = None
        self._logged: tuple[tuple[str, ...], float] = ((), 0.0)

    def start(self) -> None:
        """Begin a run, unless the one before still hangs."""
        try:
            self._call = self._worker.submit(self._run)
        except Late as late:
            self._call = None
            self._failed("late", (str(late),))

    def _run(self) -> tuple[Reading, float]:
        started = time.monotonic()
        reading = self.collector.collect()
        return reading, time.monotonic() - started

    def finish(self, until: float, timestamp: float) -> Samples | None:
        """Wait for the run until `until` (monotonic seconds); its samples, None when there are none to serve."""
        if self._call is None:
            return None
        try:
            reading, duration_s = self._call.wait(until)
        except Late as late:
            self._failed("late", (str(late),))
            return None
        except NotPresent as reason:
            self.state = State(state="not_present", errors=(str(reason),), errors_total=self.state.errors_total)
            self._log_errors(logging.INFO, "is not present")
            return None
        except Exception as error:
            log.debug("collector %s failed", self.collector.name, exc_info=error)
            self._failed("failed", (f"{type(error).__name__}: {error}",))
            return None
        state = self.state
        state.duration_s, state.series, state.detail = duration_s, len(reading.samples), reading.detail
        state.errors = tuple(reading.errors)
        if reading.errors:
            state.state = "partial"
            state.errors_total += 1
        else:
            state.state = "ok"
            state.last_success = timestamp
        self._log_errors(logging.WARNING, "has lost a part")
        return reading.samples

    def _failed(self, state: str, errors: tuple[str, ...]) -> None:
        self.state.state, self.state.errors, self.state.series = state, errors, 0
        self.state.errors_total += 1
        self._log_errors(logging.WARNING, "failed" if state == "failed" else "is late")

    def _log_errors(self, level: int, what: str) -> None:
        """Say a trouble once when it comes, once an hour while it stays, and once when it has gone."""
        # The seconds in "no answer for 1.2 s" grow with each tick and are not news.
        key = (self.state.state,) if self.state.state == "late" else self.state.errors
        old, at = self._logged
        now = time.monotonic()
        if key == old and (not key or now - at < _REPEAT_LOG_S):
            return
        self._logged = (key, now)
        if self.state.errors:
            fields = {"collector": self.collector.name, "errors": list(self.state.errors)}
            log.log(level, "collector %s %s: %s", self.collector.name, what, self.state.errors[0], extra=fields)
        else:
            log.info("collector %s is whole again", self.collector.name, extra={"collector": self.collector.name})

    def samples(self) -> Samples:
        """The collector's own series."""
        state, name = self.state, self.collector.name
        if state.state == "not_present":
            return {}
        samples: Samples = {
            catalogue.COLLECTOR_UP.series(name): state.state == "ok",
            catalogue.COLLECTOR_ERRORS.series(name): state.errors_total,
        }
        if state.duration_s is not None:
            samples[catalogue.COLLECTOR_DURATION.series(name)] = state.duration_s
        if state.last_success is not None:
            samples[catalogue.COLLECTOR_LAST_SUCCESS.series(name)] = state.last_success
        return samples

    def close(self) -> None:
        """Let go of the collector without waiting for a run that hangs."""
        self.collector.close()
        self._worker.close()


class Scheduler:
    """The ticker: a thread that starts all collectors once an interval and publishes one snapshot.

    `own`: makes the agent's own samples at each tick. `publish`: takes the snapshot, on the ticker's thread.
    """

    def __init__(
        self,
        collectors: Sequence[Collector],
        interval_s: float,
        own: Callable[[], Samples],
        publish: Callable[[Snapshot], None],
    ) -> None:
        self.runners = {c.name: Runner(c) for c in collectors}
        self.interval_s = interval_s
        self.last_tick = time.monotonic()
        self._own = own
        self._publish = publish
        self._changes: tuple[Sequence[Collector], frozenset[str], float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="ticker", daemon=True)

    def start(self) -> None:
        """Start ticking, the first time at once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop ticking; waits for a tick under way at most `timeout_s`."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        for runner in list(self.runners.values()):
            runner.close()

    def change(self, collectors: Sequence[Collector], keep: frozenset[str], interval_s: float) -> None:
        """Before the next tick: keep the runners named in `keep`, end the others, add these collectors."""
        self._changes = (collectors, keep, interval_s)

    def _apply_changes(self) -> None:
        changes, self._changes = self._changes, None
        if changes is None:
            return
        collectors, keep, self.interval_s = changes
        for name in self.runners.keys() - keep:
            self.runners[name].close()
        kept = {name: runner for name, runner in self.runners.items() if name in keep}
        self.runners = {**kept, **{c.name: Runner(c) for c in collectors}}

    def _loop(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            try:
                self._apply_changes()
                self._tick()
            except Exception:  # one bad tick must not end all later ones
                log.exception("a tick failed; the next one goes on")
            self.last_tick = time.monotonic()
            due += self.interval_s
            due = max(due, self.last_tick)  # after a suspend or an overload: skip what was missed
            self._stop.wait(due - self.last_tick)

    def _tick(self) -> None:
        timestamp = time.time()
        until = time.monotonic() + deadline_s(self.interval_s)
        runners = list(self.runners.items())
        for _unused, runner in runners:
            runner.start()
        parts: dict[str, Samples] = {}
        for name, runner in runners:
            samples = runner.finish(until, timestamp)
            if samples is not None:
                parts[name] = samples
        own = self._own()
        for _unused, runner in runners:
            own.update(runner.samples())
        self._publish(Snapshot(timestamp, {"agent": own, **parts}))
