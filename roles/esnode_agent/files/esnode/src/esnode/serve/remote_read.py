# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' remote read: a snappy-packed ReadRequest in, a ReadResponse with samples out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cramjam

from esnode import wire
from esnode.serve.batches import batches
from esnode.store import FOREVER_MS, Matcher, SeriesData, TooMany
from esnode.store.matching import NAME, Selector
from esnode.store.selecting import Selecting

MOST_SAMPLES = 5_000_000
"""In one answer, which is held packed in memory: 25 MB or so, 50 MB if the values are noise."""
_PACK_BYTES = 256 * 1024
_MOST_REQUEST_BYTES = 1024 * 1024
MOST_QUERIES = 64
"""In one request; Prometheus sends one for each selector of an expression."""
Watched = Callable[[Iterable[list[SeriesData]]], Iterator[list[SeriesData]]]
_OPERATORS = {0: "=", 1: "!=", 2: "=~", 3: "!~"}
_SAMPLES = 0


class BadRequest(Exception):
    """The request can't be answered; the text says why."""


@dataclass(slots=True)
class Query:
    """One query of a request; both times in ms and included."""

    from_ms: int = 0
    to_ms: int = 0
    matchers: list[Matcher] = field(default_factory=list)


def read_request(body: bytes) -> list[Query]:
    """Unpack a request. BadRequest when it is none, or when it takes only answers that are not given here."""
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
    if accepted and _SAMPLES not in accepted:
        raise BadRequest("only the response type SAMPLES is given here, and the request does not accept it")
    for query in queries:
        Selector(query.matchers)
    return queries


def _announced(body: bytes) -> int:
    """The size before packing, which a raw snappy block begins with."""
    size = 0
    for place, byte in enumerate(body[:5]):
        size |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            break
    return size


def _queries(message: bytes) -> tuple[list[Query], set[int]]:
    queries: list[Query] = []
    accepted: set[int] = set()
    for number, content in wire.fields(message):
        if number == 1:
            queries.append(_query(wire.message(content)))
        elif number == 2:  # an enum, repeated: packed or not
            if isinstance(content, int):
                accepted.add(content)
            else:
                accepted.update(content)  # the numbers are below 128, so each is one byte
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
                    pairs = sorted([(NAME, data.series.name), *data.series.pairs])
                    result.add(wire.payload(1, wire.labels(1, pairs) + wire.samples(2, data.times, data.values)))
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
