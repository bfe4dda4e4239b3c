# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rewriting with the current key what was written with another one, or with none."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from esnode.store.damage import Damage
from esnode.store.database import TABLES, Database
from esnode.store.envelope import Envelope
from esnode.store.errors import Damaged
from esnode.store.retention import give_back

_LOOKED_AT_TOGETHER = 512


class Rekeying:
    """`finished` is called when no readable blob needs another key than the current one; False: not yet."""

    def __init__(
        self, database: Database, envelope: Envelope, damage: Damage, *, needed: bool, finished: Callable[[], bool]
    ) -> None:
        self._database, self._envelope, self._damage = database, envelope, damage
        self.needed, self._finished = needed, finished

    def chore(self) -> Iterator[None]:
        """Go through all tables once."""
        for table in TABLES:
            yield from self._table(table)
        yield from give_back(self._database)  # pages without a use may still hold what was written before
        while not self._finished():
            yield
        self.needed = False

    def _table(self, table: str) -> Iterator[None]:
        database, at = self._database, -1
        while True:
            # The key's name is the first bytes of a blob.
            rows = database.all(
                f"SELECT id, substr(body, 1, 4) FROM {table} WHERE id > ? ORDER BY id LIMIT {_LOOKED_AT_TOGETHER}", at
            )
            if not rows:
                return
            numbers = [row[0] for row in rows if isinstance(row[0], int)]
            other = [row[0] for row in rows if isinstance(row[0], int) and row[1] != self._envelope.writes]
            at = numbers[-1]
            for number in other:
                self._rewrite(table, number)
                yield
            yield

    def _rewrite(self, table: str, number: int) -> None:
        database, kind = self._database, table.removeprefix("spare_").encode()
        blob = database.all(f"SELECT body FROM {table} WHERE id = ?", number)[0][0]
        if not isinstance(blob, bytes):
            return
        try:
            again = self._envelope.wrap(kind, number, self._envelope.unwrap(kind, number, blob))
        except Damaged as error:
            self._damage.note(table, number, error)
            return
        with database.write(len(again)) as connection:
            connection.execute(f"UPDATE {table} SET body = ? WHERE id = ?", (again, number))
