# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who follows a store gets each row that was appended: over sealing, restarts, crashes, retention, clocks that jump."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from esnode import store
from esnode.store.following import Batch, Cursor
from esnode.store.store import Store
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from samples import START_MS, Clock, fill, named

Opener = Callable[..., Store]
ROW, WIDTH = named(0, "row"), 3
RETENTION_S = 1e6  # longer than all that a machine appends


def numbered(row: int) -> dict[store.SeriesId, float]:
    """A row whose first value is its number; a third of its series come and go."""
    return {ROW: float(row), named(1): 1.0, named(100 + row // 5): 2.0}


def rows_of(batch: Batch) -> list[int]:
    if not len(batch.times):
        return []
    assert int(batch.present.sum()) == WIDTH * len(batch.times)
    place = list(batch.series).index(ROW)
    assert batch.present[place].all()
    return [int(value) for value in batch.values[place]]


class Follower:
    """Reads on, and keeps its place as a file would."""

    def __init__(self, one: Store) -> None:
        self.rows: list[int] = []
        self.lost = 0
        self.kept = ""
        self.begin(one)

    def begin(self, one: Store) -> None:
        self._keep(one.follow(None, 1).start)

    def _keep(self, cursor: Cursor) -> None:
        self.kept = json.dumps(cursor.encode())

    def step(self, one: Store, most: int) -> bool:
        batch = one.follow(Cursor.decode(json.loads(self.kept)), most)
        self.lost += batch.lost
        self.rows += rows_of(batch)
        self._keep(batch.end)
        return bool(len(batch.times))

    def all(self, one: Store, most: int = 10) -> None:
        while self.step(one, most):
            pass


class Machine(RuleBasedStateMachine):
    """`rows`: those that must come. `durable`: how many of them a crash leaves."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.clock, self.number, self.rows, self.durable, self.backward = Clock(), 0, list[int](), 0, False
        self.lives, self.dropped, self.forgotten = 0, False, False
        self.one = self.open()
        self.follower = Follower(self.one)

    def open(self) -> Store:
        self.forgotten = self.dropped  # the number of samples that went is not on the disk
        options = store.Options(retention_s=RETENTION_S, max_bytes=store.model.SMALLEST_BYTES, **self.clock.options())
        return store.open(self.folder / f"life{self.lives}", options)

    @rule(steps=st.lists(st.sampled_from((1.0, 1.0, 15.0, 0.0, -1.0, -40.0, 300.0)), min_size=1, max_size=20))
    def append(self, steps: list[float]) -> None:
        for step in steps:
            self.clock.wall_s += step
            self.backward = self.backward or step <= 0
            self.one.append(int(self.clock.wall_s * 1000), numbered(self.number))
            self.rows.append(self.number)
            self.number += 1

    @rule()
    def flush(self) -> None:
        self.one.flush()
        self.durable = len(self.rows)

    @rule()
    def seal(self) -> None:
        self.one.seal()
        self.durable = len(self.rows)

    @rule(most=st.integers(1, 40))
    def step(self, most: int) -> None:
        self.follower.step(self.one, most)

    @rule()
    def restart(self) -> None:
        self.one.close()
        self.durable = len(self.rows)
        self.one = self.open()

    @rule()
    def crash(self) -> None:
        """What another process finds when this one has ended without a word."""
        self.lives += 1
        self.one.settle()  # a checkpoint while the files are copied would make one that no crash makes
        shutil.copytree(self.folder / f"life{self.lives - 1}", self.folder / f"life{self.lives}")
        self.one.close()
        self.one = self.open()
        del self.rows[self.durable :]

    @precondition(lambda self: self.one.stats().blocks)
    @rule()
    def drop_blocks(self) -> None:
        """All blocks get too old. What is hot stays."""
        self.one.flush()
        self.durable = len(self.rows)
        self.clock.pass_s(2 * RETENTION_S)
        self.one.settle()
        self.dropped = True

    @invariant()
    def nothing_that_a_crash_takes_was_given(self) -> None:
        if hasattr(self, "one"):
            assert set(self.follower.rows) <= set(self.rows)

    def teardown(self) -> None:
        if not hasattr(self, "one"):
            return
        try:
            self.one.flush()
            self.follower.all(self.one)
            if not self.dropped:
                assert set(self.follower.rows) == set(self.rows)
                if not self.backward:
                    assert self.follower.rows == self.rows
            else:
                missing = len(set(self.rows) - set(self.follower.rows))
                if self.forgotten:
                    assert self.follower.lost <= WIDTH * missing or self.backward
                elif self.backward:
                    assert self.follower.lost >= WIDTH * missing
                else:
                    assert self.follower.lost == WIDTH * missing
                    assert self.follower.rows == sorted(set(self.follower.rows))
        finally:
            self.one.close()
            shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_place_starts_at_now(opened: Opener) -> None:
    one = opened(flush_s=3600)
    fill(one, 5)
    one.flush()
    follower = Follower(one)
    one.append(START_MS + 10**6, numbered(7))
    assert not follower.step(one, 100), "a row was given before it was on the disk"
    one.flush()
    follower.all(one)
    assert follower.rows == [7]


def test_a_place_of_another_store_starts_at_now(opened: Opener, tmp_path: Path) -> None:
    other = opened(tmp_path / "other")
    one = opened()
    one.append(START_MS, numbered(0))
    one.flush()
    place = other.follow(None, 1).start
    batch = one.follow(place, 100)
    assert not len(batch.times)
    assert batch.start == one.follow(None, 1).start != place


def test_a_count_that_began_anew_is_read_from_its_start(opened: Opener) -> None:
    one = opened()
    ahead = Cursor(one.follow(None, 1).start.store, 50, 100, START_MS)
    one.append(START_MS, numbered(0))
    one.flush()
    assert rows_of(one.follow(ahead, 100)) == [0]


def test_rows_that_have_other_numbers_now_come_again(opened: Opener) -> None:
    """As after damage to the log: the place counts rows that are no longer there."""
    one = opened()
    for row in range(5):
        one.append(START_MS + row, numbered(row))
    one.flush()
    place = Cursor(one.follow(None, 1).start.store, 1, 3, START_MS + 3)
    assert rows_of(one.follow(place, 100)) == [0, 1, 2, 3, 4]
    one.seal()
    assert rows_of(one.follow(place, 100)) == [0, 1, 2, 3, 4]


def test_rows_of_one_time_do_not_hold_it_up(opened: Opener) -> None:
    one = opened()
    follower = Follower(one)
    for row in range(6):
        one.append(START_MS + row // 3, numbered(row))
    one.seal()
    for _ in range(4):
        follower.step(one, WIDTH)
    assert follower.rows == list(range(6))


def test_a_row_wider_than_asked_for_comes_whole(opened: Opener) -> None:
    one = opened()
    follower = Follower(one)
    one.append(START_MS, numbered(0))
    one.append(START_MS + 1, numbered(1))
    one.flush()
    follower.step(one, 1)
    assert follower.rows == [0]
    one.seal()
    follower.step(one, 1)
    assert follower.rows == [0, 1]


def sealed(opened: Opener) -> tuple[Clock, Store, Follower]:
    """A block of 20 rows that retention takes in an hour, and a follower from before it."""
    clock = Clock()
    one = opened(retention_s=3600, **clock.options())
    follower = Follower(one)
    for row in range(20):
        one.append(START_MS + row, numbered(row))
    one.seal()
    return clock, one, follower


def test_a_block_that_retention_takes_while_it_is_read_is_read_to_its_end(opened: Opener) -> None:
    clock, one, follower = sealed(opened)
    follower.step(one, 6)
    clock.pass_s(4000)
    one.settle()
    assert one.stats().blocks == 0
    follower.all(one)
    assert (follower.rows, follower.lost) == (list(range(20)), 0)


def test_a_block_that_retention_takes_as_it_is_looked_up_is_counted_as_lost(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, one, follower = sealed(opened)
    following = one._following
    found = following._next

    def then_dropped(least: int, hot: list[int]) -> int:
        number = found(least, hot)
        monkeypatch.setattr(following, "_next", found)
        clock.pass_s(4000)
        one.settle()
        return number

    monkeypatch.setattr(following, "_next", then_dropped)
    follower.all(one)
    assert (follower.rows, follower.lost) == ([], 20 * WIDTH)


def test_what_waits_is_counted(opened: Opener) -> None:
    one = opened()
    start = one.follow(None, 1).start
    assert one.ahead(start) == store.following.Ahead(0, None)
    for row in range(20):
        one.append(START_MS + row, numbered(row))
    one.seal()
    for row in range(20, 30):
        one.append(START_MS + row, numbered(row))
    one.flush()
    assert one.ahead(start) == store.following.Ahead(30 * WIDTH, START_MS + 29)
    assert one.ahead(one.follow(start, 5 * WIDTH).end).samples == 25 * WIDTH
    assert one.ahead(one.follow(None, 1).start).samples == 0


@pytest.mark.parametrize("kept", [{}, {"store": "a", "epoch": "1", "rows": 0, "newest_ms": 0}, [], None])
def test_what_is_no_place_is_refused(kept: object) -> None:
    with pytest.raises(ValueError, match="not a place"):
        Cursor.decode(kept)
