# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in tables and pictures: numbers, units, labels, times and sparklines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from esnode.commands import _labels
from esnode.commands._clock import Clock
from esnode.commands._table import bars
from esnode.commands._units import number, scale_for, scaled, unit_of
from esnode.store import SeriesId
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (700.0, "700"), (1234567.0, "1234567"), (0.1234567, "0.1235"), (12.5, "12.5"), (694.382, "694.4"),
        (1e-7, "1e-07"), (-0.5, "-0.5"), (math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf"),
    ],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_number_is_shown_to_four_digits(value: float) -> None:
    assert float(number(value)) == pytest.approx(value, rel=6e-4, abs=1e-300)


def test_units() -> None:
    assert scaled(1536 * 1024.0**2, "bytes") == "1.500 GiB"
    assert scaled(1980e6, "Hz") == "1.980 GHz"
    assert scaled(46.0, "degC") == "46 °C"
    assert scaled(693.25, "W") == "693.2 W"
    assert unit_of("esnode_gpu_power_watts") == "W"
    assert unit_of("esnode_scrape_duration_seconds_sum") == "s"
    assert unit_of("esnode_scrape_duration_seconds_bucket") == "count"
    assert unit_of("up") == ""


def test_values_that_stand_together_have_one_scale() -> None:
    scale = scale_for("bytes", [512.0, 3 * 1024.0**3, math.nan])
    assert (scale.unit, scale.text(3 * 1024.0**3), scale.text(512.0)) == ("GiB", "3.000", "0.000")
    assert scale_for("count", [3.0, 12.0]).text(7.0) == "7"


def gpus(count: int) -> list[SeriesId]:
    return [SeriesId.of("w", {"uuid": f"GPU-{at:032d}", "index": str(at), "host": "a"}) for at in range(count)]


def test_series_are_told_apart_by_as_little_as_it_takes() -> None:
    eight = gpus(8)
    assert _labels.varying(eight) == ["index", "uuid"]
    assert _labels.distinguishing(eight) == ["index"]
    assert _labels.short(eight[3], ["index"]) == "index=3"
    assert _labels.selector(_labels.common(eight)) == 'w{host="a"}'
    sensors = [SeriesId.of("t", {"index": i, "sensor": s}) for i in "01" for s in ("gpu", "memory")]
    assert _labels.distinguishing(sensors) == ["index", "sensor"]
    named = [SeriesId("esnode_load1"), SeriesId("esnode_load5")]
    assert [_labels.short(one, _labels.distinguishing(named)) for one in named] == ["esnode_load1", "esnode_load5"]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1, max_size=12))
def test_what_distinguishes_does(labels: list[dict[str, str]]) -> None:
    series = sorted({SeriesId.of("m", one) for one in labels})
    wanted = _labels.distinguishing(series)
    assert len({_labels.short(one, wanted) for one in series}) == len(series)


def test_sparklines() -> None:
    assert bars([0.0, None, 7.0]) == "▁ █"
    assert bars([50.0, 100.0], 0.0, 100.0) == "▅█"
    assert bars([5.0, 5.0]) == "▁▁"
    assert bars([None, None]) == "  "
    assert bars([-5.0, 500.0], 0.0, 100.0) == "▁█", "what is out of the scale stays in the picture"


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def ms(*parts: int) -> float:
    return datetime(*parts, tzinfo=timezone.utc).timestamp() * 1000  # type: ignore[arg-type,misc]


def test_the_zone_is_said(berlin: None) -> None:
    at = ms(2026, 1, 15, 12, 0, 0)
    assert (Clock(utc=False).full(at), Clock(utc=False).zone(at)) == (
        "2026-01-15 13:00:00",
        "local time, CET (UTC+01:00)",
    )
    assert (Clock(utc=True).full(at), Clock(utc=True).zone(at)) == ("2026-01-15 12:00:00", "UTC")
    assert Clock(utc=False).span(at, at + 3_600_000) == "2026-01-15 13:00:00 to 14:00:00"


def test_ticks_are_round_and_days_begin_at_midnight_over_a_change_of_the_clock(berlin: None) -> None:
    hour = Clock(utc=False).ticks(ms(2026, 1, 15, 12, 7, 30), ms(2026, 1, 15, 13, 7, 30), 6)
    assert [text for _, text in hour] == ["13:10", "13:20", "13:30", "13:40", "13:50", "14:00"]
    week = Clock(utc=False).ticks(ms(2026, 3, 27, 9, 0, 0), ms(2026, 4, 1, 9, 0, 0), 7)
    assert [text for _, text in week] == ["03-28", "03-29", "03-30", "03-31", "04-01"]


@given(st.integers(0, 4_000_000_000_000), st.integers(1, 10**11), st.integers(2, 12))
def test_ticks_lie_in_the_span(start: int, length: int, most: int) -> None:
    ticks = Clock(utc=True).ticks(start, start + length, most)
    times = [at for at, _ in ticks]
    assert times == sorted(set(times)) and all(start <= at <= start + length for at in times)
    assert len(ticks) <= most + 1
