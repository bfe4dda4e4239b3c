# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples boiled down: the figures are those of all samples, and a gap stays one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from esnode.commands._digest import Digest, Span, digest
from esnode.store import SeriesData, SeriesId
from hypothesis import given
from hypothesis import strategies as st

ONE = SeriesId.of("m", {"index": "1"})


def piece(times: list[int], values: list[float], series: SeriesId = ONE) -> SeriesData:
    return SeriesData(series, np.array(times, np.int64), np.array(values, np.float64))


samples = st.lists(st.tuples(st.integers(0, 10_000), st.floats(-1e9, 1e9) | st.just(math.nan)), min_size=1, max_size=60)


@given(samples, st.integers(1, 40), st.integers(1, 10))
def test_figures_are_those_of_all_samples_however_they_come(
    given_samples: list[tuple[int, float]], buckets: int, size: int
) -> None:
    parts = [given_samples[at : at + size] for at in range(0, len(given_samples), size)]
    one = digest((piece([t for t, _ in part], [v for _, v in part]) for part in parts), Span(0, 10_000), buckets)[ONE]
    finite = [value for _, value in given_samples if not math.isnan(value)]
    assert one.samples == len(given_samples)
    assert one.last_ms == max(time for time, _ in given_samples)
    assert one.counts.sum() == len(finite)
    if finite:
        assert (one.smallest, one.largest) == (min(finite), max(finite))
        assert one.mean == pytest.approx(sum(finite) / len(finite), rel=1e-9, abs=1e-3)
        drawn = [value for _, values in one.lines() for value in values]
        assert (min(drawn), max(drawn)) == (min(finite), max(finite)), "the extremes are drawn"
    else:
        assert math.isnan(one.mean) and one.lines() == []
    assert [value is None for value in one.means()].count(False) >= (one.counts > 0).sum()


def test_a_gap_ends_a_line_and_a_long_interval_does_not() -> None:
    one = Digest(Span(0, 600_000), 600)
    regular = [t for t in range(0, 600_000, 15_000) if not 200_000 < t < 400_000]
    one.add(np.array(regular, np.int64), np.ones(len(regular)))
    first, second = one.lines()
    assert first[0][-1] == 195_000 and second[0][0] == 405_000
    means = one.means()
    assert means[198:404] == [None] * 206
    assert None not in means[:195], "between two samples of the usual interval there is no hole"


def test_samples_that_are_no_numbers_leave_a_gap() -> None:
    one = Digest(Span(0, 100), 100)
    times = np.arange(0, 100, 5, dtype=np.int64)
    one.add(times, np.where((times > 30) & (times < 60), math.nan, 1.0))
    assert [line[0][0] for line in one.lines()] == [0.0, 60.0]


def test_series_come_as_a_person_counts() -> None:
    parts = [piece([1], [1.0], SeriesId.of("m", {"index": index})) for index in ("10", "2", "1")]
    assert [one.labels["index"] for one in digest(parts, Span(0, 9), 3)] == ["1", "2", "10"]


def test_nothing_at_all() -> None:
    one = Digest(Span(0, 100), 4)
    one.add(np.array([], np.int64), np.array([]))
    assert one.means() == [None] * 4 and one.lines() == [] and one.samples == 0
