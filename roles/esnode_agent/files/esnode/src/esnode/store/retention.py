# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is too old or too much goes, oldest first, a slice at a time, and the file gets smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from esnode.store.blocks import Block
from esnode.store.database import PAGE, SHIFT, Database
from esnode.store.model import MIB
from esnode.store.reading import Catalog
from esnode.store.wallclock import SteadyClock

_CHUNKS_TOGETHER = 32
_GONE_KNOWN = 1000


class Retention:
    """Drops blocks. `changed` is called when one is gone for readers."""

    def __init__(
        self, database: Database, catalog: Catalog, clock: SteadyClock, retention_s: float, changed: Callable[[], None]
    ) -> None:
        self._database, self._catalog, self._clock, self._changed = database, catalog, clock, changed
        self._retention_ms = int(retention_s * 1000)
        self.dropped = 0
        self.gone: dict[int, tuple[int, int]] = {}  # rows and samples of blocks that were dropped, by number

    def too_old(self) -> list[int]:
        """Numbers of blocks that are past their age."""
        now_ms = int(self._clock.now() * 1000)
        readable = {block.number: block for block in self._catalog.blocks()}
        old: list[int] = []
        unreadable: list[int] = []
        for number in sorted(self._catalog.numbers()):
            block = readable.get(number)
            if block is None:  # as old as the next one whose age is known
                unreadable.append(number)
            elif block.age_ms(now_ms) < now_ms - self._retention_ms:
                old += [*unreadable, number]
                unreadable = []
            else:
                unreadable = []
        return old

    def too_much(self, more: int = 0) -> bool:
        """Whether the file leaves no room for some bytes more."""
        database = self._database
        used = database.file_bytes() - database.free_pages() * PAGE
        return used + more + 2 * database.slice_bytes > database.file_budget

    def chore(self, more: int = 0) -> Iterator[None]:
        """Drop what must go and shrink the file."""
        for number in self.too_old():
            yield from self._drop(number)
        while self.too_much(more):
            oldest = self._database.all("SELECT min(id) FROM block")[0][0]
            if not isinstance(oldest, int):
                break
            yield from self._drop(oldest)
        if self._is_slack(more):
            yield from give_back(self._database)

    def _drop(self, number: int) -> Iterator[None]:
        database = self._database
        blocks = self._catalog.blocks()
        gone = next((block for block in blocks if block.number == number), None)
        with database.write(0, freeing=True) as connection:
            for table in ("block", "spare_block"):
                connection.execute(f"DELETE FROM {table} WHERE id = ?", (number,))
            if gone is not None:  # before others can miss it
                self.gone[number] = (gone.rows, gone.samples)
                if len(self.gone) > _GONE_KNOWN:
                    del self.gone[min(self.gone)]
        self.dropped += 1
        self._changed()
        yield
        yield from self.drop_chunks(number)
        names = _only_in(gone, blocks) if gone else []
        for at in range(0, len(names), _CHUNKS_TOGETHER):
            with database.write(0, freeing=True) as connection:
                for group in names[at : at + _CHUNKS_TOGETHER]:
                    for table in ("grp", "spare_grp"):
                        connection.execute(f"DELETE FROM {table} WHERE id = ?", (group,))
            yield

    def drop_chunks(self, block: int) -> Iterator[None]:
        """Drop the chunks of a block that is not there."""
        span = (block << SHIFT, (block + 1) << SHIFT)
        numbers = [row[0] for row in self._database.all("SELECT id FROM chunk WHERE id >= ? AND id < ?", *span)]
        for at in range(0, len(numbers), _CHUNKS_TOGETHER):
            with self._database.write(0, freeing=True) as connection:
                for number in numbers[at : at + _CHUNKS_TOGETHER]:
                    connection.execute("DELETE FROM chunk WHERE id = ?", (number,))
            yield

    def leftovers(self, sealing: set[int]) -> Iterator[None]:
        """Drop what a process that was killed had begun: chunks without a block, unless in `sealing`; unused names."""
        database = self._database
        known = self._catalog.numbers()
        at = 0
        while True:
            found = database.all("SELECT min(id) FROM chunk WHERE id >= ?", at << SHIFT)[0][0]
            if not isinstance(found, int):
                break
            block = found >> SHIFT
            if block not in known and block not in sealing:
                yield from self.drop_chunks(block)
            at = block + 1
        blocks = self._catalog.blocks()
        if len(blocks) < len(known):
            return  # which names an unreadable block uses can't be known
        used = {group for block in blocks for group in block.groups.tolist()}
        for table in ("grp", "spare_grp"):
            unused = [row[0] for row in database.all(f"SELECT id FROM {table}") if row[0] not in used]
            with database.write(0, freeing=True) as connection:
                connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(number,) for number in unused])
            yield

    def _is_slack(self, more: int) -> bool:
        database = self._database
        file_bytes, free = database.file_bytes(), database.free_pages() * PAGE
        return free > max(2 * MIB, file_bytes // 8) or file_bytes + more > database.file_budget


def give_back(database: Database) -> Iterator[None]:
    """Shrink the file by all pages that hold nothing."""
    free, together = database.free_pages(), max(8, database.reserve // 16 // PAGE)
    while free:
        database.vacuum(min(free, together))
        yield
        left = database.free_pages()
        if left >= free:
            break
        free = left
    database.checkpoint()


def _only_in(gone: Block, blocks: list[Block]) -> list[int]:
    groups = set(gone.groups.tolist())
    for block in blocks:
        if not groups:
            break
        if block.number != gone.number:
            groups.difference_update(block.groups.tolist())
    return sorted(groups)
