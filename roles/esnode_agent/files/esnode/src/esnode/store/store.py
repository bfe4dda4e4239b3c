# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that is open for writing, and one that is open for reading only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from esnode.store import salvage
from esnode.store.blocks import Block
from esnode.store.damage import Damage
from esnode.store.database import FILE, TABLES, Database, Readers, check_format
from esnode.store.envelope import PLAIN, Envelope
from esnode.store.errors import NotWritten, StoreError
from esnode.store.groups import Grouping
from esnode.store.head import Head
from esnode.store.identity import Identity, check_keys, read_identity, write_identity
from esnode.store.keys import Key, read_keys
from esnode.store.loading import load_epochs
from esnode.store.lock import Lock
from esnode.store.model import Lost, Options, SeriesLike, Stats
from esnode.store.reading import Catalog, HotView
from esnode.store.rekey import Rekeying
from esnode.store.retention import Retention
from esnode.store.sealing import Sealing
from esnode.store.selecting import Selecting
from esnode.store.wallclock import SteadyClock
from esnode.store.writer import Writer

LOCK = "lock"


class Store(Selecting):
    """The store of one writer. All methods can be called from any thread; `append` never waits for the disk."""

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self._options = path, options
        self._wall, self._monotonic = options.wall or time.time, options.monotonic or time.monotonic
        self._keys = read_keys(options.key_file) if options.key_file else []
        known = read_identity(path)
        if known is not None:  # before anything is touched
            check_keys(known, self._keys, options.key_file, path)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"can't make the store {path}: {error.strerror}") from error
        with contextlib.ExitStack() as undo:
            self._lock = Lock(path / LOCK)
            undo.callback(self._lock.release)
            try:
                self._open(undo)
            except sqlite3.Error as error:
                raise StoreError(f"can't open the store {path}: {_why(path, error)}") from error
            except OSError as error:
                raise StoreError(f"can't open the store {path}: {_why(path, error)}") from error
            undo.pop_all()
        self._closed = False

    def _open(self, undo: contextlib.ExitStack) -> None:
        folder, options = self.path, self._options
        identity = read_identity(folder)
        if identity is None and (folder / FILE).exists():
            identity = _identity_within(folder / FILE)
            check_keys(identity, self._keys, options.key_file, folder)
        aside = salvage.waiting(folder) or (identity is not None and not _sound(folder))
        if aside:
            salvage.put_aside(folder)
        database = Database(folder, options.max_bytes, wipe=bool(self._keys))
        undo.callback(database.disconnect)
        self._database = database
        self._identity = self._settle_identity(identity)
        old = self._identity.keys != ((self._keys[0].name,) if self._keys else (PLAIN,))
        self._envelope = Envelope(self._identity.store, self._keys, plain=PLAIN in self._identity.keys)
        if aside:
            salvage.salvage(folder, self._identity.first_page, database, self._envelope, head=True)
        self.damage = Damage()
        self._readers = Readers(database.path)
        undo.callback(self._readers.close)
        self._catalog = Catalog(self._readers, self._envelope, self.damage)
        blocks = self._catalog.blocks()
        self._head = self._load_head(blocks)
        newest = self._newest_ms(blocks)
        clock = SteadyClock(self._wall, self._monotonic, None if newest is None else newest / 1000)
        self._retention = Retention(database, self._catalog, clock, options.retention_s, self._head.blocks_changed)
        self._rekeying = Rekeying(database, self._envelope, self.damage, needed=old, finished=self._forget_old_keys)
        self._writer = Writer(
            database,
            self._head,
            self._envelope,
            Sealing(database, self._envelope, clock, *self._grouping(blocks)),
            self._retention,
            self._rekeying,
            self._repair,
            self._monotonic,
        )

    def _settle_identity(self, found: Identity | None) -> Identity:
        """The identity with the current key in it, on the disk before the first blob is written with that key."""
        current = self._keys[0].name if self._keys else PLAIN
        database = self._database
        if found is None:
            database.checkpoint()
            page = _first_page(database.path)
            identity = Identity(os.urandom(16), (current,), page)
        else:
            identity = Identity(
                found.store, (current, *(name for name in found.keys if name != current)), found.first_page
            )
        self._keep_identity(identity, changed=identity != found)
        return identity

    def _keep_identity(self, identity: Identity, *, changed: bool) -> None:
        if changed or not (self.path / "identity").exists():
            write_identity(self.path, identity)
        rows = self._database.all("SELECT body FROM identity WHERE id = 1")
        if not rows or rows[0][0] != identity.encode():
            with self._database.write(8192, freeing=True) as connection:
                connection.execute("INSERT OR REPLACE INTO identity VALUES (1, ?)", (identity.encode(),))
            self._database.checkpoint()

    def _forget_old_keys(self) -> None:
        identity = Identity(self._identity.store, (self._envelope.writes,), self._identity.first_page)
        self._database.checkpoint()  # so that no old blob is left in the WAL
        self._keep_identity(identity, changed=True)
        self._identity = identity
        self._envelope.plain = self._envelope.writes == PLAIN

    def _load_head(self, blocks: list[Block]) -> Head:
        sealed = self._catalog.numbers()
        started = self._monotonic()
        with self._readers.connection() as connection:
            epochs, whole = load_epochs(connection, self._envelope, self.damage, sealed, started)
        numbers = {*sealed, *(epoch.number for epoch in epochs)}
        head = Head(
            self._options, self._monotonic, epochs, max(numbers, default=0) + 1, self._database.file_budget // 4
        )
        parts = epochs[-1].parts() if epochs else []
        if parts:  # an epoch goes on ageing where it was
            span_ms = max(int(np.max(part.times)) for part in parts) - min(int(np.min(part.times)) for part in parts)
            epochs[-1].started = started - min(span_ms / 1000, self._options.seal_s)
        if not whole:
            head.rotate()
        return head

    def _newest_ms(self, blocks: list[Block]) -> int | None:
        hot = self._head.figures()[4]
        return hot if hot is not None else max((block.age_ms for block in blocks), default=None)

    def _grouping(self, blocks: list[Block]) -> tuple[Grouping, int]:
        highest = max((int(np.max(block.groups)) for block in blocks if len(block.groups)), default=0)
        stored = self._database.all("SELECT max(id) FROM grp")[0][0]
        following = max(highest, stored if isinstance(stored, int) else 0) + 1
        if not blocks:
            return Grouping(following), 0
        last = blocks[-1]
        with self._readers.connection() as connection:
            groups = [(number, self._catalog.group(connection, number, last.number)) for number in last.groups.tolist()]
        return Grouping(following, groups), last.number

    def _now(self) -> tuple[list[Block], list[HotView]]:
        # The hot part first: an epoch that is sealed meanwhile is then in both, never in none.
        version, views = self._head.views()
        blocks = self._catalog.blocks(version)
        sealed = {block.number for block in blocks}
        return blocks, [view for view in views if view.number not in sealed]

    def append(self, time_ms: int, samples: Mapping[SeriesLike, float]) -> None:
        """Add one sample of each series, taken at `time_ms` (ms since 1970). Durable `flush_s` later.

        The keys are compared with those of the last call first: the same objects in the same order cost least.
        ValueError when a series is in it twice.
        """
        if self._closed:
            raise StoreError(f"the store {self.path} is closed")
        if self._head.append(time_ms, samples):
            self._writer.wake()

    def flush(self, timeout_s: float = 30.0) -> None:
        """Wait until all that was appended is on the disk; NotWritten when it can't be brought there."""
        self._writer.flush(timeout_s)

    def seal(self, timeout_s: float = 300.0) -> None:
        """Make a block of the hot part now and wait until all housekeeping is done."""
        self._head.rotate()
        self.settle(timeout_s)

    def settle(self, timeout_s: float = 300.0) -> None:
        """Wait until nothing is left to seal, drop or rewrite."""
        self._writer.settle(timeout_s)

    def stats(self) -> Stats:
        """Return how the store is."""
        blocks, _ = self._now()
        series, hot_rows, unwritten_rows, first, last = self._head.figures()
        lost = self._head.lost
        return Stats(
            series=series,
            hot_rows=hot_rows,
            unwritten_rows=unwritten_rows,
            blocks=len(blocks),
            bytes=folder_bytes(self.path),
            oldest_ms=min([block.first_ms for block in blocks] + ([] if first is None else [first]), default=None),
            newest_ms=max([block.last_ms for block in blocks] + ([] if last is None else [last]), default=None),
            problem=self._writer.problem,
            dropped_blocks=self._retention.dropped,
            write_errors=self._writer.errors,
            lost=Lost(lost.rows, lost.samples, lost.first_ms, lost.last_ms),
            damaged=self.damage.counts(),
            old_keys=tuple(name.hex() for name in self._identity.keys if name != self._envelope.writes),
        )

    def _repair(self) -> None:
        """In the writer's thread: the database's own pages are damaged; make a new one of what can be read."""
        self.damage.note("database", 1, "SQLite found its own pages damaged; salvaging")
        self._readers.close()
        self._database.disconnect()
        salvage.put_aside(self.path)
        self._database.reconnect()
        self._keep_identity(self._identity, changed=False)
        salvage.salvage(self.path, self._identity.first_page, self._database, self._envelope, head=False)
        self._readers.close()
        self._catalog.forget()
        self._head.write_again()

    def close(self, timeout_s: float = 60.0) -> None:
        """Flush and close; NotWritten when samples had to be given up."""
        if self._closed:
            return
        self._closed = True
        ended = self._writer.stop(timeout_s)
        waiting = self._head.figures()[2]
        self._readers.close()
        if ended:
            with contextlib.suppress(sqlite3.Error):  # what was committed is in the WAL and found there
                self._database.close()
            self._lock.release()
        if waiting or not ended:
            raise NotWritten(
                f"{self.path}: closed with {waiting} appends that the disk did not take: {self._writer.problem}"
            )

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ReadOnlyStore(Selecting):
    """A store that another process may be writing, as it is on the disk. Writes nothing.

    `still`: all selections see what was there at the first one; many small ones cost far less so.
    """

    def __init__(self, path: Path, key_file: Path | None = None, *, still: bool = False) -> None:
        self.path = path
        self._still = still
        self._seen: tuple[list[Block], list[HotView]] | None = None
        if not (path / FILE).exists():
            raise StoreError(f"there is no store in {path}")
        keys: list[Key] = read_keys(key_file) if key_file else []
        wal = path / f"{FILE}-wal"
        # Without a WAL there is nobody who writes, and a folder that can't be written takes none.
        immutable = not (wal.exists() and wal.stat().st_size) and not os.access(path, os.W_OK)
        identity = read_identity(path) or _identity_within(path / FILE)
        check_keys(identity, keys, key_file, path)
        self._envelope = Envelope(identity.store, keys, plain=PLAIN in identity.keys)
        self.damage = Damage()
        self._readers = Readers(path / FILE, immutable=immutable)
        try:
            with self._readers.connection() as connection:
                check_format(connection, path / FILE)
        except sqlite3.Error as error:
            raise StoreError(f"can't read the store {path}: {error}") from error
        self._catalog = Catalog(self._readers, self._envelope, self.damage)

    def _now(self) -> tuple[list[Block], list[HotView]]:
        if self._seen is not None:
            return self._seen
        # The log first, as above.
        try:
            with self._readers.connection() as connection:
                epochs, _ = load_epochs(connection, self._envelope, self.damage, set(), 0.0)
        except sqlite3.DatabaseError as error:
            self.damage.note("database", 2, error)
            epochs = []
        blocks = self._catalog.blocks()
        sealed = {block.number for block in blocks}
        views = [HotView(epoch.number, epoch.series, epoch.by_name, epoch.parts()) for epoch in epochs]
        found = blocks, [view for view in views if view.number not in sealed]
        if self._still:
            self._seen = found
        return found

    def close(self) -> None:
        """Close."""
        self._readers.close()

    def __enter__(self) -> ReadOnlyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in the store."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _sound(folder: Path) -> bool:
    """Whether the database's own pages are good enough to list what there is. As for a writer, who is the only one."""
    if not (folder / FILE).exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
            check_format(connection, folder / FILE)
            for table in TABLES:
                # Of the chunks, by far the most rows, only the ends: the others are found out when they are read.
                what = "min(id), max(id)" if table == "chunk" else "count(*)"
                connection.execute(f"SELECT {what} FROM {table}").fetchall()
    except (sqlite3.DatabaseError, StoreError) as error:
        if isinstance(error, StoreError) or salvage.is_corrupt(error):
            return False
        raise
    return True


def _why(path: Path, error: Exception) -> str:
    """What kept a store from opening; SQLite calls a full disk an I/O error."""
    with contextlib.suppress(OSError):
        if os.statvfs(path).f_bavail * os.statvfs(path).f_frsize < 1 << 20:
            return f"the disk is full ({error})"
    return getattr(error, "strerror", None) or str(error)


def _first_page(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _identity_within(path: Path) -> Identity:
    """The copy of the identity in the database, when the file beside it is gone or damaged."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            check_format(connection, path)
            rows = connection.execute("SELECT body FROM identity WHERE id = 1").fetchall()
        return Identity.decode(rows[0][0])
    except Exception as error:
        raise StoreError(f"{path.parent}: neither the identity file nor the database can be read: {error}") from error
