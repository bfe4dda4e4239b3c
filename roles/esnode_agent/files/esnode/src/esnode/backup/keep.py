# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups stay: all of the last two days, then the last of each day, for so many days; always the newest."""

from __future__ import annotations

from collections.abc import Iterable

from esnode.backup import BackupError
from esnode.backup.manifest import Manifest, newest_first, newest_whole, read, taken_ms
from esnode.backup.places import Place

DAY_MS = 86_400_000
ALL_OF_MS = 2 * DAY_MS
TOGETHER = 100  # what is doomed only because others of its day stay is deleted so many at a time


def doomed(names: Iterable[str], now_ms: int, days: float) -> list[str]:
    """Manifests that need not stay, the oldest first: not the last of their day (UTC), or of more than `days` ago.

    The last of a day goes only when there are backups of as many later days, too: a clock that was wrong for an hour
    must not make all others old.
    """
    going: list[str] = []
    days_seen: set[int] = set()
    for place, name in enumerate(newest_first(names)):
        taken = taken_ms(name) or 0
        day = taken // DAY_MS
        too_old = taken < now_ms - days * DAY_MS and len(days_seen) >= days
        if place and (too_old or (day in days_seen and taken < now_ms - ALL_OF_MS)):
            going.append(name)
        days_seen.add(day)
    return going[::-1]


def prune(place: Place, now_ms: int, days: float, known: dict[str, Manifest], at_least: int = TOGETHER) -> int:
    """Delete what need not stay, then files that no backup has; return how many files went.

    `known`: manifests that need not be read. Nothing is done before `at_least` manifests can go or one is too old.
    Only a manifest that can't be read keeps files from being deleted: what it needs is not known.
    """
    sizes = place.sizes()
    whole = newest_whole(place, sizes, now_ms)
    going = [name for name in doomed(sizes, now_ms, days) if whole is not None and name != whole[0]]
    too_old = any((taken_ms(name) or 0) < now_ms - days * DAY_MS for name in going)
    if not going or (len(going) < at_least and not too_old):
        return 0
    place.delete(going)
    needed: set[str] = set()
    for name in newest_first(set(sizes) - set(going)):
        try:
            manifest = known[name] if name in known else read(place, name)
        except (BackupError, OSError):
            return len(going)
        needed.update(file.name for file in manifest.files)
    unused = [name for name in sizes if taken_ms(name) is None and name not in needed]
    place.delete(unused)
    return len(going) + len(unused)
