# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The paths that read the node's store: /tsdb/export, Prometheus' remote read, and a part of Prometheus' API.

Answers are made on threads of their own and a few at a time, so that /metrics never waits for any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from multidict import MultiDict, MultiMapping

from esnode.serve import negotiate
from esnode.serve.server import REQUEST_TIMEOUT_S
from esnode.serve.streaming import SILENCE_S, Aside, NoThread, Threads, answer, packed
from esnode.store import BadMatcher, StoreError, TooMany

if TYPE_CHECKING:
    from esnode.store.selecting import Selecting

MOST_EXPORTS = MOST_QUERIES = 2
"""At once. Exports have places of their own: one that a slow client takes for an hour keeps no query waiting."""
_MOST_WAITING = 16
_PATIENCE_S = 10.0
_RETRY_S = 5
_QUERY_S = 120.0
"""A query has so long for its answer to be made and taken."""

Parameters = MultiMapping[str]
Query = Callable[["Selecting", Parameters, Aside], bytes]
_KINDS = {400: "bad_data", 422: "execution", 501: "not_implemented", 503: "unavailable"}


class Refused(Exception):
    """A request that is not answered: HTTP status, a sentence, and Prometheus' word for the kind of error."""

    def __init__(self, status: int, text: str, kind: str | None = None) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind or _KINDS[status]

    def as_text(self) -> web.Response:
        """For a person, and for Prometheus' remote read, which shows the first line."""
        return web.Response(status=self.status, text=f"{self}\n", headers=self._headers())

    def as_json(self) -> web.Response:
        """As Prometheus' API spells it."""
        body = msgspec.json.encode({"status": "error", "errorType": self.kind, "error": str(self)})
        return web.Response(status=self.status, body=body, content_type="application/json", headers=self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Retry-After": str(_RETRY_S)} if self.status == 503 else {}


class _Places:
    """So many at once; others wait, but not many and not for long."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def one(self, threads: Threads) -> AsyncIterator[Aside]:
        """Hold a place and a thread until that is done, whoever waits. Refused when there is none for too long."""
        if self._waiting >= _MOST_WAITING:
            raise Refused(503, f"{self._waiting} requests for the node's history wait already: ask again later")
        self._waiting += 1
        try:
            # Mostly one is free, and a timer costs more than to take it.
            await (asyncio.wait_for(self._free.acquire(), _PATIENCE_S) if self._free.locked() else self._free.acquire())
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise Refused(503, "others are reading the node's history: ask again later") from error
        finally:
            self._waiting -= 1
        aside = threads.aside()
        try:
            yield aside
        finally:
            aside.at_end(self._free.release)


class HistoryRoutes:
    """`store` gives what is read, None while there is nothing; `trouble` then says why."""

    def __init__(self, store: Callable[[], Selecting | None], trouble: Callable[[], str | None]) -> None:
        self._store, self._trouble = store, trouble
        self._exports, self._queries = _Places(MOST_EXPORTS), _Places(MOST_QUERIES)
        self._threads = Threads(MOST_EXPORTS + MOST_QUERIES)

    def add_to(self, app: web.Application) -> None:
        """Add the paths."""
        app.on_cleanup.append(self._threads.close)
        app.router.add_get("/tsdb/export", self.export, allow_head=False)
        app.router.add_post("/api/v1/read", self.read)
        app.router.add_get("/api/v1/label/{name}/values", self.label_values, allow_head=False)
        for path, handler in (
            ("/api/v1/series", self.series),
            ("/api/v1/labels", self.labels),
            ("/api/v1/query", self.query),
            ("/api/v1/query_range", self.query_range),
        ):
            app.router.add_get(path, handler, allow_head=False)
            app.router.add_post(path, handler)

    async def export(self, request: web.Request) -> web.StreamResponse:
        """All samples that match, streamed."""
        try:
            store = self._store_now()
            from esnode.serve import export_request

            headers: dict[str, str] = {}
            accepted = request.headers.get("Accept-Encoding")

            def begin(aside: Aside) -> Iterator[bytes]:
                asked = export_request.Export.of(request.query)
                # Parquet packs its columns itself.
                coding = "identity" if asked.format == "parquet" else negotiate.coding(accepted)
                headers.update(asked.headers(), Vary="Accept-Encoding")
                if coding != "identity":
                    headers["Content-Encoding"] = coding
                return packed(asked.body(store, aside.while_wanted), coding)

            async with self._exports.one(self._threads) as aside:
                return await _answer(request, aside, begin, headers)
        except Refused as refused:
            return refused.as_text()

    async def read(self, request: web.Request) -> web.StreamResponse:
        """Prometheus' remote read."""
        try:
            store = self._store_now()
            from esnode.serve import remote_read

            body = await _body(request)
            headers: dict[str, str] = {}

            def begin(aside: Aside) -> Iterator[bytes]:
                queries, streamed = remote_read.read_request(body)
                headers.update(remote_read.STREAM_HEADERS if streamed else remote_read.HEADERS)
                answered = remote_read.stream if streamed else remote_read.response
                return iter(answered(store, queries, aside.while_wanted))

            async with self._queries.one(self._threads) as aside:
                return await _answer(request, aside, begin, headers, _QUERY_S)
        except Refused as refused:
            return refused.as_text()

    async def series(self, request: web.Request) -> web.StreamResponse:
        """The label sets of matching series."""
        from esnode.serve import prometheus_api as api

        return await self._api(request, lambda store, given, _aside: api.series(store, given))

    async def labels(self, request: web.Request) -> web.StreamResponse:
        """Names of labels."""
        from esnode.serve import prometheus_api as api

        return await self._api(request, lambda store, given, _aside: api.labels(store, given))

    async def label_values(self, request: web.Request) -> web.StreamResponse:
        """Values of one label."""
        from esnode.serve import prometheus_api as api

        name = request.match_info["name"]
        return await self._api(request, lambda store, given, _aside: api.label_values(store, name, given))

    async def query(self, request: web.Request) -> web.StreamResponse:
        """What a plain selector selects, at one moment."""
        from esnode.serve import prometheus_api as api

        return await self._api(request, lambda store, given, aside: api.query(store, given, aside.while_wanted))

    async def query_range(self, request: web.Request) -> web.StreamResponse:
        """What a plain selector selects, at each step of a range."""
        from esnode.serve import prometheus_api as api

        return await self._api(request, lambda store, given, aside: api.query_range(store, given, aside.while_wanted))

    async def _api(self, request: web.Request, work: Query) -> web.StreamResponse:
        """One request of Prometheus' API, in its envelope."""
        try:
            store = self._store_now()
            given: MultiDict[str] = MultiDict(request.query)
            if request.method == "POST":
                given.extend(parse_qsl((await _body(request)).decode("utf-8", "replace"), keep_blank_values=True))
            coding = negotiate.encoding(request.headers.get("Accept-Encoding"))
            headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding"}
            if coding == "gzip":
                headers["Content-Encoding"] = "gzip"

            def begin(aside: Aside) -> Iterator[bytes]:
                data = work(store, given, aside)
                return packed([b'{"status":"success","data":', data, b"}"], coding)

            async with self._queries.one(self._threads) as aside:
                return await _answer(request, aside, begin, headers, _QUERY_S)
        except Refused as refused:
            return refused.as_json()

    def _store_now(self) -> Selecting:
        store = self._store()
        if store is None:
            raise Refused(503, f"there is no history to read: {self._trouble() or 'the store is not open'}")
        return store


async def _body(request: web.Request) -> bytes:
    try:
        return await asyncio.wait_for(request.read(), REQUEST_TIMEOUT_S)
    except web.HTTPRequestEntityTooLarge as error:
        raise Refused(400, f"the request is too large: {error.text}") from error


async def _answer(
    request: web.Request,
    aside: Aside,
    begin: Callable[[Aside], Iterator[bytes]],
    headers: Mapping[str, str],
    within_s: float | None = None,
) -> web.StreamResponse:
    with _refusals():
        try:
            return await asyncio.wait_for(answer(request, aside, begin, headers), within_s)
        except (asyncio.TimeoutError, TimeoutError) as error:
            if request.transport is None or request.transport.is_closing():
                raise  # the client did not take it
            raise Refused(503, f"the answer took longer than {within_s or SILENCE_S:g} s: ask for less") from error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what can be wrong with a request or the store into Refused."""
    import sqlite3

    from esnode.serve import export_parquet, export_request, prometheus_api, remote_read

    try:
        yield
    except (BadMatcher, export_request.BadExport, remote_read.BadRequest) as error:
        raise Refused(400, str(error)) from error
    except prometheus_api.ApiError as error:
        raise Refused(error.status, str(error), error.kind) from error
    except TooMany as error:
        raise Refused(422, str(error)) from error
    except export_parquet.NoParquet as error:
        raise Refused(501, str(error)) from error
    except NoThread as error:
        raise Refused(503, f"no thread can be started for this just now: {error}") from error
    except (StoreError, sqlite3.Error) as error:
        raise Refused(503, f"the store can't be read just now: {error}") from error
