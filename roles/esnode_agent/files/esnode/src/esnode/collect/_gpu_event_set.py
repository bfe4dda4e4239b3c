# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for what the driver reports: an NVML event set over all GPUs, on a thread of its own.

An event set that holds a lost GPU answers GPU_IS_LOST at once and for ever, so a new one is made without it. GPUs are
looked for on another thread, since asking for a hung one must not keep the events of the others waiting.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from esnode.collect import NotPresent, Roots, _nvml
from esnode.collect._gpu_pci import bus_key
from esnode.collect._gpu_table import CLOCK_EVENT_REASONS, REASON_CALLS
from esnode.collect._gpu_xids import Gpu, Xids
from esnode.worker import Call, Late, Worker

log = logging.getLogger("esnode.gpu_events")

XID = 0x8
CLOCK = 0x10
_ECC_CORRECTED = 0x1
TYPES: dict[int, tuple[str, int]] = {
    _ECC_CORRECTED: ("corrected ECC error", logging.INFO),
    0x2: ("uncorrected ECC error", logging.ERROR),
    XID: ("XID error", logging.WARNING),
    CLOCK: ("clock change", logging.DEBUG),
    0x80: ("power source change", logging.WARNING),
    0x100: ("MIG configuration change", logging.INFO),
    0x200: ("storm of corrected ECC errors", logging.WARNING),
    0x400: ("DRAM row remap or page retirement", logging.WARNING),
    0x800: ("failed DRAM row remap or page retirement", logging.ERROR),
    0x1000: ("contained memory poison", logging.ERROR),
    0x2000: ("uncontained memory poison", logging.ERROR),
    0x4000: ("GPU unavailable", logging.ERROR),
    0x8000: ("change of the recovery action", logging.WARNING),
}
"""The events that are waited for, where the GPU has them: what each is called and how loudly it is logged."""

THROTTLE = 0x8 | 0x20 | 0x40 | 0x80
"""Clock event reasons that say that something is wrong."""

WAIT_MS = 900
SCAN_S = 10.0
"""How often it is looked whether a GPU came or went."""
SCAN_WAIT_S = 2.0
"""How long the first events wait until all GPUs are registered."""
PAUSE_S = 1.0
FAILED_S = 5.0
ABSENT_S = 30.0
_CLOCK_EVENTS_PER_S = 50
"""More clock changes than this and they are waited for no more: each wakes the thread."""


class EventSet:
    """The thread and what it knows. `notice` gets each event: GPU, type, data, Unix time."""

    def __init__(self, roots: Roots, xids: Xids, notice: Callable[[Gpu, int, int, float], None]) -> None:
        self._roots = roots
        self._xids = xids
        self._notice = notice
        self._stop = threading.Event()
        self._set: Any = None
        self._generation = 0
        self._registered: dict[str, Gpu] = {}
        self._by_handle: dict[int, Gpu] = {}
        self._scan_due = 0.0
        self._types = sum(TYPES)
        self._clock_changes: list[float] = []
        self._rebuild_wanted = False
        self._scanner = Worker("gpu-events-scan")
        self._scanning: Call[None] | None = None
        self._throttled: dict[str, int] = {}
        self._seen = False
        self.error: str | None = None
        """What keeps events from coming, as a sentence."""
        self.scan_hangs = False
        self.not_present: str | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpu-events", daemon=True)
        _nvml.SESSION.join()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until it is known for the first time whether events can be had."""
        return self._ready.wait(timeout_s)

    @property
    def registered(self) -> list[str]:
        """UUIDs of the GPUs whose events come."""
        return sorted(self._registered)

    def close(self) -> None:
        """Let the thread end within a second; never waits."""
        self._stop.set()
        if not self._thread.ident:
            _nvml.SESSION.part()

    def _run(self) -> None:
        while not self._stop.is_set():
            pause_s = self._turn()
            self._ready.set()
            if pause_s:
                self._stop.wait(pause_s)
        self._end()

    def _turn(self) -> float:
        """Wait for events once; the seconds to pause."""
        try:
            generation = _nvml.SESSION.open()
        except _nvml.NVMLError as error:
            return self._not_started(error)
        except Exception as error:
            return self._unexpected(error)
        try:
            pause_s = self._listen(generation)
        except _nvml.Closed:
            return 0.1
        except _nvml.NVMLError as error:
            return self._failed(error)
        except Exception as error:
            return self._unexpected(error)
        self.error = self.not_present = None
        return pause_s

    def _unexpected(self, error: Exception) -> float:
        log.exception("waiting for GPU events failed; it goes on", exc_info=error)
        self.error = f"GPU events cannot be waited for: {type(error).__name__}: {error}"
        return FAILED_S

    def _not_started(self, error: Exception) -> float:
        """NVML does not start: note why and return the seconds until the next attempt."""
        self._xids.end("nvml")
        try:
            self.error, self.not_present = _nvml.start_trouble(error, self._roots, seen=self._seen), None
        except NotPresent as absent:
            self.error, self.not_present = None, str(absent)
            return ABSENT_S
        return FAILED_S

    def _failed(self, error: Exception) -> float:
        """A call has failed: start NVML or the set anew where that helps; the seconds until the next attempt."""
        code = _nvml.code_of(error)
        generation = self._generation
        if code in _nvml.CLOSED:
            self._generation, self._registered = 0, {}
            try:
                _nvml.SESSION.close(generation)  # the driver was reloaded
            except _nvml.Busy:
                self.error = "NVML must be started again, since the driver was reloaded, but a call on it hangs"
                return FAILED_S
            return 0.1
        if code == _nvml.INVALID_ARGUMENT:  # NVML does not know the set any more
            self._generation = 0
        self.error = f"GPU events cannot be waited for: {_nvml.meaning(code)}"
        return FAILED_S

    def _listen(self, generation: int) -> float:
        """Wait once, and before that see to it that the set is right; the seconds to pause."""
        if _nvml.SESSION.enter() != generation:
            _nvml.SESSION.leave()
            return 0.0
        try:
            if generation != self._generation:
                self._new_set(generation)
            if self._rebuild_wanted and self._scanning is None:  # the scanner may be registering with the old set
                self._rebuild()
            self._look()
            self._ready.set()
            return self._wait() if self._registered else PAUSE_S
        finally:
            _nvml.SESSION.leave()

    def _look(self) -> None:
        """Have the GPUs looked for when it is time."""
        now = time.monotonic()
        if self._scanning is None and now >= self._scan_due:
            self._scanning = self._scanner.submit(self._scan)
        if (scanning := self._scanning) is not None:
            try:
                scanning.wait(scanning.started + SCAN_WAIT_S)
            except Late:
                self.scan_hangs = True
                return
            finally:
                if scanning.done:
                    self._scanning, self._scan_due, self.scan_hangs = None, now + SCAN_S, False

    def _new_set(self, generation: int) -> None:
        self._xids.begin("nvml")
        self._set = _nvml.call("nvmlEventSetCreate")
        self._generation = generation
        self._registered, self._by_handle = {}, {}
        self._scan_due = 0.0

    def _rebuild(self) -> None:
        """A set without the GPUs that are lost; what the old one still holds is taken first."""
        while self._take(0) == _nvml.SUCCESS:
            pass
        old = self._set
        self._rebuild_wanted = False
        self._new_set(self._generation)
        _nvml.call("nvmlEventSetFree", old)

    def _scan(self) -> None:
        """Register the GPUs that are not yet, and tell the counters which there are. Runs on the scanner's thread."""
        generation = _nvml.SESSION.enter()
        try:
            if generation == self._generation:
                self._scan_all()
        finally:
            _nvml.SESSION.leave()

    def _scan_all(self) -> None:
        gpus: list[Gpu] = []
        unreachable: set[int] = set()
        for index in range(_nvml.call("nvmlDeviceGetCount")):
            try:
                handle = _nvml.call("nvmlDeviceGetHandleByIndex", index)
                uuid = str(_nvml.call("nvmlDeviceGetUUID", handle))
                pci = _nvml.pci_bus_id(handle)
            except _nvml.NVMLError as error:
                if _nvml.code_of(error) in _nvml.CLOSED:
                    raise
                unreachable.add(index)
                continue
            gpu = Gpu(uuid, index, bus_key(pci) if pci else "")
            gpus.append(gpu)
            if (known := self._registered.get(uuid)) is not None:
                known.index = index
            else:
                self._register(handle, gpu)
        # A GPU that is lost cannot say who it is, but NVML still counts it: its errors are worth keeping.
        there = {gpu.uuid for gpu in gpus}
        gpus += [g for g in self._xids.known() if g.uuid not in there and g.index in unreachable]
        self._seen = self._seen or bool(gpus)
        self._xids.see(gpus)

    def _register(self, handle: Any, gpu: Gpu) -> None:
        try:
            types = _nvml.call("nvmlDeviceGetSupportedEventTypes", handle) & self._types
            if types:
                _nvml.call("nvmlDeviceRegisterEvents", handle, types, self._set)
        except _nvml.NVMLError as error:
            code = _nvml.code_of(error)
            if code in _nvml.CLOSED:
                raise
            if code not in _nvml.ABSENT | _nvml.GONE:
                log.warning("%s: its events cannot be had: %s", gpu.label, _nvml.meaning(code), extra={"gpu": gpu.uuid})
            return
        if types:
            self._registered[gpu.uuid] = gpu
            self._by_handle[_nvml.address(handle)] = gpu

    def _wait(self) -> float:
        started = time.monotonic()
        code = self._take(WAIT_MS)
        if code == _nvml.SUCCESS:
            return 0.0
        if code == _nvml.TIMEOUT:
            # NVML may return early; if it does not wait at all the pause does
            left_s = WAIT_MS / 1000 - (time.monotonic() - started)
            return left_s if left_s > WAIT_MS / 2000 else 0.0
        if code == _nvml.GPU_IS_LOST:
            self._rebuild_wanted = True
            return PAUSE_S  # a driver that says so of the new set too must not make this a busy loop
        raise _nvml.error(code)

    def _take(self, timeout_ms: int) -> int:
        """Take one event; NVML's code."""
        try:
            event = _nvml.call("nvmlEventSetWait", self._set, timeout_ms)
        except _nvml.NVMLError as error:
            return _nvml.code_of(error)
        gpu = self._by_handle.get(_nvml.address(event.device))
        if gpu is None:
            log.warning("an event of type 0x%x of a GPU that is not known: %d", event.eventType, event.eventData)
        else:
            self._event(gpu, event.device, int(event.eventType), int(event.eventData))
        return _nvml.SUCCESS

    def _event(self, gpu: Gpu, handle: Any, kind: int, data: int) -> None:
        if kind == CLOCK:
            self._clock_change(gpu, handle)
            return
        _nvml.SESSION.touch(gpu.uuid)
        self._notice(gpu, kind, data, time.time())

    def _clock_change(self, gpu: Gpu, handle: Any) -> None:
        """Say when the clocks begin and end to be held down for a reason that is trouble."""
        now = time.monotonic()
        self._clock_changes = [t for t in self._clock_changes if now - t < 1.0] + [now]
        if len(self._clock_changes) > _CLOCK_EVENTS_PER_S:
            log.info("the clocks change so often that their events are not waited for any more")
            self._types &= ~CLOCK
            self._clock_changes = []
            self._rebuild_wanted = True
            return
        for name in REASON_CALLS:
            try:
                mask = int(_nvml.call(name, handle)) & THROTTLE
                break
            except _nvml.NVMLError:
                continue
        else:
            return
        before = self._throttled.get(gpu.uuid, 0)
        if mask == before:
            return
        self._throttled[gpu.uuid] = mask
        names = [label for bit, label in CLOCK_EVENT_REASONS.items() if mask & bit]
        if mask:
            log.warning(
                "%s: clocks held down: %s", gpu.label, ", ".join(names), extra={"gpu": gpu.uuid, "reasons": names}
            )
        else:
            log.info("%s: clocks are free again", gpu.label, extra={"gpu": gpu.uuid, "reasons": []})

    def _end(self) -> None:
        """Give back the set and the session."""
        self._scanner.close()
        with contextlib.suppress(_nvml.Closed, _nvml.NVMLError):
            generation = _nvml.SESSION.enter()
            try:
                if generation == self._generation and self._set is not None:
                    _nvml.call("nvmlEventSetFree", self._set)
            finally:
                _nvml.SESSION.leave()
        _nvml.SESSION.part()
