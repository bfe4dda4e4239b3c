# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store built anew of rows that were taken out of one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from esnode.store.backup import Row
from esnode.store.database import PAGE, Database
from esnode.store.errors import StoreError
from esnode.store.identity import Identity, sync_folder, write_identity
from esnode.store.model import MIB

# What a store keeps two copies of.
_SPARE = {"block": "spare_block", "grp": "spare_grp"}
_TABLES = frozenset({"block", "grp", "chunk", "head"})


def build(folder: Path, store: bytes, keys: tuple[bytes, ...], parts: Iterable[list[Row]], some_bytes: int) -> None:
    """Make a store in a new folder. `store`, `keys`: of its identity; `some_bytes`: about how much all parts are.

    A row that comes again is not written again. StoreError for rows that are of no store; what is in the folder then
    is of no use.
    """
    folder.mkdir(mode=0o700)
    database = Database(folder, 2 * some_bytes + 1024 * MIB)
    try:
        database.checkpoint()
        with database.path.open("rb") as file:
            identity = Identity(store, keys, file.read(PAGE))
        for rows in parts:
            for slice_ in _slices(rows, database.slice_bytes):
                with database.write(sum(len(blob) + 64 for *_unused, blob in slice_)) as connection:
                    for table, number, blob in slice_:
                        connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (number, blob))
        with database.write(2 * PAGE) as connection:
            connection.execute("INSERT OR REPLACE INTO identity VALUES (1, ?)", (identity.encode(),))
        database.close()
        write_identity(folder, identity)
        sync_folder(folder)
    except sqlite3.Error as error:
        raise StoreError(f"can't build the store in {folder}: {error}") from error
    finally:
        database.disconnect()


def _slices(rows: Iterable[Row], most_bytes: int) -> Iterable[list[Row]]:
    together: list[Row] = []
    size = 0
    for table, number, blob in rows:
        if table not in _TABLES:
            raise StoreError(f"a part of the backup holds a row of {table!r}, which no store has")
        copies = [table, _SPARE[table]] if table in _SPARE else [table]
        together += [(copy, number, blob) for copy in copies]
        size += len(copies) * len(blob)
        if size >= most_bytes:
            yield together
            together, size = [], 0
    if together:
        yield together
