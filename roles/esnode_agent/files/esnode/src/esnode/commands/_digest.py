# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of a series boiled down while they stream in: figures of all of them, and of each bucket of the time span.

Memory depends on the number of series and buckets, not on that of samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from esnode.store.model import SeriesData, SeriesId

_GAP = 2.5
"""So many usual intervals without a sample are a gap."""


@dataclass(frozen=True, slots=True)
class Span:
    """A span of time in ms since 1970, both ends included."""

    from_ms: int
    to_ms: int

    @property
    def length_ms(self) -> int:
        """Length, at least 1 ms."""
        return max(self.to_ms - self.from_ms, 1)


class Digest:
    """Figures of one series. NaN and infinities count in `samples` and `last` and in nothing else.

    `last` is the newest sample's value, at `last_ms`, whatever it is. The arrays have an entry a bucket: `counts`
    of finite samples, `sums`, `minima`, `maxima`, `first_ms` and `newest_ms` of them.
    """

    def __init__(self, span: Span, buckets: int) -> None:
        self._span = span
        self.samples = 0
        self.last = math.nan
        self.last_ms: int | None = None
        self.interval_ms = math.inf
        self.counts = np.zeros(buckets, np.int64)
        self.sums = np.zeros(buckets)
        self.minima = np.full(buckets, math.inf)
        self.maxima = np.full(buckets, -math.inf)
        self.first_ms = np.full(buckets, np.iinfo(np.int64).max)
        self.newest_ms = np.full(buckets, np.iinfo(np.int64).min)

    def add(self, times: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> None:
        """Take further samples in; any order between calls."""
        if not len(times):
            return
        self.samples += len(times)
        newest = int(np.argmax(times))
        if self.last_ms is None or times[newest] >= self.last_ms:
            self.last, self.last_ms = float(values[newest]), int(times[newest])
        if len(times) > 1:
            steps = np.diff(times)
            if len(steps := steps[steps > 0]):
                self.interval_ms = min(self.interval_ms, float(np.median(steps)))
        good = np.isfinite(values)
        times, values = times[good], values[good]
        place = (times - self._span.from_ms) * len(self.counts) // (self._span.length_ms + 1)
        place = place.clip(0, len(self.counts) - 1)
        np.add.at(self.counts, place, 1)
        np.add.at(self.sums, place, values)
        np.minimum.at(self.minima, place, values)
        np.maximum.at(self.maxima, place, values)
        np.minimum.at(self.first_ms, place, times)
        np.maximum.at(self.newest_ms, place, times)

    @property
    def smallest(self) -> float:
        """The smallest value, NaN when there is none."""
        return float(self.minima.min()) if self.counts.any() else math.nan

    @property
    def largest(self) -> float:
        """The largest value, NaN when there is none."""
        return float(self.maxima.max()) if self.counts.any() else math.nan

    @property
    def mean(self) -> float:
        """The mean of all values, NaN when there is none."""
        return float(self.sums.sum() / self.counts.sum()) if self.counts.any() else math.nan

    def means(self) -> list[float | None]:
        """The mean of each bucket. One without samples takes the value before it unless that is a gap, then None."""
        found: list[float | None] = [None] * len(self.counts)
        before: int | None = None
        for at in np.flatnonzero(self.counts).tolist():
            if before is not None and not self._gap(before, at):
                found[before + 1 : at] = [found[before]] * (at - before - 1)
            found[at] = float(self.sums[at] / self.counts[at])
            before = at
        return found

    def lines(self) -> list[tuple[list[float], list[float]]]:
        """What to draw: lines of times (ms) and values, one up to each gap, with the extremes of each bucket."""
        lines: list[tuple[list[float], list[float]]] = []
        before: int | None = None
        for at in np.flatnonzero(self.counts).tolist():
            if before is None or self._gap(before, at):
                lines.append(([], []))
            times, values = lines[-1]
            low, high = float(self.minima[at]), float(self.maxima[at])
            start, end = float(self.first_ms[at]), float(self.newest_ms[at])
            if low == high:
                times += [start] if start == end else [start, end]
                values += [low] if start == end else [low, low]
            else:  # from the side that is nearer to where the line comes from
                first, second = (
                    (low, high) if not values or abs(values[-1] - low) < abs(values[-1] - high) else (high, low)
                )
                times += [start, end]
                values += [first, second]
            before = at
        return lines

    def _gap(self, before: int, after: int) -> bool:
        return bool(self.first_ms[after] - self.newest_ms[before] > _GAP * self.interval_ms)


def digest(pieces: Iterable[SeriesData], span: Span, buckets: int) -> dict[SeriesId, Digest]:
    """The digests of all series, in the order of their names and labels."""
    found: dict[SeriesId, Digest] = {}
    for piece in pieces:
        one = found.get(piece.series)
        if one is None:
            one = found[piece.series] = Digest(span, buckets)
        one.add(piece.times, piece.values)
    return dict(sorted(found.items(), key=lambda item: _natural(item[0])))


def _natural(series: SeriesId) -> tuple[str, list[tuple[str, int, str]]]:
    """The order in which a person counts: 2 before 10."""
    return series.name, [(label, int(value) if value.isdigit() else -1, value) for label, value in series.pairs]
