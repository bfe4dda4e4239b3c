# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store never takes more of the disk than it may, however much comes."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from esnode.store import SeriesId
from esnode.store.model import MIB, SMALLEST_BYTES
from esnode.store.store import folder_bytes
from opened_stores import Opener
from samples import START_MS, named

SERIES = [named(n) for n in range(1000)]


def noise(rng: np.random.Generator, series: int) -> dict[SeriesId, float]:
    """Numbers of 6.5 bytes that no codec makes smaller."""
    return dict(zip(SERIES[:series], rng.integers(0, 2**52, series).astype(float).tolist(), strict=True))


class Sampler:
    """Looks at the size of a folder all the time."""

    def __init__(self, folder: Path) -> None:
        self.most = self.looks = 0
        self._folder, self._stop = folder, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(0.003):
            self.most = max(self.most, folder_bytes(self._folder))
            self.looks += 1

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_limit_of_size_holds_at_every_moment_and_the_oldest_go(
    opened: Opener, tmp_path: Path, key_file: Path, encrypted: bool
) -> None:
    one = opened(max_bytes=SMALLEST_BYTES, seal_rows=150, flush_s=0.2, key_file=key_file if encrypted else None)
    rng = np.random.default_rng(1)
    ticks = 1500  # of 1,000 series and 6.5 bytes: more than the limit
    with Sampler(tmp_path / "store") as sampler:
        for tick in range(ticks):
            one.append(START_MS + tick, noise(rng, 1000))
            if tick % 150 == 149:
                one.settle()
    assert sampler.looks > 50
    assert SMALLEST_BYTES * 3 // 4 < sampler.most <= SMALLEST_BYTES
    assert one.stats().dropped_blocks >= 2
    assert one.stats().lost.rows == 0
    (times,) = {tuple(data.times.tolist()) for data in one.select()}
    assert times == tuple(range(times[0], START_MS + ticks)), "the newest without a hole, nothing else"
    assert len(times) * 1000 * 6.5 > SMALLEST_BYTES // 2, "no more than needed goes"


def test_a_log_that_alone_fills_the_file_becomes_blocks(opened: Opener, tmp_path: Path) -> None:
    """More comes than can be sealed in time: what is lost is the oldest, and the store does not get stuck."""
    one = opened(max_bytes=SMALLEST_BYTES, seal_rows=100, flush_s=0.01)
    rng = np.random.default_rng(1)
    ticks = 1500
    with Sampler(tmp_path / "store") as sampler:
        for tick in range(ticks):
            one.append(START_MS + tick, noise(rng, 1000))
            if tick % 20 == 19:
                one.flush()
        one.settle()
    assert sampler.most <= SMALLEST_BYTES
    assert one.stats().problem is None
    (times,) = {tuple(data.times.tolist()) for data in one.select()}
    assert times[-300:] == tuple(range(START_MS + ticks - 300, START_MS + ticks))
    chunks = {int(str(number)) >> 28 for (number,) in one._database.all("SELECT id FROM chunk")}
    assert chunks == one._catalog.numbers()


def test_a_lower_limit_shrinks_the_file(opened: Opener, tmp_path: Path) -> None:
    one = opened(max_bytes=32 * MIB, seal_rows=100)
    rng = np.random.default_rng(1)
    for tick in range(1500):
        one.append(START_MS + tick, noise(rng, 1000))
    one.settle()
    one.close()
    before = folder_bytes(tmp_path / "store")
    assert before > 9 * MIB
    one = opened(max_bytes=SMALLEST_BYTES)
    one.settle()
    assert folder_bytes(tmp_path / "store") <= SMALLEST_BYTES
    (times,) = {tuple(data.times.tolist()) for data in one.select()}
    assert times[-1] == START_MS + 1499
    assert not one.stats().damaged
