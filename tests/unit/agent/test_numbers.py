# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of numbers means just these numbers, however many arrays are written at once."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from esnode.serve import numbers
from esnode.store import SeriesData, SeriesId
from hypothesis import example, given
from hypothesis import strategies as st

whole = st.integers(-(2**53) + 1, 2**53 - 1).map(float)
decimal = st.integers(-(10**9), 10**9).map(lambda number: number / 1000)
arrays = st.lists(
    st.one_of(*(st.lists(kind, min_size=1, max_size=8) for kind in (whole, decimal, st.floats()))),
    min_size=1,
    max_size=8,
)


@given(arrays)
@example([[1.0, 2.0], [0.5], [3.0]])
@example([[-0.0], [0.0]])
@example([[math.nan, 1.0], [math.inf]])
@example([[2.0**53], [2.0**53 - 1], [1e300]])
def test_texts(given: list[list[float]]) -> None:
    found = numbers.texts([np.array(one) for one in given])
    assert len(found) == len(given)
    for text, values in zip(found, given, strict=True):
        got = [math.nan if number is None else float(number) for number in json.loads(b"[%s]" % text)]
        expected = [value if math.isfinite(value) else math.nan for value in values]
        # As bits, so that -0.0 is not 0.0.
        assert np.array(got).tobytes() == np.array(expected).tobytes()
        if all(value.is_integer() and abs(value) < 2**53 and str(value) != "-0.0" for value in values):
            assert b"." not in text and b"e" not in text


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_whole_texts(given: list[int]) -> None:
    assert numbers.whole_texts(np.array(given, np.int64)) == ",".join(map(str, given)).encode()
    twice = np.repeat(np.array(given, np.int64), 2)[::2]  # not contiguous
    assert numbers.whole_texts(twice) == ",".join(map(str, given)).encode()


@pytest.mark.parametrize("together", [1, 5, 1000])
def test_each_piece_gets_its_own_text(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    monkeypatch.setattr(numbers, "_TOGETHER", together)
    pieces = [SeriesData(SeriesId(str(n)), np.arange(n), np.arange(n) / (1 + n % 2)) for n in range(1, 12)]
    found = list(numbers.with_texts(iter(pieces)))
    assert [piece for piece, _ in found] == pieces
    assert [json.loads(b"[%s]" % text) for _, text in found] == [piece.values.tolist() for piece in pieces]
