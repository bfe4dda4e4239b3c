# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An answer of remote read is built whole in memory, so it has a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from esnode import store
from esnode.serve import remote_read
from esnode.serve.batches import batches
from esnode.store import Matcher, SeriesId, TooMany


def test_more_samples_than_fit_into_an_answer_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_read, "MOST_SAMPLES", 100)
    with store.open(tmp_path) as filled:
        for tick in range(50):
            filled.append(1000 * tick, {SeriesId("a"): 1.0, SeriesId("b"): 2.0})
        one, other = (remote_read.Query(0, 10**6, [Matcher("__name__", "=", name)]) for name in "ab")
        assert remote_read.response(filled, [one, other])
        # The limit is of the answer, not of each query in it.
        with pytest.raises(TooMany, match=r"more than 100 samples .* fewer series or a shorter time"):
            remote_read.response(filled, [one, other, one])


def test_batches_leave_no_series_out_and_give_none_twice(tmp_path: Path) -> None:
    series = [SeriesId.of("a", {"n": f"{n:03d}"}) for n in range(50)]
    with store.open(tmp_path) as filled:
        filled.append(1000, dict.fromkeys(series, 1.0))
        filled.append(2000, dict.fromkeys([*series, SeriesId("b")], 2.0))
        found = [data for batch in batches(filled, series, 0, 10_000) for data in batch]
    assert [data.series for data in found] == series
    assert all(data.times.tolist() == [1000, 2000] for data in found)
