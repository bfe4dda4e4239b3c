# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the samples of `export` and `query` come from: the running agent, or the folder of a store."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from esnode import store
from esnode.commands import CommandError, UsageError
from esnode.commands._agent_http import AgentHttp, NoAnswer, Refused
from esnode.config_file import ConfigError
from esnode.store import Matcher, SeriesData

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from esnode.serve.export_request import Format
    from esnode.store.readonly import ReadOnlyStore

_TIMEOUT_S = 60.0
_BLOCK = 1 << 16
NOT_FOUND, NOT_IMPLEMENTED = 404, 501


class Samples(Protocol):
    """Selectors are texts as Prometheus writes them, none of them means all series; times in ms since 1970."""

    def pieces(self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None) -> Iterator[SeriesData]:
        """Give the samples piece by piece, both ends included; of each step only the last one."""

    def names(self) -> list[str]:
        """All names of metrics there are."""

    def export(
        self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None, form: Format
    ) -> Iterator[bytes]:
        """Give the bytes of a whole export in this format."""


class AgentSamples:
    """The history of an agent by HTTP; `far`: over a network, where it is worth packing."""

    def __init__(self, http: AgentHttp, *, far: bool = False) -> None:
        self._http = http
        self._encoding = "zstd" if far else "identity"

    def pieces(self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None) -> Iterator[SeriesData]:
        """As `Samples`."""
        from esnode import sample_stream

        try:
            yield from sample_stream.decode(self._blocks(_path(selectors, from_ms, to_ms, step_ms, "native")))
        except sample_stream.StreamError as error:
            raise CommandError(f"the samples from {self._http.url} can't be used: {error}") from None

    def names(self) -> list[str]:
        """As `Samples`."""
        import json

        found: list[str] = json.loads(self._http.get("/api/v1/label/__name__/values"))["data"]
        return found

    def export(
        self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None, form: Format
    ) -> Iterator[bytes]:
        """As `Samples`; Parquet is made here when the agent has no pyarrow."""
        try:
            yield from self._blocks(_path(selectors, from_ms, to_ms, step_ms, form))
        except Refused as error:
            if form != "parquet" or error.code != NOT_IMPLEMENTED:
                raise
            yield from _parquet(self.pieces(selectors, from_ms, to_ms, step_ms))

    def _blocks(self, path: str) -> Iterator[bytes]:
        with self._open(path) as answer:
            if answer.headers.get("Content-Encoding") != "zstd":
                yield from self._parts(answer, path)
                return
            import zstandard

            unpack = zstandard.ZstdDecompressor().decompressobj()
            for block in self._parts(answer, path):
                if unpacked := unpack.decompress(block):
                    yield unpacked
            if not unpack.eof:
                raise CommandError(f"the answer of {self._http.url}{path} broke off")

    def _parts(self, answer: HTTPResponse, path: str) -> Iterator[bytes]:
        import http.client

        while True:
            try:
                block = answer.read1(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise CommandError(f"the answer of {self._http.url}{path} broke off: {error!r}") from None
            if not block:
                if answer.length:
                    raise CommandError(
                        f"the answer of {self._http.url}{path} broke off: {answer.length} bytes are missing"
                    )
                return
            yield block

    def _open(self, path: str) -> HTTPResponse:
        try:
            return self._http.open(path, _TIMEOUT_S, self._encoding)
        except Refused as error:
            if error.code == NOT_FOUND:
                raise CommandError(
                    f"{self._http.url} has no history to give: it is no esnode-core, or an older one; --store reads "
                    "the folder of its store"
                ) from None
            raise


class StoreSamples:
    """The history in a store's folder, whether or not a process writes it; what that has in memory only is not seen."""

    def __init__(self, opened: ReadOnlyStore) -> None:
        self._store = opened

    def pieces(self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None) -> Iterator[SeriesData]:
        """As `Samples`."""
        from esnode.serve.prometheus_api import union
        from esnode.serve.thinning import last_of_each_step

        found = union(self._store, _matchers(selectors), from_ms, to_ms)
        with self._reading():
            yield from last_of_each_step(found, step_ms) if step_ms else found

    def names(self) -> list[str]:
        """As `Samples`."""
        with self._reading():
            return sorted({series.name for series in self._store.series()})

    def export(
        self, selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None, form: Format
    ) -> Iterator[bytes]:
        """As `Samples`."""
        from esnode.serve.export_request import Export

        with self._reading():
            yield from Export(from_ms, to_ms, _matchers(selectors), step_ms, form).body(self._store, iter)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        from esnode.serve.export_parquet import NoParquet

        try:
            yield
        except NoParquet as error:
            raise CommandError(str(error)) from None
        except (store.StoreError, sqlite3.Error) as error:
            raise CommandError(f"the store {self._store.path} can't be read: {error}") from None
        if damaged := self._store.damage.counts():
            parts = ", ".join(f"{count} {kind}" for kind, count in damaged.items())
            print(f"esnode-core: {self._store.path} is damaged, the rest was read: {parts}", file=sys.stderr)


def _matchers(selectors: Sequence[str]) -> list[tuple[Matcher, ...]]:
    from esnode.serve.selectors import parse

    return [parse(selector) for selector in selectors]


def source(options: argparse.Namespace) -> Samples:
    """What the options say: a store, an agent, or the agent of the configuration with its store to fall back on."""
    if options.store is not None:
        return _store(options.store, options.key_file)
    if options.key_file is not None:
        raise UsageError("--key-file is for --store: an agent has its key in its configuration")
    try:
        http = AgentHttp(options)
    except ConfigError as error:
        raise ConfigError([*error.mistakes, "or a store's folder, such as --store /var/lib/esnode/tsdb"]) from None
    try:
        http.get("/healthz")
    except NoAnswer as error:
        if options.url is not None:
            raise
        return _fallen_back(http, error)
    return AgentSamples(http, far=options.url is not None)


def _fallen_back(http: AgentHttp, error: NoAnswer) -> Samples:
    """The store of an agent that does not answer, as the configuration names it."""
    tsdb = http.config.tsdb
    folder = Path(tsdb.local_tsdb_path)
    key_file = Path(tsdb.encryption_key_path) if tsdb.encryption_key_path else None
    try:
        opened = _store(folder, key_file)
    except CommandError as second:
        raise CommandError(f"{error}\nnor can its store be read: {second}") from None
    print(f"esnode-core: {error}\nesnode-core: reading its store {folder} instead", file=sys.stderr)
    return opened


def _store(folder: Path, key_file: Path | None) -> StoreSamples:
    from esnode.store.database import FILE

    try:
        (folder / FILE).stat()
    except PermissionError:
        raise CommandError(
            f"{folder} can't be read by this user: run this as root or as the agent's user, such as sudo -u esnode"
        ) from None
    except OSError:
        pass  # the store says what is wrong
    try:
        return StoreSamples(store.open_for_reading(folder, key_file, still=True))
    except store.StoreError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        raise CommandError(f"{error.filename or folder} can't be read: {error.strerror}") from None


def _parquet(pieces: Iterator[SeriesData]) -> Iterator[bytes]:
    from esnode.serve.export_parquet import NoParquet, parquet

    try:
        yield from parquet(pieces)
    except NoParquet as error:
        raise CommandError(str(error)) from None


def _path(selectors: Sequence[str], from_ms: int, to_ms: int, step_ms: int | None, form: Format) -> str:
    query = [("from", _seconds(from_ms)), ("to", _seconds(to_ms)), ("format", form)]
    query += [("match[]", selector) for selector in selectors]
    if step_ms is not None:
        query.append(("step", f"{step_ms}ms"))
    return f"/tsdb/export?{urlencode(query)}"


def _seconds(time_ms: int) -> str:
    return f"{time_ms / 1000:.3f}"
