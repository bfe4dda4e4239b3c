# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who appends never waits for the disk, housekeeping is done in slices, and one connection alone can write."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from esnode import store
from esnode.store import sealing
from esnode.store.sealing import Sealing
from esnode.store.store import Store
from samples import START_MS, Expected, fill, gpu, named, row

Opener = Callable[..., Store]


def test_appending_and_reading_go_on_while_the_disk_hangs(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    one = opened(flush_s=0.01, seal_rows=50)
    one.settle()
    inside, go_on = threading.Event(), threading.Event()
    write = one._database.write

    def hang(*arguments: Any, **named: Any) -> Any:
        inside.set()
        assert go_on.wait(60)
        return write(*arguments, **named)

    monkeypatch.setattr(one._database, "write", hang)
    expected = fill(one, 1)
    assert inside.wait(20)
    # From here on the writer's thread does nothing at all: if this came back it did not wait for it.
    expected.add_all(fill(one, 300, first=1))
    expected.check(one.select())
    assert one.stats().unwritten_rows == 301
    assert len(one.series()) == 8
    with pytest.raises(store.NotWritten, match=r"has not answered within 0\.05 s"):
        one.flush(0.05)
    go_on.set()
    one.settle()
    assert one.stats().lost.rows == 0
    expected.check(one.select())


def test_what_is_appended_while_a_block_is_sealed_is_durable_before_the_block_is_done(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sealing gives way after each group of series."""
    one = opened(flush_s=3600)
    fill(one, 20, series=64 * 10)
    one.flush()
    one.settle()
    seal, durable, slices = Sealing.seal, [], []

    def watched(self: Sealing, epoch: Any) -> Any:
        for step in seal(self, epoch):
            slices.append(1)
            if len(slices) == 3:  # in the writer's thread, between two slices
                one.append(START_MS + 1_000_000, row(3, 7))
                one._head._waiting_since = -1e9  # it is due
            if len(slices) > 3 and not one.stats().unwritten_rows:
                durable.append(len(slices))
            yield step

    monkeypatch.setattr(Sealing, "seal", watched)
    one.seal()
    assert len(slices) > 10
    assert durable
    assert durable[0] == 4, "flushed before the next slice"


def test_the_lock_that_appending_takes_is_never_held_over_a_write_or_a_compression(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened(flush_s=3600, seal_rows=100)
    one.settle()
    held: list[str] = []

    def check(what: str) -> None:
        taken = threading.Event()

        def take() -> None:
            with one._head.lock:
                taken.set()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        if not taken.wait(20):
            held.append(what)

    write, encode = one._database.write, sealing.encode

    @contextmanager
    def checked_write(*arguments: Any, **named: Any) -> Iterator[sqlite3.Connection]:
        with write(*arguments, **named) as connection:
            check("write")
            yield connection

    def checked_encode(*arguments: Any) -> bytes:
        check("encode")
        return encode(*arguments)

    monkeypatch.setattr(one._database, "write", checked_write)
    monkeypatch.setattr(sealing, "encode", checked_encode)
    fill(one, 250)
    one.flush()
    one.settle()
    assert one.stats().blocks == 2
    assert held == []


def test_rows_that_are_sealed_before_they_come_into_the_log_wait_no_longer(opened: Opener) -> None:
    """Else what waits would only ever grow, until nothing more is taken."""
    one = opened(unwritten_bytes=8 * 8 * 10, flush_s=3600.0)
    expected = Expected()
    for tick in range(200):
        expected.add(START_MS + tick, row(8, tick))
        one.append(START_MS + tick, row(8, tick))
        if tick % 10 == 9:
            one.seal()
    assert one.stats().lost.rows == 0
    expected.check(one.select())


def test_there_is_one_connection_that_can_write(
    opened: Opener, tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, one a checkpoint: before SQLite 3.51.3 that can corrupt a WAL database."""
    writable: list[sqlite3.Connection] = []
    most = [0]
    readers = [0]
    real = sqlite3.connect

    class Counted(sqlite3.Connection):
        def close(self) -> None:
            if self in writable:
                writable.remove(self)
            super().close()

    def connect(target: object, *arguments: Any, **named: Any) -> sqlite3.Connection:
        connection = real(target, *arguments, **named, factory=Counted)  # type: ignore[call-overload]
        if "mode=ro" in str(target):
            readers[0] += 1
        else:
            writable.append(connection)
            most[0] = max(most[0], len(writable))
        return connection  # type: ignore[no-any-return]

    monkeypatch.setattr(sqlite3, "connect", connect)
    one = opened(seal_rows=20, flush_s=0.01)
    fill(one, 90)
    one.settle()
    one.select()
    with store.open_for_reading(tmp_path / "store") as reading:
        reading.select()
    one._writer.mend()  # salvage, as after damage
    one.flush()
    one.close()
    opened(key_file=key_file).settle()  # rewrites everything
    assert readers[0] >= 3
    # Salvage reads the old file, which is another database, by a connection of its own.
    assert most[0] <= 2
    databases = {row[2] for connection in writable for row in connection.execute("PRAGMA database_list")}
    assert len(writable) == len(databases) == 1


def test_readers_open_read_only_and_nothing_else(tmp_path: Path) -> None:
    from esnode.store.database import Readers

    assert Readers(tmp_path / "store.db")._uri.endswith("?mode=ro")
    assert Readers(tmp_path / "store.db", immutable=True)._uri.endswith("?immutable=1")


def test_series_that_come_and_go_cost_little_disk(opened: Opener, tmp_path: Path) -> None:
    """2,000 processes that live for some seconds, beside 100 series that stay."""
    one = opened(flush_s=3600, seal_rows=100)
    expected, samples = Expected(), 0
    for tick in range(400):
        values = row(100, tick // 10)
        for n in range(5 * tick, 5 * tick + 40):
            values[named(n, "esnode_process_gpu_memory_bytes")] = float(4096 * (n * 7919 % 100_000))
        samples += len(values)
        if tick >= 380:
            expected.add(START_MS + tick, values)
        one.append(START_MS + tick, values)
        if tick % 100 == 99:
            one.settle()
    one.seal()
    one._database.checkpoint()
    assert len(one.series()) > 2000
    assert one.stats().bytes / samples < 4, "bytes a sample, names of 2,000 series included"
    expected.check(one.select([], START_MS + 380))
    assert len(one._catalog._names) < 300
    assert len(one.select(gpu(1))) == 2
