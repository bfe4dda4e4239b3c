# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and durations are read as they are meant, or refused."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from esnode.serve.times import TimeError, duration_ms, moment_ms, prometheus_ms
from esnode.store import FOREVER_MS
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_700_000_000_000
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 90_000),
        ("1h30m", 5_400_000),
        ("7d", 168 * HOUR),
        ("1w", 168 * HOUR),
        ("250ms", 250),
        ("1.5h", 5_400_000),
        ("15", 15_000),
        ("0.5", 500),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "5 m", "m", "-5m", "0", "0s", "1x", "1h30", "1e400", "nan", "5M"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(TimeError):
        duration_ms(text)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("now", NOW),
        ("-168h", NOW - 168 * HOUR),
        ("-15m", NOW - HOUR // 4),
        ("now-1h30m", NOW - 3 * HOUR // 2),
        ("now - 1h", NOW - HOUR),
        ("now+1h", NOW + HOUR),
        ("+1h", NOW + HOUR),
        (" 1h", NOW - HOUR),  # a + that was not escaped in a URL would be a space, and nobody exports the future
        ("7d", NOW - 168 * HOUR),
        ("1700000000", NOW),
        ("1700000000.25", NOW + 250),
        ("1700000000000", NOW),
        ("0", 0),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T22:13:20.125Z", NOW + 125),
        ("2023-11-14T23:13:20+01:00", NOW),
        ("2023-11-14T23:13:20 01:00", NOW),
        ("2023-11-14 22:13:20", NOW),
        ("2023-11-14T16:43:20-05:30", NOW),
        ("2023-11-14T22:13Z", NOW - 20_000),
        ("2023-11-14", NOW // 86_400_000 * 86_400_000),
    ],
)
def test_moments(text: str, ms: int) -> None:
    assert moment_ms(text, NOW) == ms


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "now1h", "now-", "-", "-3600", "1e9", "2023-13-01", "2023-11-14T25:00:00Z", "nan", "5x", "--1h"],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(TimeError, match=r"no time"):
        moment_ms(text, NOW)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1)))
def test_rfc_3339_to_the_millisecond(moment: datetime) -> None:
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=timezone.utc)
    text = moment.isoformat(timespec="milliseconds")
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    ms = (since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000
    assert moment_ms(text, NOW) == prometheus_ms(text) == ms


def test_what_clients_of_prometheus_send() -> None:
    assert prometheus_ms("1700000000.125") == NOW + 125
    assert prometheus_ms("1.7e9") == NOW
    assert prometheus_ms("1700000000000") == NOW * 1000  # always seconds there
    assert prometheus_ms("-292273086-05-16T16:47:06Z") == -FOREVER_MS
    assert prometheus_ms("292277025-08-18T07:12:54.999999999Z") == FOREVER_MS
    assert prometheus_ms("-9223309901257974") == -FOREVER_MS
    for text in ("now", "-1h", "nan", ""):
        with pytest.raises(TimeError):
            prometheus_ms(text)
