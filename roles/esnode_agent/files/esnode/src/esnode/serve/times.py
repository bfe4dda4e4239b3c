# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and durations as people and Prometheus' clients write them."""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone

from esnode.store.model import FOREVER_MS

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdwy])")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_RELATIVE = re.compile(r"(now)?\s*([+-]?)\s*(.*)", re.DOTALL)
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d)(:\d\d)?(\.\d{1,9})?\s*([Zz]|[+ -]\d\d:?\d\d)?)?",
)
_AHEAD_MS = 100_000_000_000  # seconds to the year 5138, milliseconds from 1973 on
# What Prometheus' clients send for "since ever" and "for ever".
_EVER = {"-292273086-05-16T16:47:06Z": -FOREVER_MS, "292277025-08-18T07:12:54.999999999Z": FOREVER_MS}


class TimeError(ValueError):
    """The text is no time or no duration."""


def duration_ms(text: str) -> int:
    """Read `90s`, `1h30m`, `7d`, or a number of seconds; at least 1 ms."""
    text = text.strip()
    if _DURATION.fullmatch(text):
        total = sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text))
    elif _NUMBER.fullmatch(text):
        total = float(text) * 1000
    else:
        raise TimeError(f"{text!r} is no duration: write 30s, 5m, 1h30m or 7d")
    if not 1 <= total <= FOREVER_MS:
        raise TimeError(f"the duration {text} is shorter than 1 ms, or longer than can be")
    return round(total)


def moment_ms(text: str, now_ms: int) -> int:
    """Read a time for people: `now`, `-168h`, `now-1h`, `7d` (ago), RFC 3339, Unix seconds or milliseconds."""
    text = text.strip()
    if text.isascii() and re.fullmatch(r"\d+(\.\d+)?", text):
        number = float(text)
        return _bounded(number if number >= _AHEAD_MS else number * 1000)
    if (moment := _rfc3339_ms(text)) is not None:
        return moment
    parts = _RELATIVE.fullmatch(text)
    if parts is not None:
        now, sign, rest = parts.groups()
        if now and not sign and not rest:
            return now_ms
        if _DURATION.fullmatch(rest) and (sign or not now):
            return _bounded(now_ms + (1 if sign == "+" else -1) * duration_ms(rest))
    raise TimeError(
        f"{text!r} is no time: write now, -168h, now-1h30m, 2026-01-31T12:00:00Z, or Unix seconds or milliseconds"
    )


def prometheus_ms(text: str) -> int:
    """Read a time of Prometheus' API: Unix seconds with a fraction, or RFC 3339."""
    text = text.strip()
    if text in _EVER:
        return _EVER[text]
    if _NUMBER.fullmatch(text):
        return _bounded(float(text) * 1000)
    if (moment := _rfc3339_ms(text)) is not None:
        return moment
    raise TimeError(f"{text!r} is no time: write Unix seconds or 2026-01-31T12:00:00Z")


def _rfc3339_ms(text: str) -> int | None:
    parts = _RFC3339.fullmatch(text)
    if parts is None:
        return None
    day, minute, second, fraction, zone = parts.groups()
    # A + in a URL that was not escaped arrives as a space.
    zone = "+00:00" if zone in (None, "Z", "z") else zone.replace(" ", "+")
    zone = zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
    try:
        moment = datetime.fromisoformat(f"{day}T{minute or '00:00'}{second or ':00'}{zone}")
    except ValueError as error:
        raise TimeError(f"{text!r} is no time: {error}") from error
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    whole = (since.days * 86400 + since.seconds) * 1000
    return whole + int(float(fraction or 0) * 1000 + 0.0005)


def _bounded(number: float) -> int:
    if math.isnan(number):
        raise TimeError("a time must be a number")
    return round(max(-FOREVER_MS, min(FOREVER_MS, number)))
