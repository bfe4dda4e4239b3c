# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read lately is given again without a look at the disk, within its bounds and never for something else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from esnode import store
from esnode.store import Matcher, SeriesId
from esnode.store.codec import Column
from esnode.store.recent import Recent
from samples import START_MS

LOAD, TEMPERATURE = SeriesId("load"), SeriesId("temperature", (("gpu", "0"),))


def test_the_oldest_goes_when_there_is_no_room() -> None:
    recent = Recent(most_bytes=3 * 1200)
    columns = [Column(None, np.full(100, float(number))) for number in range(4)]
    for number in range(3):
        recent.put(7, number, columns[number])
    assert recent.get(7, 0) is columns[0]  # so 1 was used longest ago
    recent.put(7, 3, columns[3])
    assert [recent.get(7, number) for number in range(4)] == [columns[0], None, columns[2], columns[3]]
    recent.put(7, 0, columns[1])
    assert recent.get(7, 0) is columns[0], "the same place is counted once"
    with pytest.raises(ValueError, match="read-only"):
        columns[0].values[0] = 1.0
    recent.clear()
    assert recent.get(7, 0) is None


def test_a_second_selection_reads_no_chunk_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
        for row in range(50):
            sample = {LOAD: row / 10}
            if row % 3:
                sample[TEMPERATURE] = float(row)
            one.append(START_MS + 1000 * row, sample)
        one.seal()
        first = one.select([Matcher("gpu", "=", "0")])
        unread = one.select([Matcher("__name__", "=", "load")], START_MS + 10_000, START_MS + 20_000)
        monkeypatch.setattr(one._catalog, "_chunk", lambda *_arguments: pytest.fail("a chunk was read"))
        again = one.select([Matcher("gpu", "=", "0")])
        assert [(data.series, data.times.tolist(), data.values.tolist()) for data in again] == [
            (data.series, data.times.tolist(), data.values.tolist()) for data in first
        ]
        assert again[0].values.tolist() == [float(row) for row in range(50) if row % 3]
        # Another span of what was read before.
        (part,) = one.select([Matcher("__name__", "=", "load")], START_MS + 15_000, START_MS + 16_000)
        assert part.values.tolist() == [1.5, 1.6] == unread[0].values.tolist()[5:7]
