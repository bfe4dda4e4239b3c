# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Groups of series, whose samples lie together in one chunk of each block.

A series stays in its group as long as it goes on, so names are written once and not once a block. Series that come get
new groups; when many small ones have piled up, all live series are grouped anew.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Sequence

import zstandard

from esnode.store.errors import Damaged
from esnode.store.model import SeriesId
from esnode.store.unpacking import UnpackError, unpack

SIZE = 64


def encode_names(group: Iterable[SeriesId]) -> bytes:
    """Identities as bytes."""
    rows = [[series.name, *(text for pair in series.pairs for text in pair)] for series in group]
    return zstandard.ZstdCompressor(level=9).compress(json.dumps(rows, separators=(",", ":")).encode("ascii"))


def decode_names(payload: bytes) -> list[SeriesId]:
    """Identities from bytes."""
    try:
        rows = json.loads(unpack(payload))
        # A label's name comes thousands of times: one object for each.
        return [
            SeriesId(sys.intern(row[0]), tuple((sys.intern(row[at]), row[at + 1]) for at in range(1, len(row) - 1, 2)))
            for row in rows
        ]
    except (UnpackError, ValueError, TypeError, IndexError, struct.error) as error:
        raise Damaged(f"unreadable names: {error}") from error


class Grouping:
    """Where each live series has its place: the number of its group and its column there."""

    def __init__(self, next_group: int, groups: Iterable[tuple[int, Sequence[SeriesId]]] = ()) -> None:
        self.next_group = next_group
        self._members = {number: list(group) for number, group in groups}
        self._group_of = {series: number for number, group in self._members.items() for series in group}

    def arrange(self, live: Iterable[SeriesId]) -> tuple[Grouping, list[int]]:
        """The grouping for the block with these series, and which of its groups are new."""
        live = sorted(live)
        kept: dict[int, list[SeriesId]] = {}
        fresh: list[SeriesId] = []
        for series in live:
            number = self._group_of.get(series)
            if number is None:
                fresh.append(series)
            else:
                kept.setdefault(number, self._members[number])
        needed = -(-len(live) // SIZE)
        if len(kept) + -(-len(fresh) // SIZE) > 2 * needed + 4:
            kept, fresh = {}, live
        made = {self.next_group + place: fresh[at : at + SIZE] for place, at in enumerate(range(0, len(fresh), SIZE))}
        return Grouping(self.next_group + len(made), (kept | made).items()), list(made)

    def groups(self) -> list[tuple[int, list[SeriesId]]]:
        """All groups by number."""
        return sorted(self._members.items())
