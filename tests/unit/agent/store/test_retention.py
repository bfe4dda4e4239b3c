# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is too old or too much goes, the oldest first, and the file on the disk gets smaller."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from esnode import store
from esnode.store import SeriesId
from esnode.store.model import MIB
from esnode.store.store import Store, folder_bytes
from samples import START_MS, Clock, fill, gpu, named, row

Opener = Callable[..., Store]
HOUR_MS = 3_600_000


SERIES = [named(n) for n in range(300)]


def noise(rng: np.random.Generator, series: int) -> dict[SeriesId, float]:
    """Numbers of 6.5 bytes that no codec makes smaller."""
    return dict(zip(SERIES[:series], rng.integers(0, 2**52, series).astype(float).tolist(), strict=True))


def test_what_is_too_old_goes_and_the_file_shrinks(opened: Opener, tmp_path: Path, clock: Clock) -> None:
    """`execute("pragma incremental_vacuum")` frees a single page: the size is what counts."""
    one = opened(retention_s=10 * 3600.0, seal_rows=360, **clock.options())
    rng = np.random.default_rng(1)
    for _ in range(10):
        for _ in range(360):
            one.append(int(clock.wall_s * 1000), noise(rng, 300))
            clock.pass_s(10)
        one.settle()
    assert one.stats().dropped_blocks == 0
    full = folder_bytes(tmp_path / "store")
    for _ in range(5):
        for _ in range(360):
            one.append(int(clock.wall_s * 1000), row(1, 0))
            clock.pass_s(10)
        one.settle()
    one._database.checkpoint()
    oldest = one.select(gpu(0))[0].times[0]
    assert clock.wall_s * 1000 - 11 * HOUR_MS <= oldest <= clock.wall_s * 1000 - 9 * HOUR_MS
    assert one.select(gpu(1))[0].times[0] >= oldest
    assert 4 <= one.stats().dropped_blocks <= 6
    assert folder_bytes(tmp_path / "store") < 0.75 * full


def test_names_go_with_the_last_block_that_has_them(opened: Opener, clock: Clock) -> None:
    one = opened(retention_s=3600.0, seal_rows=10, **clock.options())
    for first in range(0, 400, 20):
        for _ in range(10):
            samples = {named(n): 1.0 for n in range(first, first + 20)}
            one.append(int(clock.wall_s * 1000), samples)
            clock.pass_s(60)
        one.settle()
    blocks = one.stats().blocks
    assert blocks < 12
    for table in ("grp", "spare_grp"):
        assert len(one._database.all(f"SELECT id FROM {table}")) <= 2 * blocks
    assert len(one.series()) < 220


@pytest.mark.parametrize(
    ("jump_s", "restarts"),
    [(-20 * 365 * 86400, False), (-86400, True), (86400, False), (20 * 365 * 86400, False), (20 * 365 * 86400, True)],
)
def test_a_clock_that_is_wrong_for_a_while_costs_no_data(
    opened: Opener, clock: Clock, jump_s: float, restarts: bool
) -> None:
    one = opened(retention_s=86400.0, seal_rows=20, **clock.options())

    def run(one: Store, minutes: int) -> Store:
        for minute in range(minutes):
            one.append(int(clock.wall_s * 1000), row(3, minute))
            clock.pass_s(60)
            if restarts and minute % 7 == 6:
                one.close()
                one = opened(retention_s=86400.0, seal_rows=20, **clock.options())
        one.settle()
        return one

    one = run(one, 100)
    before = one.select(gpu(1), START_MS, START_MS + 100 * 60_000)[0].times.tolist()
    assert len(before) == 100
    clock.wall_s += jump_s
    one = run(one, 50)  # minutes, less than the hour after which a clock is believed
    clock.wall_s -= jump_s
    one = run(one, 100)
    assert one.select(gpu(1), START_MS, START_MS + 100 * 60_000)[0].times.tolist() == before
    later = one.select(gpu(1), START_MS + 150 * 60_000, START_MS + 250 * 60_000)[0].times.tolist()
    assert later == [START_MS + minute * 60_000 for minute in range(150, 250)]


def test_a_first_start_with_a_dead_clock_costs_no_data(opened: Opener, clock: Clock) -> None:
    """1970 until the network time comes: what is stored after that must outlive the moment at which it is believed."""
    right = clock.wall_s
    clock.wall_s = 0.0
    one = opened(retention_s=86400.0, seal_rows=20, **clock.options())
    for minute in range(5):
        one.append(int(clock.wall_s * 1000), row(3, minute))
        clock.pass_s(60)
    clock.wall_s = right
    for minute in range(200):
        one.append(int(clock.wall_s * 1000), row(3, minute))
        clock.pass_s(60)
        if minute % 10 == 9:
            one.settle()
    times = one.select(gpu(1), START_MS)[0].times.tolist()
    assert times == [START_MS + minute * 60_000 for minute in range(200)]


def test_samples_from_the_future_go_when_their_time_is_over(opened: Opener, clock: Clock) -> None:
    one = opened(retention_s=3600.0, seal_rows=10, **clock.options())
    for _ in range(10):
        one.append(int(clock.wall_s * 1000) + 10**12, row(3, 0))
        clock.pass_s(10)
    one.seal()
    clock.pass_s(3000)
    one.settle()
    assert one.stats().blocks == 1
    clock.pass_s(1000)
    one.settle()
    assert one.stats().blocks == 0


def test_a_machine_that_was_off_keeps_its_old_data_for_an_hour_only(opened: Opener, clock: Clock) -> None:
    one = opened(retention_s=3600.0, seal_rows=10, **clock.options())
    fill(one, 10, step_ms=1000)
    one.seal()
    one.close()
    clock.pass_s(10 * 86400)
    clock.monotonic_s = 5.0  # it was booted
    one = opened(retention_s=3600.0, seal_rows=10, **clock.options())
    one.settle()
    assert one.stats().blocks == 1
    for _ in range(130):
        clock.pass_s(60)
        one.settle()
    assert one.stats().blocks == 0


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(store.StoreError, match="at least 8 MiB"):
        store.Options(max_bytes=MIB)
    with pytest.raises(store.StoreError, match="longer than 0 s"):
        store.Options(retention_s=0)
