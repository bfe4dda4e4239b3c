# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The native format brings every bit, and says when something is missing."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from esnode.sample_stream import StreamError, decode, encode
from esnode.store import SeriesData, SeriesId
from hypothesis import given
from hypothesis import strategies as st

bits = st.integers(0, 2**64 - 1).map(lambda number: struct.unpack("<d", struct.pack("<Q", number))[0])
times = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=10)
series = st.builds(SeriesId.of, names, st.dictionaries(names, names, max_size=3))
pieces = st.builds(
    lambda one, samples: SeriesData(
        one, np.array([t for t, _ in samples], np.int64), np.array([v for _, v in samples])
    ),
    series,
    st.lists(st.tuples(times, bits), min_size=1, max_size=20),
)


def cut(whole: bytes, size: int) -> Iterator[bytes]:
    return (whole[at : at + size] for at in range(0, len(whole), size))


@given(st.lists(pieces, max_size=6), st.integers(1, 100), st.booleans())
def test_every_bit_comes_back(written: list[SeriesData], size: int, twice: bool) -> None:
    written = written * 2 if twice else written
    read = list(decode(cut(b"".join(encode(written)), size)))
    assert [one.series for one in read] == [one.series for one in written]
    for one, other in zip(read, written, strict=True):
        assert one.times.tobytes() == other.times.tobytes() and one.values.tobytes() == other.values.tobytes()


def example() -> bytes:
    stamps = np.arange(100)
    return b"".join(encode(SeriesData(SeriesId(f"s{n}"), stamps, stamps / (n + 1)) for n in range(3)))


def test_times_that_many_series_share_are_sent_once() -> None:
    assert len(example()) < 100 * 8 * 4 + 200


def test_a_stream_that_was_cut_off_anywhere_is_noticed() -> None:
    whole = example()
    for end in range(len(whole)):
        with pytest.raises(StreamError):
            list(decode([whole[:end]]))


@given(st.data())
def test_changed_bytes_are_refused_in_one_way(data: st.DataObject) -> None:
    whole = bytearray(example())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(StreamError):
        for piece in decode([bytes(whole)]):
            assert len(piece.times) == len(piece.values)


def test_other_things_are_named() -> None:
    with pytest.raises(StreamError, match="not samples in the native format"):
        list(decode([b"\x03\x00\x00\x00\x81\x01\x02"]))
    with pytest.raises(StreamError, match="too long"):
        list(decode([b'{"metric":']))
