# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Thinned samples are what a loop over all of them would find, however they come in pieces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from esnode.serve.thinning import STALE_BITS, TooManyPoints, at_each_moment, last_of_each_step
from esnode.store import SeriesData, SeriesId
from hypothesis import given
from hypothesis import strategies as st

STALE = float(np.array([STALE_BITS], np.uint64).view(np.float64)[0])
A, B = SeriesId("a"), SeriesId("b")
ascending = st.lists(st.integers(-50, 400), max_size=40, unique=True).map(sorted)


def pieces(series: SeriesId, times: list[int], values: list[float], cuts: list[int]) -> list[SeriesData]:
    """The samples in pieces that end at `cuts`."""
    edges = sorted({0, len(times), *(cut % (len(times) + 1) for cut in cuts)})
    return [
        SeriesData(series, np.array(times[a:b], np.int64), np.array(values[a:b], np.float64))
        for a, b in itertools.pairwise(edges)
    ]


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
)
def test_at_each_moment(samples: list[tuple[int, float]], cuts: list[int], moments: list[int], lookback: int) -> None:
    times, values = [time for time, _ in samples], [value for _, value in samples]
    parts = pieces(A, times, values, cuts)
    found = at_each_moment(parts, np.array(moments, np.int64), lookback, 10_000)
    known = dict(samples)  # the one that came last counts
    expected = []
    for moment in moments:
        within = [time for time in known if moment - lookback < time <= moment]
        if within and np.float64(known[max(within)]).view(np.uint64) != STALE_BITS:
            expected.append((moment, known[max(within)]))
    got = found.get(A)
    assert (got.times.tolist() if got else []) == [moment for moment, _ in expected]
    assert (got.values if got else np.empty(0)).tobytes() == np.array([v for _, v in expected], np.float64).tobytes()


def test_the_look_back_does_not_include_its_left_end() -> None:
    one = [SeriesData(A, np.array([0, 100]), np.array([1.0, 2.0]))]
    assert at_each_moment(one, np.array([49, 50, 100]), 50, 100)[A].times.tolist() == [49, 100]


def test_too_many_points_are_refused_before_they_are_there() -> None:
    parts = [SeriesData(SeriesId(str(n)), np.array([0]), np.array([1.0])) for n in range(11)]
    assert len(at_each_moment(parts[:10], np.arange(10), 5, 100)) == 10
    with pytest.raises(TooManyPoints):
        at_each_moment(parts, np.arange(10), 5, 100)
