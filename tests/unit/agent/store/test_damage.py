# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytes that changed on the disk: what they held is left out and counted, all else is served, nothing is wrong."""

from __future__ import annotations

import logging
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from esnode import store
from esnode.store.database import SHIFT
from esnode.store.store import Store
from samples import START_MS, Expected, eventually, gpu, row

Opener = Callable[..., Store]
SERIES = 70  # two groups


def fill(one: Store, first: int, ticks: int) -> Expected:
    expected = Expected()
    for tick in range(first, first + ticks):
        samples = row(SERIES, tick)
        expected.add(START_MS + tick, samples)
        one.append(START_MS + tick, samples)
    return expected


def flip(one: Store, table: str, number: int) -> None:
    """Change a byte in the middle of a blob, behind SQLite's back."""
    (blob,) = one._database.all(f"SELECT body FROM {table} WHERE id = ?", number)[0]
    assert isinstance(blob, bytes)
    changed = bytearray(blob)
    changed[len(blob) // 2] ^= 0x10
    with one._database.write(0, freeing=True) as connection:
        connection.execute(f"UPDATE {table} SET body = ? WHERE id = ?", (bytes(changed), number))


@pytest.fixture
def three_blocks(opened: Opener) -> tuple[Store, Expected]:
    one, expected = opened(flush_s=3600), Expected()
    for block in range(3):
        expected.add_all(fill(one, 20 * block, 20))
        one.seal()
    one._catalog.forget()
    return one, expected


def test_a_damaged_chunk_is_left_out_counted_once_and_served_around(
    three_blocks: tuple[Store, Expected], caplog: pytest.LogCaptureFixture
) -> None:
    one, expected = three_blocks
    block, group = one._catalog.blocks()[1].number, int(one._catalog.blocks()[1].groups[0])
    flip(one, "chunk", block << SHIFT | group)
    for _ in range(2):
        samples = expected.check_part(one.select())
        assert samples == 60 * SERIES - 20 * 64
        assert one.stats().damaged == {"chunk": 1}
    assert len(one.select(gpu(0))[0].times) + len(one.select(gpu(69))[0].times) in (100, 120)
    assert caplog.text.count("is damaged and left out") == 1
    expected.check_part(one.export())
    assert len(one.series()) == SERIES


@pytest.mark.parametrize("table", ["block", "grp"])
def test_what_much_hangs_on_has_a_second_copy(three_blocks: tuple[Store, Expected], table: str) -> None:
    one, expected = three_blocks
    numbers = [int(str(number)) for (number,) in one._database.all(f"SELECT id FROM {table}")]
    for number in numbers:
        flip(one, table, number)
    expected.check(one.select())
    assert one.stats().damaged == {table: len(numbers)}
    flip(one, f"spare_{table}", numbers[0])
    one._catalog.forget()
    assert 0 < expected.check_part(one.select()) < 60 * SERIES
    assert one.stats().damaged[f"spare_{table}"] == 1


def test_a_damaged_log_costs_what_was_in_the_damaged_record(opened: Opener) -> None:
    one, expected = opened(flush_s=3600), Expected()
    for batch in range(5):
        expected.add_all(fill(one, 10 * batch, 10))
        one.flush()
    numbers = [int(str(number)) for (number,) in one._database.all("SELECT id FROM head ORDER BY id")]
    flip(one, "head", numbers[-2])
    one.close()
    one = opened()
    assert expected.check_part(one.select()) == 40 * SERIES
    assert one.stats().damaged == {"head": 1}
    expected.add_all(fill(one, 50, 10))
    one.seal()
    one.close()
    one = opened()
    assert expected.check_part(one.select()) == 50 * SERIES


def changed(data: bytes, rng: random.Random) -> bytes:
    """A bit, some bits, a sector or the end of a file gone wrong."""
    new, at = bytearray(data), rng.randrange(len(data))
    kind = rng.choice(["bit", "bits", "sector", "end", "first page"])
    if kind == "bits":
        for _ in range(20):
            new[rng.randrange(len(new))] ^= 1 << rng.randrange(8)
    elif kind == "sector":
        at &= ~511
        new[at : at + 512] = bytes(len(new[at : at + 512]))
    elif kind == "end":
        del new[at:]
    else:
        new[at % 4096 if kind == "first page" else at] ^= 1 << rng.randrange(8)
    return bytes(new)


@pytest.mark.parametrize("file", ["store.db", "store.db-wal", "identity"])
@pytest.mark.parametrize("encrypted", [False, True])
def test_any_change_of_any_file_costs_only_what_it_hit(
    tmp_path: Path, key_file: Path, encrypted: bool, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    key = key_file if encrypted else None
    options = store.Options(flush_s=3600, seal_rows=20, wall=lambda: START_MS / 1000, key_file=key)
    with store.open(tmp_path / "live", options) as one:
        expected = fill(one, 0, 90)
        one.settle()
        one._database.checkpoint()
        expected.add_all(fill(one, 90, 15))
        one.flush()
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
    rng = random.Random(f"{file} {encrypted}")
    for _ in range(4 if file == "store.db" else 2):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "copy", folder)
        (folder / file).write_bytes(changed((tmp_path / "copy" / file).read_bytes(), rng))
        try:
            with store.open_for_reading(folder, key) as reading:
                expected.check_part(reading.select())
                expected.check_part(reading.export())
                reading.series()
        except store.StoreError:
            pass
        with store.open(folder, options) as one:
            expected.check_part(one.select())
            later = fill(one, 1000, 10)
            one.seal()
        with store.open(folder, options) as one:
            later.check(one.select([], START_MS + 1000))
            both = Expected()
            both.add_all(expected)
            both.add_all(later)
            both.check_part(one.select())
            assert not (folder / "damaged").exists()
        shutil.rmtree(folder)


def test_without_identity_and_first_page_it_says_what_to_do(opened: Opener, tmp_path: Path) -> None:
    opened().close()
    for name in ("identity", "store.db"):
        path = tmp_path / "store" / name
        path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(store.StoreError, match="move the folder away to begin anew, or restore a backup"):
        opened()


@pytest.fixture
def overwritten(opened: Opener, tmp_path: Path) -> tuple[Store, Expected]:
    """A store that is open while the first page of its file is overwritten."""
    one = opened(flush_s=3600)
    expected = fill(one, 0, 20)
    one.seal()
    expected.add_all(fill(one, 20, 10))
    one._database.checkpoint()
    with (tmp_path / "store/store.db").open("r+b") as file:
        file.write(b"\xff" * 512)
    one._readers.close()
    one._catalog.forget()
    return one, expected


def test_a_file_that_breaks_under_a_running_store_is_made_anew(
    overwritten: tuple[Store, Expected], opened: Opener
) -> None:
    one, expected = overwritten
    expected.check_part(one.select())  # never an exception; the reader that meets it has it repaired
    eventually(lambda: not one._writer._broken)
    expected.check(one.select())
    assert one.stats().damaged["database"] >= 1
    expected.add_all(fill(one, 30, 10))
    one.seal()
    one.close()
    expected.check(opened().select())


def test_a_repair_that_fails_half_way_is_begun_again(
    overwritten: tuple[Store, Expected], opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esnode.store import salvage

    one, expected = overwritten
    real, tries = salvage._copy, []

    def once_full(*arguments: object) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OSError(28, "No space left on device")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(salvage, "_copy", once_full)
    one.select()
    eventually(lambda: len(tries) == 2 and not one._writer._broken)
    expected.check(one.select())
    one.close()
    expected.check(opened().select())


def test_readers_of_a_store_that_seals_checkpoints_and_is_repaired_see_no_other_error(
    opened: Opener, tmp_path: Path
) -> None:
    one = opened(seal_rows=10, flush_s=3600)
    expected = fill(one, 0, 30)
    one.settle()
    wrong: list[BaseException] = []
    stop = threading.Event()

    def read(make: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                make()
            except store.StoreError:
                pass
            except BaseException as error:
                wrong.append(error)

    def anew() -> None:
        with store.open_for_reading(tmp_path / "store") as reading:
            expected.check_part(reading.select(gpu(1), 0, START_MS + 29))

    following = store.open_for_reading(tmp_path / "store")
    jobs = [anew, lambda: following.select(gpu(2)), lambda: one.select(gpu(3)), lambda: list(one.export(gpu(4)))]
    threads = [threading.Thread(target=read, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    try:
        for turn in range(4):
            fill(one, 30 + 10 * turn, 10)
            one.flush()
            one.settle()
            if turn % 2:
                one._writer.mend()
                one.flush()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    # A reader of another process finds the new file that the repair has made.
    assert [len(data.times) for data in following.select(gpu(2))] == [70]
    following.close()
