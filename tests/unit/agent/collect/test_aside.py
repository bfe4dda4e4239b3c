# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A part on a thread of its own: how often it runs, what is served meanwhile, when it counts as hung."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from esnode.collect._aside import Aside
from esnode.worker import Late

SOON = 10.0


class Part:
    """Counts its runs; waits for `gate` in each."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return run


@pytest.fixture
def part() -> Part:
    return Part()


@pytest.fixture
def make(part: Part) -> Iterator[Callable[[float, float], Aside[int]]]:
    made: list[Aside[int]] = []

    def make(every_s: float, patience_s: float) -> Aside[int]:
        made.append(Aside("part", part, every_s=every_s, patience_s=patience_s))
        return made[-1]

    yield make
    part.gate.set()
    for aside in made:
        aside.close()


def look(aside: Aside[int], wait_s: float = SOON) -> int | None:
    aside.start()
    return aside.get(time.monotonic() + wait_s)


def test_it_runs_no_more_often_than_it_may(part: Part, make: Callable[[float, float], Aside[int]]) -> None:
    rare = make(1000.0, 1.0)
    assert [look(rare) for _ in range(3)] == [1, 1, 1]
    assert part.runs == 1


def test_it_runs_each_time_where_it_may(make: Callable[[float, float], Aside[int]]) -> None:
    often = make(0.0, 0.0)
    assert [look(often) for _ in range(3)] == [1, 2, 3]


def test_the_answer_before_is_served_while_there_is_patience(
    part: Part, make: Callable[[float, float], Aside[int]]
) -> None:
    aside = make(0.0, 1000.0)
    part.gate.clear()
    assert look(aside, 0.0) is None  # nothing yet, and no error
    part.gate.set()
    assert aside.get(time.monotonic() + SOON) == 1
    part.gate.clear()
    assert look(aside, 0.0) == 1
    assert look(aside, 0.0) == 1
    part.gate.set()
    assert aside.get(time.monotonic() + SOON) == 2


def test_without_patience_it_is_late_and_is_not_asked_twice(
    part: Part, make: Callable[[float, float], Aside[int]]
) -> None:
    aside = make(0.0, 0.0)
    look(aside)
    part.gate.clear()
    for _ in range(3):
        with pytest.raises(Late):
            look(aside, 0.0)
    assert aside.hung_s is not None
    part.gate.set()
    assert aside.get(time.monotonic() + SOON) == 2
    assert part.runs == 2


def test_an_error_stands_until_the_next_answer(part: Part, make: Callable[[float, float], Aside[int]]) -> None:
    aside = make(0.2, 1.0)
    part.error = OSError("gone")
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            look(aside)
    part.error = None
    deadline = time.monotonic() + SOON
    while True:
        try:
            assert look(aside) >= 2
            break
        except OSError:
            assert time.monotonic() < deadline
