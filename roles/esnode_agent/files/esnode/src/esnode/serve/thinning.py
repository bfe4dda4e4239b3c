# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fewer samples of a series: the last of each step, and what was known at each of given moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from esnode.store import SeriesData, SeriesId
from esnode.store.codec import Bools, Floats, Ints
from esnode.store.selecting import joined

STALE_BITS = 0x7FF0000000000002
"""The NaN by which Prometheus marks the end of a series."""
_HELD = 100_000  # samples
_STEPS_HELD = 64
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


class TooManyPoints(Exception):
    """The answer would have more points than the caller allows."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What a piece adds: values `of` its samples `at` these moments, which makes the known times `after`.

    It holds the arrays that it was made for, so that nothing else can have their identity meanwhile.
    """

    known: Ints
    times: Ints
    at: slice | Ints
    of: slice | Ints
    after: Ints

    @property
    def whole(self) -> bool:
        """Whether it adds a value at every moment."""
        return self.at == slice(0, len(self.known)) if isinstance(self.at, slice) else False


@dataclass(slots=True)
class _Row:
    """A series: when what is known at each moment was measured, and the value. `known` is shared, and not changed."""

    known: Ints
    values: Floats


def at_each_moment(pieces: Iterable[SeriesData], moments: Ints, lookback_ms: int, most_points: int) -> list[SeriesData]:
    """For each series, in order, what it was at each moment: its last sample of (moment - lookback, moment].

    None where there is no such sample or it is a staleness marker; series with no point at all are left out.
    Memory is that of the answer, however many samples there are. Series that were measured at the same times, given
    as the same arrays, are looked up once, and their answers have the same array of times.
    TooManyPoints: more than `most_points`.
    """
    rows: dict[SeriesId, _Row] = {}
    steps: dict[tuple[int, int], _Step] = {}
    nothing = np.full(len(moments), _LONG_AGO)
    for piece in _together(pieces):
        row = rows.get(piece.series)
        known = nothing if row is None else row.known
        key = id(known), id(piece.times)
        if (step := steps.get(key)) is None:
            if len(steps) >= _STEPS_HELD:
                steps.clear()
            step = steps[key] = _step(known, piece.times, moments, lookback_ms)
        if step.after is known:
            continue
        if row is None:
            if (len(rows) + 1) * len(moments) > most_points:
                raise TooManyPoints
            if step.whole:
                values = piece.values[step.of]
                # A part that keeps all of a long piece in memory is copied.
                rows[piece.series] = _Row(step.after, values if len(piece.values) < 2 * len(values) else values.copy())
                continue
            row = rows[piece.series] = _Row(nothing, np.full(len(moments), np.nan))
        elif row.values.base is not None:  # it is the store's
            row.values = row.values.copy()
        row.values[step.at] = piece.values[step.of]
        row.known = step.after
    return list(_without_ends(rows, moments))


def _without_ends(rows: dict[SeriesId, _Row], moments: Ints) -> Iterator[SeriesData]:
    """What is known of each series where it is known, without staleness markers."""
    stale = bool(rows) and bool(is_stale(np.concatenate([row.values for row in rows.values()])).any())
    shared: dict[int, tuple[Bools, Ints]] = {}
    for series in sorted(rows, key=lambda one: (one.name, one.pairs)):
        row = rows[series]
        if id(row.known) not in shared:
            here = row.known != _LONG_AGO
            shared[id(row.known)] = here, moments if here.all() else moments[here]
        here, times = shared[id(row.known)]
        values = row.values if times is moments else row.values[here]
        if stale and (ended := is_stale(values)).any():
            times, values = times[~ended], values[~ended]
        if len(times):
            yield SeriesData(series, times, values)


def _together(pieces: Iterable[SeriesData]) -> Iterator[SeriesData]:
    """Pieces of the same series joined, as far as bounded memory allows: fewer and longer ones take less time."""
    held: dict[SeriesId, list[tuple[Ints, Floats]]] = {}
    samples = 0
    for piece in pieces:
        held.setdefault(piece.series, []).append((piece.times, piece.values))
        samples += len(piece.times)
        if samples >= _HELD:
            yield from joined(held)
            held, samples = {}, 0
    yield from joined(held)


def _step(known: Ints, times: Ints, moments: Ints, lookback_ms: int) -> _Step:
    """What samples at these ascending times add to what is known; `after` is `known` when that is nothing."""
    first = int(np.searchsorted(moments, times[0], "left"))
    asked = moments[first : int(np.searchsorted(moments, times[-1] + lookback_ms, "left"))]
    last = np.searchsorted(times, asked, "right") - 1
    newest = times[last]
    newer = (newest > asked - lookback_ms) & (newest >= known[first : first + len(asked)])
    if not newer.any():
        return _Step(known, times, slice(0), slice(0), known)
    at = np.flatnonzero(newer) + first
    after = known.copy()
    after[at] = newest[newer]
    return _Step(known, times, _as_slice(at), _as_slice(last[newer]), after)


def _as_slice(places: Ints) -> slice | Ints:
    """One after the other, as a slice, which copies several times as fast."""
    first, last = int(places[0]), int(places[-1])
    if last - first == len(places) - 1 and (np.diff(places) == 1).all():
        return slice(first, last + 1)
    return places
