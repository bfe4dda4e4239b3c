# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node with GPUs reports, made up: the same numbers for the same seed.

Ten families of as many series each: constants, whole and centi counters, bytes, rare errors, whole degrees, watts that
were milliwatts, percentages, memory in pages, and one family of doubles with all their digits. Jobs come and go.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from esnode.store import SeriesId

Floats = npt.NDArray[np.float64]

FAMILIES = (
    "power_limit_watts",
    "packets_total",
    "cpu_seconds_total",
    "bytes_total",
    "errors_total",
    "temperature_celsius",
    "power_watts",
    "utilization_percent",
    "memory_used_bytes",
    "ratio",
)
_AT_ONCE = 240_000  # values made together


class SyntheticNode:
    """`series` of them, a multiple of ten. `names` are theirs in the order of a row's values."""

    def __init__(self, series: int, seed: int = 5) -> None:
        self._each = series // len(FAMILIES)
        self._random = np.random.default_rng(seed)
        self._row = 0
        self.names = [
            SeriesId.of(family, {"node": "gpu01", "device": f"d{device:04d}"})
            for family in FAMILIES
            for device in range(self._each)
        ]
        rate = self._random.lognormal(3, 2, (3, self._each))
        rate[:, ::4] = 0  # every fourth counter stands still
        self._rates = rate
        self._counters = np.floor(self._random.uniform(0, 1e9, (4, self._each)))
        self._degrees = self._random.normal(34, 3, self._each)
        self._pages = np.floor(self._random.uniform(1e6, 2e7, self._each))
        self._limits = self._random.choice([300.0, 400.0, 700.0], self._each)

    def rows(self, count: int) -> Iterator[Floats]:
        """The next rows, some at once: arrays of rows by series."""
        most = max(1, _AT_ONCE // (self._each * len(FAMILIES)))
        while count:
            now = min(count, most)
            yield self._next(now)
            count -= now

    def _next(self, rows: int) -> Floats:
        random, each, shape = self._random, self._each, (rows, self._each)
        at = np.arange(self._row, self._row + rows)
        self._row += rows
        # A job of some hours, then a pause; within a job a slow swing.
        load = (np.where(at % 900 < 700, 0.85 + 0.1 * np.sin(at / 37), 0.05))[:, None]
        out = np.empty((len(FAMILIES), rows, each))
        out[0] = self._limits
        steps = random.poisson(self._rates[:, None, :] * (0.2 + load))
        errors = random.poisson(0.0005, shape)
        for place, (counter, added) in enumerate(zip(self._counters, [*steps, errors], strict=True)):
            running = counter + np.cumsum(added, axis=0)
            self._counters[place] = running[-1]
            out[1 + place] = running
        out[2] /= 100
        out[3] *= 64
        out[5] = np.rint(self._degrees + 35 * load + random.normal(0, 0.4, shape))
        out[6] = np.rint(60_000 + 560_000 * load + random.normal(0, 8_000, shape)) / 1000
        out[7] = np.where(load > 0.1, np.clip(np.rint(random.normal(96 * load, 5, shape)), 0, 100), 0)
        moved = np.where(random.random(shape) < 0.2, np.rint(random.normal(0, 400, shape)), 0)
        pages = self._pages + np.cumsum(moved, axis=0)
        self._pages = pages[-1]
        out[8] = np.maximum(pages, 0) * 4096
        out[9] = random.random(shape) * load
        together: Floats = out.transpose(1, 0, 2).reshape(rows, -1)
        return together
