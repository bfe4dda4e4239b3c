# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A block: one sealed span of time. Its row says when its samples were taken and which groups have a chunk in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from esnode.store.codec import Ints, decode_times, encode_times
from esnode.store.errors import Damaged

_HEADER = struct.Struct("<qqqqII")  # first, last, sealed, samples, rows, groups


@dataclass(frozen=True, slots=True)
class Block:
    """Times in ms. `sealed_ms`: when it was sealed, by the steady clock; `coded_times`: of all rows, ascending."""

    number: int
    first_ms: int
    last_ms: int
    sealed_ms: int
    samples: int
    rows: int
    groups: npt.NDArray[np.uint32]
    coded_times: bytes

    def age_ms(self, now_ms: int) -> int:
        """The time by which it ages: its last sample, or its sealing if the clock was ahead when that was taken."""
        return self.last_ms if self.last_ms <= now_ms else min(self.last_ms, self.sealed_ms)

    def times(self) -> Ints:
        """Times of the rows."""
        return _times(self.coded_times, self.rows)

    def encode(self) -> bytes:
        """The block's row as bytes."""
        numbers = (self.first_ms, self.last_ms, self.sealed_ms, self.samples, self.rows, len(self.groups))
        return _HEADER.pack(*numbers) + self.groups.astype("<u4").tobytes() + self.coded_times

    @classmethod
    def decode(cls, number: int, payload: bytes) -> Block:
        """The block from bytes."""
        try:
            first, last, sealed, samples, rows, groups = _HEADER.unpack_from(payload)
            end = _HEADER.size + 4 * groups
            # A copy, so that the payload itself can go.
            held = np.frombuffer(payload, "<u4", groups, _HEADER.size).copy()
        except (struct.error, ValueError) as error:
            raise Damaged(f"unreadable block: {error}") from error
        return cls(number, first, last, sealed, samples, rows, held, payload[end:])

    @classmethod
    def of(cls, number: int, times: Ints, sealed_ms: int, samples: int, groups: list[int]) -> Block:
        """The block with these rows, `times` ascending."""
        first, last = int(times[0]), int(times[-1])
        held = np.array(groups, np.uint32)
        return cls(number, first, last, sealed_ms, samples, len(times), held, encode_times(times))


@lru_cache(maxsize=32)
def _times(coded: bytes, rows: int) -> Ints:
    times = decode_times(coded)
    if len(times) != rows:
        raise Damaged(f"{len(times)} times for {rows} rows")
    times.flags.writeable = False
    return times
