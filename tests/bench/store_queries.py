# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same question in each engine's own words: raw samples of one series for a day, of a hundred for an hour."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from esnode.store import Matcher
from esnode.store.selecting import Selecting
from recorded_node import Samples
from store_peers import PROMETHEUS, VICTORIA, Server
from store_process import STEP_MS
from synthetic_node import FAMILIES

Asked = dict[str, str | float]
Way = tuple[str, Callable[[], Any], Callable[[Any], int]]
OWN = "esnode"
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Question:
    """`device` None: all series of the family. Both ends included; there are `samples` of them."""

    family: str
    device: str | None
    from_ms: int
    to_ms: int
    samples: int

    def ways(self, opened: Selecting, servers: dict[str, Server]) -> Iterator[Way]:
        """Name, question, and how many samples an answer has; a server's answer is taken as bytes."""
        matchers = [Matcher("__name__", "=", self.family)]
        selector = self.family
        if self.device is not None:
            matchers.append(Matcher("device", "=", self.device))
            selector = f'{self.family}{{device="{self.device}"}}'
        yield (
            f"{OWN} in process",
            lambda: opened.select(matchers, self.from_ms, self.to_ms),
            lambda found: sum(len(one.times) for one in found),
        )
        start, end, step = self.from_ms / 1000, self.to_ms / 1000, STEP_MS / 1000
        over: Asked = {"query": selector, "start": start, "end": end, "step": step}
        raw: Asked = {"query": f"{selector}[{self.to_ms - self.from_ms}ms]", "time": end}
        for name, server in servers.items():
            http = " by HTTP" if name == OWN else ""
            yield f"{name} query_range{http}", _get(server, "/api/v1/query_range", over), _counted
            if name == OWN:
                export: Asked = {"match[]": selector, "from": start, "to": end}
                yield f"{name} export{http}", _get(server, "/tsdb/export", export), _counted_lines
            if name == VICTORIA:
                # It leaves out what is exactly as old as the range.
                wider: Asked = {**raw, "query": f"{selector}[{self.to_ms - self.from_ms + 1}ms]"}
                yield f"{name} query", _get(server, "/api/v1/query", wider), _counted
                export = {"match[]": selector, "start": start, "end": end}
                yield f"{name} export", _get(server, "/api/v1/export", export), _counted_lines
            if name == PROMETHEUS:
                yield f"{name} query", _get(server, "/api/v1/query", raw), _counted


def range_of_one(day: Samples, at: int) -> Question:
    series = day.series[at * 97 % len(day.series)]
    ends = int(day.times[0]), int(day.times[-1])
    return Question(series.name, series.labels["device"], *ends, len(day.times))


def hour_of_hundred(day: Samples, at: int) -> Question:
    start = int(day.times[0]) + at * 7 % 23 * _HOUR_MS + 31 * STEP_MS
    rows = _HOUR_MS // STEP_MS
    family = FAMILIES[at % len(FAMILIES)]
    return Question(family, None, start, start + (rows - 1) * STEP_MS, rows * len(day.series) // len(FAMILIES))


def _get(server: Server, path: str, query: Asked) -> Callable[[], bytes]:
    return lambda: server.get(path, **query)


def _counted(answer: bytes) -> int:
    return sum(len(one["values"]) for one in json.loads(answer)["data"]["result"])


def _counted_lines(answer: bytes) -> int:
    return sum(len(json.loads(line)["values"]) for line in answer.splitlines())
