# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading on from a place: all that was appended since, in the order in which it was appended.

Only what is on the disk is given, so that a place never runs ahead of what a restart finds.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from esnode.store.blocks import Block
from esnode.store.codec import Bools, Column, Floats, Ints
from esnode.store.database import Readers
from esnode.store.epoch import Part, pick
from esnode.store.errors import Damaged, StoreError
from esnode.store.head import Head
from esnode.store.model import SeriesId
from esnode.store.reading import Catalog, HotView
from esnode.store.retention import Retention


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place: behind the first `rows` rows of an epoch, the newest of them taken at `newest_ms`; `store` says whose.

    Damage and a clock that was set back can give rows of an epoch other numbers; `newest_ms` tells when they have.
    """

    store: str
    epoch: int
    rows: int = 0
    newest_ms: int = 0

    def encode(self) -> dict[str, Any]:
        """As JSON types."""
        return {"store": self.store, "epoch": self.epoch, "rows": self.rows, "newest_ms": self.newest_ms}

    @classmethod
    def decode(cls, found: Any) -> Cursor:
        """From JSON types; ValueError when it is none."""
        try:
            numbers = [found[name] for name in ("epoch", "rows", "newest_ms")]
            if not isinstance(found["store"], str) or not all(isinstance(number, int) for number in numbers):
                raise TypeError
            return cls(found["store"], *numbers)
        except (KeyError, TypeError) as error:
            raise ValueError("not a place in a store") from error


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that follow each other: `values[s, r]` of series `s` at `times[r]` (ms) where `present[s, r]`.

    `start`: the place before the first of them. `lost`: samples before it that retention has dropped.
    """

    series: Sequence[SeriesId]
    times: Ints
    values: Floats
    present: Bools
    start: Cursor
    lost: int = 0

    def after(self, rows: int) -> Cursor:
        """The place behind the first `rows` of these rows."""
        if not rows:
            return self.start
        newest_ms = int(np.max(self.times[:rows]))
        if self.start.rows:
            newest_ms = max(newest_ms, self.start.newest_ms)
        return Cursor(self.start.store, self.start.epoch, self.start.rows + rows, newest_ms)

    @property
    def end(self) -> Cursor:
        """The place behind all of these rows."""
        return self.after(len(self.times))


@dataclass(frozen=True, slots=True)
class Ahead:
    """What lies behind a place: how many samples wait, and the time of the newest row of all (ms), if there is any."""

    samples: int
    newest_ms: int | None


class _Hot:
    """Rows of an epoch in memory, as far as they are on the disk."""

    def __init__(self, view: HotView, final: bool) -> None:
        self._view, self.final = view, final
        self.times = np.concatenate([part.times for part in view.parts]) if view.parts else np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.times)

    def knows(self, cursor: Cursor) -> bool:
        """Whether the rows before the cursor are the first ones here."""
        return int(np.max(self.times[: cursor.rows])) == cursor.newest_ms

    def read(self, start: int, most_samples: int) -> tuple[list[SeriesId], Ints, Floats, Bools]:
        """At least one row and at most `most_samples` samples from row `start` on."""
        parts: list[Part] = []
        room = most_samples
        for part in self._view.parts:
            skipped = min(start, len(part.times))
            start -= skipped
            if skipped == len(part.times):
                continue
            width = max(1, len(part.layout.ids))
            rows = min(len(part.times) - skipped, max(room // width, 0 if parts else 1))
            if not rows:
                break
            parts.append(Part(part.layout, part.times[skipped : skipped + rows], part.values[skipped : skipped + rows]))
            room -= rows * width
            if skipped + rows < len(part.times):
                break
        ids = np.unique(np.concatenate([part.layout.ids for part in parts]))
        return [self._view.series[number] for number in ids.tolist()], *pick(parts, ids)


class _Sealed:
    """Rows of a block, unpacked."""

    final = True

    def __init__(self, number: int, times: Ints, columns: Sequence[tuple[SeriesId, Column]]) -> None:
        self.number, self.times, self._columns = number, times, columns
        counts = np.zeros(len(times), np.int64)
        for _unused, column in columns:
            counts += 1 if column.present is None else column.present
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return len(self.times)

    def knows(self, cursor: Cursor) -> bool:
        """Whether the rows before the cursor are the first ones here: sealing has put them in the order of time."""
        return int(np.searchsorted(self.times, cursor.newest_ms, "right")) == cursor.rows

    def read(self, start: int, most_samples: int) -> tuple[list[SeriesId], Ints, Floats, Bools]:
        """At least one row and at most `most_samples` samples from row `start` on."""
        before = int(self._ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(self._ends, before + most_samples, "right")))
        # Rows of one time stay together: between them `knows` could not tell what was read.
        end = int(np.searchsorted(self.times, self.times[end - 1], "right"))
        series: list[SeriesId] = []
        rows: list[tuple[Floats, Bools]] = []
        for one, column in self._columns:
            if column.present is None:
                rows.append((column.values[start:end], np.ones(end - start, np.bool_)))
                series.append(one)
                continue
            here = column.present[start:end]
            if here.any():
                first = int(np.count_nonzero(column.present[:start]))
                values = np.zeros(end - start)
                values[here] = column.values[first : first + int(np.count_nonzero(here))]
                rows.append((values, here))
                series.append(one)
        shape = (len(rows), end - start)
        return (
            series,
            self.times[start:end],
            np.array([row[0] for row in rows], np.float64).reshape(shape),
            np.array([row[1] for row in rows], np.bool_).reshape(shape),
        )


class Following:
    """Usable from all threads; meant for one that follows, whose block stays unpacked until it has been read."""

    def __init__(self, store: bytes, head: Head, catalog: Catalog, readers: Readers, retention: Retention) -> None:
        self.lock = threading.Lock()  # held while the database is another one for a moment
        self._store, self._head, self._catalog = store.hex(), head, catalog
        self._readers, self._retention = readers, retention
        self._unpacked: _Sealed | None = None

    def follow(self, cursor: Cursor | None, most_samples: int) -> Batch:
        """The rows behind the cursor. Without a cursor, or with one of another store: none, and the place for now."""
        with self.lock:
            try:
                if cursor is None or cursor.store != self._store:
                    return self._nothing(self._now())
                return self._follow(cursor, most_samples)
            except sqlite3.Error as error:
                raise StoreError(f"the store can't be read: {error}") from error

    def ahead(self, cursor: Cursor) -> Ahead:
        """How much there is behind a place; a block that was begun is counted by its share of rows."""
        try:
            with self.lock:
                _unused, hot = self._head.durable()
                blocks = self._catalog.blocks(self._head.version)
        except sqlite3.Error as error:
            raise StoreError(f"the store can't be read: {error}") from error
        seen = {view.number for view, _unused in hot}
        samples, newest_ms = 0, None
        for block in blocks:
            newest_ms = block.last_ms
            if block.number in seen or block.number < cursor.epoch:
                continue
            done = min(cursor.rows, block.rows) if block.number == cursor.epoch else 0
            samples += block.samples * (block.rows - done) // block.rows
        for view, _unused in hot:
            done = cursor.rows if view.number == cursor.epoch else 0
            for part in view.parts:
                newest_ms = int(part.times[-1])
                if view.number >= cursor.epoch:
                    samples += max(0, len(part.times) - done) * len(part.layout.ids)
                    done = max(0, done - len(part.times))
        return Ahead(samples, newest_ms)

    def _now(self) -> Cursor:
        newest, hot = self._head.durable()
        rows = [part.times for view, _unused in hot if view.number == newest for part in view.parts]
        if not rows:
            return Cursor(self._store, newest)
        return Cursor(self._store, newest, sum(map(len, rows)), max(int(np.max(times)) for times in rows))

    def _nothing(self, cursor: Cursor, lost: int = 0) -> Batch:
        return Batch((), np.empty(0, np.int64), np.empty((0, 0)), np.empty((0, 0), np.bool_), cursor, lost)

    def _follow(self, cursor: Cursor, most_samples: int) -> Batch:
        lost = 0
        while True:
            newest, hot = self._head.durable()  # before the blocks: what is sealed meanwhile is then in both
            if cursor.epoch > newest:  # a new count has begun, since nothing was left of the old one
                cursor = Cursor(self._store, 0)
            number = self._next(cursor.epoch, [view.number for view, _unused in hot])
            if number > cursor.epoch:
                lost += self._dropped(cursor, number)
                cursor = Cursor(self._store, number)
            rows: _Hot | _Sealed | None = next((_Hot(*one) for one in hot if one[0].number == number), None)
            if rows is None:
                rows = self._sealed(number)
            if rows is not None:
                # Some came twice is better than some did not come.
                if cursor.rows and len(rows) and not rows.knows(cursor):
                    cursor = Cursor(self._store, number)
                if cursor.rows < len(rows):
                    return Batch(*rows.read(cursor.rows, most_samples), cursor, lost)
                if not rows.final:
                    return self._nothing(cursor, lost)
            else:  # dropped just now, unless it is damaged
                lost += self._dropped(cursor, number + 1)
            cursor = Cursor(self._store, number + 1)
            self._unpacked = None

    def _next(self, least: int, hot: list[int]) -> int:
        """The first epoch from `least` on of which there is something, or of which there will be."""
        if self._unpacked is not None and self._unpacked.number == least:
            return least  # whether or not it has been dropped meanwhile
        with self._readers.connection() as connection:
            (block,) = connection.execute("SELECT min(id) FROM block WHERE id >= ?", (least,)).fetchall()[0]
        return min(number for number in (block, *hot) if isinstance(number, int) and number >= least)

    def _dropped(self, cursor: Cursor, number: int) -> int:
        """Samples of blocks from the cursor's to the one before `number` that retention took."""
        lost = 0
        for gone, (rows, samples) in list(self._retention.gone.items()):
            if cursor.epoch <= gone < number:
                done = min(cursor.rows, rows) if gone == cursor.epoch else 0
                lost += samples * (rows - done) // rows
        return lost

    def _sealed(self, number: int) -> _Sealed | None:
        """The block; None when it can't be read, which has been counted then, or is gone."""
        if self._unpacked is not None and self._unpacked.number == number:
            return self._unpacked
        block = next((one for one in self._catalog.blocks() if one.number == number), None)
        if block is None:
            return None
        self._unpacked = self._unpack(block)
        return self._unpacked

    def _unpack(self, block: Block) -> _Sealed | None:
        with self._readers.connection() as connection:
            try:
                times = block.times()
            except Damaged as error:
                self._catalog.damaged("block", block.number, error)
                return None
            columns = list(self._catalog.columns(connection, block))
            if not connection.execute("SELECT 1 FROM block WHERE id = ?", (block.number,)).fetchall():
                return None  # dropped while it was read
        return _Sealed(block.number, times, columns)
