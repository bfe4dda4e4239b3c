# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' remote read: a snappy-packed ReadRequest in, samples out: as a stream of chunks, or whole in one message.

The stream takes no more memory for a year than for a day. Prometheus 3 asks for it, 2.42 does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cramjam
import google_crc32c

from esnode import wire
from esnode.serve.batches import Watched, batches
from esnode.serve.xor_chunks import Chunk, chunks
from esnode.store import FOREVER_MS, Matcher, SeriesId, TooMany
from esnode.store.matching import NAME, Selector
from esnode.store.selecting import Selecting

MOST_SAMPLES = 5_000_000
"""In one answer that is no stream, and held packed in memory: 25 MB or so, 50 MB if the values are noise."""
_PACK_BYTES = 256 * 1024
_MOST_REQUEST_BYTES = 1024 * 1024
MOST_QUERIES = 64
"""In one request; Prometheus sends one for each selector of an expression."""
MOST_MATCHERS = 256
"""Of all its queries together: to compile an expression may take a millisecond."""
_OPERATORS = {0: "=", 1: "!=", 2: "=~", 3: "!~"}
_SAMPLES, _STREAM = 0, 1
_XOR = 1  # the encoding of a chunk
_FRAME_BYTES = 32 * 1024 * 1024  # clients take 50 MB in a frame


HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
STREAM_HEADERS = {"Content-Type": "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse"}


class BadRequest(Exception):
    """The request can't be answered; the text says why."""


@dataclass(slots=True)
class Query:
    """One query of a request; both times in ms and included."""

    from_ms: int = 0
    to_ms: int = 0
    matchers: list[Matcher] = field(default_factory=list)


def read_request(body: bytes) -> tuple[list[Query], bool]:
    """Unpack a request; whether a stream of chunks is the answer that it likes best.

    BadRequest when it is none, or when it takes only answers that are not given here.
    """
    try:
        if _announced(body) > _MOST_REQUEST_BYTES:
            raise BadRequest(f"a request of {_announced(body)} bytes is too large: at most {_MOST_REQUEST_BYTES}")
        message = bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as error:
        raise BadRequest("the body is not packed with snappy, as remote read wants it") from error
    try:
        queries, accepted = _queries(message)
    except wire.Malformed as error:
        raise BadRequest(f"the body is no ReadRequest: {error}") from error
    if len(queries) > MOST_QUERIES:
        raise BadRequest(f"{len(queries)} queries in one request are too many: at most {MOST_QUERIES}")
    if (matchers := sum(len(query.matchers) for query in queries)) > MOST_MATCHERS:
        raise BadRequest(f"{matchers} matchers in one request are too many: at most {MOST_MATCHERS}")
    liked = next((kind for kind in accepted or (_SAMPLES,) if kind in (_SAMPLES, _STREAM)), None)
    if liked is None:
        raise BadRequest("the response types SAMPLES and STREAMED_XOR_CHUNKS are given here, and it accepts neither")
    for query in queries:
        Selector(query.matchers)
    return queries, liked == _STREAM


def _announced(body: bytes) -> int:
    """The size before packing, which a raw snappy block begins with."""
    size = 0
    for place, byte in enumerate(body[:5]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return size


def _queries(message: bytes) -> tuple[list[Query], list[int]]:
    queries: list[Query] = []
    accepted: list[int] = []
    for number, content in wire.fields(message):
        if number == 1:
            queries.append(_query(wire.message(content)))
        elif number == 2:  # an enum, repeated: packed or not
            if isinstance(content, int):
                accepted.append(content)
            else:
                accepted.extend(content)  # the numbers are below 128, so each is one byte
    return queries, accepted


def _query(message: bytes) -> Query:
    query = Query()
    for number, content in wire.fields(message):
        if number == 1:
            query.from_ms = max(wire.signed(content), -FOREVER_MS)
        elif number == 2:
            query.to_ms = min(wire.signed(content), FOREVER_MS)
        elif number == 3:
            query.matchers.append(_matcher(wire.message(content)))
    return query


def _matcher(message: bytes) -> Matcher:
    kind, name, value = 0, "", ""
    for number, content in wire.fields(message):
        if number == 1:
            kind = wire.signed(content)
        elif number == 2:
            name = wire.string(content)
        elif number == 3:
            value = wire.string(content)
    if kind not in _OPERATORS:
        raise wire.Malformed(f"a matcher has the unknown type {kind}")
    return Matcher(name, _OPERATORS[kind], value)  # type: ignore[arg-type]


def response(store: Selecting, queries: Sequence[Query], watched: Watched = iter) -> list[bytes]:
    """The packed answer, in parts. TooMany: it would have more than MOST_SAMPLES.

    Only what is packed already is held: a block of snappy is its size and then pieces, each packed by itself.
    """
    left = MOST_SAMPLES
    whole = _Packed()
    for query in queries:
        result = _Packed()
        series = store.series(query.matchers, query.from_ms, query.to_ms)
        try:
            for batch in watched(batches(store, series, query.from_ms, query.to_ms, left)):
                for data in batch:
                    left -= len(data.times)
                    labels = wire.labels(1, _pairs(data.series))
                    result.add(wire.payload(1, labels + wire.samples(2, data.times, data.values)))
        except TooMany as error:
            raise TooMany(
                f"the query needs more than {MOST_SAMPLES} samples of this node: "
                "ask for fewer series or a shorter time, or take /tsdb/export"
            ) from error
        result.pack()
        whole.add(wire.head(1, result.size))
        whole.take(result)
    whole.pack()
    return [wire.varint(whole.size), *whole.parts]


def stream(store: Selecting, queries: Sequence[Query], watched: Watched = iter) -> Iterator[bytes]:
    """The answer as frames: size, checksum, and a message with the chunks of a series, in order."""
    for index, query in enumerate(queries):
        # By all their labels with the name among them, as clients merge them with those of others.
        series = sorted(store.series(query.matchers, query.from_ms, query.to_ms), key=_pairs)
        for batch in watched(batches(store, series, query.from_ms, query.to_ms)):
            batch.sort(key=lambda data: _pairs(data.series))
            for data, found in zip(batch, chunks(batch), strict=True):
                yield from _frames(wire.labels(1, _pairs(data.series)), found, wire.integer(2, index) if index else b"")


def _pairs(series: SeriesId) -> list[tuple[str, str]]:
    return sorted([(NAME, series.name), *series.pairs])


def _frames(labels: bytes, found: Iterable[Chunk], index: bytes) -> Iterator[bytes]:
    """A series is one frame, since clients take no more of it than the first; a huge one is cut all the same."""
    parts, size = [labels], 0
    for chunk in found:
        times = wire.integer(1, chunk.first_ms) + wire.integer(2, chunk.last_ms)
        parts.append(wire.payload(2, times + wire.integer(3, _XOR) + wire.payload(4, chunk.data)))
        size += len(parts[-1])
        if size > _FRAME_BYTES:
            yield _frame(wire.payload(1, b"".join(parts)) + index)
            parts, size = [labels], 0
    if size:
        yield _frame(wire.payload(1, b"".join(parts)) + index)


def _frame(message: bytes) -> bytes:
    checksum: int = google_crc32c.value(message)
    return wire.varint(len(message)) + checksum.to_bytes(4, "big") + message


class _Packed:
    """Bytes that are packed as they come."""

    def __init__(self) -> None:
        self.size = 0
        self.parts: list[bytes] = []
        self._waiting = bytearray()

    def add(self, body: bytes) -> None:
        """Add bytes, packed as soon as they are enough."""
        self.size += len(body)
        self._waiting += body
        if len(self._waiting) >= _PACK_BYTES:
            self.pack()

    def pack(self) -> None:
        """Pack what waits."""
        if self._waiting:
            packed = bytes(cramjam.snappy.compress_raw(self._waiting))
            self.parts.append(packed[len(wire.varint(len(self._waiting))) :])
            self._waiting = bytearray()

    def take(self, other: _Packed) -> None:
        """Add what another one holds, packed as it is."""
        self.pack()
        self.size += other.size
        self.parts += other.parts
