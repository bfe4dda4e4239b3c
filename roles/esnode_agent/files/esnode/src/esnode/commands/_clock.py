# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times for people: in the zone of this machine or in UTC, and round ticks for an axis of time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

_STEPS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * m for m in (1, 2, 5, 10, 15, 30)),
    *(3600 * h for h in (1, 2, 3, 6, 12)),
    *(86400 * d for d in (1, 2, 7, 14, 28)),
)


class Clock:
    """Writes times (ms since 1970) in UTC or in local time."""

    def __init__(self, *, utc: bool) -> None:
        self._zone = timezone.utc if utc else None
        self._utc = utc

    def at(self, time_ms: float) -> datetime:
        """The time, with its zone."""
        return datetime.fromtimestamp(time_ms / 1000, timezone.utc).astimezone(self._zone)

    def zone(self, time_ms: float) -> str:
        """Which zone's times these are: "UTC", or "local time, CET (UTC+01:00)"."""
        if self._utc:
            return "UTC"
        moment = self.at(time_ms)
        offset = f"UTC{moment:%z}"
        name = moment.tzname() or ""
        shown = f"{offset[:-2]}:{offset[-2:]}"
        return (
            f"local time, {name} ({shown})"
            if name and not name.startswith(("UTC", "+", "-"))
            else f"local time, {shown}"
        )

    def full(self, time_ms: float) -> str:
        """Date and time to the second."""
        return f"{self.at(time_ms):%Y-%m-%d %H:%M:%S}"

    def span(self, from_ms: float, to_ms: float) -> str:
        """From when to when, the date once if it is the same."""
        same = self.at(from_ms).date() == self.at(to_ms).date()
        return f"{self.full(from_ms)} to {self.at(to_ms).strftime('%H:%M:%S') if same else self.full(to_ms)}"

    def ticks(self, from_ms: float, to_ms: float, most: int) -> list[tuple[float, str]]:
        """At most `most` round times in the span with what to write there; the date where a day begins."""
        length_s = max((to_ms - from_ms) / 1000, 1)
        step_s = next((step for step in _STEPS_S if length_s / step <= most), length_s / most)
        moment = self.at(from_ms)
        # Without a zone a datetime counts by the local calendar, so a day of 23 or 25 hours moves no tick.
        midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=self._zone)
        ticks: list[tuple[float, str]] = []
        for number in range(int((from_ms / 1000 - midnight.timestamp()) // step_s), 10**6):
            tick = midnight + timedelta(seconds=number * step_s)
            at_ms = tick.timestamp() * 1000
            if at_ms > to_ms or len(ticks) > most:
                break
            if at_ms >= from_ms:
                shown = self.at(at_ms)
                day = shown.hour == shown.minute == shown.second == 0
                ticks.append(
                    (at_ms, f"{shown:%m-%d}" if day else f"{shown:%H:%M:%S}" if step_s < 60 else f"{shown:%H:%M}")
                )
        return ticks
