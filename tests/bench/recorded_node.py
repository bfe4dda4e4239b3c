# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real pages: this machine as node_exporter and the agent show it, recorded once and kept under build/.

A scrape every 0.15 s while the machine does something; they count as taken a second apart, so that no hour is needed.
All at whole seconds, which flatters peers that keep times for each series.
"""

from __future__ import annotations

import http.client
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from agent_process import AgentProcess, configuration, free_port
from bench_agent import node_exporter
from esnode.store import SeriesId

SCRAPES, STEP_S = 1200, 0.15
_HOST = ("cpu", "memory", "disk", "network", "power")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = {r"\\": "\\", r"\n": "\n", r"\"": '"'}


@dataclass(frozen=True)
class Samples:
    """`values` are rows by series, NaN where a row has none; `times` in ms, ascending."""

    series: list[SeriesId]
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def __len__(self) -> int:
        """Samples."""
        return int(np.count_nonzero(~np.isnan(self.values)))


def recorded(file: Path, scrapes: int = SCRAPES) -> Samples:
    """What was recorded, recording it first if need be; `file` keeps it for the next run."""
    if not file.exists():
        lines, values = record(scrapes)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as target:
            np.savez_compressed(target, lines=np.array(lines), values=values)
    with np.load(file) as held:
        lines, values = held["lines"].tolist(), held["values"]
    # In the past, and inside one of Prometheus' own spans of 18 h.
    start = (int(time.time()) // 64_800 - 1) * 64_800_000
    return Samples([_identity(line) for line in lines], start + 1000 * np.arange(len(values)), values)


def record(scrapes: int) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Series as pages spell them, and rows of values."""
    port = free_port()
    places: dict[str, int] = {}
    rows: list[dict[int, float]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        node_exporter() as (peer_port, _),
        AgentProcess(Path(name), configuration(port, STEP_S, _HOST), port) as agent,
    ):
        agent.metrics()
        connections = [("node", _connect(peer_port)), ("esnode", _connect(port))]
        due = time.monotonic()
        for done in range(scrapes):
            row: dict[int, float] = {}
            for job, connection in connections:
                for line in _page(connection):
                    key, _, value = line.rpartition(" ")
                    row[places.setdefault(f"{job} {key}", len(places))] = float(value)
            rows.append(row)
            if done % 400 == 399:
                print(f"   recorded {done + 1} of {scrapes} pages of {len(row)} series", file=sys.stderr, flush=True)
            due += STEP_S
            time.sleep(max(0.0, due - time.monotonic()))
    values = np.full((len(rows), len(places)), np.nan)
    for at, row in enumerate(rows):
        values[at, list(row)] = list(row.values())
    return list(places), values


def _connect(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _page(connection: http.client.HTTPConnection) -> list[str]:
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise SystemExit(f"a page that was to be recorded answered {answer.status}")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _identity(line: str) -> SeriesId:
    job, _, key = line.partition(" ")
    name, _, labels = key.partition("{")
    found = {label: re.sub(r"\\.", lambda part: _ESCAPED[part[0]], text) for label, text in _LABEL.findall(labels)}
    return SeriesId.of(name, {**found, "job": job})
