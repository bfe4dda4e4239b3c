# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots go into the store, and whatever is wrong with it, nobody waits and everything lost is counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from esnode import catalogue, history, store
from esnode.config import Tsdb
from esnode.history import History
from esnode.snapshot import Snapshot

LOAD = catalogue.LOAD1.series()
BUCKET = catalogue.SCRAPE_DURATION.part("_bucket", "0.5")


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.01)


def snapshot(time_s: float, value: float) -> Snapshot:
    return Snapshot(time_s, {"cpu": {LOAD: value}, "agent": {BUCKET: 7.0}})


def appended(one: History) -> Any:
    return one.status()["samples_appended"]


@pytest.fixture
def settings(tmp_path: Path) -> Tsdb:
    return Tsdb(local_tsdb_path=str(tmp_path / "tsdb"))


@pytest.fixture
def started() -> Iterator[Callable[[Tsdb], History]]:
    made: list[History] = []

    def start(settings: Tsdb) -> History:
        one = History(settings)
        one.start()
        made.append(one)
        return one

    yield start
    for one in made:
        one.close(20)


def read(settings: Tsdb, key_file: Path | None = None) -> dict[str, list[float]]:
    with store.open_for_reading(Path(settings.local_tsdb_path), key_file) as reader:
        return {data.series.name: data.values.tolist() for data in reader.select()}


def test_what_was_appended_before_the_store_was_open_is_in_it_with_the_names_of_the_exposition(
    settings: Tsdb,
) -> None:
    one = History(settings)
    one.append(snapshot(1000.0004, 0.5))
    one.append(snapshot(1015.0, 0.75))
    one.start()
    one.close(20)
    assert read(settings) == {"esnode_load1": [0.5, 0.75], "esnode_scrape_duration_seconds_bucket": [7.0, 7.0]}
    with store.open_for_reading(Path(settings.local_tsdb_path)) as reader:
        assert reader.select()[0].times.tolist() == [1_000_000, 1_015_000]
        assert [series.labels for series in reader.series()] == [{}, {"le": "0.5"}]


def test_a_switched_off_store_makes_nothing_and_says_so(settings: Tsdb, started: Callable[[Tsdb], History]) -> None:
    off = msgspec.structs.replace(settings, enable_local_tsdb=False)
    one = started(off)
    one.append(snapshot(1.0, 1.0))
    assert one.samples() == {}
    assert one.status()["state"] == "disabled"
    assert one.store is None
    assert "enable_local_tsdb" in str(one.trouble)
    one.close(20)
    assert not Path(settings.local_tsdb_path).exists()


def test_a_store_that_another_agent_has_is_refused_and_taken_once_it_is_free(
    settings: Tsdb, started: Callable[[Tsdb], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_REOPEN_S", 0.05)
    monkeypatch.setattr(history, "_MOST_WAITING", 2)
    other = store.open(Path(settings.local_tsdb_path))
    one = started(settings)
    until(lambda: one.status()["state"] == "failed")
    assert one.store is None
    assert one.trouble == one.status()["error"]
    for number in range(3):
        one.append(snapshot(1000.0 + number, number))
    errors = catalogue.TSDB_ERRORS.series("open")
    assert one.samples()[errors] >= 1
    assert one.samples()[catalogue.TSDB_SAMPLES_LOST.series()] == 2, "one snapshot had no place to wait"
    other.close()
    until(lambda: appended(one) == 4)
    assert one.trouble is None
    one.close(20)
    assert read(settings)["esnode_load1"] == [1.0, 2.0]


def test_another_configuration_is_taken_without_losing_what_came_meanwhile(
    settings: Tsdb, started: Callable[[Tsdb], History], tmp_path: Path
) -> None:
    one = started(settings)
    one.append(snapshot(1000.0, 1.0))
    until(lambda: appended(one) == 2)
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text("42" * 32)
    one.append(snapshot(1001.0, 2.0))
    changed = msgspec.structs.replace(settings, encryption_key_path=str(key))
    one.change(changed)
    one.append(snapshot(1002.0, 3.0))
    until(lambda: appended(one) == 6)
    assert one.status()["encrypted"]
    one.close(20)
    assert read(changed, key)["esnode_load1"] == [1.0, 2.0, 3.0]


def test_a_wrong_key_is_named_and_the_store_stays_as_it_is(
    settings: Tsdb, started: Callable[[Tsdb], History], tmp_path: Path
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for file, digit in ((right, "1"), (wrong, "2")):
        file.touch(0o600)
        file.write_text(digit * 64)
    with store.open(Path(settings.local_tsdb_path), store.Options(key_file=right)) as made:
        made.append(1, {LOAD: 1.0})
    files = {path: path.read_bytes() for path in Path(settings.local_tsdb_path).iterdir()}
    one = started(msgspec.structs.replace(settings, encryption_key_path=str(wrong)))
    until(lambda: one.status()["state"] == "failed")
    assert str(wrong) in str(one.trouble)
    one.close(20)
    assert {path: path.read_bytes() for path in Path(settings.local_tsdb_path).iterdir()} == files


def test_a_key_file_that_cannot_be_used_is_a_mistake_of_the_configuration(settings: Tsdb, tmp_path: Path) -> None:
    missing = msgspec.structs.replace(settings, encryption_key_path=str(tmp_path / "no-such-key"))
    (mistake,) = history.check(missing)
    assert mistake.startswith("tsdb.encryption_key_path: ")
    assert "no-such-key" in mistake
    assert history.check(msgspec.structs.replace(missing, enable_local_tsdb=False)) == []
    assert history.check(settings) == []


def test_a_snapshot_that_the_store_refuses_is_counted_and_the_next_one_is_kept(
    settings: Tsdb, started: Callable[[Tsdb], History]
) -> None:
    one = started(settings)
    until(lambda: one.store is not None)
    one.append(Snapshot(1e30, {"cpu": {LOAD: 1.0}}))  # no such time
    one.append(snapshot(1000.0, 2.0))
    until(lambda: appended(one) == 2)
    assert one.samples()[catalogue.TSDB_ERRORS.series("append")] == 1
    assert one.samples()[catalogue.TSDB_SAMPLES_LOST.series()] == 1


def test_figures_that_cannot_be_read_cost_nothing(
    settings: Tsdb, started: Callable[[Tsdb], History], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "_LOOK_S", 0.0)
    one = started(settings)
    until(lambda: one.store is not None)
    monkeypatch.setattr(type(one.store), "stats", lambda _store: (_ for _ in ()).throw(OSError("stale file handle")))
    for number in range(3):
        one.append(snapshot(1000.0 + number, number))
        until(lambda: appended(one) == 2 * (number + 1))  # noqa: B023
    monkeypatch.undo()
    one.close(20)
    assert read(settings)["esnode_load1"] == [0.0, 1.0, 2.0]


def test_a_store_whose_disk_answered_too_late_is_free_again_afterwards(
    settings: Tsdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = store.open(Path(settings.local_tsdb_path))
    stop = one._writer.stop
    monkeypatch.setattr(one._writer, "stop", lambda timeout_s: timeout_s > 1 and stop(timeout_s))
    with pytest.raises(store.NotWritten):
        one.close(0.1)
    until(lambda: not one._writer._thread.is_alive())

    def opens() -> bool:
        try:
            store.open(Path(settings.local_tsdb_path)).close()
        except store.StoreBusy:
            return False
        return True

    until(opens)
