# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What remote write makes of rows, when it sends, and what it believes of an answer."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cramjam import snappy
from esnode import store, wire
from esnode.config import RemoteWrite
from esnode.config_file import ConfigError, load
from esnode.deliver import pacing, position, receiver, sender
from esnode.deliver.pacing import Backoff, Pacer, retry_after_s
from esnode.deliver.position import FILE, Position
from esnode.deliver.progress import Progress
from esnode.deliver.receiver import Answer
from esnode.deliver.write_request import STALE, Encoder, Staleness, Table, units
from esnode.store.errors import StoreError
from esnode.store.following import Ahead, Batch, Cursor
from esnode.store.model import SeriesId
from hypothesis import given
from hypothesis import strategies as st

A, B, C = (SeriesId.of("m", {"s": one}) for one in "abc")
Sample = tuple[tuple[tuple[str, str], ...], int, int]


def batch(rows: list[tuple[int, dict[SeriesId, float]]]) -> Batch:
    series = sorted({one for _, row in rows for one in row})
    values = np.array([[row.get(one, 0.0) for _, row in rows] for one in series], np.float64)
    present = np.array([[one in row for _, row in rows] for one in series], np.bool_)
    return Batch(series, np.array([ms for ms, _ in rows], np.int64), values, present, Cursor("s", 1))


def table(rows: list[tuple[int, dict[SeriesId, float]]]) -> Table:
    one = batch(rows)
    return Table(one.series, one.times, one.values, one.present)


def decoded(body: bytes) -> Iterator[Sample]:
    """Labels, time and bits of each sample in a body."""
    for field, series in wire.fields(bytes(snappy.decompress_raw(body))):
        assert field == 1
        labels = []
        for number, part in wire.fields(series):
            found = dict(wire.fields(part))
            if number == 1:
                labels.append((found[1].decode(), found[2].decode()))
            else:
                yield tuple(labels), found[2], found[1]


def bits(value: float) -> int:
    return struct.unpack("<Q", struct.pack("<d", value))[0]


def test_a_body_has_every_sample_with_sorted_labels() -> None:
    one = table([(1000, {A: 1.5, B: -0.0}), (2000, {A: STALE})])
    body = Encoder({"job": "esnode", "instance": "n1", "s": "never", "empty": ""}).body(one)
    a = (("__name__", "m"), ("instance", "n1"), ("job", "esnode"), ("s", "a"))
    b = (("__name__", "m"), ("instance", "n1"), ("job", "esnode"), ("s", "b"))
    assert list(decoded(body)) == [(a, 1000, bits(1.5)), (a, 2000, 0x7FF0000000000002), (b, 1000, bits(-0.0))]


def marked(one: Table) -> set[tuple[SeriesId, int]]:
    return {
        (one.series[s], int(one.times[r]))
        for s, r in zip(*np.nonzero(one.present), strict=True)
        if bits(one.values[s, r]) == 0x7FF0000000000002
    }


def test_a_series_that_vanishes_is_marked_once_in_the_next_row_also_over_batches() -> None:
    staleness = Staleness()
    assert marked(staleness.mark(batch([(1, {A: 1, B: 1, C: 1}), (2, {A: 1, C: 1}), (3, {A: 1, C: 1})]))) == {(B, 2)}
    assert marked(staleness.mark(batch([(4, {A: 1}), (5, {A: 1})]))) == {(C, 4)}
    assert marked(staleness.mark(batch([(6, {A: 1})]))) == set()
    assert marked(staleness.mark(batch([(5, {B: 1}), (7, {B: 1, A: 1})]))) == set(), "a marker before what it ends"
    assert marked(staleness.mark(batch([(8, {C: 1})]))) == {(A, 8), (B, 8)}


def test_rows_go_out_in_ascending_times_and_in_bounded_pieces() -> None:
    rows = [(ms, {A: 1.0, B: 2.0, C: 3.0}) for ms in (1, 2, 3, 2, 2, 9, 10)]
    got = [(end, [one.times.tolist() for one in tables]) for end, tables in units(table(rows), 6)]
    assert got == [(2, [[1, 2]]), (3, [[3]]), (4, [[2]]), (6, [[2, 9]]), (7, [[10]])]
    wide = [(end, [(list(one.series), one.samples) for one in tables]) for end, tables in units(table(rows[:1]), 2)]
    assert wide == [(1, [([A, B], 2), ([C], 1)])]


def test_the_pacer_bounds_what_goes_out_in_a_second() -> None:
    pacer, now, sent = Pacer(1000), 50.0, 0
    while now < 60:
        now += pacer.delay_s(200, now)
        sent += 200
    assert sent == pytest.approx(10_000, abs=400)
    assert pacer.delay_s(200, 1000.0) == 0, "what was not used is not saved up, and costs nothing later"
    assert pacer.delay_s(200, 1000.0) == pytest.approx(0.2)


def test_waits_grow_to_a_minute_and_begin_anew_after_a_success() -> None:
    backoff = Backoff()
    waits = [backoff.wait_s() for _ in range(12)]
    for wait, most in zip(waits, (1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60), strict=True):
        assert most / 2 <= wait <= most
    assert backoff.wait_s(300) == 300
    backoff.reset()
    assert backoff.wait_s() <= 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("99999999", 3600.0),
        ("soon", None),
        ("-3", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


@pytest.fixture
def far_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A node that is not in UTC."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_west")
@pytest.mark.parametrize("form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"])
def test_retry_after_as_a_date(form: str) -> None:
    def date(seconds: float) -> str:
        return time.strftime(form, time.gmtime(time.time() + seconds))

    assert retry_after_s(date(100)) == pytest.approx(100, abs=5)
    # By the receiver's clock where it tells: the node's may be wrong.
    assert retry_after_s(date(-5000), date(-5060)) == pytest.approx(60, abs=2)
    assert retry_after_s(date(5000), date(4940)) == pytest.approx(60, abs=2)
    assert retry_after_s(date(100), "at noon") == pytest.approx(100, abs=5)
    found = receiver._meaning(503, "", {"Retry-After": date(5000), "Date": date(4940)})
    assert found.wait_s == pytest.approx(60, abs=2)


class Judge:
    """Stands for a receiver; `takes` judges the samples of a body."""

    def __init__(self, takes: object) -> None:
        self.takes, self.taken, self.requests = takes, [], 0

    async def send(self, body: bytes) -> Answer:
        self.requests += 1
        samples = list(decoded(body))
        answer = self.takes(samples)
        if answer.outcome == "accepted":
            self.taken += samples
        return answer

    async def close(self) -> None:
        pass


def deliver(judge: Judge, *tables: Table) -> Progress:
    progress = Progress()
    one = sender.Sender(
        RemoteWrite(url="http://u:p@127.0.0.1/x?t=1", max_samples_per_second=10**9), "n1", lambda: None, progress, 0.0
    )
    one._receiver = judge  # type: ignore[assignment]
    one._backoff.wait_s = lambda _asked: 0.0  # type: ignore[method-assign]

    async def run() -> None:
        for part in tables:
            await one._deliver(part)

    asyncio.run(run())
    return progress


def grid(rows: int, series: int) -> Table:
    names = [SeriesId.of("m", {"s": f"{n:04}"}) for n in range(series)]
    return table([(ms, dict.fromkeys(names, 1.0)) for ms in range(rows)])


def test_of_a_mixed_batch_only_the_refused_samples_are_lost() -> None:
    def takes(samples: list[Sample]) -> Answer:
        bad = any(ms < 5 or dict(labels)["s"] == "0003" for labels, ms, _ in samples)
        return Answer("refused", "HTTP 400: out of bounds") if bad else Answer("accepted")

    judge = Judge(takes)
    progress = deliver(judge, grid(12, 4))
    assert sorted({ms for _, ms, _ in judge.taken}) == list(range(5, 12))
    assert len(judge.taken) == progress.sent == 7 * 3
    assert progress.dropped == {"too_old": 12 * 4 - 21, "out_of_order": 0, "refused": 0, "retention": 0}


def test_rows_of_which_nothing_can_be_read_are_passed_over() -> None:
    judge = Judge(lambda _: Answer("accepted"))
    rows = grid(3, 2)
    gone = Table([], rows.times, rows.values[:0], rows.present[:0])
    progress = deliver(judge, gone, rows)
    assert (judge.requests, progress.sent) == (1, 6)
    # Halves of a sparse table may hold nothing.
    sparse = Table(rows.series, rows.times, rows.values, rows.present & (rows.times == 0))
    assert deliver(Judge(lambda _: Answer("refused", "HTTP 400")), sparse).dropped["refused"] == 2


def test_refused_rows_in_great_number_cost_few_requests() -> None:
    judge = Judge(lambda _: Answer("refused", "HTTP 400"))
    tables = [grid(10, 100) for _ in range(50)]
    progress = deliver(judge, *tables)
    assert progress.dropped["refused"] == 50 * 1000
    assert judge.requests < 150 + 50 * 20


def test_a_series_that_is_never_wanted_costs_the_others_nothing() -> None:
    def takes(samples: list[Sample]) -> Answer:
        return Answer("refused" if any(dict(labels)["s"] == "0030" for labels, _, _ in samples) else "accepted")

    judge = Judge(takes)
    progress = deliver(judge, *(grid(25, 60) for _ in range(10)))
    assert (progress.sent, progress.dropped["refused"]) == (10 * 25 * 59, 10 * 25)
    assert judge.requests < 150 + 9 * 60


def test_rows_that_are_too_old_take_no_later_ones_with_them() -> None:
    judge = Judge(lambda samples: Answer("refused" if any(ms < 20 for _, ms, _ in samples) else "accepted"))
    old = grid(15, 90)
    progress = deliver(judge, old, old, grid(33, 60))
    assert (progress.sent, progress.dropped["refused"]) == (13 * 60, 30 * 90 + 20 * 60)


def test_what_is_too_large_is_cut_until_it_fits() -> None:
    judge = Judge(lambda samples: Answer("too_large" if len(samples) > 7 else "accepted"))
    progress = deliver(judge, grid(10, 30))
    assert (len(judge.taken), progress.sent, sum(progress.dropped.values())) == (300, 300, 0)


def test_what_was_too_large_is_not_asked_for_each_piece_and_requests_grow_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def takes(samples: list[Sample]) -> Answer:
        sizes.append(len(samples))
        return Answer("too_large" if len(samples) > 300 and len(sizes) < 60 else "accepted")

    deliver(Judge(takes), *(grid(20, 100) for _ in range(5)))
    assert sizes[:3] == [2000, 1000, 500]
    assert max(sizes[3:]) <= 250, "it was not remembered"
    sizes.clear()
    monkeypatch.setattr(pacing, "_REFUSED_S", 0.0)
    deliver(Judge(takes), *(grid(20, 100) for _ in range(30)))
    assert sizes[-1] == 2000


def test_a_sample_that_is_too_large_by_itself_keeps_no_request_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "_REFUSED_S", 0.0)
    sizes: list[int] = []

    def takes(samples: list[Sample]) -> Answer:
        sizes.append(len(samples))
        return Answer("too_large" if any(dict(labels)["s"] == "0030" for labels, _, _ in samples) else "accepted")

    progress = deliver(Judge(takes), *(grid(20, 100) for _ in range(30)))
    assert (progress.sent, progress.dropped["refused"]) == (30 * 20 * 99, 30 * 20)
    assert sizes[:6] == [2000, 1000, 500, 200, 100, 50]
    assert max(sizes[-100:]) == 20 * 99


@given(
    st.lists(
        st.tuples(st.integers(20, 4000), st.integers(1, 300), st.floats(0.01, 300)),  # a limit, requests, s between
        max_size=12,
    )
)
def test_the_size_of_requests_follows_what_the_receiver_takes(phases: list[tuple[int, int, float]]) -> None:
    size, now = pacing.Size(2000), 0.0
    refused: list[float] = []
    for limit, requests, seconds in [*phases, (2000, 6 * pacing._GROW_AFTER, pacing._REFUSED_S)]:
        for _ in range(requests):
            now += seconds
            before = size.samples
            if before <= limit:
                size.taken(now)
                assert size.samples in (before, min(2 * before, 2000))
            else:
                size.too_large(before, now)
                assert size.samples == max(before // 2, pacing.LEAST)
                refused += [now] if before > pacing.LEAST else []
            assert pacing.LEAST <= size.samples <= 2000
    assert size.samples == 2000, "it has not grown again"
    # From 2000 down to 50 are six steps; after one, none is asked for again that was refused.
    assert all(later - one >= pacing._REFUSED_S for one, later in zip(refused, refused[6:], strict=False))


def test_what_failed_is_sent_again_until_it_is_taken() -> None:
    answers = [Answer("failed", "HTTP 503"), Answer("failed", "HTTP 429", 5.0), Answer("accepted")]
    judge = Judge(lambda _: answers.pop(0))
    progress = deliver(judge, grid(2, 2))
    assert (progress.sent, progress.failed, judge.requests, progress.state) == (4, 2, 3, "ok")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, "accepted") for status in (200, 202, 204)),
        *((status, "refused") for status in (400, 409, 422)),
        (413, "too_large"),
        *((status, "failed") for status in (301, 307, 401, 403, 404, 405, 415, 429, 500, 502, 503, 504)),
    ],
)
def test_what_an_answer_means(status: int, outcome: str) -> None:
    assert receiver._meaning(status, "", {"Retry-After": "3"}).outcome == outcome


def answered(raw: bytes, **more: object) -> tuple[Answer, bytes]:
    """What is made of these bytes of a server, and what it was sent."""

    async def run() -> tuple[Answer, bytes]:
        request = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.write(raw)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        one = receiver.Receiver(RemoteWrite(url=url, timeout_seconds=5, **more))  # type: ignore[arg-type]
        answer = await one.send(b"x")
        await one.close()
        server.close()
        return answer, await request

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "accepted"),
        (b"HTTP/1.1 400 Bad\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "refused"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: odd\r\nContent-Length: 3\r\n\r\nabc", "accepted"),
        (b"HTTP/1.1 503 Bad\r\nContent-Length: 9\r\n\r\n", "failed"),
    ],
)
def test_an_answer_is_what_its_status_says_whatever_becomes_of_its_text(raw: bytes, outcome: str) -> None:
    answer, request = answered(raw)
    assert answer.outcome == outcome
    assert b"Accept-Encoding: identity\r\n" in request


def test_a_place_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(position, "_EVERY_S", 3600)
    place = Position(tmp_path)
    assert place.cursor is None
    place.keep(Cursor("ab", 3, 4, 5))
    assert Position(tmp_path).cursor == Cursor("ab", 3, 4, 5)
    place.keep(Cursor("ab", 3, 5, 6))
    assert Position(tmp_path).cursor == Cursor("ab", 3, 4, 5), "written at each step"
    place.write()
    assert Position(tmp_path).cursor == Cursor("ab", 3, 5, 6)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_place_that_can_not_be_read_is_no_place(tmp_path: Path) -> None:
    for text in ("", "{", json.dumps({"store": "a", "epoch": None, "rows": 1, "newest_ms": 2})):
        (tmp_path / FILE).write_text(text)
        assert Position(tmp_path).damaged


def test_a_place_that_can_not_be_written_stops_nothing(tmp_path: Path) -> None:
    place = Position(tmp_path / "gone")
    place.keep(Cursor("ab", 3, 4, 5))
    assert place.cursor == Cursor("ab", 3, 4, 5)


@pytest.mark.parametrize(("since_s", "first"), [(0, 0), (2_000_000_000, 3)])
def test_sending_begins_with_what_was_collected_since_it_was_wished(tmp_path: Path, since_s: float, first: int) -> None:
    judge = Judge(lambda _: Answer("accepted"))
    with store.open(tmp_path / "store") as one:
        wish = RemoteWrite(url="http://127.0.0.1/x")
        begun = sender.Sender(wish, "n1", lambda: one, Progress(), since_s)
        begun._receiver = judge  # type: ignore[assignment]

        async def rows(*times: int) -> None:
            for when in times:
                one.append(1_000_000_000_000 + when, {A: 1.0})
            one.flush()
            await begun._round()

        asyncio.run(rows(0, 1, 2))
        asyncio.run(rows(3, 4))
    assert [ms - 1_000_000_000_000 for _, ms, _ in judge.taken] == list(range(first, 5))


async def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "it did not come"
        await asyncio.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sender look and count as often as it can."""
    monkeypatch.setattr(sender, "_LOOK_S", 0.01)
    monkeypatch.setattr(sender, "_COUNT_S", 0.01)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("moved", [False, True])
def test_a_store_that_is_reopened_during_an_outage_is_gone_on_with(tmp_path: Path, moved: bool) -> None:
    away = [True]
    judge = Judge(lambda _: Answer("failed", "HTTP 503") if away[0] else Answer("accepted"))
    progress, stores = Progress(), [store.open(tmp_path / "store")]
    one = sender.Sender(RemoteWrite(url="http://127.0.0.1/x"), "n1", lambda: stores[-1], progress, 0.0)
    one._receiver = judge  # type: ignore[assignment]
    one._backoff.wait_s = lambda _asked: 0.05  # type: ignore[method-assign]

    def append(*times: int) -> None:
        for when in times:
            stores[-1].append(when, {A: 1.0, B: 2.0})
        stores[-1].flush()

    async def run() -> None:
        append(1000, 2000)
        sending = asyncio.create_task(one.run())
        await until(lambda: progress.pending == 4)
        stores[-1].close()
        stores.append(store.open(tmp_path / ("elsewhere" if moved else "store")))
        append(3000, 4000, 9000)
        await until(lambda: progress.pending == (6 if moved else 10))
        assert progress.newest_ms == 9000
        away[0] = False
        await until(lambda: not progress.pending)
        sending.cancel()
        await asyncio.wait([sending])

    asyncio.run(run())
    stores[-1].close()
    expected = [3000, 4000, 9000] if moved else [1000, 2000, 3000, 4000, 9000]
    assert sorted(ms for _, ms, _ in judge.taken) == sorted(2 * expected)
    assert (progress.sent_ms, progress.lag_s, progress.state) == (9000, 0.0, "ok")


@pytest.mark.usefixtures("quick")
def test_what_a_receiver_asked_for_is_waited_for_also_when_the_store_is_reopened(tmp_path: Path) -> None:
    judge = Judge(lambda _: Answer("failed", "HTTP 503", 3600.0))
    progress, stores = Progress(), [store.open(tmp_path / "store")]
    one = sender.Sender(RemoteWrite(url="http://127.0.0.1/x"), "n1", lambda: stores[-1], progress, 0.0)
    one._receiver = judge  # type: ignore[assignment]

    async def run() -> None:
        stores[-1].append(1000, {A: 1.0})
        stores[-1].flush()
        sending = asyncio.create_task(one.run())
        await until(lambda: judge.requests)
        stores[-1].close()
        stores.append(store.open(tmp_path / "store"))
        stores[-1].append(2000, {A: 1.0})
        stores[-1].flush()
        await until(lambda: progress.pending == 2)
        await asyncio.sleep(0.1)
        sending.cancel()
        await asyncio.wait([sending])

    asyncio.run(run())
    stores[-1].close()
    assert judge.requests == 1


class Rows:
    """Stands for a store; gives what is to be followed."""

    def __init__(self, path: Path, *batches: Batch) -> None:
        self.path, self.batches = path, list(batches)

    def follow(self, cursor: Cursor | None, _most: int) -> Batch:
        place = cursor or Cursor("s", 1)
        for one in self.batches:
            if place.epoch <= one.start.epoch:
                return one if place != one.start else replace(one, lost=0)
        return Batch((), np.empty(0, np.int64), np.empty((0, 0)), np.empty((0, 0), np.bool_), place)

    def ahead(self, _cursor: Cursor) -> Ahead:
        return Ahead(0, None)


@pytest.mark.usefixtures("quick")
def test_what_retention_took_is_counted_once_however_often_the_settings_change(tmp_path: Path) -> None:
    rest = batch([(1000, {A: 1.0})])
    rows = Rows(tmp_path, Batch(rest.series, rest.times, rest.values, rest.present, Cursor("s", 5), lost=700))
    (tmp_path / FILE).write_text(json.dumps(Cursor("s", 1).encode()))
    progress = Progress()

    async def run() -> None:
        for rack in ("a", "b", "c"):
            settings = RemoteWrite(url="http://127.0.0.1/x", labels={"rack": rack})
            one = sender.Sender(settings, "n1", lambda: rows, progress, 0.0)  # type: ignore[arg-type, return-value]
            one._receiver = judge = Judge(lambda _: Answer("failed", "HTTP 503"))  # type: ignore[assignment]
            sending = asyncio.create_task(one.run())
            await until(lambda judge=judge: judge.requests)  # type: ignore[misc]
            sending.cancel()
            await asyncio.wait([sending])

    asyncio.run(run())
    assert progress.dropped["retention"] == 700


@pytest.mark.usefixtures("quick")
def test_a_trouble_of_the_store_is_told_only_while_it_lasts(tmp_path: Path) -> None:
    progress = Progress()
    there: list[Rows] = []
    judge = Judge(lambda _: Answer("accepted"))
    one = sender.Sender(RemoteWrite(url="http://127.0.0.1/x"), "n1", lambda: there[0] if there else None, progress, 0.0)  # type: ignore[arg-type, return-value]
    one._receiver = judge  # type: ignore[assignment]

    class Unreadable(Rows):
        def follow(self, _cursor: Cursor | None, _most: int) -> Batch:
            raise StoreError("the disk has gone")

    (tmp_path / FILE).write_text(json.dumps(Cursor("s", 1).encode()))
    asyncio.run(one._round())
    assert (progress.state, progress.error) == ("waiting", "there is no store to send from")
    there[:] = [Unreadable(tmp_path)]
    asyncio.run(one._round())
    assert (progress.state, progress.error) == ("failing", "the disk has gone")
    there[:] = [Rows(tmp_path)]
    asyncio.run(one._round())
    assert (progress.state, progress.error) == ("ok", None)


@pytest.mark.parametrize(
    "url", ["http://host:99999/x?token=hush", "http://h:8o/x?hush", "http://[::1/x?token=hush", "http://:9/?hush"]
)
def test_a_url_that_is_none_is_a_mistake_and_never_shown(tmp_path: Path, url: str) -> None:
    config = tmp_path / "esnode.toml"
    config.write_text(f'[remote_write]\nurl = "{url}"\n')
    with pytest.raises(ConfigError, match=r"remote_write\.url: names no host and port that can be asked") as raised:
        load(config, {})
    one = receiver.Receiver(RemoteWrite(url=url))
    answer = asyncio.run(one.send(b""))
    assert answer.outcome == "failed"
    assert "hush" not in str(raised.value) + answer.why


def test_the_shown_url_has_no_secret() -> None:
    assert receiver.shown("https://user:pass@host:9090/api/v1/write?token=x") == "https://host:9090/api/v1/write"


def test_the_files_are_tried_out(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("a\nb")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "token").chmod(0o644)

    def check(**more: str) -> list[str]:
        return receiver.check(RemoteWrite(url="https://host/x", **more))

    assert check() == check(bearer_token_path=f"{tmp_path}/token") == []
    (mistake,) = check(bearer_token_path="/none")
    assert mistake.startswith('remote_write.bearer_token_path = "/none": cannot be read by user ')
    assert check(bearer_token_path=f"{tmp_path}/empty")[0].endswith("must hold one line, is empty")
    assert check(bearer_token_path=f"{tmp_path}/two")[0].endswith("must hold one line, is more than that")
    assert check(tls_ca_path=f"{tmp_path}/token") == [
        f'remote_write.tls_ca_path = "{tmp_path}/token": holds no PEM certificate'
    ]
    assert receiver.check(RemoteWrite(bearer_token_path="/none")) == []
    settings = RemoteWrite(url="https://host/x", bearer_token_path=f"{tmp_path}/token")
    assert receiver.open_to_others(settings) == [f"{tmp_path}/token"]
    (tmp_path / "token").chmod(0o640)
    assert receiver.open_to_others(settings) == []
