# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chunks hold what was put in, read bit by bit as their format says; peers read them in the integration."""

from __future__ import annotations

from pathlib import Path

import cramjam
import google_crc32c
import numpy as np
import pytest
from esnode import store, wire
from esnode.serve import remote_read, xor_chunks
from esnode.serve.xor_chunks import chunks
from esnode.store import Matcher, SeriesData, SeriesId
from hypothesis import example, given
from hypothesis import strategies as st

Samples = list[tuple[int, int]]  # time and the bits of the value


class Reader:
    def __init__(self, data: bytes) -> None:
        self._number, self.left = int.from_bytes(data, "big"), len(data) * 8

    def bits(self, count: int) -> int:
        self.left -= count
        assert self.left >= 0, "it is cut off"
        return self._number >> self.left & (1 << count) - 1

    def signed(self, count: int) -> int:
        number = self.bits(count)
        return number - (1 << count) if number > 1 << count - 1 else number

    def varint(self) -> int:
        number, shift = 0, 0
        while True:
            byte = self.bits(8)
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def code(self, most: int) -> int:
        """How many ones come before a zero, of at most so many."""
        for ones in range(most):
            if not self.bits(1):
                return ones
        return most


def decoded(data: bytes) -> Samples:
    reader, found = Reader(data[2:]), []
    time = value = change = leading = width = 0
    for place in range(int.from_bytes(data[:2], "big")):
        if place == 0:
            coded = reader.varint()
            time, value = coded >> 1 ^ -(coded & 1), reader.bits(64)
        else:
            if place == 1:
                change = reader.varint()
            elif size := (0, 14, 17, 20, 64)[reader.code(4)]:
                change += reader.signed(size)
            time += change
            if reader.bits(1):
                if reader.bits(1):
                    leading, width = reader.bits(5), reader.bits(6) or 64
                value ^= reader.bits(width) << 64 - leading - width
        found.append((time, value))
    assert reader.left < 8
    return found


steps = st.one_of(st.sampled_from((1, 15_000, 14_999, 15_001, 23_192, 80_536, 539_288)), st.integers(1, 2**45))
alike = st.sampled_from((0.0, 1.0, 1.5, -0.0, 1e300))
columns = st.lists(
    st.one_of(
        st.lists(st.tuples(steps, value), min_size=1, max_size=40)
        for value in (alike, st.floats(), st.integers(0, 10**6).map(lambda number: number / 1000))
    ),
    min_size=1,
    max_size=5,
)


@given(columns, st.integers(-(2**45), 2**45), st.sampled_from((1, 2, 7, 120)), st.sampled_from((1, 20, 16_384)))
@example([[(1, 1.0), (1, 1.0)]], 0, 120, 16_384)
def test_chunks(given: list[list[tuple[int, float]]], start: int, rows: int, together: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xor_chunks, "ROWS", rows)
        patch.setattr(xor_chunks, "_TOGETHER", together)
        found = [
            SeriesData(
                SeriesId("a"), start + np.cumsum([step for step, _ in one]), np.array([value for _, value in one])
            )
            for one in given
        ]
        for data, made in zip(found, chunks(found), strict=True):
            parts = [decoded(chunk.data) for chunk in made]
            assert [(part[0][0], part[-1][0]) for part in parts] == [(one.first_ms, one.last_ms) for one in made]
            assert {len(part) for part in parts[:-1]} <= {rows}
            together_again = [sample for part in parts for sample in part]
            assert together_again == list(zip(data.times.tolist(), data.values.view(np.uint64).tolist(), strict=True))


def test_what_hardly_changes_takes_hardly_any_room() -> None:
    times, random = 1_700_000_000_000 + 15_000 * np.arange(1200), np.random.default_rng(1)
    for values, most in (
        (np.full(1200, 300.0), 0.5),
        (np.round(random.normal(60, 3, 1200)), 1.5),
        (random.random(1200), 8.0),
    ):
        (made,) = chunks([SeriesData(SeriesId("a"), times, values)])
        assert sum(len(one.data) for one in made) / 1200 < most


def frames(body: bytes) -> list[bytes]:
    found = []
    while body:
        size, place = 0, 0
        while True:
            size |= (body[place] & 0x7F) << 7 * place
            place += 1
            if body[place - 1] < 0x80:
                break
        message = body[place + 4 : place + 4 + size]
        assert google_crc32c.value(message) == int.from_bytes(body[place : place + 4], "big")
        found.append(message)
        body = body[place + 4 + size :]
    return found


def test_a_stream_has_a_frame_for_each_series_in_the_order_of_its_labels(tmp_path: Path) -> None:
    # A label that sorts before the name.
    names = [SeriesId.of("b", {"A": "2"}), SeriesId.of("c", {"A": "1"}), SeriesId("a"), SeriesId.of("a", {"x": "y"})]
    with store.open(tmp_path) as one:
        for row in range(300):
            one.append(1000 * row, {name: row + place / 7 for place, name in enumerate(names)})
        queries = [remote_read.Query(0, 10**9, [Matcher("__name__", "=~", "a|b|c")]), remote_read.Query(0, 5000)]
        body = b"".join(remote_read.stream(one, queries))
    seen: list[tuple[int, list[tuple[str, str]], int]] = []
    for message in frames(body):
        fields = list(wire.fields(message))
        ((_, series),) = [field for field in fields if field[0] == 1]
        index = next((number for field, number in fields if field == 2), 0)
        labels, samples = [], 0
        for number, content in wire.fields(wire.message(series)):
            inner = dict(wire.fields(wire.message(content)))
            if number == 1:
                labels.append((wire.string(inner[1]), wire.string(inner[2])))
            else:
                assert inner[3] == 1
                samples += len(decoded(wire.message(inner[4])))
        assert labels == sorted(labels)
        seen.append((int(index), labels, samples))
    assert [(index, samples) for index, _, samples in seen] == [(0, 300)] * 4 + [(1, 6)] * 4
    for query in (seen[:4], seen[4:]):
        assert [labels for _, labels, _ in query] == sorted(labels for _, labels, _ in query)
    assert dict(seen[0][1])["__name__"] == "c"


def test_a_huge_series_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_read, "_FRAME_BYTES", 500)
    with store.open(tmp_path) as one:
        for row in range(1000):
            one.append(1000 * row, {SeriesId("a"): row / 7})
        body = b"".join(remote_read.stream(one, [remote_read.Query(0, 10**9)]))
    samples = [
        sample
        for message in frames(body)
        for number, content in wire.fields(wire.message(dict(wire.fields(message))[1]))
        if number == 2
        for sample in decoded(wire.message(dict(wire.fields(wire.message(content)))[4]))
    ]
    assert len(frames(body)) > 5 and [time for time, _ in samples] == list(range(0, 1_000_000, 1000))


@pytest.mark.parametrize(
    ("accepted", "streamed"), [((), False), ((0,), False), ((1, 0), True), ((0, 1), False), ((7, 1), True)]
)
def test_the_answer_that_is_liked_best_is_given(accepted: tuple[int, ...], streamed: bool) -> None:
    query = wire.payload(1, wire.integer(1, 0) + wire.integer(2, 1))
    for kinds in (b"".join(wire.integer(2, kind) for kind in accepted), wire.payload(2, bytes(accepted))):
        _, found = remote_read.read_request(bytes(cramjam.snappy.compress_raw(query + kinds)))
        assert found is streamed
