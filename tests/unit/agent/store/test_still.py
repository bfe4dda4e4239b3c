# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader that keeps to what it saw first, while another process writes and seals."""

from __future__ import annotations

import time
from pathlib import Path

from esnode import store
from esnode.store import SeriesId
from esnode.store.readonly import ReadOnlyStore

ONE = SeriesId("m")


def values(reader: ReadOnlyStore) -> list[float]:
    return [value for data in reader.select() for value in data.values.tolist()]


def test_a_still_reader_sees_neither_new_samples_nor_anything_twice(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    with store.open(tmp_path / "store") as writer:
        writer.append(now_ms, {ONE: 1.0})
        writer.flush()
        with (
            store.open_for_reading(tmp_path / "store", still=True) as still,
            store.open_for_reading(tmp_path / "store") as other,
        ):
            assert values(still) == values(other) == [1.0]
            writer.append(now_ms + 1000, {ONE: 2.0})
            writer.flush()
            assert (values(still), values(other)) == ([1.0], [1.0, 2.0])
            writer.seal()  # what was hot is a block now
            assert (values(still), values(other)) == ([1.0], [1.0, 2.0])
