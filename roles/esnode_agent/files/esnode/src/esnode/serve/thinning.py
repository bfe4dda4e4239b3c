# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fewer samples of a series: the last of each step, and what was known at each of given moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from esnode.store import SeriesData, SeriesId
from esnode.store.codec import Bools, Floats, Ints

STALE_BITS = 0x7FF0000000000002
"""The NaN by which Prometheus marks the end of a series."""
_LONG_AGO = np.iinfo(np.int64).min


def is_stale(values: Floats) -> Bools:
    """Which values are staleness markers."""
    stale: Bools = np.ascontiguousarray(values).view(np.uint64) == np.uint64(STALE_BITS)
    return stale


def last_of_each_step(pieces: Iterable[SeriesData], step_ms: int) -> Iterator[SeriesData]:
    """Of each series and each span ((k - 1) x step, k x step] since 1970 the last sample, with its own time.

    Pieces of a series come in the order of their appending. One sample a series is held back, since the next piece
    may go on in the same span.
    """
    held: dict[SeriesId, tuple[int, float]] = {}
    for piece in pieces:
        times, values = piece.times, piece.values
        if (before := held.get(piece.series)) is not None:
            times, values = np.append(before[0], times), np.append(before[1], values)
        spans = -(-times // step_ms)
        last = spans[1:] != spans[:-1]
        held[piece.series] = int(times[-1]), values[-1]
        if last.any():
            yield SeriesData(piece.series, times[:-1][last], values[:-1][last])
    for series, (time, value) in held.items():
        yield SeriesData(series, np.array([time], np.int64), np.array([value], np.float64))


def thinned(data: SeriesData, step_ms: int) -> SeriesData:
    """The same of all samples of one series, in order."""
    spans = -(-data.times // step_ms)
    last = np.append(spans[1:] != spans[:-1], True)
    return SeriesData(data.series, data.times[last], data.values[last])


@dataclass(slots=True)
class _Row:
    times: Ints
    values: Floats


class TooManyPoints(Exception):
    """The answer would have more points than the caller allows."""


def at_each_moment(
    pieces: Iterable[SeriesData], moments: Ints, lookback_ms: int, most_points: int
) -> dict[SeriesId, SeriesData]:
    """For each series what it was at each moment: its last sample of (moment - lookback, moment].

    None where there is no such sample or it is a staleness marker; series with no point at all are left out.
    Memory is that of the answer, however many samples there are. TooManyPoints: more than `most_points`.
    """
    rows: dict[SeriesId, _Row] = {}
    for piece in pieces:
        times, values = piece.times, piece.values
        if len(times) > 1 and (times[1:] < times[:-1]).any():  # the clock was set back
            order = np.argsort(times, kind="stable")
            times, values = times[order], values[order]
        inside = slice(
            int(np.searchsorted(moments, times[0], "left")),
            int(np.searchsorted(moments, times[-1] + lookback_ms, "left")),
        )
        asked = moments[inside]
        if not len(asked):
            continue
        row = rows.get(piece.series)
        if row is None:
            if (len(rows) + 1) * len(moments) > most_points:
                raise TooManyPoints
            row = rows[piece.series] = _Row(np.full(len(moments), _LONG_AGO), np.full(len(moments), np.nan))
        last = np.searchsorted(times, asked, "right") - 1
        newer = (times[last] > asked - lookback_ms) & (times[last] >= row.times[inside])
        row.times[inside][newer] = times[last][newer]
        row.values[inside][newer] = values[last][newer]
    found = {}
    for series in sorted(rows):
        row = rows[series]
        here = (row.times != _LONG_AGO) & ~is_stale(row.values)
        if here.any():
            found[series] = SeriesData(series, moments[here], row.values[here])
    return found
