# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples as a stream of bytes, to the last bit: what one agent writes and another tool of ours reads.

The stream is a row of frames, each the length of its body (four bytes, little-endian) and the body, in MessagePack:
first {"format": "esnode-samples", "version": 1}; then for each piece of a series [name, {label: value}, times, values],
times as int64 (ms since 1970) and values as float64, both little-endian, times nil when they are those of the piece
before; last {"samples": how many}, without which the stream was cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from esnode.store import SeriesData, SeriesId

CONTENT_TYPE = "application/vnd.esnode.samples"
FORMAT, VERSION = "esnode-samples", 1
_LENGTH = struct.Struct("<I")
_MOST_BYTES = 64 * 1024 * 1024  # of a frame


class StreamError(Exception):
    """The bytes are no stream of samples, or it was cut off."""


def encode(pieces: Iterable[SeriesData]) -> Iterator[bytes]:
    """Write pieces, one frame each, as they come."""
    yield _frame({"format": FORMAT, "version": VERSION})
    samples, before = 0, b""
    for piece in pieces:
        times = piece.times.astype("<i8", copy=False).tobytes()
        values = piece.values.astype("<f8", copy=False).tobytes()
        series = piece.series
        yield _frame([series.name, series.labels, None if times == before else times, values])
        before = times
        samples += len(piece.times)
    yield _frame({"samples": samples})


def decode(stream: Iterable[bytes]) -> Iterator[SeriesData]:
    """Give the pieces of a stream that comes in parts of any size. StreamError at the end if it is not whole."""
    bodies = _bodies(stream)
    head = next(bodies, None)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise StreamError("these are not samples in the native format")
    if head.get("version") != VERSION:
        raise StreamError(f"the samples have version {head.get('version')} of the format, this reads {VERSION}")
    samples, times = 0, np.empty(0, np.int64)
    known: dict[tuple[Any, ...], SeriesId] = {}
    for body in bodies:
        if isinstance(body, dict):
            if body.get("samples") != samples:
                raise StreamError(f"{samples} samples came, {body.get('samples')} were sent")
            return
        try:
            name, labels, coded, values = body
            if coded is not None:
                times = np.frombuffer(coded, "<i8").astype(np.int64, copy=False)
            found = np.frombuffer(values, "<f8").astype(np.float64, copy=False)
            key = (name, *labels.items())
            series = known.get(key) or known.setdefault(key, SeriesId.of(name, labels))
        except (TypeError, ValueError, AttributeError) as error:
            raise StreamError(f"a piece of a series is damaged: {error}") from error
        if len(found) != len(times):
            raise StreamError(f"a piece of {name} is damaged: {len(times)} times for {len(found)} values")
        samples += len(times)
        yield SeriesData(series, times, found)
    raise StreamError(f"the stream was cut off after {samples} samples")


def _frame(body: object) -> bytes:
    coded = msgspec.msgpack.encode(body)
    return _LENGTH.pack(len(coded)) + coded


def _bodies(stream: Iterable[bytes]) -> Iterator[Any]:
    held = bytearray()
    for part in stream:
        held += part
        at = 0
        while len(held) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(held, at)
            if size > _MOST_BYTES:
                raise StreamError(f"a frame of {size} bytes is too long to be one")
            if len(held) - at - _LENGTH.size < size:
                break
            at += _LENGTH.size
            try:
                yield msgspec.msgpack.decode(bytes(held[at : at + size]))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise StreamError(f"a frame is damaged: {error}") from error
            at += size
        del held[:at]
