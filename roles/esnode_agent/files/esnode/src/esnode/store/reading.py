# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading sealed samples: which blocks, which groups, which columns."""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from esnode.store.blocks import Block
from esnode.store.codec import Bools, Chunk, Column, Floats, Ints
from esnode.store.damage import Damage
from esnode.store.database import SHIFT, Readers, is_damage
from esnode.store.envelope import Envelope
from esnode.store.epoch import Part, pick
from esnode.store.errors import Damaged
from esnode.store.groups import decode_names
from esnode.store.matching import Selector
from esnode.store.model import SeriesId
from esnode.store.recent import Recent

_GROUPS_HELD = 128
_COLUMN_BYTES = 6 * 1024 * 1024  # of columns that are held decoded
_CHUNK_BYTES = 8 * 1024 * 1024  # of chunks: a day of a thousand series
Piece = tuple[SeriesId, Ints, Floats]


@dataclass(frozen=True, slots=True)
class HotView:
    """An epoch as it was at one moment."""

    number: int
    series: Sequence[SeriesId]
    by_name: dict[str, list[int]]
    parts: list[Part]

    def pieces(self, selector: Selector, from_ms: int, to_ms: int) -> Iterator[Piece]:
        """Samples of matching series within the span."""
        wanted = [
            number
            for name in list(self.by_name)
            if selector.name(name)
            for number in list(self.by_name[name])
            if selector.labels(self.series[number])
        ]
        if not wanted:
            return
        times, values, present = pick(self.parts, np.array(wanted, np.int32))
        inside = (times >= from_ms) & (times <= to_ms)
        every = bool(inside.all())
        for place, number in enumerate(wanted):
            here = present[place] if every else present[place] & inside
            if here.all():
                yield self.series[number], times, values[place]
            elif here.any():
                yield self.series[number], times[here], values[place][here]


class Seen:
    """What one selection has found so far: matching columns by group, and the groups of the last block."""

    __slots__ = ("columns", "groups", "matching")

    def __init__(self) -> None:
        self.columns: dict[int, list[tuple[int, SeriesId]]] = {}
        self.groups: bytes | None = None  # mostly the next block has the same ones
        self.matching: list[int] = []


class Catalog:
    """Blocks and names of groups, read when first needed. Usable from all threads."""

    def __init__(self, readers: Readers, envelope: Envelope, damage: Damage) -> None:
        self._readers, self._envelope, self._damage = readers, envelope, damage
        self._lock = threading.Lock()
        self._blocks: dict[int, Block | None] = {}
        self._version: object = None
        self._names: dict[int, tuple[str, ...]] = {}
        self._groups: OrderedDict[int, list[SeriesId]] = OrderedDict()
        self._columns: Recent[tuple[int, int], Column] = Recent(_COLUMN_BYTES, _column_bytes)
        self._chunks: Recent[int, Chunk] = Recent(_CHUNK_BYTES, lambda chunk: chunk.nbytes)

    def blocks(self, version: object = None) -> list[Block]:
        """Readable blocks in the order in which they were sealed. The same `version` again: nothing has changed."""
        with self._lock:
            if version is None or version != self._version:
                self._refresh()
                self._version = version
            return [block for block in self._blocks.values() if block is not None]

    def numbers(self) -> set[int]:
        """Numbers of all blocks, readable or not."""
        self.blocks()
        with self._lock:
            return set(self._blocks)

    def forget(self) -> None:
        """The database is another one now."""
        with self._lock:
            self._blocks, self._version = {}, None
            self._names.clear()
            self._groups.clear()
        self._columns.clear()
        self._chunks.clear()

    def _refresh(self) -> None:
        with self._readers.connection() as connection:
            numbers = [row[0] for row in connection.execute("SELECT id FROM block ORDER BY id").fetchall()]
            known = self._blocks
            self._blocks = {number: known.get(number) or self._read_block(connection, number) for number in numbers}
        if len(self._names) > 2 * _GROUPS_HELD:  # groups go with the last block that has them
            live = {group for block in self._blocks.values() if block is not None for group in block.groups.tolist()}
            if len(self._names) > 2 * len(live):
                self._names = {number: names for number, names in self._names.items() if number in live}

    def _read_block(self, connection: sqlite3.Connection, number: int) -> Block | None:
        for table in ("block", "spare_block"):
            payload = self.payload(connection, table, number)
            if payload is not None:
                try:
                    return Block.decode(number, payload)
                except Damaged as error:
                    self._damage.note(table, number, error)
        return None

    def payload(self, connection: sqlite3.Connection, table: str, number: int) -> bytes | None:
        """What the blob with this number holds, None if it is not there or damaged."""
        try:
            rows = connection.execute(f"SELECT body FROM {table} WHERE id = ?", (number,)).fetchall()
            # Both copies are wrapped as the same thing.
            return self._envelope.unwrap(table.removeprefix("spare_").encode(), number, rows[0][0]) if rows else None
        except (Damaged, sqlite3.DatabaseError) as error:
            self._note(table, number, error)
            return None

    def _note(self, kind: str, number: int, error: Exception) -> None:
        if not is_damage(error):
            raise error
        self._damage.note(kind, number, error)

    def group(self, connection: sqlite3.Connection, number: int, block: int) -> list[SeriesId]:
        """The series of a group that has a chunk in this block; none if its names can't be read."""
        with self._lock:
            held = self._groups.get(number)
            if held is not None:
                self._groups.move_to_end(number)
                return held
        group: list[SeriesId] = []
        for table in ("grp", "spare_grp"):
            payload = self.payload(connection, table, number)
            if payload is not None:
                try:
                    group = decode_names(payload)
                    break
                except Damaged as error:
                    self._damage.note(table, number, error)
        if not group:
            if self._exists(connection, block):
                self._damage.note("names", number, "both copies are unreadable")
            return group
        with self._lock:
            self._names[number] = tuple({series.name for series in group})
            self._groups[number] = group
            while len(self._groups) > _GROUPS_HELD:
                self._groups.popitem(last=False)
        return group

    def matching(self, connection: sqlite3.Connection, block: Block, selector: Selector, seen: Seen) -> list[int]:
        """Groups with a chunk in this block in which a series matches."""
        groups = block.groups.tobytes()
        if groups == seen.groups:
            return seen.matching
        columns = seen.columns
        for number in block.groups.tolist():
            if number not in columns:
                names = self._names.get(number)
                if names is None or any(selector.name(name) for name in names):
                    group = self.group(connection, number, block.number)
                    columns[number] = [(column, group[column]) for column in selector.columns(group)]
                else:
                    columns[number] = []
        seen.groups, seen.matching = groups, [number for number in block.groups.tolist() if columns[number]]
        return seen.matching

    def pieces(
        self, connection: sqlite3.Connection, block: Block, selector: Selector, from_ms: int, to_ms: int, seen: Seen
    ) -> Iterator[Piece]:
        """Samples of matching series in one block within the span."""
        groups = self.matching(connection, block, selector, seen)
        if not groups:
            return
        try:
            times = block.times()
        except Damaged as error:
            self._damage.note("block", block.number, error)
            return
        inside, cut = slice(0, len(times)), times
        if block.first_ms < from_ms or block.last_ms > to_ms:
            inside = slice(int(times.searchsorted(from_ms, "left")), int(times.searchsorted(to_ms, "right")))
            cut = times[inside]
        for number in groups:
            chunk = None
            place, wanted = block.number << SHIFT | number, seen.columns[number]
            held = self._columns.get_all([(place, column) for column, _series in wanted])
            read: dict[tuple[int, int], Column] = {}
            for (column, series), known in zip(wanted, held, strict=True):
                if (samples := known) is None:
                    if chunk is None and (chunk := self._recent_chunk(connection, block, number, selector)) is None:
                        break
                    if column >= len(chunk):
                        continue
                    try:
                        samples = chunk.column(column)
                    except Damaged as error:
                        self._damage.note("chunk", place, error)
                        break
                    samples.values.flags.writeable = False
                    read[place, column] = samples
                if not len(samples.values):
                    continue
                if samples.present is None:
                    yield series, cut, samples.values[inside]
                else:
                    yield _partial(series, times, inside, samples.present, samples.values)
            if read and not selector.bulk:
                self._columns.put_all(read)

    def columns(self, connection: sqlite3.Connection, block: Block) -> Iterator[tuple[SeriesId, Column]]:
        """All of a block that can be read, column by column."""
        for number in block.groups.tolist():
            chunk = self._chunk(connection, block, number)
            group = self.group(connection, number, block.number) if chunk is not None else []
            for place, series in enumerate(group):
                try:
                    if chunk is not None and place < len(chunk) and chunk.count(place):
                        yield series, chunk.column(place)
                except Damaged as error:
                    self.damaged("chunk", block.number << SHIFT | number, error)
                    break

    def damaged(self, kind: str, number: int, why: object) -> None:
        """Count a part that can't be read."""
        self._damage.note(kind, number, why)

    def _recent_chunk(
        self, connection: sqlite3.Connection, block: Block, group: int, selector: Selector
    ) -> Chunk | None:
        number = block.number << SHIFT | group
        held = self._chunks.get(number)
        if held is not None:
            return held.fresh()
        chunk = self._chunk(connection, block, group)
        if chunk is not None and not selector.bulk:
            self._chunks.put(number, chunk.fresh())
        return chunk

    def _chunk(self, connection: sqlite3.Connection, block: Block, group: int) -> Chunk | None:
        number = block.number << SHIFT | group
        try:
            rows = connection.execute("SELECT body FROM chunk WHERE id = ?", (number,)).fetchall()
            if not rows:
                if self._exists(connection, block.number):
                    raise Damaged("it is not there")
                return None  # retention took the block just now
            chunk = Chunk(self._envelope.unwrap(b"chunk", number, rows[0][0]))
            if chunk.rows != block.rows:
                raise Damaged("it has not the rows of its block")
        except (Damaged, sqlite3.DatabaseError) as error:
            self._note("chunk", number, error)
            return None
        return chunk

    def _exists(self, connection: sqlite3.Connection, block: int) -> bool:
        try:
            return bool(connection.execute("SELECT 1 FROM block WHERE id = ?", (block,)).fetchall())
        except sqlite3.DatabaseError:
            return True

    def names(self, blocks: Iterable[Block], selector: Selector, seen: Seen) -> set[SeriesId]:
        """Matching series with a chunk in these blocks."""
        groups: set[int] = set()
        with self._readers.connection() as connection:
            for block in blocks:
                groups.update(self.matching(connection, block, selector, seen))
        return {series for group in groups for _unused, series in seen.columns[group]}


def _column_bytes(column: Column) -> int:
    return 300 + column.values.nbytes + (0 if column.present is None else column.present.nbytes)


def _partial(series: SeriesId, times: Ints, inside: slice, present: Bools, values: Floats) -> Piece:
    before = int(np.count_nonzero(present[: inside.start]))
    here = present[inside]
    return series, times[inside][here], values[before : before + int(np.count_nonzero(here))]
