# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The SQLite file: one connection that writes and checkpoints, readers that can't.

More than one connection that writes can corrupt a WAL database before SQLite 3.51.3 (the WAL-reset bug), so nothing
else may ever open this file for writing. The size on the disk is kept below a limit by refusing to begin a transaction
that could pass it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from esnode.store.errors import NotWritten, StoreError
from esnode.store.model import MIB

FORMAT = 1
APPLICATION = 0x65736E64  # "esnd"
PAGE = 4096
FILE = "store.db"
_LAST_SLICES = 16  # of the vacuum when a store is closed, at most 1 MiB each
_OVERHEAD = 128 * 1024  # the -shm file, the lock, the copy of the first page
# block: one sealed span of time. grp: names of a group of series. chunk: the samples of a group in a block.
# head: the log of the hot part. The spare ones are second copies of rows that many samples hang on.
TABLES = ("block", "spare_block", "grp", "spare_grp", "chunk", "head")
_SCHEMA = "".join(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, body BLOB NOT NULL);" for table in TABLES)
# A second copy of the identity file.
_SCHEMA += "CREATE TABLE identity (id INTEGER PRIMARY KEY, body BLOB NOT NULL);"
SHIFT = 28  # ids of head and chunk rows: number of the block above, of the record or group below


class NoRoom(NotWritten):
    """The store's own limit of size leaves no room for a transaction."""


class Database:
    """The one connection that writes; used by one thread at a time."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Open or create."""
        self.path = folder / FILE
        self._wal = folder / f"{FILE}-wal"
        self.max_bytes = max_bytes
        self.reserve = min(max(max_bytes // 8, MIB), 16 * MIB)
        self.slice_bytes = self.reserve // 8
        self.others = 0  # bytes of further files in the folder
        self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        new = not _size(self.path)
        # From any thread: the opener makes it, the writer uses it, the closer closes it, never two at once.
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=1.0, check_same_thread=False)
        try:
            if new:
                os.chmod(self.path, 0o600)
                connection.executescript(
                    f"PRAGMA page_size = {PAGE}; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;"
                    f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {_SCHEMA} COMMIT;"
                )
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise StoreError(f"{self.path}: the file system can't hold a WAL database (journal mode {mode})")
            for pragma in (
                "synchronous = FULL",
                "wal_autocheckpoint = 0",
                "cache_size = -2048",
                "temp_store = MEMORY",
                "secure_delete = FAST",  # so that a store that becomes encrypted has no more plain text in it
            ):
                connection.execute(f"PRAGMA {pragma}")
            check_format(connection, self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def disconnect(self) -> None:
        """Close without a word more to the file than SQLite itself wants."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def reconnect(self) -> None:
        """Open anew, after an error that may have left the connection unusable."""
        self.disconnect()
        self._connection = self._connect()

    def close(self) -> None:
        """Give free pages back as far as that is quick, checkpoint and close."""
        try:
            with suppress(sqlite3.Error, NotWritten):  # somebody reads, or there is no room: the file stays larger
                self._give_back()
            self.checkpoint()
        finally:
            self.disconnect()

    def all(self, sql: str, *parameters: object) -> list[tuple[object, ...]]:
        """All rows of a query."""
        with closing(self._connection.execute(sql, parameters)) as cursor:
            return cursor.fetchall()

    def number(self, sql: str) -> int:
        """The one integer that a query or pragma answers with."""
        value = self.all(sql)[0][0]
        return value if isinstance(value, int) else 0

    @contextmanager
    def write(self, estimate: int, *, freeing: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that adds at most some `estimate` bytes; durable when it is left. `freeing`: it makes room."""
        self._claim(estimate + estimate // 8 + 16 * PAGE, freeing)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if self.wal_bytes() > self.reserve // 2:
            self.checkpoint()

    @property
    def file_budget(self) -> int:
        """What the file alone may take; the reserve is for the WAL beside it."""
        return self.max_bytes - self.reserve - self.others - _OVERHEAD

    def _claim(self, estimate: int, freeing: bool) -> None:
        growth = max(0, estimate - self.free_pages() * PAGE)
        if not freeing and self.file_bytes() + growth > self.file_budget:
            raise NoRoom(f"{self.path}: no room for {estimate} bytes more within {self.max_bytes}")
        wal = self.reserve if freeing else self.reserve // 2
        if self.wal_bytes() + estimate > wal:
            self.checkpoint()
            if self.wal_bytes() + estimate > wal:
                raise NotWritten(
                    f"{self._wal}: can't be emptied now, somebody reads; it has no room for {estimate} bytes more"
                )

    def checkpoint(self) -> bool:
        """Move the WAL into the file and empty it; False if a reader kept it from being emptied."""
        busy = self.all("PRAGMA wal_checkpoint(TRUNCATE)")[0][0]
        return not busy

    def vacuum(self, pages: int) -> None:
        """Give up to so many free pages back; the file shrinks at the next checkpoint."""
        self._claim(3 * pages * PAGE, freeing=True)
        # Not execute(): that steps the pragma once, which frees one page.
        self._connection.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _give_back(self) -> None:
        """Give up the pages of a log that is sealed: the next one takes them as long as the store is open."""
        together = max(8, self.reserve // 16 // PAGE)
        for _unused in range(_LAST_SLICES):
            free = self.free_pages()
            if not free:
                break
            self.vacuum(min(free, together))

    def file_bytes(self) -> int:
        """Size of the file once the WAL is in it."""
        return self.number("PRAGMA page_count") * PAGE

    def free_pages(self) -> int:
        """Pages in the file that hold nothing."""
        return self.number("PRAGMA freelist_count")

    def wal_bytes(self) -> int:
        """Size of the WAL file."""
        return _size(self._wal)


def _size(file: Path) -> int:
    """Not exists() first: SQLite takes a WAL away when the last one who has it open closes."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def check_format(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError for a database that is not a store of this format."""
    application, version = (
        connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in ("application_id", "user_version")
    )
    if application != APPLICATION:
        raise StoreError(f"{path} is a database, but not a store of time series: give the store another path")
    if version != FORMAT:
        raise StoreError(f"{path} has format {version}, this version reads {FORMAT}: use the version that wrote it")


def is_damage(error: Exception) -> bool:
    """Whether an error of SQLite is about what is in the file; else it can't be got at just now."""
    return not any(sign in str(error) for sign in ("locked", "unable to open", "out of memory", "interrupted"))


def is_still(folder: Path) -> bool:
    """Whether all of the store is in its file, nothing in a WAL, and a reader can't make one, as SQLite would want."""
    return not _size(folder / f"{FILE}-wal") and not os.access(folder, os.W_OK)


def _stamp(file: Path) -> tuple[int, ...]:
    """What changes when the file does; nothing when that can't be found out."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def open_readers(folder: Path, advice: str = "") -> Readers:
    """Connections to the store in this folder; StoreError, with `advice`, when it can't be read."""
    readers = Readers(folder / FILE, immutable=is_still(folder))
    with ExitStack() as undo:
        undo.callback(readers.close)
        try:
            with readers.connection() as connection:
                check_format(connection, folder / FILE)
        except sqlite3.Error as error:
            raise StoreError(f"can't read the store {folder}: {error}{advice}") from error
        undo.pop_all()
    return readers


class Readers:
    """Connections that only read, shared by all threads that do."""

    def __init__(self, path: Path, *, immutable: bool = False) -> None:
        """`immutable`: the store is still, see `is_still`; StoreError from each `connection` once its file changes."""
        self._path = path
        self._stamp = _stamp(path) if immutable else None
        self._uri = f"file:{quote(str(path))}?{'immutable=1' if immutable else 'mode=ro'}"
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._generation = 0

    @contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for the length of a with block; statements in it must be fetched to their end."""
        with self._lock:
            connection, generation = self._idle.pop() if self._idle else None, self._generation
        if connection is None:
            connection, generation = self._connect()
        try:
            yield connection
            self._look()
        except sqlite3.Error:
            self._look()
            raise
        finally:
            with self._lock:
                keep = generation == self._generation and len(self._idle) < 4
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _look(self) -> None:
        """After a checkpoint of somebody who writes, what was read may be of two moments, or nothing but noise."""
        if self._stamp is not None and _stamp(self._path) != self._stamp:
            raise StoreError(f"an agent has written to {self._path.parent} meanwhile: try again")

    def _connect(self) -> tuple[sqlite3.Connection, int]:
        with self._connecting:
            generation = self._generation  # first: what is closed meanwhile is the file that was opened
            connection = sqlite3.connect(
                self._uri, uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA cache_size = -512")
            except BaseException:
                connection.close()
                raise
            return connection, generation

    @contextmanager
    def away(self) -> Iterator[None]:
        """Who needs a new connection waits until the with block is left: the file is being exchanged in it."""
        with self._connecting:
            self.close()
            yield

    def close(self) -> None:
        """Close all that are idle now, and the others when they are given back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._generation += 1
        for connection in idle:
            connection.close()
