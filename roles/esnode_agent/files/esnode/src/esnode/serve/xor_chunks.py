# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples as Prometheus' XOR chunks, the chunks of many series at once.

A chunk is a count and a stream of bits: of times the change of the change, of values the bits that differ from those of
the value before. Each sample is four fields of so many bits, which numpy lays side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from esnode.store import SeriesData
from esnode.store.codec import Bools, Floats, Ints

ROWS = 120
"""Samples in a chunk, as Prometheus cuts them."""
_TOGETHER = 16_384  # samples: what is worked out for them takes some hundred bytes each
Bits = npt.NDArray[np.uint64]
_LARGEST_LEADING = 31  # what five bits hold
# Of changes of a time's change: the code, its bits, and the bits of the number after it.
_CHANGES = ((0b10, 2, 14), (0b110, 3, 17), (0b1110, 4, 20))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples of a series; times in ms."""

    first_ms: int
    last_ms: int
    data: bytes


def chunks(found: Sequence[SeriesData]) -> Iterator[list[Chunk]]:
    """The chunks of each series; times must ascend."""
    pieces = [
        (place, data.times[at : at + ROWS], data.values[at : at + ROWS])
        for place, data in enumerate(found)
        for at in range(0, len(data.times), ROWS)
    ]
    done: list[Chunk] = []
    place, together = 0, max(1, _TOGETHER // ROWS)
    for at in range(0, len(pieces), together):
        some = pieces[at : at + together]
        for (of, times, _values), data in zip(some, _encoded(some), strict=True):
            while place < of:
                yield done
                place, done = place + 1, []
            done.append(Chunk(int(times[0]), int(times[-1]), data))
    while place < len(found):
        yield done
        place, done = place + 1, []


def _encoded(pieces: Sequence[tuple[int, Ints, Floats]]) -> list[bytes]:
    counts = np.array([len(times) for _place, times, _values in pieces])
    firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    times = np.concatenate([times for _place, times, _values in pieces])
    values = np.concatenate([values for _place, _times, values in pieces])
    # Two fields for the time and two for the value of each sample; the first of two is short.
    fields, sizes = np.zeros((len(times), 4), np.uint64), np.zeros((len(times), 4), np.int64)
    first = np.zeros(len(times), np.bool_)
    first[firsts] = True
    _times(times, first, fields, sizes)
    _values(values.view(np.uint64), first, firsts, counts, fields, sizes)
    bits = sizes.sum(axis=1)
    # Each chunk begins with a word of its own.
    words = (np.add.reduceat(bits, firsts) + 63) // 64
    starts = np.concatenate(([0], np.cumsum(words)))
    ends = np.cumsum(sizes.ravel())
    before = np.concatenate(([0], ends[:-1])).reshape(sizes.shape)
    offsets = before + np.repeat(starts[:-1] * 64 - before[firsts, 0], counts)[:, None]
    packed = _packed(fields.ravel(), sizes.ravel(), offsets.ravel(), int(starts[-1]))
    sizes_in_bytes = (np.add.reduceat(bits, firsts) + 7) // 8
    return [
        count.to_bytes(2, "big") + packed[start * 8 : start * 8 + size]
        for count, start, size in zip(counts.tolist(), starts[:-1].tolist(), sizes_in_bytes.tolist(), strict=True)
    ]


def _times(times: Ints, first: Bools, fields: Bits, sizes: Ints) -> None:
    """The first time of a chunk and the first change as varints, then the changes of the change."""
    change = np.zeros(len(times), np.int64)
    np.subtract(times[1:], times[:-1], out=change[1:])
    second = np.zeros(len(times), np.bool_)
    second[1:] = first[:-1] & ~first[1:]
    further = ~first & ~second
    again = np.zeros(len(times), np.int64)
    np.subtract(change[1:], change[:-1], out=again[1:])
    numbers = np.where(first, (times << 1) ^ (times >> 63), change).view(np.uint64)
    at = np.flatnonzero(first | second)
    _varints(numbers[at], at, fields, sizes)
    sizes[further, 0] = 1  # the bit 0, if nothing else is said: no change
    left = further & (again != 0)
    for code, code_bits, bits in _CHANGES:
        here = left & (again >= -(2 ** (bits - 1) - 1)) & (again <= 2 ** (bits - 1))
        fields[here, 0], sizes[here, 0] = code, code_bits
        fields[here, 1], sizes[here, 1] = again[here].view(np.uint64) & np.uint64(2**bits - 1), bits
        left &= ~here
    fields[left, 0], sizes[left, 0] = 0b1111, 4
    fields[left, 1], sizes[left, 1] = again[left].view(np.uint64), 64


def _varints(numbers: Bits, at: Ints, fields: Bits, sizes: Ints) -> None:
    """Seven bits a byte, the lowest first; of ten bytes two go into the first field."""
    count = np.ones(len(numbers), np.int64)
    for size in range(1, 10):
        count += numbers >= np.uint64(1 << 7 * size)
    for byte in range(10):
        here = np.flatnonzero(byte < count)
        code = numbers[here] >> np.uint64(7 * byte) & np.uint64(0x7F)
        code |= np.where(byte + 1 < count[here], np.uint64(0x80), np.uint64(0))
        # The last eight bytes are in the second field.
        field = (byte >= count[here] - 8).astype(np.int64)
        rows = at[here]
        fields[rows, field] = fields[rows, field] << np.uint64(8) | code
        sizes[rows, field] += 8


def _values(bits: Bits, first: Bools, firsts: Ints, counts: Ints, fields: Bits, sizes: Ints) -> None:
    """The first value of a chunk whole, then 0 for the same again, or 1, the window, and the bits in it that differ."""
    differ = np.zeros(len(bits), np.uint64)
    np.bitwise_xor(bits[1:], bits[:-1], out=differ[1:])
    differ[first] = 0
    some = differ != 0
    leading = np.where(some, np.minimum(_leading_zeros(differ), _LARGEST_LEADING), _LARGEST_LEADING)
    trailing = np.where(some, _trailing_zeros(differ), 63)
    # A window for each value costs 11 bits more than one that holds all of the chunk: what takes less is chosen.
    widest_leading, widest_trailing = np.minimum.reduceat(leading, firsts), np.minimum.reduceat(trailing, firsts)
    changed = np.add.reduceat(some.astype(np.int64), firsts)
    own = np.add.reduceat(np.where(some, 75 - leading - trailing, 0), firsts)
    one = np.repeat(changed * (64 - widest_leading - widest_trailing) <= own, counts)
    leading = np.where(one, np.repeat(widest_leading, counts), leading)
    trailing = np.where(one, np.repeat(widest_trailing, counts), trailing)
    width = 64 - leading - trailing
    # Where one window is for all, the first value that differs says which.
    so_far = np.cumsum(some)
    opens = some & (~one | (so_far - np.repeat(so_far[firsts] - some[firsts], counts) == 1))
    control = 0b11 << 11 | leading << 6 | width & 63
    fields[:, 2], sizes[:, 2] = np.where(opens, control, np.where(some, 0b10, 0)), np.where(opens, 13, 1 + some)
    fields[:, 3], sizes[:, 3] = differ >> trailing.astype(np.uint64), np.where(some, width, 0)
    fields[first, 2], sizes[first, 2] = 0, 0
    fields[first, 3], sizes[first, 3] = bits[first], 64


def _leading_zeros(numbers: Bits) -> Ints:
    high = numbers >> np.uint64(32)
    # As floats, halves of 32 bits are exact.
    half = np.where(high != 0, high, numbers & np.uint64(0xFFFFFFFF)).astype(np.float64)
    zeros: Ints = np.where(high != 0, 32, 64) - np.frexp(half)[1]
    return zeros


def _trailing_zeros(numbers: Bits) -> Ints:
    lowest = numbers & (~numbers + np.uint64(1))
    zeros: Ints = np.frexp(lowest.astype(np.float64))[1].astype(np.int64) - 1
    return zeros


def _packed(fields: Bits, sizes: Ints, offsets: Ints, words: int) -> bytes:
    """All fields at their offsets, in bits; each word has a field that begins in it."""
    used = np.flatnonzero(sizes)
    fields, sizes, offsets = fields[used], sizes[used], offsets[used]
    word, inside = offsets >> 6, offsets & 63
    room = 64 - inside
    fits = sizes <= room
    over = np.where(fits, 0, sizes - room).astype(np.uint64)  # bits that go into the next word
    here = np.where(fits, fields << np.where(fits, room - sizes, 0).astype(np.uint64), fields >> over)
    groups = np.concatenate(([0], np.flatnonzero(np.diff(word)) + 1))
    whole = np.zeros(words + 1, np.uint64)
    whole[word[groups]] = np.bitwise_or.reduceat(here, groups)
    at = np.flatnonzero(~fits)
    # Only the last field of a word goes over its end.
    whole[word[at] + 1] |= fields[at] << (np.uint64(64) - over[at])
    return whole.astype(">u8").tobytes()
