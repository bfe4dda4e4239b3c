# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database whose own pages are damaged is put aside, and what can still be read of it brought into a new one."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path

from esnode.store.blocks import Block
from esnode.store.database import FILE, PAGE, SHIFT, TABLES, Database
from esnode.store.envelope import Envelope
from esnode.store.errors import Damaged
from esnode.store.identity import sync_folder

_log = logging.getLogger("esnode.store")
FOLDER = "damaged"
_TOGETHER = 64
_MOST_PROBED = 20_000
_LONGEST_PROBING_S = 5.0  # a table


def is_corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file itself is damaged."""
    text = str(error)
    return isinstance(error, sqlite3.DatabaseError) and any(
        sign in text for sign in ("malformed", "not a database", "no such table", "unsupported file format")
    )


def put_aside(folder: Path) -> None:
    """Move the database into a folder of its own. Done again after a crash, it goes on where it was."""
    aside = folder / FOLDER
    aside.mkdir(mode=0o700, exist_ok=True)
    # The WAL first: beside a new database it would be taken for that one's.
    for name in (f"{FILE}-wal", FILE):
        if (folder / name).exists() and not (aside / name).exists():
            (folder / name).rename(aside / name)
            sync_folder(aside)
            sync_folder(folder)
    (folder / f"{FILE}-shm").unlink(missing_ok=True)


def waiting(folder: Path) -> bool:
    """Whether there is a database that was put aside and not brought over in full."""
    return (folder / FOLDER).exists()


def salvage(folder: Path, first_page: bytes, database: Database, envelope: Envelope, *, head: bool) -> int:
    """Bring what can be read into the new database, drop the old one; return the number of blobs.

    While this goes on the old and the new file together may take up to twice the store's limit.
    """
    damaged = folder / FOLDER / FILE
    began, copied = time.monotonic(), 0
    if damaged.exists():
        mend_first_page(damaged, first_page)
        with closing(sqlite3.connect(damaged, isolation_level=None)) as source:
            try:
                copied = _copy(source, database, envelope, head)
            except sqlite3.OperationalError as error:
                if not is_corrupt(error):
                    raise
    _log.warning("%s was damaged: brought %d blobs over in %.1f s", damaged, copied, time.monotonic() - began)
    shutil.rmtree(folder / FOLDER)
    return copied


def _copy(source: sqlite3.Connection, database: Database, envelope: Envelope, head: bool) -> int:
    copied = 0
    groups: dict[int, set[int]] = {}
    for table in TABLES if head else TABLES[:-1]:
        for some in _batches(_read(source, table, _candidates(source, table, groups))):
            good = [(number, blob) for number, blob in some if _payload(envelope, table, number, blob) is not None]
            if table in ("block", "spare_block"):
                for number, blob in good:
                    block = Block.decode(number, envelope.unwrap(b"block", number, blob))
                    groups[number] = set(block.groups.tolist())
            with database.write(sum(len(blob) for _unused, blob in good)) as connection:
                connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", good)
            copied += len(good)
    return copied


def mend_first_page(path: Path, first_page: bytes) -> None:
    """Give the file its first page back, as it was made, with the size that the file has now and no free pages."""
    size = path.stat().st_size
    if len(first_page) != PAGE or size < PAGE:
        return
    page = bytearray(first_page)
    struct.pack_into(">II", page, 28, size // PAGE, 0)  # pages in the file, first page of the free list
    struct.pack_into(">I", page, 36, 0)  # number of free pages
    page[92:96] = page[24:28]  # says that the number of pages is valid
    with path.open("r+b") as file:
        file.write(page)


def _payload(envelope: Envelope, table: str, number: int, blob: object) -> bytes | None:
    try:
        return envelope.unwrap(table.removeprefix("spare_").encode(), number, blob) if isinstance(blob, bytes) else None
    except Damaged:
        return None


def _candidates(source: sqlite3.Connection, table: str, groups: dict[int, set[int]]) -> Iterable[int]:
    """Numbers of rows that the table may have: its own list if that can be read, else those that can be expected."""
    try:
        return [row[0] for row in source.execute(f"SELECT id FROM {table}").fetchall()]
    except sqlite3.DatabaseError:
        pass
    if table == "chunk":
        return [block << SHIFT | group for block, held in sorted(groups.items()) for group in sorted(held)]
    if table in ("grp", "spare_grp"):
        return sorted(set().union(*groups.values()))
    newest = max([*groups, *(_newest_block(source, other) for other in TABLES if "grp" not in other)])
    if table == "head":
        epochs = range(max(0, newest - 3), newest + 2)
        return chain.from_iterable(range(epoch << SHIFT, (epoch << SHIFT) + 10_000) for epoch in epochs)
    return range(newest or _MOST_PROBED, max(0, newest - _MOST_PROBED), -1)


def _newest_block(source: sqlite3.Connection, table: str) -> int:
    """The highest number of a block that the table speaks of, 0 if that can't be read."""
    try:
        highest = source.execute(f"SELECT max(id) FROM {table}").fetchall()[0][0] or 0
    except sqlite3.DatabaseError:
        return 0
    return int(highest) >> SHIFT if table in ("chunk", "head") else int(highest)


def _read(source: sqlite3.Connection, table: str, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    until = time.monotonic() + _LONGEST_PROBING_S
    for number in numbers:
        try:
            rows = source.execute(f"SELECT body FROM {table} WHERE id = ?", (number,)).fetchall()
        except sqlite3.DatabaseError:
            if time.monotonic() > until:
                return
            continue
        if rows:
            yield number, rows[0][0]


def _batches(rows: Iterator[tuple[int, bytes]]) -> Iterator[list[tuple[int, bytes]]]:
    some: list[tuple[int, bytes]] = []
    for row in rows:
        some.append(row)
        if len(some) == _TOGETHER:
            yield some
            some = []
    if some:
        yield some
