# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON of queries says what was found, in Prometheus' words; whether it is right is asked of that itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
from esnode.serve import prometheus_api
from esnode.store import SeriesData, SeriesId
from esnode.store.selecting import Selecting
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

START_MS = 1_700_000_000_000
WORDS = {"NaN": math.nan, "+Inf": math.inf, "-Inf": -math.inf}


class Given(Selecting):
    """A store with these pieces in it."""

    def __init__(self, pieces: list[SeriesData]) -> None:
        self._pieces_given = pieces

    def export(self, *_: object) -> Iterator[SeriesData]:
        return iter(self._pieces_given)


def number(text: str) -> float:
    return WORDS[text] if text in WORDS else float(text)


@given(
    st.lists(st.lists(st.floats(), min_size=1, max_size=12), min_size=1, max_size=4),
    st.sampled_from((1000, 2000, 1500, 7)),
)
def test_query_range(columns: list[list[float]], step: int) -> None:
    times = [START_MS + step * np.arange(len(values)) for values in columns]
    names = [SeriesId.of("a", {"n": str(place), "text": 'ä"\\\n'}) for place in range(len(columns))]
    store = Given([SeriesData(*one) for one in zip(names, times, map(np.array, columns), strict=True)])
    end = START_MS + step * (max(map(len, columns)) - 1)
    asked = MultiDict({"query": "a", "start": START_MS / 1000, "end": end / 1000, "step": step / 1000})
    for key, value in tuple(asked.items()):
        asked[key] = str(value)
    answer = json.loads(prometheus_api.query_range(store, asked, iter))
    assert answer["resultType"] == "matrix"
    for series, values, found in zip(names, columns, answer["result"], strict=True):
        assert found["metric"] == {"__name__": "a", **series.labels}
        moments = range(START_MS, end + 1, step)
        known = [*values, *[values[-1]] * (len(moments) - len(values))]  # found again within the lookback
        assert [point[0] for point in found["values"]] == [moment / 1000 for moment in moments]
        got = np.array([number(point[1]) for point in found["values"]])
        assert np.array_equal(got, known, equal_nan=True)
        assert np.array_equal(np.signbit(got), np.signbit(np.where(np.isnan(known), 1.0, known)))


def test_numbers_are_written_as_short_as_prometheus_does() -> None:
    values = {"whole": 5.0, "large": 123456789012.0, "decimal": 0.25, "nothing": -0.0, "over": math.inf}
    store = Given(
        [SeriesData(SeriesId(name), np.array([START_MS]), np.array([value])) for name, value in values.items()]
    )
    answer = json.loads(
        prometheus_api.query(store, MultiDict({"query": "{a=~'.+'}", "time": str(START_MS / 1000)}), iter)
    )
    found = {one["metric"]["__name__"]: one["value"] for one in answer["result"]}
    assert {name: text for name, (_, text) in found.items()} == {
        "whole": "5",
        "large": "123456789012",
        "decimal": "0.25",
        "nothing": "-0.0",
        "over": "+Inf",
    }
    assert {time for time, _ in found.values()} == {START_MS // 1000}
