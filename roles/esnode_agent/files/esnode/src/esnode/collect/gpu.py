# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA GPUs, MIG devices and GPM, read through NVML, each GPU on a thread of its own.

A GPU that hangs or is lost costs its own series alone. NVML is initialised again when the driver was reloaded, or
when no GPU at all answers. While others still work a lost GPU is only asked for a fresh handle: initialising NVML
beside a dead GPU can hang, and without persistence mode it would throw away the power limits of the healthy ones.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from esnode.collect import NotPresent, Settings, _nvml
from esnode.collect._aside import Aside
from esnode.collect._gpu_pci import display_devices
from esnode.collect._gpu_processes import Processes
from esnode.collect._gpu_slot import Answer, PcieThroughput, Slot
from esnode.snapshot import Reading
from esnode.worker import Call, Late, Worker

LOOK_S = 10.0
"""How often the number of GPUs is asked for."""
LOOK_IN_TROUBLE_S = 1.0
ABSENT_S = 30.0
"""How often a machine without a GPU is looked at again."""
FAILED_S = 5.0
RESTART_S = 30.0
"""How often NVML is initialised anew while no GPU answers."""
_PATIENCE_S = 0.5
"""At intervals below a second a reading that takes longer than the tick is not yet a hung GPU."""
_HEAD_START_S = 0.002
"""Threads that read at the same time fight for the interpreter, which costs twice the CPU time. So each GPU gets this
long for itself; a driver that takes longer is waited for by all of them together."""

_HUNG = (
    "the driver does not answer: look for NVRM and Xid lines in the kernel log; if it stays, drain the node and reset"
    " the GPU or reboot"
)
_NVML_HUNG = "NVML does not answer: a GPU or the driver hangs; look for NVRM and Xid lines in the kernel log"
_NVML_BUSY = (
    "NVML must be started again, since the driver was reloaded, but a call on it still hangs: restart this agent if it"
    " stays"
)


def create(settings: Settings) -> Gpu:
    """Make the collector."""
    return Gpu(settings)


@dataclass(frozen=True, slots=True)
class Machine:
    """What NVML says of the machine."""

    generation: int
    count: int
    driver: str
    cuda: str


class Part:
    """A slot with its threads."""

    def __init__(self, slot: Slot, patience_s: float, *, pcie: bool) -> None:
        self.slot = slot
        self.main: Aside[Answer] = Aside(f"gpu-{slot.index}", slot.read, patience_s=patience_s)
        self.pcie: Aside[Answer] | None = None
        if pcie:
            rates = PcieThroughput(slot)
            self.pcie = Aside(f"gpu-pcie-{slot.index}", rates.read, every_s=rates.EVERY_S, patience_s=rates.PATIENCE_S)

    def start(self) -> None:
        """Begin a reading, unless the one before still hangs, and give it a head start before the next GPU's."""
        if self.pcie is not None:
            self.pcie.start()
        self.main.start()
        with contextlib.suppress(Exception):  # what it is comes out in `add`
            self.main.get(time.monotonic() + _HEAD_START_S)

    def add(self, reading: Reading, until: float) -> dict[str, Any]:
        """Add what the GPU answers until then (monotonic seconds); its entry in `/status`."""
        slot = self.slot
        try:
            answer = self.main.get(until)
        except Late:
            sentence = f"{slot.label}: {_HUNG}"
            reading.errors.append(sentence)
            hung_s = round(self.main.hung_s or 0.0, 1)
            return {**slot.facts, "state": "hung", "error": sentence, "hung_seconds": hung_s}
        except Exception as error:
            sentence = f"{slot.label}: cannot be read: {type(error).__name__}: {error}"
            reading.errors.append(sentence)
            return {**slot.facts, "state": "failed", "error": sentence}
        if answer is None:  # at the shortest intervals the first reading takes longer than a tick
            return {**slot.facts, "state": "starting", "error": None}
        reading.samples.update(answer.samples)
        reading.errors += answer.errors
        if self.pcie is not None and answer.state == "ok":
            try:
                rates = self.pcie.get(0.0)
            except Late:
                reading.errors.append(f"{slot.label}: nvmlDeviceGetPcieThroughput: {_HUNG}")
            else:
                if rates is not None:
                    reading.samples.update(rates.samples)
                    reading.errors += rates.errors
        error_text = answer.errors[0] if answer.errors else None
        return {**slot.facts, "state": answer.state, "error": error_text, "not_supported": answer.not_supported}

    def close(self) -> None:
        """Let the threads end; a last run of the idle ones gives back what they hold in NVML."""
        self.slot.closing = True
        self.main.start()
        self.main.close()
        if self.pcie is not None:
            self.pcie.close()


class Gpu:
    """Asks NVML how many GPUs there are and has each of them read by a `Part`."""

    name = "gpu"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session = _nvml.SESSION
        self._session.join()
        collectors = settings.config.collectors
        self._processes = Processes(settings.roots.proc if collectors.gpu_process_memory else None)
        self._pcie = collectors.gpu_pcie_throughput
        self._looker = Worker("nvml")
        self._looking: Call[Machine] | None = None
        self._looked_at = 0.0
        self._look_every_s = 0.0
        self._machine: Machine | None = None
        self._parts: list[Part] = []
        self._failure: str | None = None
        self._not_present: NotPresent | None = None
        self._seen = False
        self._dead_since: float | None = None
        self._restart = False

    def collect(self) -> Reading:
        """Read once."""
        started = time.monotonic()
        patience_s = self._settings.part_deadline_s
        # The first look may take all the time there is; a later one must not keep the GPUs waiting.
        self._look(started, started + patience_s * (1.0 if self._machine is None else 0.3))
        if self._not_present is not None:
            raise NotPresent(str(self._not_present))
        reading = Reading(errors=[] if self._failure is None else [self._failure])
        for part in self._parts:
            part.start()
        gpus = [part.add(reading, started + patience_s) for part in self._parts]
        self._consider([one["state"] for one in gpus], started)
        machine = self._machine
        reading.detail = {
            "driver": machine.driver if machine else None,
            "cuda": machine.cuda if machine else None,
            "gpus": gpus,
        }
        return reading

    def _consider(self, states: list[str], now: float) -> None:
        """Look again soon while something is wrong; start NVML anew when nothing at all works for long."""
        if not states:
            return
        if any(state not in ("ok", "no_permission", "starting") for state in states):
            self._look_every_s = min(self._look_every_s, LOOK_IN_TROUBLE_S)
        if all(state in ("lost", "failed", "reset_required") for state in states):
            if self._dead_since is None:
                self._dead_since = now
            elif now - self._dead_since >= RESTART_S:
                self._dead_since, self._restart = now, True
        else:
            self._dead_since = None

    def _look(self, now: float, until: float) -> None:
        """Ask NVML for the machine when it is time, and take in what came of it."""
        if self._looking is None:
            if self._looked_at and now - self._looked_at < self._look_every_s:
                return
            self._looking = self._looker.submit(self._ask)
        call = self._looking
        try:
            machine = call.wait(until)
        except Late:
            if self._machine is None or now - call.started > _PATIENCE_S:
                self._failure, self._not_present = _NVML_HUNG, None
            return
        except (_nvml.Busy, _nvml.Closed):
            self._fail(_NVML_BUSY)
        except _nvml.NVMLError as error:
            try:
                self._fail(_nvml.start_trouble(error, self._settings.roots, seen=self._seen))
            except NotPresent as absent:
                self._absent(absent)
        except NotPresent as absent:
            self._absent(absent)
        else:
            self._take(machine)
        self._looking, self._looked_at = None, now

    def _ask(self) -> Machine:
        """What NVML says, on a thread of its own: NVML's initialisation and each call may hang."""
        generation = self._session.open()
        if self._restart:
            self._restart = False
            self._session.close(generation)
            generation = self._session.open()
        try:
            return self._describe()
        except _nvml.NVMLError as error:
            if _nvml.code_of(error) not in _nvml.CLOSED:
                raise
        self._session.close(generation)
        self._session.open()
        return self._describe()

    def _describe(self) -> Machine:
        generation = self._session.enter()
        try:
            count = _nvml.call("nvmlDeviceGetCount")
            driver = _text("nvmlSystemGetDriverVersion")
            cuda = ""
            try:
                number = int(_nvml.call("nvmlSystemGetCudaDriverVersion"))
                cuda = f"{number // 1000}.{number % 1000 // 10}"
            except _nvml.NVMLError as error:
                if _nvml.code_of(error) in _nvml.CLOSED:
                    raise
        finally:
            self._session.leave()
        if not count:
            devices = display_devices(self._settings.roots.sys)
            if not devices and not self._seen:
                raise NotPresent("the NVIDIA driver finds no GPU")
            if devices:
                raise _nvml.error(_nvml.GPU_NOT_FOUND)
        return Machine(generation, count, driver, cuda)

    def _take(self, machine: Machine) -> None:
        self._failure = self._not_present = None
        self._look_every_s = LOOK_S
        self._seen = self._seen or machine.count > 0
        moved = self._machine is None or machine.count != self._machine.count
        self._machine = machine
        while len(self._parts) > machine.count:
            self._parts.pop().close()
        while len(self._parts) < machine.count:
            slot = Slot(len(self._parts), self._processes)
            patience_s = _PATIENCE_S if self._settings.part_deadline_s < _PATIENCE_S else 0.0
            self._parts.append(Part(slot, patience_s, pcie=self._pcie))
        for part in self._parts:
            part.slot.driver, part.slot.cuda = machine.driver, machine.cuda
            if moved:
                part.slot.look_again()

    def _fail(self, sentence: str) -> None:
        self._forget()
        self._failure, self._not_present = sentence, None
        self._look_every_s = FAILED_S

    def _absent(self, reason: NotPresent) -> None:
        self._forget()
        self._failure, self._not_present = None, reason
        self._look_every_s = ABSENT_S

    def _forget(self) -> None:
        for part in self._parts:
            part.close()
        self._parts, self._machine = [], None

    def close(self) -> None:
        """Let the threads end and NVML go when nobody else uses it; never waits."""
        self._forget()
        self._looker.close()
        self._session.part()


def _text(function: str) -> str:
    try:
        value = _nvml.call(function)
    except _nvml.NVMLError as error:
        if _nvml.code_of(error) in _nvml.CLOSED:
            raise
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
