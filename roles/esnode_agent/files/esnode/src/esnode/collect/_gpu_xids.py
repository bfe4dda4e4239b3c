# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""XID errors counted once although two streams tell of them: NVML's events and the kernel log."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

from esnode import catalogue
from esnode.snapshot import Samples

UNKNOWN = 999
"""What NVML gives for an XID that it does not know; the kernel log has its number."""

_Key = tuple[str, int]


@dataclass(slots=True)
class Gpu:
    """Where a GPU is now: `pci` as `bus_key` writes it; `present` while NVML still counts it."""

    uuid: str
    index: int
    pci: str
    present: bool = True

    @property
    def label(self) -> str:
        """The GPU's name in a sentence."""
        return f"GPU {self.index} ({self.uuid}, {self.pci})"


@dataclass(slots=True)
class Stream:
    """What one stream has told: number of XID errors by GPU and code."""

    counts: dict[_Key, int] = field(default_factory=dict)
    active: bool = False


class Xids:
    """XID errors since the agent started, by GPU and code: of each the larger of what the two streams told.

    A stream that begins to listen starts from what is known by then, so that it neither adds what the other stream
    told before nor hides what comes after. The kernel may log several lines for one error; they count as they are
    logged. All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gpus: dict[str, Gpu] = {}
        self._streams = {"nvml": Stream(), "kernel": Stream()}
        self._totals: dict[_Key, int] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def begin(self, stream: str) -> None:
        """A stream listens from now on."""
        with self._lock:
            self._streams[stream] = Stream(dict(self._totals), active=True)

    def end(self, stream: str) -> None:
        """A stream has stopped."""
        with self._lock:
            self._streams[stream].active = False

    def listens(self, stream: str) -> bool:
        """Whether a stream listens."""
        with self._lock:
            return self._streams[stream].active

    def see(self, gpus: Iterable[Gpu]) -> None:
        """Take the GPUs that NVML has now; those that are not among them are gone."""
        with self._lock:
            for known in self._gpus.values():
                known.present = False
            for gpu in gpus:
                gpu.present = True
                self._gpus[gpu.uuid] = gpu

    def known(self) -> list[Gpu]:
        """Every GPU that was there once."""
        with self._lock:
            return list(self._gpus.values())

    def at(self, pci: str) -> Gpu | None:
        """The GPU at a PCI address as `bus_key` writes it."""
        with self._lock:
            return next((gpu for gpu in self._gpus.values() if gpu.pci == pci), None)

    def count(self, stream: str, uuid: str, xid: int, timestamp: float) -> bool:
        """Count one error at a Unix time; whether it is news and not what the other stream told already."""
        with self._lock:
            if stream == "nvml" and xid == UNKNOWN and self._streams["kernel"].active:
                return False  # it comes with its number
            key = (uuid, xid)
            counts = self._streams[stream].counts
            counts[key] = counts.get(key, 0) + 1
            if counts[key] <= self._totals.get(key, 0):
                return False
            self._totals[key] = counts[key]
            self._last[uuid] = (xid, timestamp)
            return True

    def samples(self) -> Samples:
        """The series; a GPU or code without an error has none, nor has a GPU that is gone."""
        samples: Samples = {}
        with self._lock:
            for (uuid, xid), count in self._totals.items():
                if (gpu := self._gpus.get(uuid)) and gpu.present:
                    samples[catalogue.GPU_XID_ERRORS.series(uuid, str(gpu.index), str(xid))] = count
            for uuid, (xid, timestamp) in self._last.items():
                if (gpu := self._gpus.get(uuid)) and gpu.present:
                    samples[catalogue.GPU_LAST_XID.series(uuid, str(gpu.index))] = xid
                    samples[catalogue.GPU_LAST_XID_TIMESTAMP.series(uuid, str(gpu.index))] = timestamp
        return samples
