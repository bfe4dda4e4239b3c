# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocol Buffers on the wire: the few shapes that Prometheus' remote protocols use, written and read.

A message is the concatenation of its fields. Samples are written by numpy, since a loop over them would take most of
the time of an answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of fields."""

_U64 = (1 << 64) - 1
_VALUE_TAG = 1 << 3 | FIXED64
_TIME_TAG = 2 << 3 | VARINT
_SLICE = 4096  # samples
_FEW = 16  # samples, for which numpy takes longer than a loop
_DOUBLE = struct.Struct("<d")


class Malformed(Exception):
    """Bytes that are no message; the text says where."""


def varint(number: int) -> bytes:
    """Encode an integer of 64 bits; a negative one takes ten bytes, as an int64 does."""
    number &= _U64
    coded = bytearray()
    while number > 0x7F:
        coded.append(number & 0x7F | 0x80)
        number >>= 7
    coded.append(number)
    return bytes(coded)


def integer(field: int, number: int) -> bytes:
    """Encode an int64, uint64, bool or enum field."""
    return varint(field << 3 | VARINT) + varint(number)


def head(field: int, size: int) -> bytes:
    """Encode what precedes the `size` bytes of a bytes field or an embedded message."""
    return varint(field << 3 | BYTES) + varint(size)


def payload(field: int, body: bytes) -> bytes:
    """Encode a bytes field or an embedded message."""
    return head(field, len(body)) + body


def text(field: int, value: str) -> bytes:
    """Encode a string field."""
    return payload(field, value.encode("utf-8", "replace"))


def labels(field: int, pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode repeated `Label {string name = 1; string value = 2}`, in the order given."""
    return b"".join(payload(field, text(1, name) + text(2, value)) for name, value in pairs)


def samples(field: int, times_ms: npt.NDArray[np.int64], values: npt.NDArray[np.float64]) -> bytes:
    """Encode repeated `Sample {double value = 1; int64 timestamp = 2}`; values keep every bit."""
    import numpy as np

    tag = varint(field << 3 | BYTES)
    if len(times_ms) <= _FEW:
        return b"".join(
            tag + bytes((10 + len(when), _VALUE_TAG)) + _DOUBLE.pack(value) + bytes((_TIME_TAG,)) + when
            for when, value in zip(map(varint, times_ms.tolist()), values.tolist(), strict=True)
        )
    times = np.ascontiguousarray(times_ms, np.int64).view(np.uint64)
    coded = np.ascontiguousarray(values, "<f8").view(np.uint8).reshape(len(times), 8)
    # In slices that stay in the processor's cache.
    return b"".join(
        _samples(tag, times[at : at + _SLICE], coded[at : at + _SLICE]) for at in range(0, len(times), _SLICE)
    )


def _samples(tag: bytes, times: npt.NDArray[np.uint64], values: npt.NDArray[np.uint8]) -> bytes:
    import numpy as np

    shortest, longest = len(varint(int(np.min(times)))), len(varint(int(np.max(times))))
    fixed = len(tag) + 11  # up to the time
    rows = np.empty((len(times), fixed + longest), np.uint8)
    rows[:, : len(tag)] = np.frombuffer(tag, np.uint8)
    rows[:, fixed - 11 + 1] = _VALUE_TAG
    rows[:, fixed - 11 + 2 : fixed - 1] = values
    rows[:, fixed - 1] = _TIME_TAG
    rest = times
    for place in range(fixed, fixed + longest):
        # The cast keeps the low byte, of which a varint carries seven bits and a mark that more follow.
        rows[:, place] = rest.astype(np.uint8) | np.uint8(0x80)
        rest = rest >> np.uint64(7)
    if shortest == longest:
        rows[:, -1] &= 0x7F
        rows[:, fixed - 11] = 10 + longest
        return rows.tobytes()
    sizes = np.full(len(times), shortest)
    for size in range(shortest, longest):
        sizes += times >= np.uint64(1 << 7 * size)
    rows[np.arange(len(times)), fixed - 1 + sizes] &= 0x7F
    rows[:, fixed - 11] = 10 + sizes
    used = np.arange(rows.shape[1]) < fixed + sizes[:, None]
    return rows[used].tobytes()


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Give number and content of each field: an int for wire types of numbers (unsigned), bytes for the rest.

    Malformed when the message is cut off or uses what Protocol Buffers have given up.
    """
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint_at(message, place)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Malformed(f"field number 0 before byte {place}")
        if kind == VARINT:
            value, place = _varint_at(message, place)
            yield number, value
            continue
        if kind == BYTES:
            size, place = _varint_at(message, place)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise Malformed(f"field {number} has the unknown wire type {kind}")
        if size > end - place:
            raise Malformed(f"field {number} at byte {place} is cut off: {size} bytes announced, {end - place} there")
        body = message[place : place + size]
        place += size
        yield number, body if kind == BYTES else int.from_bytes(body, "little")


def _varint_at(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise Malformed(f"a number at byte {place} is cut off")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, place
    raise Malformed(f"a number before byte {place} is longer than ten bytes")


def signed(number: int | bytes) -> int:
    """What an int64 field holds, of its unsigned content."""
    if not isinstance(number, int):
        raise Malformed("a number was expected, and bytes are there")
    return number - (1 << 64) if number >> 63 else number


def string(content: int | bytes) -> str:
    """What a string field holds."""
    if not isinstance(content, bytes):
        raise Malformed("a string was expected, and a number is there")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"a string is not UTF-8: {error.reason}") from error


def message(content: int | bytes) -> bytes:
    """What a field with an embedded message holds."""
    if not isinstance(content, bytes):
        raise Malformed("a message was expected, and a number is there")
    return content


def double(content: int | bytes) -> float:
    """What a double field holds, of its unsigned content."""
    if not isinstance(content, int):
        raise Malformed("a double was expected, and bytes are there")
    return float(_DOUBLE.unpack(content.to_bytes(8, "little"))[0])
