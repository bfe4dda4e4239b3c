# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that is open for writing."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from esnode.store import salvage
from esnode.store.blocks import Block
from esnode.store.damage import Damage
from esnode.store.database import FILE, PAGE, Database, Readers
from esnode.store.envelope import PLAIN, Envelope
from esnode.store.errors import NotWritten, StoreError
from esnode.store.following import Ahead, Batch, Cursor, Following
from esnode.store.groups import Grouping
from esnode.store.head import Head
from esnode.store.identity import Identity, check_keys, read_identity, write_identity
from esnode.store.keys import read_keys
from esnode.store.loading import load_epochs
from esnode.store.lock import Lock
from esnode.store.model import Key, Lost, Options, Stats
from esnode.store.opening import identity_within, sound, why
from esnode.store.reading import Catalog, HotView
from esnode.store.rekey import Rekeying
from esnode.store.retention import Retention
from esnode.store.sealing import Sealing
from esnode.store.selecting import Selecting
from esnode.store.wallclock import SteadyClock, trusted_ms
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
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"can't open the store {path}: {why(path, error)}") from error
            undo.pop_all()
        self._closed = False

    def _open(self, undo: contextlib.ExitStack) -> None:
        folder, options = self.path, self._options
        identity = read_identity(folder)
        if identity is None and (folder / FILE).exists():
            identity = identity_within(folder / FILE)
            check_keys(identity, self._keys, options.key_file, folder)
        self.damage = Damage()
        aside = salvage.waiting(folder) or (identity is not None and not sound(folder))
        if aside:
            self.damage.note("database", 1, "its own pages are damaged; what can be read is brought into a new one")
            salvage.put_aside(folder)
        database = Database(folder, options.max_bytes)
        undo.callback(database.disconnect)
        self._database = database
        self._identity = self._settle_identity(identity)
        old = self._identity.keys != ((self._keys[0].name,) if self._keys else (PLAIN,))
        self._envelope = Envelope(self._identity.store, self._keys, plain=PLAIN in self._identity.keys)
        if aside:
            salvage.salvage(folder, self._identity.first_page, database, self._envelope, head=True)
        self._readers = Readers(database.path)
        undo.callback(self._readers.close)
        self._catalog = Catalog(self._readers, self._envelope, self.damage)
        blocks = self._catalog.blocks()
        self._head = self._load_head(blocks)
        hot = [part.times for view in self._head.views()[1] for part in view.parts]
        trusted = trusted_ms(blocks[-1].sealed_ms if blocks else None, hot)
        clock = SteadyClock(self._wall, self._monotonic, None if trusted is None else trusted / 1000)
        self._retention = Retention(database, self._catalog, clock, options.retention_s, self._head.blocks_changed)
        self._following = Following(self._identity.store, self._head, self._catalog, self._readers, self._retention)
        self._rekeying = Rekeying(database, self._envelope, self.damage, needed=old, finished=self._forget_old_keys)
        self._writer = Writer(
            database,
            self._head,
            self._envelope,
            Sealing(database, self._envelope, clock, *self._grouping(blocks)),
            self._retention,
            self._rekeying,
            self._repair_apart,
            self._monotonic,
        )

    def _settle_identity(self, found: Identity | None) -> Identity:
        """The identity with the current key in it, on the disk before the first blob is written with that key."""
        current = self._keys[0].name if self._keys else PLAIN
        database = self._database
        if found is None:
            database.checkpoint()
            database.disconnect()  # or closing the file here would take the locks of the connection with it
            with database.path.open("rb") as file:
                page = file.read(PAGE)
            database.reconnect()
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

    def _forget_old_keys(self) -> bool:
        if not self._database.checkpoint():
            return False  # a reader is in the way, and old blobs are left in the WAL
        identity = Identity(self._identity.store, (self._envelope.writes,), self._identity.first_page)
        self._keep_identity(identity, changed=True)
        self._identity = identity
        self._envelope.plain = self._envelope.writes == PLAIN
        return True

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
            first_ms, last_ms = head.figures()[3:]
            span_ms = (last_ms or 0) - (first_ms or 0)
            epochs[-1].started = started - min(span_ms / 1000, self._options.seal_s)
        if not whole:
            head.rotate()
        return head

    def _grouping(self, blocks: list[Block]) -> tuple[Grouping, int]:
        highest = max((int(block.groups[-1]) for block in blocks if len(block.groups)), default=0)
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
        blocks: list[Block] = []
        try:
            blocks = self._catalog.blocks(version)
        except sqlite3.Error as error:
            self._unreadable(error)
        sealed = {block.number for block in blocks}
        return blocks, [view for view in views if view.number not in sealed]

    def _unreadable(self, error: sqlite3.Error) -> None:
        super()._unreadable(error)
        self._writer.mend()

    def append(self, time_ms: int, samples: Mapping[Key, float]) -> None:
        """Add one sample of each series, taken at `time_ms` (ms since 1970). Durable `flush_s` later.

        The keys are compared with those of the last call first: the same objects in the same order cost least.
        ValueError when a series is in it twice, or holds text that can't be written as UTF-8.
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
        blocks, _unused = self._now()
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

    def follow(self, cursor: Cursor | None, most_samples: int) -> Batch:
        """Return rows that were appended after the cursor, in order, at most `most_samples` samples or one row.

        Empty when there is nothing more yet; rows come once they are on the disk. Without a cursor, or with one of
        another store: no rows, and the place for now. StoreError when the disk can't be read.
        """
        return self._following.follow(cursor, most_samples)

    def ahead(self, cursor: Cursor) -> Ahead:
        """Return how much `follow` would give in all from this cursor on."""
        return self._following.ahead(cursor)

    def _repair_apart(self) -> None:
        with self._following.lock:  # who follows must not take the new, still empty database for all there is
            self._repair()

    def _repair(self) -> None:
        """In the writer's thread: the database's own pages are damaged; make a new one of what can be read."""
        self.damage.note("database", 1, "SQLite found its own pages damaged; salvaging")
        with self._readers.away():
            self._database.disconnect()
            salvage.put_aside(self.path)
            self._database.reconnect()
        self._catalog.forget()
        self._keep_identity(self._identity, changed=False)
        salvage.salvage(self.path, self._identity.first_page, self._database, self._envelope, head=False)
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
            self._release()
        else:  # a disk that hangs: the store is free for the next one as soon as the disk has answered
            threading.Thread(target=self._release_later, name="store-release", daemon=True).start()
        if waiting or not ended:
            why = self._writer.problem or f"it was busy for more than {timeout_s:g} s"
            raise NotWritten(f"{self.path}: closed with {waiting} appends that the disk did not take: {why}")

    def _release(self) -> None:
        try:
            with contextlib.suppress(sqlite3.Error, NotWritten):  # what was committed is in the WAL and found there
                self._database.close()
        finally:
            self._lock.release()

    def _release_later(self) -> None:
        self._writer.stop(threading.TIMEOUT_MAX)
        self._release()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in the store."""
    total = 0
    for place, _unused, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
