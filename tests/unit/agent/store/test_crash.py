# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A power cut, a kill and a torn file cost nothing that was said to be durable."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from appender import SERIES
from esnode import store
from samples import START_MS, bits, eventually, fill, named, row

HERE = Path(__file__).parent


class Process:
    """The appending process; `acknowledged`: the last tick that it said was durable."""

    def __init__(self, folder: Path, first: int, seal_rows: int) -> None:
        path = f"{HERE}{os.pathsep}{Path(store.__file__).parents[2]}"
        self._process = subprocess.Popen(
            [sys.executable, HERE / "appender.py", folder, str(first), str(seal_rows)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def kill_after(self, seconds: float) -> int | None:
        time.sleep(seconds)
        self._process.send_signal(signal.SIGKILL)
        out, _ = self._process.communicate()
        # The last line may be torn, as everything that a killed process does.
        lines = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
        return int(lines[-1]) if lines else None


def check_prefix(path: Path, at_least: int) -> int:
    """All ticks from 0 up to some one, of each series, whole and right; return how many."""
    with store.open(path, store.Options(wall=lambda: START_MS / 1000)) as one:
        got = one.select()
        ticks = len(got[0].times) if got else 0
        assert ticks >= at_least
        wanted = [row(SERIES, tick) for tick in range(ticks)]
        for data in got:
            assert data.times.tolist() == [START_MS + tick for tick in range(ticks)]
            assert bits(data.values) == bits([samples[data.series] for samples in wanted])
        assert not one.stats().damaged
    return ticks


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Blocks are so small that most kills hit a flush, a seal or a checkpoint."""
    rng = random.Random(5)
    ticks = 0
    for _ in range(25):
        acknowledged = Process(tmp_path / "store", ticks, seal_rows=15).kill_after(rng.uniform(0.01, 0.6))
        ticks = check_prefix(tmp_path / "store", 0 if acknowledged is None else acknowledged + 1)
    assert ticks > 500


def test_a_kill_while_sealing_leaves_no_half_block(tmp_path: Path) -> None:
    acknowledged = Process(tmp_path / "store", 0, seal_rows=10).kill_after(1.0)
    ticks = check_prefix(tmp_path / "store", acknowledged or 0)
    with store.open(tmp_path / "store", store.Options(wall=lambda: START_MS / 1000)) as one:
        one.seal()
        blocks = one._catalog.numbers()
        chunks = {row[0] >> 28 for row in one._database.all("SELECT id FROM chunk")}
        assert chunks == blocks
        assert len(one.select()[0].times) == ticks


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


def test_a_second_process_is_refused_and_says_who_has_it(tmp_path: Path) -> None:
    process = Process(tmp_path / "store", 0, seal_rows=100)
    try:
        with pytest.raises(store.StoreBusy, match=f"in use by process {process._process.pid}"):
            store.open(tmp_path / "store")
    finally:
        acknowledged = process.kill_after(0.2)
    check_prefix(tmp_path / "store", acknowledged or 0)  # and a dead one holds nothing


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with store.open(tmp_path / "store"), pytest.raises(store.StoreBusy):
        store.open(tmp_path / "store")
    store.open(tmp_path / "store").close()
