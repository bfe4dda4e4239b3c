# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was appended is on the disk in time, and nothing that was said to be there is gone after a cut."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest
from esnode import store
from samples import START_MS, eventually, fill, named, row


def test_samples_are_durable_on_the_clock_without_a_flush(tmp_path: Path) -> None:
    with store.open(tmp_path / "store", store.Options(flush_s=0.2)) as one:
        fill(one, 3)
        eventually(lambda: one.stats().unwritten_rows == 0)
        with store.open_for_reading(tmp_path / "store") as reading:
            assert len(reading.select()[0].times) == 3


def test_the_default_flushes_within_ten_seconds() -> None:
    assert store.Options().flush_s <= 5


def test_appending_does_not_touch_the_disk(tmp_path: Path) -> None:
    with store.open(tmp_path / "store", store.Options(flush_s=3600)) as one:
        one.settle()
        before = one._database.all("SELECT count(*) FROM head")
        fill(one, 50)
        assert one._database.all("SELECT count(*) FROM head") == before
        assert one.stats().unwritten_rows == 50


def test_one_commit_holds_all_that_waited(tmp_path: Path) -> None:
    """Writing every scrape by itself would cost the device four times the bytes."""
    with store.open(tmp_path / "store", store.Options(flush_s=3600)) as one:
        fill(one, 50)
        one.flush()
        kinds = one._database.all("SELECT count(*) FROM head")
        assert kinds == [(3,)], "the names, the layout and one batch of rows"


def test_any_cut_of_the_wal_leaves_a_clean_prefix(tmp_path: Path) -> None:
    live = tmp_path / "live"
    with store.open(live, store.Options(flush_s=3600)) as one:
        one.settle()
        one._database.checkpoint()
        for tick in range(12):
            one.append(START_MS + tick, row(4, tick))
            one.flush()
        shutil.copytree(live, tmp_path / "copy")
    size = (tmp_path / "copy/store.db-wal").stat().st_size
    rng = random.Random(3)
    seen = set()
    for cut in sorted({0, 1, size - 1, *(rng.randrange(size) for _ in range(25))}):
        torn = tmp_path / "torn"
        shutil.copytree(tmp_path / "copy", torn)
        os.truncate(torn / "store.db-wal", cut)
        (torn / "store.db-shm").unlink(missing_ok=True)
        with store.open(torn) as one:
            got = one.select([store.Matcher("gpu", "=", "1")])
            ticks = len(got[0].times) if got else 0
            assert not got or got[0].values.tolist() == [row(4, tick)[named(1)] for tick in range(ticks)]
            assert not one.stats().damaged
            seen.add(ticks)
        shutil.rmtree(torn)
    assert len(seen) > 5


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with store.open(tmp_path / "store"), pytest.raises(store.StoreBusy):
        store.open(tmp_path / "store")
    store.open(tmp_path / "store").close()
