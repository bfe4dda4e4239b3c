# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wall clock that a jump does not carry away.

Retention deletes by age, so a clock that is wrong for some minutes (a dead RTC before NTP answers, a bad time server)
must not delete a week of data. This clock runs on with the monotonic one and follows a jump of the wall clock only when
the wall has stayed there for an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from esnode.store.codec import Ints

TOLERANCE_S = 300.0
CONFIRM_S = 3600.0


def trusted_ms(sealed_ms: int | None, times: Sequence[Ints]) -> int | None:
    """The time of the newest sample without the jumps of the clock, ms; None: there is nothing to tell it by.

    `sealed_ms`: when the newest block was sealed; `times`: of what was appended since, in the order in which it came.
    """
    if not times:
        return sealed_ms
    hot = np.concatenate(times)
    steps = np.diff(hot)
    first = int(hot[0]) if sealed_ms is None else min(int(hot[0]), sealed_ms)
    return first + int(np.sum(steps[np.abs(steps) <= TOLERANCE_S * 1000]))


class SteadyClock:
    """`last_s`: Unix time of the newest sample that is stored, None when there is none to compare with."""

    def __init__(self, wall: Callable[[], float], monotonic: Callable[[], float], last_s: float | None) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._mark = monotonic()
        now = wall()
        self._steady = now if last_s is None or abs(now - last_s) <= TOLERANCE_S else last_s
        self._apart_since: float | None = None
        self._apart_at = 0.0

    def now(self) -> float:
        """Unix time, seconds."""
        tick, wall = self._monotonic(), self._wall()
        self._steady += tick - self._mark
        self._mark = tick
        if abs(wall - self._steady) <= TOLERANCE_S:
            self._steady, self._apart_since = wall, None
        elif self._apart_since is None or abs(wall - tick - self._apart_at) > TOLERANCE_S:
            self._apart_since, self._apart_at = tick, wall - tick
        elif tick - self._apart_since >= CONFIRM_S:
            self._steady, self._apart_since = wall, None
        return self._steady
