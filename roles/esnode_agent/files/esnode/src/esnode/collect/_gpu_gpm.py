# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPU performance monitoring (GPM, Hopper and newer): shares of the time between two samples of the GPU's counters."""

from __future__ import annotations

import contextlib
from typing import Any

from esnode import catalogue
from esnode.catalogue import Family
from esnode.collect import _nvml
from esnode.collect._gpu_query import RETRY_S, Trouble
from esnode.snapshot import Samples

APART_S = 0.1
"""NVML wants two samples at least this far apart."""
_METRICS: dict[int, Family] = {
    2: catalogue.GPU_SM_ACTIVE,
    3: catalogue.GPU_SM_OCCUPANCY,
    5: catalogue.GPU_TENSOR_ACTIVE,
    10: catalogue.GPU_DRAM_ACTIVE,
}


class Gpm:
    """The GPM of one GPU; absent until there are two samples."""

    def __init__(self, handle: Any, of: tuple[str, str]) -> None:
        self._handle = handle
        self._series = {number: family.series(*of) for number, family in _METRICS.items()}
        self._samples: list[Any] = []
        self._taken = 0.0
        self._silent_until = 0.0
        self._query: Any = None
        self._held: Samples = {}

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        if now < self._silent_until:
            return 0
        try:
            if self._query is None and not self._begin():
                self._silent_until = now + RETRY_S
                return 0
            if not self._taken or now - self._taken >= APART_S:
                self._sample(now)
        except _nvml.NVMLError as error:
            self._held, self._taken = {}, 0.0
            code = _nvml.code_of(error)
            if code in _nvml.ABSENT:
                self._silent_until = now + RETRY_S
            elif code not in _nvml.NOT_NOW:
                trouble.setdefault(code, []).append("nvmlGpmSampleGet")
            return 0
        samples.update(self._held)
        return 1

    def _begin(self) -> bool:
        if not _nvml.call("nvmlGpmQueryDeviceSupport", self._handle).isSupportedDevice:
            return False
        while len(self._samples) < 2:
            self._samples.append(_nvml.call("nvmlGpmSampleAlloc"))
        self._query = _nvml.gpm_query(tuple(_METRICS))
        return True

    def _sample(self, now: float) -> None:
        before, after = self._samples
        _nvml.call("nvmlGpmSampleGet", self._handle, after)
        is_first = not self._taken
        self._samples = [after, before]
        self._taken = now
        self._held = {}
        if is_first:
            return
        self._query.sample1, self._query.sample2 = before, after
        _nvml.call("nvmlGpmMetricsGet", self._query)
        for i, series in enumerate(self._series.values()):
            answer = self._query.metrics[i]
            if answer.nvmlReturn == _nvml.SUCCESS and answer.value >= 0:
                self._held[series] = min(answer.value / 100, 1.0)

    def families(self) -> set[Family]:
        """See `Source`."""
        return set(_METRICS.values())

    def close(self) -> None:
        """See `Source`."""
        for sample in self._samples:
            with contextlib.suppress(_nvml.NVMLError):
                _nvml.call("nvmlGpmSampleFree", sample)
        self._samples = []
