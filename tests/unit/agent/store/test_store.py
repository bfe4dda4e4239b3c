# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is appended can be selected at once, after sealing, after a restart, and by another process."""

from __future__ import annotations

import contextlib
import math
import os
import random
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from esnode import store
from esnode.store import Matcher, SeriesId, database
from esnode.store.backup import Source
from esnode.store.database import Readers, check_format, is_still
from esnode.store.readonly import ReadOnlyStore
from esnode.store.store import Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import STALE, START_MS, Expected, bits, fill, named, row

Opener = Callable[..., Store]


class Labelled:
    """A key as the agent has them: compared by identity."""

    def __init__(self, name: str, labels: dict[str, str]) -> None:
        self.name, self.labels = name, labels


def test_what_was_appended_is_there_at_once(opened: Opener) -> None:
    one = opened()
    fill(one, 10).check(one.select())


def test_sealed_and_hot_samples_are_one_answer(opened: Opener) -> None:
    one = opened()
    expected = fill(one, 300)
    one.seal()
    assert one.stats().blocks == 1
    assert one.stats().hot_rows == 0
    later = fill(one, 50, first=300)
    for series, samples in later.samples.items():
        expected.samples[series].update(samples)
    expected.check(one.select())
    expected.check(list(one.select()))


def test_a_restart_changes_nothing(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    expected = fill(one, 30)
    one.seal()
    for restart in range(5):
        more = fill(one, 7, first=30 + 7 * restart)
        for series, samples in more.samples.items():
            expected.samples[series].update(samples)
        one.close()
        one = opened()
        expected.check(one.select())
    assert one.stats().blocks == 1, "a restart must not cut the hot part into small blocks"
    one.seal()
    expected.check(one.select())


def test_a_closed_store_holds_no_room_for_a_log(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    expected = fill(one, 300, series=64)
    one.flush()
    one.seal()
    assert free_pages(tmp_path), "the log was smaller than a page: nothing is tested"
    one.close()
    assert free_pages(tmp_path) == 0
    expected.check(opened().select())


def free_pages(folder: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{folder}/store/store.db?mode=ro", uri=True)) as connection:
        return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def test_the_label_order_and_the_object_do_not_matter(opened: Opener) -> None:
    one = opened()
    one.append(START_MS, {Labelled("up", {"a": "1", "b": "2", "none": ""}): 1.0})
    one.append(START_MS + 1, {Labelled("up", {"b": "2", "a": "1"}): 2.0})
    (data,) = one.select()
    assert data.series == SeriesId("up", (("a", "1"), ("b", "2")))
    assert data.values.tolist() == [1.0, 2.0]
    assert data.times.dtype.name == "int64"


def test_a_series_twice_in_one_append_is_an_error_that_names_it(opened: Opener) -> None:
    one = opened()
    with pytest.raises(ValueError, match=r"up\{'a': '1'\} is in the samples twice"):
        one.append(START_MS, {Labelled("up", {"a": "1"}): 1.0, Labelled("up", {"a": "1"}): 2.0})
    one.append(START_MS, {Labelled("up", {"a": "1"}): 1.0})
    assert len(one.select()) == 1


@pytest.mark.parametrize("series", [SeriesId("x", (("path", "\udc80"),)), SeriesId("x", (("\ud800", "1"),)),
                                    SeriesId("x\udfff")])  # fmt: skip
def test_what_is_no_text_is_not_taken_and_costs_the_next_row_nothing(opened: Opener, series: SeriesId) -> None:
    one = opened()
    one.append(START_MS, row(3, 0))
    with pytest.raises(ValueError, match="is no UTF-8"):
        one.append(START_MS + 1, {**row(3, 1), series: 1.0})
    one.append(START_MS + 2, row(3, 2))
    assert {tuple(data.times.tolist()) for data in one.select()} == {(START_MS, START_MS + 2)}
    assert len(one.select([Matcher("gpu", "=~", ".+")])) == 3


@pytest.mark.parametrize("sealed", [False, True])
def test_odd_floats_and_names_keep_every_bit(opened: Opener, sealed: bool) -> None:
    one = opened()
    odd = [STALE, math.nan, -0.0, 0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    name = SeriesId.of("x", {"path": 'C:\\a"b\n', "umlaut": "ä€😀\ufffd"})
    for tick, value in enumerate(odd):
        one.append(START_MS + tick, {name: value})
    one.flush()
    if sealed:
        one.seal()
    one.close()
    one = opened()
    (data,) = one.select()
    assert data.series == name
    assert bits(data.values) == bits(odd)


@pytest.mark.parametrize("sealed", [False, True])
def test_selectors(opened: Opener, sealed: bool) -> None:
    one = opened()
    one.append(START_MS, {SeriesId.of(name, {"gpu": gpu}): 1.0 for name in ("power", "temp") for gpu in ("0", "1", "")})
    if sealed:
        one.seal()

    def found(*matchers: tuple[str, str, str]) -> list[str]:
        chosen = [Matcher(label, op, value) for label, op, value in matchers]
        names = [data.series.name + data.series.labels.get("gpu", "-") for data in one.select(chosen)]
        assert names == [series.name + series.labels.get("gpu", "-") for series in one.series(chosen)]
        assert names == sorted(data.series.name + data.series.labels.get("gpu", "-") for data in one.export(chosen))
        return names

    assert found(("__name__", "=", "power")) == ["power-", "power0", "power1"]
    assert found(("__name__", "=~", "po.*"), ("gpu", "!=", "0")) == ["power-", "power1"]
    assert found(("__name__", "!~", "po.*"), ("gpu", "=~", "[01]")) == ["temp0", "temp1"]
    assert found(("gpu", "=", "")) == ["power-", "temp-"]
    assert found(("gpu", "!=", "")) == ["power0", "power1", "temp0", "temp1"]
    assert found(("__name__", "=~", "ow")) == []
    assert found(("__name__", "=", "nothing")) == []
    with pytest.raises(store.StoreError, match="regular expression"):
        one.select([Matcher("gpu", "=~", "(")])


def test_the_span_includes_both_ends_in_hot_and_sealed(opened: Opener) -> None:
    one = opened()
    fill(one, 100, step_ms=1000)
    one.seal()
    fill(one, 100, step_ms=1000, first=100)
    for low, high in ((10, 20), (95, 105), (150, 160), (-5, 0), (199, 300)):
        (data,) = one.select([Matcher("gpu", "=", "2")], START_MS + low * 1000, START_MS + high * 1000)
        assert data.times.tolist() == [START_MS + k * 1000 for k in range(max(0, low), min(199, high) + 1)]
    assert one.select([], START_MS - 10, START_MS - 1) == []


def test_a_selection_that_is_too_large_is_refused_before_it_is_built(opened: Opener) -> None:
    one = opened()
    fill(one, 100)
    one.seal()
    assert sum(len(data.times) for data in one.select(most_samples=800)) == 800
    with pytest.raises(store.TooMany, match="more than 799 samples"):
        one.select(most_samples=799)


def test_export_gives_every_sample_once_in_pieces(opened: Opener) -> None:
    one = opened()
    expected = fill(one, 60)
    one.seal()
    more = fill(one, 60, first=60)
    got = Expected()
    pieces = 0
    for piece in one.export():
        pieces += 1
        for time_ms, value in zip(piece.times.tolist(), piece.values.tolist(), strict=True):
            assert time_ms not in got.samples.get(piece.series, {})
            got.add(time_ms, {piece.series: value})
    for series, samples in more.samples.items():
        expected.samples[series].update(samples)
    assert pieces == 16
    assert {series: bits(list(v.values())) for series, v in got.samples.items()} == {
        series: bits(list(v.values())) for series, v in expected.samples.items()
    }


def test_a_clock_that_jumps_loses_nothing(opened: Opener) -> None:
    one = opened()
    expected = Expected()
    for tick, offset in enumerate([0, 10**9, 0, -(10**9), 0, 5, 5]):
        for k in range(20):
            time_ms, samples = START_MS + offset * 1000 + tick * 100 + k, row(4, tick * 20 + k)
            expected.add(time_ms, samples)
            one.append(time_ms, samples)
        if tick % 3 == 2:
            one.seal()
    expected.check(one.select())
    one.close()
    expected.check(opened().select())


def test_the_same_time_again_gives_the_later_sample(opened: Opener) -> None:
    one = opened()
    for value in (1.0, 2.0):
        one.append(START_MS, {named(0): value})
    assert one.select()[0].values.tolist() == [2.0]
    one.seal()
    one.append(START_MS, {named(0): 3.0})
    (data,) = one.select()
    assert (data.times.tolist(), data.values.tolist()) == ([START_MS], [3.0])


operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sets(st.integers(0, 12), max_size=8)),
        st.tuples(st.just("flush"), st.none()),
        st.tuples(st.just("seal"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=20,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations, st.randoms(use_true_random=False))
def test_any_history_reads_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, set[int]]], rng: random.Random
) -> None:
    path = tmp_path_factory.mktemp("history")
    expected = Expected()
    options = store.Options(wall=lambda: START_MS / 1000)
    one = store.open(path, options)
    try:
        for tick, (step, chosen) in enumerate(steps):
            if step == "append":
                order = rng.sample(sorted(chosen), len(chosen))
                samples = {named(n): rng.choice([0.1 * tick, -0.0, STALE, float(n), rng.random()]) for n in order}
                expected.add(START_MS + tick, samples)
                one.append(START_MS + tick, samples)
            elif step == "flush":
                one.flush()
            elif step == "seal":
                one.seal()
            else:
                one.close()
                one = store.open(path, options)
            expected.check(one.select())
        one.flush()
        with store.open_for_reading(path) as reading:
            expected.check(reading.select())
        assert not one.stats().damaged
    finally:
        one.close()


def test_another_connection_reads_what_is_on_the_disk_and_follows(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    expected = fill(one, 20)
    one.flush()
    with store.open_for_reading(tmp_path / "store") as reading:
        expected.check(reading.select())
        one.seal()
        expected.check(reading.select())
        more = fill(one, 20, first=20)
        one.flush()
        for series, samples in more.samples.items():
            expected.samples[series].update(samples)
        expected.check(reading.select())


@pytest.mark.parametrize("open_one", [store.open_for_reading, Source])
def test_a_wal_may_come_and_go_while_a_reader_opens(
    opened: Opener, tmp_path: Path, open_one: Callable[[Path], Source | ReadOnlyStore]
) -> None:
    """As when the agent is restarted: SQLite takes the WAL away when the last connection closes."""
    one = opened()
    fill(one, 1)
    one.close()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            (tmp_path / "store/store.db-wal").touch()
            (tmp_path / "store/store.db-wal").unlink(missing_ok=True)

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _unused in range(1000):
            with contextlib.suppress(store.StoreError):
                open_one(tmp_path / "store").close()
    finally:
        stop.set()
        other.join()


def test_a_folder_may_have_signs_that_mean_something_in_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "50%20?mode=memory#1"
    with store.open(folder) as one:
        expected = fill(one, 5)
    (folder / "identity").unlink()
    with store.open_for_reading(folder) as reading:
        expected.check(reading.select())


def test_a_database_that_is_exchanged_while_a_reader_opens_is_followed(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a repair does it."""
    one = opened()
    expected = fill(one, 5)
    one.close()
    file, newer = tmp_path / "store/store.db", tmp_path / "newer"
    before = file.read_bytes()
    one = opened()
    for series, samples in fill(one, 5, first=5).samples.items():
        expected.samples[series].update(samples)
    one.close()
    file.replace(newer)
    file.write_bytes(before)

    def exchange(connection: sqlite3.Connection, path: Path) -> None:
        check_format(connection, path)
        newer.replace(path)

    monkeypatch.setattr(database, "check_format", exchange)
    with store.open_for_reading(tmp_path / "store") as reading:
        expected.check(reading.select())


def test_a_connection_to_a_file_that_was_exchanged_meanwhile_is_not_kept(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened().close()
    readers = Readers(tmp_path / "store/store.db")
    connect = sqlite3.connect

    def exchanged(*arguments: object, **options: object) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)  # type: ignore[call-overload]
        readers.close()
        return connection

    monkeypatch.setattr(sqlite3, "connect", exchanged)
    with readers.connection():
        pass
    assert not readers._idle


def test_who_reads_a_still_store_is_told_when_it_has_changed(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a reader can't write, it opens a store without a WAL as one that nobody changes."""
    one = opened()
    expected = fill(one, 5)
    one.close()
    monkeypatch.setattr(os, "access", lambda *_unused: False)
    with (
        store.open_for_reading(tmp_path / "store") as reading,
        contextlib.closing(Source(tmp_path / "store")) as source,
    ):
        expected.check(reading.select())
        source.now()
        one = opened()
        fill(one, 5, first=5)
        one.flush()
        expected.check(reading.select())  # what is new is in a WAL, of which such a reader does not know
        one.seal()
        assert is_still(tmp_path / "store"), "it would be opened as such again"
        for read in (reading.select, source.now):
            with pytest.raises(store.StoreError, match=r"has written to .*store meanwhile: try again"):
                read()
        one.close()
        for read in (reading.select, source.now):
            with pytest.raises(store.StoreError, match=r"has written to .*store meanwhile: try again"):
                read()


def test_readers_cannot_write(opened: Opener, tmp_path: Path) -> None:
    """A second connection that writes or checkpoints could corrupt the database (SQLite's WAL-reset bug)."""
    one = opened()
    fill(one, 1)
    one.flush()
    with Readers(tmp_path / "store/store.db").connection() as connection:
        with pytest.raises(Exception, match="readonly"):
            connection.execute("DELETE FROM chunk")
        with pytest.raises(Exception, match="readonly"):
            connection.execute("PRAGMA user_version = 7")
        wal = tmp_path / "store/store.db-wal"
        before = wal.stat().st_size
        with pytest.raises(Exception, match="disk I/O error"):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert wal.stat().st_size == before > 0


def test_readers_and_sealing_at_the_same_time_see_every_sample(opened: Opener) -> None:
    one = opened(seal_rows=20)
    wrong: list[object] = []
    stop = threading.Event()
    appended = [0]

    def read() -> None:
        while not stop.is_set():
            at_least = appended[0]
            got = one.select([Matcher("gpu", "=", "1")])
            times = got[0].times.tolist() if got else []
            if times != [START_MS + k * 1000 for k in range(len(times))] or len(times) < at_least:
                wrong.append((at_least, len(times)))
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for tick in range(240):
            one.append(START_MS + tick * 1000, row(70, tick))
            appended[0] = tick + 1
            if tick % 50 == 0:
                one.flush()
        one.settle()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert one.stats().blocks > 8


def test_the_package_costs_nothing_until_a_store_is_opened() -> None:
    import subprocess
    import sys

    heavy = ("numpy", "zstandard", "pcodec", "cryptography", "sqlite3")
    code = f"import sys, esnode.store; print([module for module in {heavy} if module in sys.modules])"
    source = str(Path(store.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
