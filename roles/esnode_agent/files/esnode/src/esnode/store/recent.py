# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns that were decoded lately: a dashboard asks for the same series again and again, and blocks never change."""

from __future__ import annotations

import threading
from collections import OrderedDict

from esnode.store.codec import Column

MOST_BYTES = 8 * 1024 * 1024
_OVERHEAD = 300  # of an entry's own objects


class Recent:
    """The columns used last, by chunk and place there, in at most `most_bytes`. Usable from all threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._columns: OrderedDict[tuple[int, int], Column] = OrderedDict()
        self._bytes = 0

    def get(self, chunk: int, column: int) -> Column | None:
        """The column, if it is still known."""
        with self._lock:
            found = self._columns.get((chunk, column))
            if found is not None:
                self._columns.move_to_end((chunk, column))
            return found

    def put(self, chunk: int, column: int, samples: Column) -> None:
        """Remember a column; it is handed out as it is, so nobody may write into it any more."""
        samples.values.flags.writeable = False
        with self._lock:
            if (chunk, column) not in self._columns:
                self._columns[chunk, column] = samples
                self._bytes += _size(samples)
            while self._bytes > self._most_bytes:
                _place, oldest = self._columns.popitem(last=False)
                self._bytes -= _size(oldest)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._columns.clear()
            self._bytes = 0


def _size(samples: Column) -> int:
    return _OVERHEAD + samples.values.nbytes + (0 if samples.present is None else samples.present.nbytes)
