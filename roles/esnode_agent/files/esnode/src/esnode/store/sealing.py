# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An epoch of the hot part becomes a block, a group at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np

from esnode.store.blocks import Block
from esnode.store.codec import Column, encode
from esnode.store.database import SHIFT, Database
from esnode.store.envelope import Envelope
from esnode.store.epoch import Epoch, pick
from esnode.store.groups import Grouping, encode_names
from esnode.store.wallclock import SteadyClock


class Sealing:
    """Seals epochs one after the other; remembers where each series has its place."""

    def __init__(
        self, database: Database, envelope: Envelope, clock: SteadyClock, grouping: Grouping, last: int
    ) -> None:
        """`last`: number of the block that `grouping` is from."""
        self._database, self._envelope, self._clock = database, envelope, clock
        self._grouping, self._last = grouping, last

    def seal(self, epoch: Epoch) -> Iterator[None]:
        """Write the block; what is between two yields is one slice. Begun again from the start if it fails."""
        low, high = epoch.number << SHIFT, (epoch.number + 1) << SHIFT
        with self._database.write(0, freeing=True) as connection:  # left by an earlier try
            connection.execute("DELETE FROM chunk WHERE id >= ? AND id < ?", (low, high))
        parts = epoch.parts()
        if not parts:
            with self._database.write(0, freeing=True) as connection:
                connection.execute("DELETE FROM head WHERE id >= ? AND id < ?", (low, high))
            return
        if not self._database.all("SELECT 1 FROM block WHERE id = ?", self._last):
            self._grouping = Grouping(self._grouping.next_group)  # retention took its names
        used = np.unique(np.concatenate([part.layout.ids for part in parts]))
        number_of = {epoch.series[number]: number for number in used.tolist()}
        grouping, new = self._grouping.arrange(number_of)
        yield
        pending: list[tuple[str, int, bytes]] = []
        samples = size = 0
        for group, members in grouping.groups():
            wanted = np.array([number_of.get(series, 2**31 - 1) for series in members], np.int32)
            times, values, present = pick(parts, wanted)
            order = None if (np.diff(times) >= 0).all() else np.argsort(times, kind="stable")
            if order is not None:
                times, values, present = times[order], values[:, order], present[:, order]
            columns = [
                Column(None, row) if here.all() else Column(here, row[here])
                for row, here in zip(values, present, strict=True)
            ]
            samples += int(np.count_nonzero(present))
            chunk = self._envelope.wrap(b"chunk", epoch.number << SHIFT | group, encode(columns, len(times)))
            pending.append(("chunk", epoch.number << SHIFT | group, chunk))
            if group in new:
                names = self._envelope.wrap(b"grp", group, encode_names(members))
                pending += [("grp", group, names), ("spare_grp", group, names)]
            size = sum(len(blob) for *_unused, blob in pending)
            if size > self._database.slice_bytes // 2:
                self._write(pending, size)
                pending = []
            yield
        self._write(pending, size)
        yield
        groups = [number for number, _unused in grouping.groups()]
        sealed_ms = int(self._clock.now() * 1000)
        block = Block.of(epoch.number, times, sealed_ms, samples, groups)
        blob = self._envelope.wrap(b"block", epoch.number, block.encode())
        with self._database.write(2 * len(blob)) as connection:
            _insert(connection, [("block", epoch.number, blob), ("spare_block", epoch.number, blob)])
            connection.execute("DELETE FROM head WHERE id >= ? AND id < ?", (low, high))
        self._grouping, self._last = grouping, epoch.number

    def discard(self, epoch: Epoch) -> None:
        """Drop all that is on the disk of an epoch that will not be sealed."""
        low, high = epoch.number << SHIFT, (epoch.number + 1) << SHIFT
        with self._database.write(0, freeing=True) as connection:
            for table in ("chunk", "head"):
                connection.execute(f"DELETE FROM {table} WHERE id >= ? AND id < ?", (low, high))

    def _write(self, pending: list[tuple[str, int, bytes]], size: int) -> None:
        if pending:
            with self._database.write(size) as connection:
                _insert(connection, pending)


def _insert(connection: sqlite3.Connection, rows: list[tuple[str, int, bytes]]) -> None:
    for table, number, blob in rows:
        connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (number, blob))
