# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store with hours of samples in it, and an agent that serves it."""

from __future__ import annotations

import json
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from agent_process import AgentProcess, configuration, free_port
from esnode import store
from esnode.store import SeriesId, SeriesLike

STEP_MS = 15_000
STALE = float(np.array([0x7FF0000000000002], np.uint64).view(np.float64)[0])


Samples = dict[SeriesId, tuple[list[int], list[float]]]
"""Times in ms and values by series."""


def rows(start_ms: int, count: int) -> Iterator[tuple[int, dict[SeriesLike, float]]]:
    """Gauges and counters of some GPUs and CPUs; one GPU goes in the middle, one series is not always a number."""
    power = [SeriesId.of("esnode_gpu_power_watts", {"gpu": str(n), "uuid": f"GPU-{n:04x}"}) for n in range(4)]
    cpu = [
        SeriesId.of("esnode_cpu_seconds_total", {"cpu": str(n), "mode": m}) for n in range(4) for m in ("idle", "user")
    ]
    odd, text = SeriesId.of("odd_values", {}), SeriesId.of("texts", {"path": 'a "b"\\c\né'})
    for k in range(count):
        row: dict[SeriesLike, float] = {one: round(300 + 20 * np.sin(k / 9 + n), 3) for n, one in enumerate(power)}
        row.update({one: k * (n + 1) * 0.25 for n, one in enumerate(cpu)})
        row[text] = 1 / (k + 3)
        row[odd] = (float("nan"), float("inf"), -float("inf"), -0.0, 1e300, 5.0)[k % 6]
        if k == count // 2:
            row[power[3]] = STALE
        elif k > count // 2:
            del row[power[3]]
        yield start_ms + k * STEP_MS, row


def filled(folder: Path, start_ms: int, count: int) -> Samples:
    """Fill a store, a part of it sealed; what it holds."""
    expected: Samples = {}
    with store.open(folder) as one:
        for number, (time_ms, row) in enumerate(rows(start_ms, count)):
            one.append(time_ms, row)
            if number in (count // 3, count * 2 // 3):
                one.seal()
            for series, value in row.items():
                assert isinstance(series, SeriesId)
                held = expected.setdefault(series, ([], []))
                held[0].append(time_ms)
                held[1].append(value)
    return expected


class History(AgentProcess):
    """An agent whose store holds `expected`, from `start_ms` to `end_ms`."""

    start_ms: int
    end_ms: int
    expected: Samples

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def api(self, path: str, **parameters: Any) -> Any:
        status, _, body = self.get(f"{path}?{urllib.parse.urlencode(parameters, doseq=True)}")
        return status, json.loads(body)

    def span(self) -> str:
        """Parameters of an export of exactly what was filled in."""
        return f"from={self.start_ms}&to={self.end_ms}"


@contextmanager
def history_agent(folder: Path, age_s: int = 5 * 3600, count: int = 480) -> Iterator[History]:
    """Run it over a store that begins `age_s` ago."""
    start_ms = (int(time.time()) - age_s) * 1000 // STEP_MS * STEP_MS
    expected = filled(folder / "tsdb", start_ms, count)
    port = free_port()
    text = configuration(port, interval=1, more=f'[tsdb]\nlocal_tsdb_path = "{folder}/tsdb"')
    agent = History(folder, text, port)
    with agent:
        agent.expected, agent.start_ms, agent.end_ms = expected, start_ms, start_ms + (count - 1) * STEP_MS
        until = time.monotonic() + 20
        while agent.status()["tsdb"]["state"] != "ok":
            assert time.monotonic() < until, agent.text
            time.sleep(0.05)
        yield agent
