# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages that are no messages are refused in one way; tests/integration/test_wire_peer.py has Google's own codec."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from esnode import wire
from hypothesis import given
from hypothesis import strategies as st


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    with contextlib.suppress(wire.Malformed):
        for number, content in wire.fields(message):
            assert number > 0 and isinstance(content, (int, bytes))


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=9)))))
def test_fields_come_back(written: list[tuple[int, int | bytes]]) -> None:
    coded = b"".join(
        wire.integer(number, content) if isinstance(content, int) else wire.payload(number, content)
        for number, content in written
    )
    assert list(wire.fields(coded)) == written


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\x0a\x05abc", "field 1 at byte 2 is cut off: 5 bytes announced, 3 there"),
        (b"\x08\x80", "a number at byte 2 is cut off"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "longer than ten bytes"),
        (b"\x0b", "field 1 has the unknown wire type 3"),
        (b"\x00\x01", "field number 0"),
        (b"\x09abc", "8 bytes announced"),
    ],
)
def test_what_is_wrong_is_said(message: bytes, words: str) -> None:
    with pytest.raises(wire.Malformed, match=words):
        list(wire.fields(message))


def test_content_of_the_wrong_kind_is_refused() -> None:
    for convert, content in ((wire.signed, b""), (wire.string, 1), (wire.message, 1), (wire.double, b"")):
        with pytest.raises(wire.Malformed):
            convert(content)
    with pytest.raises(wire.Malformed, match="UTF-8"):
        wire.string(b"\xff")
    assert wire.signed(2**64 - 5) == -5


def test_no_samples_are_no_bytes() -> None:
    assert wire.samples(2, np.empty(0, np.int64), np.empty(0)) == b""
