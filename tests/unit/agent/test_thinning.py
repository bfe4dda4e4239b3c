# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Thinned samples are what a loop over all of them would find, however they come in pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from esnode.serve import thinning
from esnode.serve.thinning import STALE_BITS, TooManyPoints, at_each_moment, last_of_each_step
from esnode.store import SeriesData, SeriesId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STALE = float(np.array([STALE_BITS], np.uint64).view(np.float64)[0])
A, B = SeriesId("a"), SeriesId("b")
ascending = st.lists(st.integers(-50, 400), max_size=40, unique=True).map(sorted)


def pieces(series: SeriesId, times: list[int], values: list[float], cuts: list[int]) -> list[SeriesData]:
    """The samples in pieces that end at `cuts`."""
    edges = sorted({0, len(times), *(cut % (len(times) + 1) for cut in cuts)})
    parts = [
        SeriesData(series, np.array(times[a:b], np.int64), np.array(values[a:b], np.float64))
        for a, b in itertools.pairwise(edges)
    ]
    for part in parts:
        part.values.flags.writeable = False  # as those of the store
    return parts


@given(ascending, ascending, st.lists(st.integers(0, 40), max_size=5), st.integers(1, 60))
def test_last_of_each_step(first: list[int], second: list[int], cuts: list[int], step: int) -> None:
    parts = pieces(A, first, [time / 7 for time in first], cuts) + pieces(B, second, [1.0] * len(second), cuts)
    found: dict[SeriesId, list[tuple[int, float]]] = {}
    for piece in last_of_each_step(parts, step):
        found.setdefault(piece.series, []).extend(zip(piece.times.tolist(), piece.values.tolist(), strict=True))
    for series, times in ((A, first), (B, second)):
        last = {-(-time // step): time for time in times}
        assert [time for time, _ in found.get(series, [])] == sorted(last.values())
    assert all(value == time / 7 for time, value in found.get(A, []))


values_or_end = st.one_of(st.floats(), st.just(STALE))


@given(
    st.lists(st.tuples(st.integers(0, 300), values_or_end), max_size=40),  # the clock may go back
    st.lists(st.integers(0, 40), max_size=5),
    st.lists(st.integers(-20, 400), min_size=1, max_size=20, unique=True).map(sorted),
    st.integers(1, 80),
    st.booleans(),
    st.sampled_from((1, 10, 100_000)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_at_each_moment(
    monkeypatch: pytest.MonkeyPatch,
    samples: list[tuple[int, float]],
    cuts: list[int],
    moments: list[int],
    lookback: int,
    alone: bool,
    held: int,
) -> None:
    times, values = [time for time, _ in samples], [value for _, value in samples]
    parts = pieces(A, times, values, cuts)
    for part in tuple(parts):  # one that has them at the same times, in the same arrays but for some
        if not alone or len(parts) % 3:
            parts.append(SeriesData(B, part.times, -part.values))
    parts.sort(key=lambda part: alone and part.series == B)
    monkeypatch.setattr(thinning, "_HELD", held)
    given = {one.series: one for one in at_each_moment(parts, np.array(moments, np.int64), lookback, 10_000)}
    assert list(given) == sorted(given)
    for series in (A, B):
        # The one that came last counts.
        known = {
            time: value
            for part in parts
            if part.series == series
            for time, value in zip(part.times.tolist(), part.values, strict=True)
        }
        expected = []
        for moment in moments:
            within = [time for time in known if moment - lookback < time <= moment]
            if within and known[max(within)].view(np.uint64) != STALE_BITS:
                expected.append((moment, known[max(within)]))
        got = given.get(series)
        assert (got.times.tolist() if got else []) == [moment for moment, _ in expected]
        found = got.values.tobytes() if got else b""
        assert found == np.array([value for _, value in expected], np.float64).tobytes()


def test_series_with_the_same_times_are_looked_up_once_and_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    times, looked = np.arange(0, 1000, 10), []
    step = thinning._step
    monkeypatch.setattr(thinning, "_step", lambda *given: looked.append(1) or step(*given))
    parts = [
        SeriesData(SeriesId(f"s{n:02}"), part, part * (n + 1.0)) for part in (times[:50], times[50:]) for n in range(30)
    ]
    moments = np.arange(5, 1000, 7)
    found = at_each_moment(parts, moments, 300, 10_000)
    assert len(looked) == 1 and len({id(one.times) for one in found}) == 1 and found[0].times is moments
    assert [one.values.tolist() for one in found] == [(moments // 10 * 10 * (n + 1.0)).tolist() for n in range(30)]


def test_the_look_back_does_not_include_its_left_end() -> None:
    one = [SeriesData(A, np.array([0, 100]), np.array([1.0, 2.0]))]
    (found,) = at_each_moment(one, np.array([49, 50, 100]), 50, 100)
    assert found.times.tolist() == [49, 100]


def test_too_many_points_are_refused_before_they_are_there() -> None:
    parts = [SeriesData(SeriesId(str(n)), np.array([0]), np.array([1.0])) for n in range(11)]
    assert len(at_each_moment(parts[:10], np.arange(10), 5, 100)) == 10
    with pytest.raises(TooManyPoints):
        at_each_moment(parts, np.arange(10), 5, 100)
