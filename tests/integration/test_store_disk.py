# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks that are full or have become read-only: real file systems, mounted for the test."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from esnode import store
from esnode.store.model import MIB, SeriesId
from opened_stores import Opener
from samples import START_MS, Expected, eventually, named, row
from small_disks import ext4_image, fill_up, mounted, not_tried, tmpfs


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    with tmpfs(tmp_path / "disk", "12m") as point:
        yield point


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Path]:
    """A file system that becomes read-only at an error, as a server's root does."""
    image = ext4_image(tmp_path / "image", 32 * MIB)
    with mounted(tmp_path / "disk", "-o", "loop,errors=remount-ro", image) as point:
        yield point


def test_a_full_disk_stops_nothing_and_room_brings_everything_on_it(
    small_disk: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    one = opened(small_disk / "store", flush_s=0.05, seal_rows=40)
    expected = Expected()

    def append(first: int, last: int) -> None:
        for tick in range(first, last):
            samples = row(30, tick)
            expected.add(START_MS + tick, samples)
            one.append(START_MS + tick, samples)

    append(0, 100)
    one.settle()
    ballast = fill_up(small_disk)
    append(100, 300)
    with pytest.raises(store.NotWritten, match="full"):
        one.flush()
    assert "full" in (one.stats().problem or "")
    assert one.stats().unwritten_rows > 0
    expected.check(one.select())  # old and new, from disk and memory
    append(300, 320)
    expected.check(one.select())
    ballast.unlink()
    eventually(lambda: one.stats().problem is None)
    one.flush()
    one.settle()
    assert one.stats().lost.rows == 0
    assert "writes again" in caplog.text
    one.close()
    expected.check(opened(small_disk / "store").select())


def test_what_a_full_disk_costs_in_the_end_is_counted_and_said(
    small_disk: Path, opened: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    series, ticks = 200, 1000
    one = opened(small_disk / "store", flush_s=0.05, unwritten_bytes=300 * series * 8)
    rng = random.Random(1)

    def noise() -> dict[SeriesId, float]:
        return {named(n): rng.random() for n in range(series)}  # so that no write is small enough to find a corner

    one.append(START_MS - 1, noise())
    one.flush()
    ballast = fill_up(small_disk)
    for tick in range(ticks):
        one.append(START_MS + tick, noise())
        if tick % 100 == 99:
            with pytest.raises(store.NotWritten):
                one.flush()
    ballast.unlink()
    one.flush()
    lost = one.stats().lost
    assert 0 < lost.rows <= ticks - 100
    assert lost.samples == lost.rows * series
    assert lost.first_ms == START_MS
    assert lost.last_ms == START_MS + lost.rows - 1, "the oldest go, and no hole is left between"
    assert f"{lost.samples} samples of {lost.rows} appends between {lost.first_ms} and {lost.last_ms}" in caplog.text
    (times,) = {tuple(data.times.tolist()) for data in one.select()}
    assert times == (START_MS - 1, *range(lost.last_ms + 1, START_MS + ticks))
    one.close()
    (times_again,) = {tuple(data.times.tolist()) for data in opened(small_disk / "store").select()}
    assert times_again == times


def test_a_disk_that_is_full_at_the_start_is_said_and_costs_nothing(small_disk: Path, opened: Opener) -> None:
    one = opened(small_disk / "store")
    one.append(START_MS, row(5, 0))
    one.close()
    ballast = fill_up(small_disk)
    with pytest.raises(store.StoreError, match="the disk is full"):
        store.open(small_disk / "store")
    ballast.unlink()
    assert len(opened(small_disk / "store").select()) == 5


def test_a_file_system_that_becomes_read_only(ext4: Path, opened: Opener) -> None:
    one = opened(ext4 / "store", flush_s=0.05)
    expected = Expected()
    for tick in range(100):
        expected.add(START_MS + tick, row(10, tick))
        one.append(START_MS + tick, row(10, tick))
    one.seal()
    device = Path(subprocess.check_output(["findmnt", "-no", "SOURCE", ext4], text=True).strip()).name
    Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("1")
    for tick in range(100, 150):
        expected.add(START_MS + tick, row(10, tick))
        one.append(START_MS + tick, row(10, tick))
    with pytest.raises(store.NotWritten):
        one.flush()
    assert one.stats().problem
    expected.check(one.select())
    with pytest.raises(store.NotWritten, match="closed with 50 appends"):
        one.close()
    # As an operator does it: unmount, check, mount.
    subprocess.run(["umount", ext4], check=True)
    subprocess.run(["e2fsck", "-fy", ext4.with_name("image")], check=False, capture_output=True)
    subprocess.run(["mount", "-o", "loop", ext4.with_name("image"), ext4], check=True)
    (times,) = {tuple(data.times.tolist()) for data in opened(ext4 / "store").select()}
    assert times == tuple(range(START_MS, START_MS + 100))


def test_a_disk_that_is_remounted_read_only_and_back(small_disk: Path, opened: Opener) -> None:
    """The kernel refuses that while a file is open for writing, so an operator stops the agent for it."""
    one = opened(small_disk / "store")
    expected = Expected()
    for tick in range(5):
        expected.add(START_MS + tick, row(5, tick))
        one.append(START_MS + tick, row(5, tick))
    one.flush()
    shutil.copytree(small_disk / "store", small_disk / "killed")  # as a process leaves it that is killed
    one.close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name in ("store", "killed"):
        with pytest.raises(store.StoreError, match="Read-only file system"):
            store.open(small_disk / name)
        with store.open_for_reading(small_disk / name) as reading:
            expected.check(reading.select())
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    for name in ("store", "killed"):
        one = opened(small_disk / name)
        one.append(START_MS + 5, row(5, 5))
        one.flush()
        assert len(one.select()[0].times) == 6


def test_a_disk_that_hangs_keeps_nobody_waiting(ext4: Path, opened: Opener) -> None:
    one = opened(ext4 / "store", flush_s=0.05)
    expected = Expected()

    def append(first: int, last: int) -> None:
        for tick in range(first, last):
            expected.add(START_MS + tick, row(10, tick))
            one.append(START_MS + tick, row(10, tick))

    append(0, 50)
    one.seal()
    if subprocess.run(["fsfreeze", "-f", ext4], capture_output=True).returncode:
        not_tried("there is no fsfreeze")
    try:
        append(50, 100)
        with pytest.raises(store.NotWritten, match="has not answered"):
            one.flush(1.0)
        append(100, 500)  # the writer's thread sits in the kernel now
        expected.check(one.select())
        assert one.stats().unwritten_rows > 0
    finally:
        subprocess.run(["fsfreeze", "-u", ext4], check=True)
    one.settle()
    assert one.stats().lost.rows == 0
    one.close()
    expected.check(opened(ext4 / "store").select())
