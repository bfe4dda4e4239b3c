# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readers of the history take their turn, and none of them keeps /metrics waiting or a thread working for nobody."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import cramjam
import numpy as np
import pytest
import zstandard
from aiohttp import web
from esnode import sample_stream, store, wire
from esnode.serve import history_routes, streaming
from esnode.serve.history_routes import HistoryRoutes
from esnode.serve.server import Server
from esnode.store import SeriesData, SeriesId
from esnode.store.matching import Selector
from esnode.store.selecting import Selecting
from esnode.telemetry import Telemetry

START_MS = 1_700_000_000_000


class Endless(Selecting):
    """A store that never comes to the end of an export."""

    def __init__(self) -> None:
        self.running = self.given = 0

    def export(self, *_: object) -> Iterator[SeriesData]:
        self.running += 1
        try:
            while True:
                self.given += 1
                times = np.arange(1000) + START_MS
                yield SeriesData(SeriesId.of("endless", {}), times, times / 7)
        finally:
            self.running -= 1


class Broken(Selecting):
    """A store that fails, at once or after some pieces."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces

    def export(self, *_: object) -> Iterator[SeriesData]:
        for _unused in range(self._pieces):
            times = np.arange(1000) + START_MS
            yield SeriesData(SeriesId.of("broken", {}), times, times / 7)
        raise store.StoreError("the disk has gone")


class Client:
    def __init__(self, port: int, session: aiohttp.ClientSession) -> None:
        self.port, self.session = port, session

    async def get(self, path: str, **headers: str) -> tuple[int, Any, bytes]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.session.get(
            url, headers={"Accept-Encoding": "identity", **headers}, auto_decompress=False
        ) as answer:
            return answer.status, answer.headers, await answer.read()

    async def post(self, path: str, body: bytes) -> int:
        async with self.session.post(f"http://127.0.0.1:{self.port}{path}", data=body) as answer:
            return answer.status

    def deaf(self, path: str) -> socket.socket:
        """A client that asks and reads nothing."""
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", self.port))
        one.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return one


def serving(source: Selecting | None, test: Callable[[Client], Awaitable[None]], trouble: str | None = None) -> None:
    """Run a test against a server over a store."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text="up 1\n")

    async def run() -> None:
        app = web.Application(client_max_size=64 * 1024)
        app.router.add_get("/metrics", metrics)
        HistoryRoutes(lambda: source, lambda: trouble).add_to(app)
        server = Server(app, Telemetry())
        listening = socket.create_server(("127.0.0.1", 0))
        await server.start([listening], None)
        try:
            async with aiohttp.ClientSession() as session:
                await asyncio.wait_for(test(Client(listening.getsockname()[1], session)), 60)
        finally:
            await server.stop()

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.02)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[store.store.Store]:
    with store.open(tmp_path / "store", store.Options(wall=lambda: START_MS / 1000)) as one:
        for tick in range(100):
            row = {SeriesId.of("a", {"n": str(n)}): float(tick * n) for n in range(20)}
            one.append(START_MS + tick * 1000, row)
            if tick == 50:
                one.seal()
        yield one


EXPORT = "/tsdb/export?from=0"
PATHS = (EXPORT, "/api/v1/series?match[]=a", "/api/v1/labels", "/api/v1/label/n/values", "/api/v1/query?query=a",
         "/api/v1/query_range?query=a&start=0&end=1&step=1")  # fmt: skip


def test_without_a_store_each_path_says_why() -> None:
    async def test(client: Client) -> None:
        for path in PATHS:
            status, headers, body = await client.get(path)
            assert status == 503 and b"tsdb.enable_local_tsdb is false" in body and headers["Retry-After"]
            if path.startswith("/api"):
                assert json.loads(body)["errorType"] == "unavailable"
        assert await client.post("/api/v1/read", b"") == 503

    serving(None, test, "tsdb.enable_local_tsdb is false in the configuration")


def test_metrics_answer_while_exports_stand_still_and_a_further_one_is_sent_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_routes, "_PATIENCE_S", 0.2)
    source = Endless()

    async def test(client: Client) -> None:
        deaf = [client.deaf(EXPORT) for _ in range(history_routes.MOST_EXPORTS)]
        await until(lambda: source.running == len(deaf))
        for _ in range(20):
            assert (await client.get("/metrics"))[0] == 200
        status, headers, body = await client.get(EXPORT)
        assert status == 503 and headers["Retry-After"] and b"ask again" in body
        # Nothing is made ahead of what the client takes.
        given = [-1, source.given]
        deadline = time.monotonic() + 30
        while given[0] != given[1]:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.3)
            given = [given[1], source.given]
        # A client that has gone ends its export, and its place is free.
        for one in deaf:
            one.close()
        await until(lambda: source.running == 0)
        again = client.deaf(EXPORT)
        await until(lambda: source.running == 1)
        again.close()

    serving(source, test)


def request_threads() -> int:
    return sum("history-request" in one.name for one in threading.enumerate())


def test_threads_wait_for_the_next_request_and_end_with_the_server(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        await until(lambda: request_threads() == 0)  # of other tests
        for _ in range(10):
            assert (await client.get("/api/v1/query?query=a"))[0] == 200
            assert (await client.get("/api/v1/query?query=a(b"))[0] == 422
        # One that was refused gives its thread back a moment after its answer.
        assert request_threads() <= 2
        answers = await asyncio.gather(*(client.get(EXPORT if n % 2 else "/api/v1/labels") for n in range(12)))
        assert {status for status, *_ in answers} == {200}
        assert request_threads() <= history_routes.MOST_EXPORTS + history_routes.MOST_QUERIES

    serving(filled, test)
    deadline = time.monotonic() + 30
    while request_threads():
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(0.02)


def test_a_silent_client_is_given_up_on_and_a_slow_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "SILENCE_S", 2.5)
    source = Endless()

    async def test(client: Client) -> None:
        slow, deaf = client.deaf(EXPORT), client.deaf(EXPORT)
        slow.setblocking(False)
        await until(lambda: source.running == 2)

        async def take(goes_on: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 30
            while goes_on():
                assert time.monotonic() < deadline
                assert await asyncio.get_running_loop().sock_recv(slow, 256 * 1024)
                await asyncio.sleep(0.001)

        await take(lambda: source.running == 2)  # until the deaf one is gone
        given = source.given
        await take(lambda: source.given < given + 100)
        assert source.running == 1
        slow.close()
        deaf.close()
        await until(lambda: source.running == 0)

    serving(source, test)


def test_an_answer_that_fails_in_the_middle_does_not_look_whole(caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.get(EXPORT)
        assert "the answer was cut off: StoreError: the disk has gone" in caplog.text

    serving(Broken(50), test)


def test_a_store_that_fails_at_once_is_told() -> None:
    async def test(client: Client) -> None:
        for path in (EXPORT, "/api/v1/query?query=a"):
            status, _, body = await client.get(path)
            assert status == 503 and b"the disk has gone" in body

    serving(Broken(0), test)


def test_a_query_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_routes, "_QUERY_S", 0.3)
    source = Endless()

    async def test(client: Client) -> None:
        status, _, body = await client.get("/api/v1/query?query=a")
        assert status == 503 and b"longer than 0.3 s" in body
        await until(lambda: source.running == 0)

    serving(source, test)


def test_nothing_is_worked_out_for_a_client_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LOOK_S", 0.1)
    source = Endless()

    async def test(client: Client) -> None:
        # Neither of them gives a first byte.
        gone = [client.deaf("/api/v1/query?query=a"), client.deaf(f"{EXPORT}&step=1h")]
        await until(lambda: source.running == 2)
        for one in gone:
            one.close()
        await until(lambda: source.running == 0)

    serving(source, test)


@pytest.mark.parametrize("form", ["jsonl", "openmetrics", "native"])
def test_each_coding_of_each_form_is_the_same_text(filled: store.store.Store, form: str) -> None:
    async def test(client: Client) -> None:
        path = f"{EXPORT}&format={form}"
        _, headers, plain = await client.get(path)
        assert "Content-Encoding" not in headers
        _, headers, packed = await client.get(path, **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip" and gzip.decompress(packed) == plain
        _, headers, packed = await client.get(path, **{"Accept-Encoding": "zstd, gzip"})
        assert headers["Content-Encoding"] == "zstd"
        assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == plain
        if form == "native":
            samples = sum(len(piece.times) for piece in sample_stream.decode([plain]))
        else:
            samples = len(json_samples(plain)) if form == "jsonl" else plain.count(b"\na{")
        assert samples == 2000

    serving(filled, test)


def json_samples(body: bytes) -> list[tuple[str, int, float]]:
    lines = [json.loads(line) for line in body.splitlines()]
    return [
        (line["metric"].get("n", ""), time_ms, value)
        for line in lines
        for time_ms, value in zip(line["timestamps"], line["values"], strict=True)
    ]


def test_several_selectors_are_a_union_and_no_sample_comes_twice(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        query = "match[]=" + "&match[]=".join(('a{n=~"1|2"}', 'a{n=~"2|3"}', "{n='3'}"))
        found = json_samples((await client.get(f"{EXPORT}&{query}"))[2])
        assert sorted({n for n, _, _ in found}) == ["1", "2", "3"] and len(found) == len(set(found)) == 300

    serving(filled, test)


def test_a_step_leaves_the_last_sample_of_each(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        for form in ("jsonl", "openmetrics"):
            body = (await client.get(f"{EXPORT}&step=30s&format={form}&match[]=a{{n='1'}}"))[2]
            if form == "jsonl":
                stamps = [time_ms - START_MS for _, time_ms, _ in json_samples(body)]
            else:
                stamps = [
                    round(float(line.split()[-1]) * 1000) - START_MS for line in body.splitlines() if line[:1] == b"a"
                ]
            # 1,700,000,000 s are 20 s past a whole 30 s; the last of the steps is not full.
            assert stamps == [10_000, 40_000, 70_000, 99_000]

    serving(filled, test)


def test_a_misspelt_parameter_exports_nothing(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        for query, words in (
            ("form=native", b"no parameter of an export"),
            ("format=csv", b"none of jsonl"),
            ("from=now&from=-1h", b"more than once"),
            ("from=now&to=-1h", b"later than"),
            ("from=yesterday", b"from: 'yesterday' is no time"),
            ("step=often", b"step: 'often' is no duration"),
            ("match[]=a{", b"match[]': 'a{': at its end"),
        ):
            status, _, body = await client.get(f"/tsdb/export?{query}")
            assert status == 400 and words in body, body

    serving(filled, test)


def test_bytes_that_are_no_text_are_refused_wherever_they_stand(filled: store.store.Store) -> None:
    def status(port: int, path: bytes) -> int:
        with socket.create_connection(("127.0.0.1", port), 30) as one:
            one.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            return int(one.recv(4096).split()[1])

    async def test(client: Client) -> None:
        takes_selectors = (
            b"/tsdb/export?match[]=",
            b"/api/v1/series?match[]=",
            b"/api/v1/labels?match[]=",
            b"/api/v1/label/n/values?match[]=",
            b"/api/v1/query?query=",
            b"/api/v1/query_range?start=0&end=1&step=1&query=",
        )
        selectors = [path + one for path in takes_selectors for one in (b'a{n="@"}', b'a{n!~"1@"}', b"@", b"a{@}")]
        others = [
            *(b"/tsdb/export?" + one for one in (b"from=@", b"format=@", b"step=@", b"@=1")),
            b"/api/v1/query?query=a&time=@",
            b"/api/v1/query_range?query=a&start=@&end=1&step=1",
            b"/api/v1/series?match[]=a&limit=@",
            b"/api/v1/label/@/values",
            b"/@",
        ]
        for path in (*selectors, *others):
            for odd in (b"\xff", b"\xed\xa0\x80", b"%FF", b"%ED%A0%80"):
                got = await asyncio.to_thread(status, client.port, path.replace(b"@", odd))
                assert got in (200, 400, 404, 422), (got, path, odd)
                if not odd.startswith(b"%"):
                    assert got != 200 or path not in selectors, (path, odd)

    serving(filled, test)


def test_bodies_that_are_too_large_or_odd_are_refused(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        assert await client.post("/api/v1/read", b"a" * 100_000) == 400
        assert await client.post("/api/v1/query", b"query=" + b"a" * 100_000) == 400
        assert await client.post("/api/v1/query", b"query=\xff\xfe") == 422
        assert await client.post("/api/v1/query", b"query=a") == 200

    serving(filled, test)


def test_expressions_are_compiled_off_the_event_loop_and_not_too_many(
    filled: store.store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    compiled = Selector.__init__

    def compile_it(self: Selector, matchers: object) -> None:
        threads.append(threading.current_thread().name)
        compiled(self, matchers)  # type: ignore[arg-type]

    monkeypatch.setattr(Selector, "__init__", compile_it)
    matcher = wire.payload(3, wire.integer(1, 2) + wire.text(2, "n") + wire.text(3, "1.*"))

    async def test(client: Client) -> None:
        packed = cramjam.snappy.compress_raw(wire.payload(1, wire.integer(2, 2**50) + matcher * 200))
        assert await client.post("/api/v1/read", bytes(packed)) == 200
        assert (await client.get(f"{EXPORT}&match[]=a%7Bn=~%221.*%22%7D"))[0] == 200
        assert (await client.get("/api/v1/series?match[]=a%7Bn=~%221.*%22%7D"))[0] == 200
        packed = cramjam.snappy.compress_raw(wire.payload(1, matcher * 200) * 2)
        assert await client.post("/api/v1/read", bytes(packed)) == 400

    serving(filled, test)
    assert len(threads) >= 4 and all(name.startswith("history-request") for name in threads)


def test_where_no_thread_can_be_started_a_place_is_not_lost(
    filled: store.store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("history-request"):
            raise RuntimeError("can't start new thread")
        start(thread)

    async def test(client: Client) -> None:
        await until(lambda: request_threads() == 0)  # of other tests
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2 * history_routes.MOST_QUERIES):
                status, headers, body = await client.get("/api/v1/labels")
                assert status == 503 and headers["Retry-After"] and b"can't start new thread" in body
        for _ in range(2 * history_routes.MOST_QUERIES):
            assert (await client.get("/api/v1/labels"))[0] == 200

    serving(filled, test)


class Slow(Selecting):
    """A store that takes its time for each batch, of which there is no end in sight."""

    def __init__(self) -> None:
        self.asked = 0

    def series(self, *_: object) -> list[SeriesId]:
        return [SeriesId(f"s{n:06}") for n in range(100_000)]

    def select(self, *_: object, **__: object) -> list[SeriesData]:
        self.asked += 1
        time.sleep(0.05)
        return []


def test_an_openmetrics_export_ends_with_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_LOOK_S", 0.1)
    source = Slow()

    async def test(client: Client) -> None:
        gone = client.deaf(f"{EXPORT}&format=openmetrics")
        await until(lambda: source.asked > 3)
        gone.close()
        await asyncio.sleep(1)
        asked = source.asked
        await asyncio.sleep(0.5)
        assert source.asked == asked

    serving(source, test)


def test_a_limit_of_thousands_of_digits_is_refused(filled: store.store.Store) -> None:
    async def test(client: Client) -> None:
        status, _, body = await client.get(f"/api/v1/labels?limit={'9' * 5000}")
        assert status == 400 and b"is no number" in body

    serving(filled, test)
