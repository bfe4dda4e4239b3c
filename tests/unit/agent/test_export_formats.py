# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times and texts of an export are read back as what they were."""

from __future__ import annotations

import json

import numpy as np
from esnode.serve.export_formats import _Times, json_lines
from esnode.store import SeriesData, SeriesId
from hypothesis import given
from hypothesis import strategies as st

# Some of those after 2038 are off by one without care.
stamps = st.one_of(st.integers(-(10**12), 10**13), st.integers(2_147_483_648_000, 2_199_023_255_552))


@given(st.lists(stamps, max_size=30), st.lists(stamps, max_size=30))
def test_a_reader_that_multiplies_and_cuts_gets_every_millisecond(first: list[int], second: list[int]) -> None:
    spell = _Times()
    for times in (first, first, second):
        texts = spell(np.array(times, np.int64))
        assert [int(float(text) * 1000) for text in texts] == times
        assert all(text.startswith(" ") and text.endswith("\n") for text in texts)


@given(
    st.lists(st.floats(), min_size=1, max_size=30),
    st.dictionaries(st.text(min_size=1), st.text(min_size=1), max_size=3),
)
def test_json_lines_are_json(values: list[float], labels: dict[str, str]) -> None:
    labels.pop("__name__", None)
    times = np.arange(len(values))
    lines = [json.loads(line) for line in json_lines([SeriesData(SeriesId.of("a", labels), times, np.array(values))])]
    assert all(line["metric"] == {"__name__": "a", **labels} for line in lines)
    numbers = {t: v for line in lines for t, v in zip(line["timestamps"], line["values"], strict=True)}
    spelt = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
    assert numbers == {t: None if v != v else spelt.get(v, v) for t, v in enumerate(values)}
