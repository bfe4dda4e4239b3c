# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hot part's log on the disk: new series, new layouts and batches of rows, in the order in which they came."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import zstandard

from esnode.store.epoch import Epoch, Floats, Ints, Layout, Places, Segment
from esnode.store.errors import Damaged
from esnode.store.groups import decode_names, encode_names
from esnode.store.unpacking import UnpackError, unpack

SERIES, LAYOUT, ROWS = b"s", b"l", b"r"
SERIES_TOGETHER = 512
_NUMBER = struct.Struct("<cI")
_BATCH = struct.Struct("<cIII")  # layout, rows, columns
_LEVEL = 1


@dataclass(slots=True)
class Record:
    """A record that is to be written, and what is true once it is."""

    epoch: Epoch
    payload: bytes
    series: int = 0
    layouts: int = 0
    segment: Segment | None = None
    rows: int = 0

    def written(self) -> None:
        """Mark it; under the head's lock."""
        self.epoch.next_record += 1
        self.epoch.written_bytes += len(self.payload)
        self.epoch.written_series += self.series
        self.epoch.written_layouts += self.layouts
        if self.segment is not None:
            self.segment.written += self.rows


def unwritten(epoch: Epoch, cut: dict[Segment, int], slice_bytes: int) -> Iterator[Record]:
    """Records for what is not on the disk yet: rows up to `cut`, in batches of at most some `slice_bytes`."""
    layouts = epoch.layouts[epoch.written_layouts :]
    series = epoch.series[epoch.written_series :]
    for at in range(0, len(series), SERIES_TOGETHER):
        some = series[at : at + SERIES_TOGETHER]
        head = _NUMBER.pack(SERIES, epoch.written_series + at)
        yield Record(epoch, head + encode_names(some), series=len(some))
    for layout in layouts:
        deltas = np.diff(layout.ids, prepend=np.int32(0)).astype("<i4")
        payload = _NUMBER.pack(LAYOUT, layout.index) + _compress(deltas.view(np.uint8).reshape(-1, 4).T.tobytes())
        yield Record(epoch, payload, layouts=1)
    for segment, rows in cut.items():
        together = max(1, slice_bytes // (8 * len(segment.layout.ids) + 8))
        for at in range(segment.written, rows, together):
            end = min(rows, at + together)
            payload = encode_rows(segment.layout, segment.times[at:end], segment.values[at:end])
            yield Record(epoch, payload, segment=segment, rows=end - at)


def encode_rows(layout: Layout, times: Ints, values: Floats) -> bytes:
    """A batch of rows: what changed from row to row, bytes of equal weight together."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    changes = bits.copy()
    changes[1:] ^= bits[:-1]
    planes = changes.astype("<u8").view(np.uint8).reshape(-1, 8).T
    head = _BATCH.pack(ROWS, layout.index, *values.shape)
    return head + _compress(times.astype("<i8").tobytes() + planes.tobytes())


def _decode_rows(payload: bytes) -> tuple[int, Ints, Floats]:
    _unused, layout, rows, columns = _BATCH.unpack_from(payload)
    raw = unpack(payload[_BATCH.size :])
    if len(raw) != 8 * rows * (columns + 1):
        raise Damaged("a batch of rows has not its size")
    times = np.frombuffer(raw, "<i8", rows)
    planes = np.frombuffer(raw, np.uint8, -1, 8 * rows).reshape(8, -1)
    bits = np.ascontiguousarray(planes.T).view("<u8").reshape(rows, columns)
    return layout, times, np.bitwise_xor.accumulate(bits, axis=0).view(np.float64)


def replay(number: int, records: Iterable[bytes | None], started: float) -> tuple[Epoch, int]:
    """The epoch as it was written, and how many of its records were of no use. None stands for a damaged record.

    If any was, the numbers in the epoch are no longer those in its log: it must be sealed, not written on.
    """
    epoch = Epoch(number, started)
    names: dict[int, int] = {}  # number of a series in the log: its number now
    layouts: dict[int, tuple[Layout, Places]] = {}  # with the columns of the log that are still known
    useless = 0
    for payload in records:
        epoch.next_record += 1
        epoch.written_bytes += len(payload or b"")
        try:
            if payload is None:
                raise Damaged("unreadable")
            if payload[:1] == SERIES:
                _unused, first = _NUMBER.unpack_from(payload)
                for place, series in enumerate(decode_names(payload[_NUMBER.size :])):
                    names[first + place] = epoch.register(series)
            elif payload[:1] == LAYOUT:
                _unused, index = _NUMBER.unpack_from(payload)
                layouts[index] = _known_layout(epoch, payload, names)
            else:
                index, times, values = _decode_rows(payload)
                layout, columns = layouts[index]
                for time_ms, row in zip(times.tolist(), values[:, columns], strict=True):
                    epoch.add(layout, time_ms, row)
        except (Damaged, struct.error, ValueError, KeyError, IndexError, UnpackError):
            useless += 1
    for segment in epoch.segments:
        segment.written = segment.rows
    epoch.written_series, epoch.written_layouts = len(epoch.series), len(epoch.layouts)
    return epoch, useless


def _known_layout(epoch: Epoch, payload: bytes, names: dict[int, int]) -> tuple[Layout, Places]:
    raw = np.frombuffer(unpack(payload[_NUMBER.size :]), np.uint8).reshape(4, -1)
    logged = np.cumsum(np.ascontiguousarray(raw.T).view("<i4").ravel(), dtype=np.int32)
    now = np.fromiter((names.get(number, -1) for number in logged.tolist()), np.int32, len(logged))
    columns = np.flatnonzero(now >= 0).astype(np.int32)
    return epoch.layout(now[columns]), columns


def _compress(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)
