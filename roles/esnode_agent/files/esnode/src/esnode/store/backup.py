# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup takes out of a store, as it is on the disk, while another process may be writing it.

Blobs are taken as they are, so what is encrypted stays so and no key is needed. With the keys they are checked, too.
A block never changes once it is sealed: `mark` tells it from every other one, and only new marks need be copied.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esnode.store.blocks import Block
from esnode.store.damage import Damage
from esnode.store.database import FILE, SHIFT, open_readers
from esnode.store.envelope import PLAIN, Envelope
from esnode.store.errors import Damaged, StoreError
from esnode.store.identity import Identity, read_identity
from esnode.store.loading import load_epochs

if TYPE_CHECKING:
    from esnode.store.keys import Key

Row = tuple[str, int, bytes]
"""Table, number in it, blob."""
_GROUP = (1 << SHIFT) - 1


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block of the list. `first_ms`, `last_ms`: None when its key is not at hand."""

    number: int
    mark: str
    first_ms: int | None
    last_ms: int | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The store at one moment. `damaged`: parts of list and head that can't be read or are not as written."""

    identity: Identity
    blocks: list[SealedBlock]
    head: list[Row]
    damaged: int
    first_ms: int | None
    last_ms: int | None


class Source:
    """A store to be backed up. `keys`: those at hand, maybe none; StoreError when there is no store."""

    def __init__(self, folder: Path, keys: Sequence[Key] = ()) -> None:
        self.folder, self._keys = folder, keys
        try:
            there = (folder / FILE).exists()
        except OSError as error:
            raise StoreError(
                f"can't read the store {folder}: {error.strerror}; run this as the agent's user"
            ) from error
        if not there:
            raise StoreError(f"there is no store in {folder}")
        self._readers = open_readers(folder, "; run this as the agent's user")

    def close(self) -> None:
        """Close."""
        self._readers.close()

    def now(self) -> Moment:
        """The list of blocks and the head as they are together at one moment."""
        try:
            with self._readers.connection() as connection:
                connection.execute("BEGIN")
                try:
                    return self._now(connection)
                finally:
                    connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(
                f"the store {self.folder} can't be read: {error}; if it is damaged, the agent mends it when it writes"
                " or opens it the next time, then try again"
            ) from error

    def _now(self, connection: sqlite3.Connection) -> Moment:
        identity = self._identity(connection)
        envelope = self._envelope(identity)
        blocks: list[SealedBlock] = []
        damaged = 0
        for number in _numbers(connection, "SELECT id FROM block UNION SELECT id FROM spare_block ORDER BY id"):
            blob = _sound(connection, envelope, ("block", "spare_block"), number)
            if blob is None:
                damaged += 1
                continue
            damaged += _check(envelope, "block", number, blob) is False
            mark = hashlib.sha256(b"%d " % number + b"".join(identity.keys) + blob).hexdigest()[:16]
            block = _decoded(envelope, number, blob)
            span = (block.first_ms, block.last_ms) if block else (None, None)
            blocks.append(SealedBlock(number, mark, *span))
        head: list[Row] = []
        for number in _numbers(connection, "SELECT id FROM head ORDER BY id"):
            blob = _sound(connection, envelope, ("head",), number)
            if blob is None:
                damaged += 1
            else:
                head.append(("head", number, blob))
        firsts = [block.first_ms for block in blocks if block.first_ms is not None]
        lasts = [block.last_ms for block in blocks if block.last_ms is not None]
        if self._reads(identity):
            found = Damage()
            try:
                epochs, _unused = load_epochs(connection, envelope, found, {block.number for block in blocks}, 0.0)
            except sqlite3.DatabaseError:  # pages of the log; the rows that could be read are counted above
                epochs = []
            damaged += sum(found.counts().values())
            times = [part.times for epoch in epochs for part in epoch.parts()]
            firsts += [int(np.min(some)) for some in times]
            lasts += [int(np.max(some)) for some in times]
        return Moment(identity, blocks, head, damaged, min(firsts, default=None), max(lasts, default=None))

    def block(self, moment: Moment, number: int) -> tuple[list[Row], int] | None:
        """All rows that a block needs, its names included, and how many are damaged; None: retention took it just now.

        A damaged row is given as it is: what can be read of it may be more than nothing.
        """
        envelope = self._envelope(moment.identity)
        low, high = number << SHIFT, (number + 1) << SHIFT
        with self._readers.connection() as connection:
            connection.execute("BEGIN")
            try:
                blob = _sound(connection, envelope, ("block", "spare_block"), number)
                if blob is None:
                    return None
                block = _decoded(envelope, number, blob)
                expected = {low | group for group in block.groups.tolist()} if block else set()
                try:
                    listed = set(_numbers(connection, "SELECT id FROM chunk WHERE id >= ? AND id < ?", low, high))
                except sqlite3.DatabaseError:
                    listed = set()
                wanted: list[tuple[tuple[str, ...], int]] = []
                for chunk in sorted(listed | expected):
                    wanted += [(("grp", "spare_grp"), chunk & _GROUP), (("chunk",), chunk)]
                rows: list[Row] = [("block", number, blob)]
                damaged = 0
                for tables, row in wanted:
                    found = _sound(connection, envelope, tables, row)
                    if found is not None:
                        rows.append((tables[0], row, found))
                    if found is None or _check(envelope, tables[0], row, found) is False:
                        damaged += 1
                return rows, damaged
            finally:
                connection.execute("COMMIT")

    def _identity(self, connection: sqlite3.Connection) -> Identity:
        try:
            rows = connection.execute("SELECT body FROM identity WHERE id = 1").fetchall()
            return Identity.decode(rows[0][0])
        except (Damaged, IndexError, AttributeError, sqlite3.DatabaseError):
            identity = read_identity(self.folder)
        if identity is None:
            raise StoreError(f"{self.folder}: neither the identity file nor its copy in the database can be read")
        return identity

    def _envelope(self, identity: Identity) -> Envelope:
        return Envelope(identity.store, self._keys, plain=PLAIN in identity.keys)

    def _reads(self, identity: Identity) -> bool:
        held = {PLAIN, *(key.name for key in self._keys)}
        return all(name in held for name in identity.keys)


def _numbers(connection: sqlite3.Connection, sql: str, *parameters: int) -> list[int]:
    return [row[0] for row in connection.execute(sql, parameters).fetchall()]


def _sound(connection: sqlite3.Connection, envelope: Envelope, tables: Iterable[str], number: int) -> bytes | None:
    """The first copy that is as it was written, else any that can be read at all, else None."""
    other: bytes | None = None
    for table in tables:
        try:
            rows = connection.execute(f"SELECT body FROM {table} WHERE id = ?", (number,)).fetchall()
        except sqlite3.DatabaseError:
            continue
        if rows and isinstance(rows[0][0], bytes):
            if _check(envelope, table, number, rows[0][0]) is not False:
                return rows[0][0]
            other = other or rows[0][0]
    return other


def _check(envelope: Envelope, table: str, number: int, blob: bytes) -> bool | None:
    """Whether a blob is what was written; None when its key is not at hand."""
    if not envelope.knows(blob):
        return None
    try:
        envelope.unwrap(table.removeprefix("spare_").encode(), number, blob)
    except Damaged:
        return False
    return True


def _decoded(envelope: Envelope, number: int, blob: bytes) -> Block | None:
    try:
        return Block.decode(number, envelope.unwrap(b"block", number, blob))
    except Damaged:
        return None
