# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""MIG devices of one GPU: what they are and their memory. NVML names each compute instance a device of its own."""

from __future__ import annotations

from typing import Any

from esnode import catalogue
from esnode.catalogue import Family, Series
from esnode.collect import _nvml
from esnode.collect._gpu_query import Query, Trouble
from esnode.collect._gpu_table import memory_getters
from esnode.snapshot import Samples

LAYOUT_S = 10.0
_MEMORY = memory_getters(catalogue.MIG_MEMORY_TOTAL, catalogue.MIG_MEMORY_USED)


class Mig:
    """The MIG devices of one GPU; nothing where MIG is off or unknown."""

    def __init__(self, handle: Any, of: tuple[str, str]) -> None:
        self._handle = handle
        self._of = of
        self._due = 0.0
        self._infos: list[Series] = []
        self._memory: list[Query] = []
        self._trouble: Trouble = {}

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        if now >= self._due:
            self._lay_out()
            self._due = now + LAYOUT_S
        found: Trouble = {}
        given: Samples = dict.fromkeys(self._infos, 1)
        answered = sum(query.read(given, found, now) for query in self._memory)
        if _nvml.INVALID_ARGUMENT in found or _nvml.NOT_FOUND in found:
            self._due = 0.0  # an instance has gone since: look again at the next tick
            return 0
        samples.update(given)
        for part in (found, self._trouble):
            for code, asked in part.items():
                trouble.setdefault(code, []).extend(asked)
        return answered

    def _lay_out(self) -> None:
        self._infos, self._memory, self._trouble = [], [], {}
        try:
            if not _nvml.call("nvmlDeviceGetMigMode", self._handle)[0]:
                return
            for i in range(_nvml.call("nvmlDeviceGetMaxMigDeviceCount", self._handle)):
                try:
                    self._add(_nvml.call("nvmlDeviceGetMigDeviceHandleByIndex", self._handle, i))
                except _nvml.NVMLError as error:
                    if _nvml.code_of(error) not in (_nvml.NOT_FOUND, _nvml.INVALID_ARGUMENT):
                        raise
        except _nvml.NVMLError as error:
            code = _nvml.code_of(error)
            if code not in _nvml.ABSENT | _nvml.NOT_NOW:
                self._trouble = {code: ["the list of MIG devices"]}

    def _add(self, device: Any) -> None:
        gi = str(_nvml.call("nvmlDeviceGetGpuInstanceId", device))
        ci = str(_nvml.call("nvmlDeviceGetComputeInstanceId", device))
        of = (*self._of, str(_nvml.call("nvmlDeviceGetUUID", device)), gi, ci)
        name = str(_nvml.call("nvmlDeviceGetName", device))
        self._infos.append(catalogue.MIG_INFO.series(*of, name.partition(" MIG ")[2]))
        self._memory.append(Query(device, of, _MEMORY))

    def families(self) -> set[Family]:
        """See `Source`: none, since a GPU whose MIG mode is off lacks nothing."""
        return set()

    def close(self) -> None:
        """See `Source`."""
