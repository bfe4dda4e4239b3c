# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process with nothing but a store in it, so that its memory and pauses are those of the store.

    store_process.py build FOLDER SERIES ROWS FIRST_MS     rows 15 s apart, sealed and closed
    store_process.py append FOLDER SERIES APPENDS EVERY_S  times of appends, taken as they come
    store_process.py growth FOLDER SERIES ROWS             what so many series cost

The agent's source is on PYTHONPATH. Prints one line of JSON. What is in the folder goes first.
"""

from __future__ import annotations

import json
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from esnode import store
from esnode.store import Matcher, SeriesId, SeriesLike
from esnode.store.store import Store
from synthetic_node import FAMILIES, SyntheticNode

STEP_MS = 15_000
# A store that gets a row every 15 s seals after 2 h; one that is filled faster than time goes has to be told.
FILLED = store.Options(retention_s=8 * 86400.0, seal_rows=480)
_WARM_APPENDS = 20
_APPENDS = 300  # of the curve, 10 ms apart


def fill(opened: Store, node: SyntheticNode, rows: int, first_ms: int) -> Iterator[float]:
    """Append rows, give the seconds that each took; keeps the part that waits for the disk small."""
    names, done = node.names, 0
    for block in node.rows(rows):
        for values in block.tolist():
            samples: dict[SeriesLike, float] = dict(zip(names, values, strict=True))
            began = time.perf_counter()
            opened.append(first_ms + done * STEP_MS, samples)
            yield time.perf_counter() - began
            done += 1
            if done * len(names) % 200_000 < len(names):
                opened.flush()
        if done % 240 == 0:
            opened.settle()


def build(folder: Path, series: int, rows: int, first_ms: int) -> dict[str, float]:
    began = time.monotonic()
    with store.open(folder, FILLED) as opened:
        for _ in fill(opened, SyntheticNode(series), rows, first_ms):
            pass
        opened.seal()
        blocks = opened.stats().blocks
    return {"s": time.monotonic() - began, "blocks": blocks}


def append(folder: Path, series: int, appends: int, every_s: float) -> dict[str, float]:
    """With the options an agent has; the writer's thread flushes and seals meanwhile. ms."""
    taken: list[float] = []
    node = SyntheticNode(series)
    with store.open(folder) as opened:
        due = time.monotonic()
        for block in node.rows(appends):
            for values in block.tolist():
                samples: dict[SeriesLike, float] = dict(zip(node.names, values, strict=True))
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + every_s, time.monotonic())
                began = time.perf_counter()
                opened.append(time.time_ns() // 1_000_000, samples)
                taken.append(time.perf_counter() - began)
        blocks = opened.stats().blocks
    return {**_spread(taken[_WARM_APPENDS:]), "max": max(taken) * 1e3, "first": taken[0] * 1e3, "blocks": blocks}


def growth(folder: Path, series: int, rows: int) -> dict[str, float]:
    node = SyntheticNode(series)
    first_ms = (time.time_ns() // 1_000_000_000 - rows * 15) * 1000
    with store.open(folder, FILLED) as opened:
        for _ in fill(opened, node, rows, first_ms):
            pass
        opened.flush()
        opened.settle()
        flushes = []
        for _ in range(9):  # five rows: what comes in between two flushes at an interval of 1 s
            for _ in fill(opened, node, 5, first_ms + rows * STEP_MS):
                pass
            rows += 5
            flushes.append(_took(opened.flush))
        private_mb = _private_mb()
        taken: list[float] = []
        for _ in range(_APPENDS):
            taken += fill(opened, node, 1, first_ms + rows * STEP_MS)
            rows += 1
            time.sleep(0.01)
        began = time.perf_counter()
        opened.seal()
        sealed_s = time.perf_counter() - began
        last_ms = first_ms + rows * STEP_MS
        one, hundred = [], []
        for at in range(21):
            name = FAMILIES[at % len(FAMILIES)]
            device = node.names[at * 7 % (series // len(FAMILIES))].labels["device"]
            wanted = [Matcher("__name__", "=", name), Matcher("device", "=", device)]
            one.append(_took(opened.select, wanted))
            hundred.append(_took(_hundred, opened, node.names, at, last_ms))
    used = sum(path.stat().st_size for path in folder.iterdir())
    return {
        **_spread(taken),
        "bytes": used / (rows * series),
        "private_mb": private_mb,
        "flush_ms": statistics.median(flushes) * 1e3,
        "seal_s": sealed_s,
        "one_ms": statistics.median(one) * 1e3,
        "hundred_ms": statistics.median(hundred) * 1e3,
    }


def _hundred(opened: Store, names: list[SeriesId], at: int, last_ms: int) -> None:
    """100 series, the last hour: of two families, for 50 devices each, so that it is as many whatever there is."""
    several = "|".join(names[(at + place) % 50].labels["device"] for place in range(50))
    family = "|".join(FAMILIES[(at + place) % len(FAMILIES)] for place in (0, 1))
    matchers = [Matcher("__name__", "=~", family), Matcher("device", "=~", several)]
    found = opened.select(matchers, last_ms - 3_600_000, last_ms)
    if len(found) != 100:
        raise SystemExit(f"{len(found)} series instead of 100")


def _took(call: Callable[..., object], *given: object) -> float:
    began = time.perf_counter()
    call(*given)
    return time.perf_counter() - began


def _spread(taken: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(taken, n=100)
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}


def _private_mb() -> float:
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))) / 1024


def main(command: str, folder: str, *numbers: str) -> None:
    path = Path(folder)
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if command == "build":
        answer = build(path, int(numbers[0]), int(numbers[1]), int(numbers[2]))
    elif command == "append":
        answer = append(path, int(numbers[0]), int(numbers[1]), float(numbers[2]))
    else:
        answer = growth(path, int(numbers[0]), int(numbers[1]))
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
