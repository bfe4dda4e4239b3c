# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The GPU at one NVML index: found, read, lost and found again, all on one thread of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from esnode import catalogue
from esnode.collect import _nvml
from esnode.collect._gpu_device import Device, Gone
from esnode.collect._gpu_processes import Processes
from esnode.collect._gpu_query import Query, Trouble, getter, pick
from esnode.snapshot import Samples

IDENTIFY_S = 10.0
"""How often it is checked that the same GPU is still at the index."""
BROKEN_S = 2.0
"""How often a GPU that is gone is asked for again."""
_SHOWN = 3

_STATES = {
    _nvml.GPU_IS_LOST: "lost",
    _nvml.GPU_NOT_FOUND: "lost",
    _nvml.RESET_REQUIRED: "reset_required",
    _nvml.NO_PERMISSION: "no_permission",
}


@dataclass(slots=True)
class Answer:
    """What one reading of one GPU came to. `state`: ok, lost, reset_required, no_permission, failed or closed."""

    state: str
    samples: Samples = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    not_supported: list[str] = field(default_factory=list)


class Slot:
    """One index of NVML. `driver` and `cuda` are labels of esnode_gpu_info."""

    def __init__(self, index: int, processes: Processes | None) -> None:
        self.index = index
        self.driver = self.cuda = ""
        self.closing = False
        self.device: Device | None = None
        self.generation = 0
        self.facts: dict[str, Any] = {"uuid": None, "index": index, "name": None, "pci_bus_id": None}
        self.label = f"GPU {index}"
        self._processes = processes
        self._identify_due = 0.0
        self._broken: Answer | None = None
        self._broken_until = 0.0
        self._not_supported: tuple[int, list[str]] = (-1, [])

    def look_again(self) -> None:
        """Let the next reading check which GPU is at the index."""
        self._identify_due = self._broken_until = 0.0

    def read(self) -> Answer:
        """Read the GPU; may hang as long as the driver does."""
        now = time.monotonic()
        try:
            generation = _nvml.SESSION.enter()
        except _nvml.Closed:
            self.device = None
            return Answer("closed", errors=[f"{self.label}: NVML is being started again, the driver was reloaded"])
        try:
            if self.closing:
                self._drop(generation)
                return Answer("closed")
            return self._read(generation, now)
        finally:
            _nvml.SESSION.leave()

    def _read(self, generation: int, now: float) -> Answer:
        if self._broken is not None and now < self._broken_until and generation == self.generation:
            return self._broken
        for attempt in (1, 2):
            try:
                device = self._found(generation, now)
                samples, trouble = device.read(now, self.driver, self.cuda)
            except _nvml.NVMLError as error:
                return self._gone(_nvml.code_of(error), "asked for its handle", now)
            except Gone as gone:
                self._drop(generation)
                # A handle from before a reset of the GPU, or another MIG mode: begin anew at once, but only once.
                if gone.code == _nvml.INVALID_ARGUMENT and attempt == 1:
                    continue
                return self._gone(gone.code, _shown(gone.asked), now)
            break
        self._broken = None
        self.facts["name"] = device.name
        if self._not_supported[0] != len(samples):
            self._not_supported = (len(samples), device.not_supported(samples))
        return Answer("ok", samples, self.sentences(trouble), self._not_supported[1])

    def _found(self, generation: int, now: float) -> Device:
        """The device at the index: the known one or, when it is time to look or there is none, who is there now."""
        device = self.device
        if device is not None and generation == self.generation and now < self._identify_due:
            return device
        handle = _nvml.call("nvmlDeviceGetHandleByIndex", self.index)
        uuid = str(_nvml.call("nvmlDeviceGetUUID", handle))
        if device is None or generation != self.generation or uuid != device.uuid:
            self._drop(generation)
            pci = _nvml.pci_bus_id(handle)
            self.facts = {"uuid": uuid, "index": self.index, "name": None, "pci_bus_id": pci}
            self.label = f"GPU {self.index} ({uuid}, {pci})" if pci else f"GPU {self.index} ({uuid})"
            device = Device(handle, uuid, self.index, pci, processes=self._processes)
            self.device, self.generation = device, generation
        self._identify_due = now + IDENTIFY_S
        return device

    def _drop(self, generation: int) -> None:
        device, self.device = self.device, None
        if device is not None and generation == self.generation:
            device.close()

    def _gone(self, code: int, asked: str, now: float) -> Answer:
        self.device = None
        self._broken_until = now + BROKEN_S
        state = _STATES.get(code, "failed")
        # A GPU that belongs to someone else (another container) is not a failure.
        errors = [] if code == _nvml.NO_PERMISSION else [f"{self.label}: {_nvml.meaning(code)}"]
        if state == "failed" and errors:
            errors[0] += f" ({asked})"
        self._broken = Answer(state, errors=errors)
        return self._broken

    def sentences(self, trouble: Trouble) -> list[str]:
        """What could not be read, one sentence a code."""
        return [f"{self.label}: {_shown(asked)}: {_nvml.meaning(code)}" for code, asked in sorted(trouble.items())]


def _shown(asked: list[str]) -> str:
    names = sorted(set(asked))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class PcieThroughput:
    """PCIe rates of the GPU of a slot. Each of the two calls takes the driver 20 ms, so it has a thread of its own."""

    EVERY_S = 1.0
    PATIENCE_S = 5.0

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._of: Device | None = None
        self._queries: list[Query] = []

    def read(self) -> Answer:
        """The two rates, bytes/s; none while the GPU is not read either."""
        samples: Samples = {}
        trouble: Trouble = {}
        try:
            generation = _nvml.SESSION.enter()
        except _nvml.Closed:
            return Answer("ok")
        try:
            device = self._slot.device
            if device is None or generation != self._slot.generation:
                return Answer("ok")
            if device is not self._of:
                self._of = device
                self._queries = [
                    Query(
                        device.handle,
                        device.of,
                        # NVML counts in KB/s
                        (getter("nvmlDeviceGetPcieThroughput", pick(family, times=1000), arguments=(counter,)),),
                    )
                    for counter, family in ((0, catalogue.GPU_PCIE_TRANSMIT), (1, catalogue.GPU_PCIE_RECEIVE))
                ]
            for query in self._queries:
                query.read(samples, trouble, time.monotonic())
        finally:
            _nvml.SESSION.leave()
        return Answer("ok", samples, self._slot.sentences(trouble))
