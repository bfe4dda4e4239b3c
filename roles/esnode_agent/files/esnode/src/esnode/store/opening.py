# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is found out about a store before it is used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

from esnode.store import salvage
from esnode.store.database import FILE, TABLES, check_format
from esnode.store.errors import StoreError
from esnode.store.identity import Identity


def sound(folder: Path) -> bool:
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


def why(path: Path, error: Exception) -> str:
    """What kept a store from opening; SQLite calls a full disk an I/O error."""
    with contextlib.suppress(OSError):
        if os.statvfs(path).f_bavail * os.statvfs(path).f_frsize < 1 << 20:
            return f"the disk is full ({error})"
    return getattr(error, "strerror", None) or str(error)


def identity_within(path: Path) -> Identity:
    """The copy of the identity in the database, when the file beside it is gone or damaged."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            check_format(connection, path)
            rows = connection.execute("SELECT body FROM identity WHERE id = 1").fetchall()
        return Identity.decode(rows[0][0])
    except Exception as error:
        raise StoreError(
            f"{path.parent}: neither the identity file nor the database can be read ({error}):"
            " move the folder away to begin anew, or restore a backup"
        ) from error
