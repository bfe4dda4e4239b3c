# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of the store as Parquet, one row a sample: name, labels, timestamp, value. Needs pyarrow."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

import numpy as np

from esnode.store import SeriesData

_ROWS = 65_536  # of a row group: what is in memory at a time


class NoParquet(Exception):
    """pyarrow is not installed."""


def parquet(pieces: Iterable[SeriesData]) -> Iterator[bytes]:
    """Write a Parquet file, row group by row group. NoParquet at the first step."""
    try:
        pyarrow, files = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise NoParquet(
            "Parquet needs pyarrow, which is not installed beside the agent: install esnode-core[parquet] there, "
            "or take format=jsonl, which pandas and DuckDB read too"
        ) from error
    labels = pyarrow.map_(pyarrow.string(), pyarrow.string())
    schema = pyarrow.schema(
        [
            pyarrow.field("name", pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), nullable=False),
            pyarrow.field("labels", labels, nullable=False),
            pyarrow.field("timestamp", pyarrow.timestamp("ms", tz="UTC"), nullable=False),
            pyarrow.field("value", pyarrow.float64(), nullable=False),
        ]
    )
    sink = _Sink()
    with files.ParquetWriter(
        pyarrow.PythonFile(sink, mode="w"), schema, compression="zstd", use_dictionary=["name", "labels"]
    ) as writer:
        waiting: list[SeriesData] = []
        rows = 0
        for piece in pieces:
            for at in range(0, len(piece.times), _ROWS):
                part = SeriesData(piece.series, piece.times[at : at + _ROWS], piece.values[at : at + _ROWS])
                if rows + len(part.times) > _ROWS:
                    writer.write_table(_table(pyarrow, schema, waiting))
                    yield sink.taken()
                    waiting, rows = [], 0
                waiting.append(part)
                rows += len(part.times)
        if waiting:
            writer.write_table(_table(pyarrow, schema, waiting))
    yield sink.taken()


def _table(pyarrow: Any, schema: Any, pieces: list[SeriesData]) -> Any:
    places = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece.times) for piece in pieces])
    names = sorted({piece.series.name for piece in pieces})
    number = {name: place for place, name in enumerate(names)}
    of_piece = np.array([number[piece.series.name] for piece in pieces], np.int32)
    maps = pyarrow.array([list(piece.series.pairs) for piece in pieces], schema.field("labels").type)
    times = np.concatenate([piece.times for piece in pieces])
    columns = [
        pyarrow.DictionaryArray.from_arrays(of_piece[places], pyarrow.array(names, pyarrow.string())),
        maps.take(pyarrow.array(places)),
        pyarrow.array(times).cast(schema.field("timestamp").type),
        pyarrow.array(np.concatenate([piece.values for piece in pieces])),
    ]
    return pyarrow.Table.from_arrays(columns, schema=schema)


class _Sink(io.RawIOBase):
    """A file that is written in one go from its beginning, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        body = bytes(data)
        self._held.append(body)
        self._at += len(body)
        return len(body)

    def taken(self) -> bytes:
        body = b"".join(self._held)
        self._held.clear()
        return body
