# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the store as write requests of Prometheus' remote write protocol 1.0."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cramjam import snappy

from esnode import wire
from esnode.store.following import Batch
from esnode.store.model import SeriesId

STALE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""Prometheus' marker for a series that is no longer there: one certain NaN."""

_TIMESERIES, _SAMPLES = 1, 2  # fields of WriteRequest and TimeSeries


@dataclass(frozen=True, slots=True)
class Table:
    """`values[s, r]` of series `s` at `times[r]` (ms) where `present[s, r]`; times ascend."""

    series: Sequence[SeriesId]
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(np.count_nonzero(self.present))

    def rows(self, start: int, end: int) -> Table:
        """Some of the rows, with the series that are in them."""
        used = self.present[:, start:end].any(axis=1)
        series = [one for one, wanted in zip(self.series, used.tolist(), strict=True) if wanted]
        return Table(series, self.times[start:end], self.values[used, start:end], self.present[used, start:end])

    def columns(self, start: int, end: int) -> Table:
        """Some of the series."""
        return Table(self.series[start:end], self.times, self.values[start:end], self.present[start:end])

    def apart(self, some: Container[SeriesId]) -> list[Table]:
        """The table without some series, and these alone; what would hold no sample is left out."""
        chosen = np.array([one in some for one in self.series], np.bool_)
        tables = []
        for used in (~chosen, chosen):
            if used.all():
                return _with_samples(self)
            series = [one for one, wanted in zip(self.series, used.tolist(), strict=True) if wanted]
            tables.append(Table(series, self.times, self.values[used], self.present[used]))
        return _with_samples(*tables)

    def halves(self) -> list[Table] | None:
        """The older and the newer half, of one row the two halves of its series; None for a single sample.

        A half that holds no sample is left out.
        """
        rows, columns = len(self.times), len(self.series)
        if rows > 1:
            return _with_samples(self.rows(0, rows // 2), self.rows(rows // 2, rows))
        if columns > 1:
            return _with_samples(self.columns(0, columns // 2), self.columns(columns // 2, columns))
        return None


def _with_samples(*tables: Table) -> list[Table]:
    return [table for table in tables if table.samples]


class Staleness:
    """Gives a series that is in one row and not in the next a marker at the time of the next, as a scrape does."""

    def __init__(self) -> None:
        self._last: frozenset[SeriesId] = frozenset()
        self._last_ms: int | None = None

    def mark(self, batch: Batch) -> Table:
        """The batch with its markers. Batches must come in sequence; before the first nothing is known."""
        here = set(batch.series)
        gone = sorted(self._last - here)
        series = [*batch.series, *gone]
        shape = (len(series), len(batch.times))
        values, present, before = np.empty(shape), np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
        values[: len(here)], present[: len(here)] = batch.values, batch.present
        before[:, 1:] = present[:, :-1]
        before[:, 0] = [one in self._last for one in series]
        first = batch.times[:1] - 1 if self._last_ms is None else self._last_ms
        # Where the clock was set back a marker would lie before what it is to end.
        stale = before & ~present & (np.diff(batch.times, prepend=first) > 0)
        self._last = frozenset(one for one, last in zip(series, present[:, -1].tolist(), strict=True) if last)
        self._last_ms = int(batch.times[-1])
        values[stale] = STALE
        return Table(series, batch.times, values, present | stale)


def units(table: Table, most_samples: int) -> Iterator[tuple[int, list[Table]]]:
    """Rows that go out together, each time with the number of rows up to their end: of ascending times, and cut into
    tables of at most `most_samples` where a single row has more."""
    ends = np.cumsum(np.count_nonzero(table.present, axis=0))
    falls = [*(np.flatnonzero(np.diff(table.times) <= 0) + 1).tolist(), len(table.times)]
    start = 0
    while start < len(table.times):
        before = int(ends[start - 1]) if start else 0
        fall = falls[bisect_right(falls, start)]
        end = min(fall, max(start + 1, int(np.searchsorted(ends, before + most_samples, "right"))))
        unit = table.rows(start, end)
        if unit.samples <= most_samples:
            yield end, [unit]
        else:
            cuts = range(0, len(unit.series), most_samples)
            yield end, [unit.columns(cut, cut + most_samples) for cut in cuts]
        start = end


class Encoder:
    """Tables to bodies. `labels` are added to series that have no such label; an empty value adds none."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        self._coded: dict[SeriesId, bytes] = {}

    def body(self, table: Table) -> bytes:
        """A write request, compressed as the protocol wants it."""
        if len(self._coded) > 4 * len(table.series) + 10_000:
            self._coded.clear()  # most of them have gone
        every = table.present.all(axis=1).tolist()
        coded = []
        for place, series in enumerate(table.series):
            times, values = table.times, table.values[place]
            if not every[place]:
                here = table.present[place]
                times, values = times[here], values[here]
            name = self._coded.get(series) or self._name(series)
            coded.append(wire.payload(_TIMESERIES, name + wire.samples(_SAMPLES, times, values)))
        return bytes(snappy.compress_raw(b"".join(coded)))

    def _name(self, series: SeriesId) -> bytes:
        pairs = {**self._labels, **series.labels, "__name__": series.name}
        coded = self._coded[series] = wire.labels(1, sorted(pair for pair in pairs.items() if pair[1]))
        return coded
