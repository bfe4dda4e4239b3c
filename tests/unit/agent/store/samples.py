# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Made-up samples, and what a store must give back for them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
from esnode.store import Matcher, SeriesData, SeriesId

START_MS = 1_700_000_000_000
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]  # Prometheus' staleness marker, a NaN


class Clock:
    """Wall and monotonic clock that stand still until they are moved."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = START_MS / 1000, 1000.0

    def pass_s(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    def options(self) -> dict[str, object]:
        return {"wall": lambda: self.wall_s, "monotonic": lambda: self.monotonic_s}


def named(number: int, name: str = "esnode_test_celsius") -> SeriesId:
    return SeriesId.of(name, {"gpu": str(number), "uuid": f"GPU-{number:08x}"})


def row(series: int, tick: int) -> dict[SeriesId, float]:
    """A bit of everything: constants, counters, decimals, doubles."""
    values = (
        lambda n: float(n),
        lambda n: float(tick * (n + 1)),
        lambda n: round(60 + (tick * 7919 + n) % 1000 / 10, 1),
        lambda n: (tick * n + 1) / 7,
    )
    return {named(n): values[n % 4](n) for n in range(series)}


class Appending(Protocol):
    def append(self, time_ms: int, samples: Mapping[SeriesId, float]) -> None: ...


class Expected:
    """Everything that was appended, by series."""

    def __init__(self) -> None:
        self.samples: dict[SeriesId, dict[int, float]] = {}

    def add(self, time_ms: int, samples: dict[SeriesId, float]) -> None:
        for series, value in samples.items():
            self.samples.setdefault(series, {})[time_ms] = value

    def add_all(self, other: Expected) -> None:
        for series, samples in other.samples.items():
            self.samples.setdefault(series, {}).update(samples)

    def check_part(self, got: Iterable[SeriesData]) -> int:
        """Nothing that was not appended; return the number of samples."""
        samples = 0
        for data in got:
            known = self.samples[data.series]
            times = data.times.tolist()
            assert times == sorted(set(times)), data.series
            assert set(times) <= known.keys(), data.series
            assert bits(data.values) == bits([known[time_ms] for time_ms in times]), data.series
            samples += len(times)
        return samples

    def check(self, got: Iterable[SeriesData]) -> None:
        """The same series, times and bits, no more and no less."""
        got = list(got)
        assert [data.series for data in got] == sorted(self.samples)
        for data in got:
            wanted = sorted(self.samples[data.series].items())
            assert data.times.tolist() == [time_ms for time_ms, _ in wanted], data.series
            assert bits(data.values) == bits([value for _, value in wanted]), data.series


def bits(values: object) -> list[int]:
    numbers: list[int] = np.asarray(values, np.float64).view(np.int64).tolist()
    return numbers


def gpu(number: int) -> list[Matcher]:
    """The selector of one series of `row`."""
    return [Matcher("gpu", "=", str(number))]


def fill(target: Appending, ticks: int, series: int = 8, step_ms: int = 15_000, first: int = 0) -> Expected:
    """Append rows; return what must be there."""
    expected = Expected()
    for tick in range(first, first + ticks):
        samples = row(series, tick)
        expected.add(START_MS + tick * step_ms, samples)
        target.append(START_MS + tick * step_ms, samples)
    return expected


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
