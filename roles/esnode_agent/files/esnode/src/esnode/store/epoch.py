# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A span of the hot part in memory: rows of values, each against a layout of series. Sealed, it becomes one block."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from esnode.store.model import FOREVER_MS, Key, SeriesId, SeriesLike

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Places = npt.NDArray[np.int32]

SEGMENT_ROWS = 128
_REMEMBERED_KEYS = 4  # times the width of the layout, then the keys are looked up anew


class Layout:
    """Which series the columns of a row are: `ids` are numbers of the epoch's series."""

    def __init__(self, index: int, ids: Places) -> None:
        self.index, self.ids = index, ids

    def places(self, wanted: Places) -> Places:
        """The columns of these series, -1 for those that are not in the layout."""
        # Not kept: with processes that come and go there is a layout a row.
        column = np.full(int(np.max(self.ids)) + 1 if len(self.ids) else 0, -1, np.int32)
        column[self.ids] = np.arange(len(self.ids), dtype=np.int32)
        known = wanted < len(column)
        if known.all():
            return column[wanted]
        places = np.full(len(wanted), -1, np.int32)
        places[known] = column[wanted[known]]
        return places


class Segment:
    """Rows in a sequence with one layout. `written`: how many are on the disk. `first_ms`, `last_ms`: the ends."""

    __slots__ = ("first_ms", "last_ms", "layout", "rows", "times", "values", "written")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.times: Ints = np.empty(1, np.int64)
        self.values: Floats = np.empty((1, len(layout.ids)))
        self.rows = self.written = 0
        self.first_ms, self.last_ms = FOREVER_MS, -FOREVER_MS

    def add(self, time_ms: int, row: Floats) -> None:
        """Append a row. Readers hold slices of the arrays up to an earlier `rows`: nothing is moved in place."""
        if self.rows == len(self.times):
            self._resize(min(SEGMENT_ROWS, 4 * self.rows))
        self.times[self.rows] = time_ms
        self.values[self.rows] = row
        self.rows += 1
        self.first_ms, self.last_ms = min(self.first_ms, time_ms), max(self.last_ms, time_ms)

    def finish(self) -> None:
        """Give back what was taken in advance."""
        if self.rows < len(self.times):
            self._resize(self.rows)

    def _resize(self, rows: int) -> None:
        times, values = np.empty(rows, np.int64), np.empty((rows, self.values.shape[1]))
        times[: self.rows], values[: self.rows] = self.times[: self.rows], self.values[: self.rows]
        self.times, self.values = times, values


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a segment as a reader sees them."""

    layout: Layout
    times: Ints
    values: Floats


class Epoch:
    """Series, layouts and segments. Changed under the head's lock only; series and layouts are only ever added."""

    def __init__(self, number: int, started: float) -> None:
        self.number, self.started = number, started
        self.series: list[SeriesId] = []
        self.by_name: dict[str, list[int]] = {}
        self.layouts: list[Layout] = []
        self.segments: list[Segment] = []
        self.rows = self.values = 0
        self.written_series = self.written_layouts = self.written_bytes = self.next_record = 0
        self._id_of: dict[SeriesId, int] = {}
        self._layout_of: dict[bytes, Layout] = {}
        self._id_of_key: dict[Hashable, int] = {}
        self._keys: tuple[Hashable, ...] | None = None
        self._layout: Layout | None = None

    def append(self, time_ms: int, samples: Mapping[Key, float]) -> int:
        """Add a row, return its number of values."""
        keys = tuple(samples)
        row = np.fromiter(samples.values(), np.float64, len(keys))
        if keys != self._keys or self._layout is None:
            self._layout = self._arrange(keys)
            self._keys = keys
        self.add(self._layout, time_ms, row)
        return len(row)

    def add(self, layout: Layout, time_ms: int, row: Floats) -> None:
        """Add a row of a known layout."""
        segment = self.segments[-1] if self.segments else None
        if segment is None or segment.layout is not layout or segment.rows == SEGMENT_ROWS:
            if segment is not None:
                segment.finish()
            segment = Segment(layout)
            self.segments.append(segment)
        segment.add(time_ms, row)
        self.rows += 1
        self.values += len(row)

    def _arrange(self, keys: Sequence[SeriesLike]) -> Layout:
        if len(self._id_of_key) > _REMEMBERED_KEYS * len(keys) + 1000:
            self._id_of_key.clear()
        known = self._id_of_key
        new = [key for key in keys if key not in known]
        named = [SeriesId.of(key.name, key.labels) for key in new]
        for series in named:
            if not series.writable:
                raise ValueError(f"the series {series.name!r}{series.labels} holds what is no UTF-8")
        for key, series in zip(new, named, strict=True):
            known[key] = self.register(series)
        numbers = np.fromiter((known[key] for key in keys), np.int32, len(keys))
        if len(np.unique(numbers)) != len(numbers):
            twice = next(series for series, number in zip(keys, numbers, strict=True) if (numbers == number).sum() > 1)
            raise ValueError(f"the series {twice.name}{dict(twice.labels)} is in the samples twice")
        return self.layout(numbers)

    def register(self, series: SeriesId) -> int:
        """The number of a series, a new one if it has none."""
        number = self._id_of.get(series)
        if number is None:
            number = self._id_of[series] = len(self.series)
            self.series.append(series)
            self.by_name.setdefault(series.name, []).append(number)
        return number

    def layout(self, ids: Places) -> Layout:
        """The layout with these series."""
        same = blake2b(ids.tobytes(), digest_size=16).digest()
        layout = self._layout_of.get(same)
        if layout is None:
            layout = self._layout_of[same] = Layout(len(self.layouts), ids)
            self.layouts.append(layout)
        return layout

    def parts(self) -> list[Part]:
        """All rows as they are now."""
        return [
            Part(segment.layout, segment.times[: segment.rows], segment.values[: segment.rows])
            for segment in self.segments
            if segment.rows
        ]

    def written_parts(self) -> list[Part]:
        """The rows that are on the disk, up to the first that is not."""
        parts: list[Part] = []
        for segment in self.segments:
            if segment.written:
                parts.append(Part(segment.layout, segment.times[: segment.written], segment.values[: segment.written]))
            if segment.written < segment.rows:
                break
        return parts

    def width(self) -> int:
        """Number of series in the newest row."""
        return len(self.segments[-1].layout.ids) if self.segments else 0

    def give_up_oldest(self) -> tuple[int, int, int, int] | None:
        """Drop the oldest segment's unwritten rows; return rows, samples, first and last time, or None."""
        for place, segment in enumerate(self.segments):
            rows = segment.rows - segment.written
            if not rows:
                continue
            times, samples = segment.times[segment.written : segment.rows], rows * len(segment.layout.ids)
            rest = Segment(segment.layout)
            for row in range(segment.written):
                rest.add(int(segment.times[row]), segment.values[row])
            rest.written = segment.written
            self.segments[place : place + 1] = [rest] if rest.rows else []
            self.rows -= rows
            self.values -= samples
            return rows, samples, int(np.min(times)), int(np.max(times))
        return None


def pick(parts: Iterable[Part], wanted: Places) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """Times of all rows, and for each wanted series (a row of the result each) values and which rows have one."""
    parts = list(parts)
    rows = sum(len(part.times) for part in parts)
    times = np.empty(rows, np.int64)
    values = np.empty((len(wanted), rows))
    present = np.zeros((len(wanted), rows), np.bool_)
    at = 0
    for part in parts:
        end = at + len(part.times)
        times[at:end] = part.times
        places = part.layout.places(wanted)
        here = np.flatnonzero(places >= 0)
        if len(here) == len(wanted):
            values[:, at:end] = part.values[:, places].T
            present[:, at:end] = True
        elif len(here):
            values[here, at:end] = part.values[:, places[here]].T
            present[here, at:end] = True
        at = end
    return times, values, present
