# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever goes into a chunk comes out of it, to the last bit."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest
from esnode.store.codec import Chunk, Column, decode_times, encode, encode_times
from esnode.store.errors import Damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import STALE, bits

any_bits = st.integers(0, 2**64 - 1).map(lambda number: struct.unpack("<d", struct.pack("<Q", number))[0])
decimals = st.builds(lambda whole, digits: whole / 10**digits, st.integers(-(10**12), 10**12), st.integers(0, 9))
specials = st.sampled_from(
    [STALE, float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 5e-324, 2.0**53 + 2, -(2.0**63)]
)
samples = st.one_of(decimals, st.integers(-(2**63), 2**63).map(float), any_bits, specials)
columns = st.one_of(
    st.lists(decimals, max_size=40),
    st.lists(st.integers(-5, 5).map(float), max_size=40),
    st.lists(samples, max_size=40),
    st.builds(lambda start, step, n: [start + step * k for k in range(n)], decimals, decimals, st.integers(0, 40)),
)


def encoded(*values: list[float], rows: int | None = None) -> bytes:
    rows = max(map(len, values)) if rows is None else rows
    made = []
    for column in values:
        present = np.zeros(rows, np.bool_)
        present[rows - len(column) :] = True
        made.append(Column(None if len(column) == rows else present, np.array(column)))
    return encode(made, rows)


@settings(max_examples=150, deadline=None)
@given(st.lists(columns, min_size=1, max_size=40))
def test_any_floats_come_back_bit_for_bit(values: list[list[float]]) -> None:
    rows = max(1, *map(len, values), 1)
    chunk = Chunk(encoded(*values, rows=rows))
    assert len(chunk) == len(values)
    # From the back, so that no column relies on one before it.
    for number in reversed(range(len(values))):
        column = chunk.column(number)
        assert bits(column.values) == bits(values[number])
        present = np.ones(rows, np.bool_) if column.present is None else column.present
        assert np.flatnonzero(present).tolist() == list(range(rows - len(values[number]), rows))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30).flatmap(lambda n: st.lists(st.lists(samples, min_size=n, max_size=n), min_size=2)))
def test_columns_that_are_read_together_are_the_same_as_alone(values: list[list[float]]) -> None:
    """From the second one of a section on, all of it is decoded at once."""
    made = encoded(*values)
    chunk = Chunk(made)
    for number, column in enumerate(chunk.columns()):
        assert bits(column.values) == bits(values[number]) == bits(Chunk(made).column(number).values)


@pytest.mark.parametrize(
    "series",
    [
        lambda k, t: float(1000 * t + t * t * k),  # second differences
        lambda k, t: round(0.01 * (t * 7919 * (k + 1) % 5000), 2),  # decimals that jump
        lambda k, t: float(t * 65536 * (k + 1)),
        lambda k, t: struct.unpack("<d", struct.pack("<q", 2**62 + k))[0],
    ],
)
def test_a_whole_section_is_decoded_at_once(series: Callable[[int, int], float]) -> None:
    values = [[series(k, t) for t in range(100)] for k in range(40)]
    chunk = Chunk(encoded(*values))
    for number in (5, 6, 39, 38, 5, 0):
        assert bits(chunk.column(number).values) == bits(values[number])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=50).flatmap(lambda mask: st.tuples(st.just(mask), columns)))
def test_gaps_come_back_where_they_were(case: tuple[list[bool], list[float]]) -> None:
    mask, values = case
    here = np.array(mask)
    count = int(here.sum())
    filled = np.resize(np.array(values or [0.0]), count)
    column = Chunk(encode([Column(None if here.all() else here, filled)], len(mask))).column(0)
    assert bits(column.values) == bits(filled)
    assert column.present is None or column.present.tolist() == mask


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), max_size=50))
def test_times_come_back(times: list[int]) -> None:
    assert decode_times(encode_times(np.array(times, np.int64))).tolist() == times


def test_one_nan_does_not_cost_the_column_its_decimals() -> None:
    values = [round(k * 0.1, 1) for k in range(480)]
    with_nan = [*values[:100], STALE, *values[101:]]
    chunk = Chunk(encoded(with_nan))
    assert bits(chunk.column(0).values) == bits(with_nan)
    assert len(encoded(with_nan)) < len(encoded(values)) + 40


def test_negative_zero_stays_negative_among_decimals() -> None:
    values = [0.5, -0.0, 0.0, 1.5]
    assert bits(Chunk(encoded(values)).column(0).values) == bits(values)


def test_decimals_take_far_less_than_their_floats() -> None:
    rng = np.random.default_rng(1)
    watts = [np.round(rng.normal(300, 5, 480), 3) for _ in range(64)]
    assert len(encode([Column(None, column) for column in watts], 480)) < 64 * 480 * 2.5
    constants = [np.full(480, value) for value in rng.integers(0, 2**40, 64).astype(float)]
    assert len(encode([Column(None, column) for column in constants], 480)) < 64 * 12


def test_reading_one_series_unpacks_no_other_section() -> None:
    rng = np.random.default_rng(1)
    chunk = Chunk(encode([Column(None, np.round(rng.normal(300, 5, 480), 3)) for _ in range(64)], 480))
    chunk.column(40)
    assert len(chunk._unpacked) == 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_read_but_never_worse(data: st.DataObject) -> None:
    """Checksums find them first; the codec itself must still fail in one way only."""
    good = bytearray(encoded([0.1, 0.2, 0.3], [1 / 7, 2 / 7, 3 / 7], [1.0, 5.0, 2.0]))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    try:
        chunk = Chunk(bytes(good[: data.draw(st.integers(0, len(good)))]))
        for column in chunk.columns():
            assert column.values is not None
    except Damaged:
        pass


def test_truncated_bytes_are_damage() -> None:
    good = encoded([0.1, 0.2, 0.3])
    for size in range(len(good) - 1):
        with pytest.raises(Damaged):
            Chunk(good[:size]).column(0)
