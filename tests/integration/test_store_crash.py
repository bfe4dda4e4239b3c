# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store whose process is killed at any moment loses nothing that was said to be durable."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from esnode import store
from samples import START_MS, bits, row
from store_appender import SERIES

ROOT = Path(__file__).parents[2]


class Process:
    """The appending process; `acknowledged`: the last tick that it said was durable."""

    def __init__(self, folder: Path, first: int, seal_rows: int) -> None:
        paths = (ROOT / "tests/unit/agent/store", Path(store.__file__).parents[2])
        self._process = subprocess.Popen(
            [sys.executable, ROOT / "tests/integration/store_appender.py", folder, str(first), str(seal_rows)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
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


def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Blocks are so small that most kills hit a flush, a seal or a checkpoint."""
    rng = random.Random(5)
    ticks = 0
    for _ in range(20):
        acknowledged = Process(tmp_path / "store", ticks, seal_rows=15).kill_after(rng.uniform(0.01, 0.5))
        ticks = check_prefix(tmp_path / "store", 0 if acknowledged is None else acknowledged + 1)
    assert ticks > 100


def test_a_kill_while_sealing_leaves_no_half_block(tmp_path: Path) -> None:
    acknowledged = Process(tmp_path / "store", 0, seal_rows=10).kill_after(1.0)
    ticks = check_prefix(tmp_path / "store", acknowledged or 0)
    with store.open(tmp_path / "store", store.Options(wall=lambda: START_MS / 1000)) as one:
        one.seal()
        blocks = one._catalog.numbers()
        chunks = {int(str(number)) >> 28 for (number,) in one._database.all("SELECT id FROM chunk")}
        assert chunks == blocks
        assert len(one.select()[0].times) == ticks


def test_a_second_process_is_refused_and_says_who_has_it(tmp_path: Path) -> None:
    process = Process(tmp_path / "store", 0, seal_rows=100)
    try:
        with pytest.raises(store.StoreBusy, match=f"in use by process {process._process.pid}"):
            store.open(tmp_path / "store")
    finally:
        acknowledged = process.kill_after(0.2)
    check_prefix(tmp_path / "store", acknowledged or 0)  # and a dead one holds nothing
