# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast, how much at once and how often to send: a bounded rate, requests that fit, and waits that grow."""

from __future__ import annotations

import email.utils
import random
import time
from datetime import timezone

FIRST_S, LONGEST_S = 1.0, 60.0
_MOST_ASKED_S = 3600.0
LEAST = 50  # samples: a smaller request is not refused for its size
_REFUSED_S = 600.0  # how long a size that was too large is not tried again
_GROW_AFTER = 20  # requests that were taken


class Pacer:
    """Spreads samples so that at most `rate` of them go out in a second."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free_at = rate, 0.0

    def delay_s(self, samples: int, now: float) -> float:
        """Seconds to wait at `now` before sending so many samples; they count as sent then."""
        start = max(self._free_at, now)
        self._free_at = start + samples / self._rate
        return start - now


class Size:
    """How many samples go into one request: `most`, until the receiver says that this is too large.

    Ten minutes after it has said so for the last time the size is doubled after every 20 requests that are taken.
    """

    def __init__(self, most: int) -> None:
        self.samples = self._most = most
        self._taken, self._grow_at = 0, 0.0

    def too_large(self, samples: int, now: float) -> None:
        """A request of so many samples was too large at `now`."""
        if samples > LEAST:
            self.samples = max(LEAST, samples // 2)
            self._taken, self._grow_at = 0, now + _REFUSED_S

    def taken(self, now: float) -> None:
        """A request was taken at `now`."""
        self._taken += 1
        if self._taken >= _GROW_AFTER and now >= self._grow_at:
            self.samples, self._taken = min(2 * self.samples, self._most), 0


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


def retry_after_s(header: str | None, date: str | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, an hour at most; None when there is none that can be read.

    `date`: the Date header beside it, since one that names a moment does so by the receiver's clock.
    """
    if header is None:
        return None
    if header.strip().isdecimal():
        seconds = float(header)
    else:
        until, now = _unix_s(header), _unix_s(date or "")
        if until is None:
            return None
        seconds = until - (time.time() if now is None else now)
    return min(max(seconds, 0.0), _MOST_ASKED_S)


def _unix_s(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
