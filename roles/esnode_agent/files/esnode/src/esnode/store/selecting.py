# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The face for reading, the same over a store that is being written and over one that another process writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from esnode.store.blocks import Block
from esnode.store.codec import Floats, Ints
from esnode.store.damage import Damage
from esnode.store.database import Readers, is_damage
from esnode.store.errors import StoreError, TooMany
from esnode.store.matching import Selector
from esnode.store.model import FOREVER_MS, Matcher, SeriesData, SeriesId
from esnode.store.reading import Catalog, HotView, Piece, Seen

Matchers = Iterable[Matcher] | Selector


class Selecting:
    """Needs `_now`: the blocks and the hot part as they are at one moment, no sample missing, none twice."""

    path: Path
    damage: Damage
    _catalog: Catalog
    _readers: Readers

    def _now(self) -> tuple[list[Block], list[HotView]]:
        raise NotImplementedError

    def _unreadable(self, error: sqlite3.Error) -> None:
        """The file as a whole can't be read: damage is counted and read around, else StoreError."""
        if not is_damage(error):
            raise StoreError(f"the store {self.path} can't be read just now: {error}; try again") from error
        self.damage.note("database", 0, error)

    def select(
        self,
        matchers: Matchers = (),
        from_ms: int = -FOREVER_MS,
        to_ms: int = FOREVER_MS,
        *,
        most_samples: int | None = None,
    ) -> list[SeriesData]:
        """Return the samples of all matching series, both ends included, series in order, times ascending.

        Of samples of a series with the same time (the clock was set back) the one that came last is given.
        TooMany when there are more than `most_samples`.
        """
        found: dict[SeriesId, list[tuple[Ints, Floats]]] = {}
        samples = 0
        for series, times, values in self._pieces(matchers, from_ms, to_ms):
            samples += len(times)
            if most_samples is not None and samples > most_samples:
                raise TooMany(f"more than {most_samples} samples match: ask for fewer series or a shorter time")
            if len(times):
                found.setdefault(series, []).append((times, values))
        ordered = sorted(found, key=lambda series: (series.name, series.pairs))
        return list(joined({series: found[series] for series in ordered}))

    def export(
        self, matchers: Matchers = (), from_ms: int = -FOREVER_MS, to_ms: int = FOREVER_MS
    ) -> Iterator[SeriesData]:
        """Give the samples of all matching series piece by piece, in the order in which they were appended.

        Memory stays constant: a piece is what one block holds of one series, so a series comes again in the next one.
        What retention drops while this runs is left out.
        """
        for piece in self._pieces(matchers, from_ms, to_ms):
            if len(piece[1]):
                yield SeriesData(*piece)

    def series(self, matchers: Matchers = (), from_ms: int = -FOREVER_MS, to_ms: int = FOREVER_MS) -> list[SeriesId]:
        """Return the matching series of the blocks that the span touches; finer than a block is not looked."""
        selector = matchers if isinstance(matchers, Selector) else Selector(matchers)
        blocks, hot = self._now()
        found: set[SeriesId] = set()
        try:
            found = self._catalog.names(_within(blocks, from_ms, to_ms), selector, Seen())
        except sqlite3.Error as error:
            self._unreadable(error)
        for view in hot:
            found.update(series for series, *_unused in view.pieces(selector, from_ms, to_ms))
        return sorted(found)

    def _pieces(self, matchers: Matchers, from_ms: int, to_ms: int) -> Iterator[Piece]:
        selector = matchers if isinstance(matchers, Selector) else Selector(matchers)
        blocks, hot = self._now()
        seen = Seen()
        try:
            with self._readers.connection() as connection:
                for block in _within(blocks, from_ms, to_ms):
                    yield from self._catalog.pieces(connection, block, selector, from_ms, to_ms, seen)
        except sqlite3.Error as error:
            self._unreadable(error)
        for view in hot:
            yield from view.pieces(selector, from_ms, to_ms)


def _within(blocks: Iterable[Block], from_ms: int, to_ms: int) -> Iterator[Block]:
    return (block for block in blocks if block.first_ms <= to_ms and block.last_ms >= from_ms)


def joined(found: Mapping[SeriesId, Sequence[tuple[Ints, Floats]]]) -> Iterator[SeriesData]:
    """Each series of its pieces, times ascending; of samples with the same time the one that came last.

    Series of the very same arrays of times, as they mostly are, have the same array afterwards.
    """
    known: dict[tuple[int, ...], tuple[Ints, Ints | None]] = {}
    for series, pieces in found.items():
        key = tuple([id(times) for times, _unused in pieces])
        if key not in known:
            known[key] = _in_order([times for times, _unused in pieces])
        times, order = known[key]
        values = pieces[0][1] if len(pieces) == 1 else np.concatenate([values for _unused, values in pieces])
        yield SeriesData(series, times, values if order is None else values[order])


def _in_order(pieces: list[Ints]) -> tuple[Ints, Ints | None]:
    """Ascending times, each once, and which samples they are; None: all as they come."""
    times = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if len(times) < 2 or (times[1:] > times[:-1]).all():
        return times, None
    order = np.argsort(times, kind="stable")
    times = times[order]
    last = np.append(times[1:] != times[:-1], True)
    return times[last], order[last]
