# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found damaged: each part counted once, said once."""

from __future__ import annotations

import logging
import threading
from collections import Counter

_log = logging.getLogger("esnode.store")


class Damage:
    """Counts distinct damaged parts by kind: head, grp, block, chunk (what holds samples), database (its own pages)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: set[tuple[str, int]] = set()
        self._counts: Counter[str] = Counter()

    def note(self, kind: str, number: int, why: object) -> None:
        """Count a part unless it was counted before."""
        with self._lock:
            if (kind, number) in self._seen:
                return
            self._seen.add((kind, number))
            self._counts[kind] += 1
        _log.warning("%s %d of the store is damaged and left out: %s", kind, number, why)

    def counts(self) -> dict[str, int]:
        """Damaged parts met, by kind."""
        with self._lock:
            return dict(self._counts)
