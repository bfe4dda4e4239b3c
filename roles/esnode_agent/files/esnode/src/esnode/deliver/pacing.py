# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast and how often to send: a bounded rate, and waits between tries that grow and are never the same."""

from __future__ import annotations

import email.utils
import random
import time

FIRST_S, LONGEST_S = 1.0, 60.0
_MOST_ASKED_S = 3600.0


class Pacer:
    """Spreads samples so that at most `rate` of them go out in a second."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free_at = rate, 0.0

    def delay_s(self, samples: int, now: float) -> float:
        """Seconds to wait at `now` before sending so many samples; they count as sent then."""
        start = max(self._free_at, now)
        self._free_at = start + samples / self._rate
        return start - now


class Backoff:
    """Waits between tries: doubled from 1 s to 60 s, each cut by up to half at random."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def wait_s(self, asked_s: float | None = None) -> float:
        """Seconds until the next try; no less than what the receiver asked for."""
        wait_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, LONGEST_S)
        return max(wait_s, asked_s or 0.0)

    def reset(self) -> None:
        """It has worked."""
        self._next_s = FIRST_S


def retry_after_s(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, an hour at most; None when there is none that can be read."""
    if header is None:
        return None
    try:
        seconds = float(header) if header.strip().isdigit() else _until(header)
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MOST_ASKED_S)


def _until(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp() - time.time()
