# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's VictoriaMetrics and Prometheus: filled with given samples, how much they keep, and a server to ask."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import numpy.typing as npt
from agent_process import free_port
from esnode.store import SeriesId
from recorded_node import Samples

Numbers = npt.NDArray[np.int64] | npt.NDArray[np.float64]
VICTORIA, PROMETHEUS = "VictoriaMetrics", "Prometheus"
_SPAN_S = 64_800  # what Prometheus' blocks are compacted to with its 15 days of retention: 18 h


def missing() -> list[str]:
    """Say loudly which peers are not installed."""
    programs = {VICTORIA: ("victoria-metrics",), PROMETHEUS: ("prometheus", "promtool")}
    packages = {VICTORIA: "victoria-metrics", PROMETHEUS: "prometheus"}
    gone = [name for name, commands in programs.items() if not all(map(shutil.which, commands))]
    for name in gone:
        print(
            f"!! {name} IS NOT INSTALLED, its rows are missing: apt-get install {packages[name]}",
            file=sys.stderr,
            flush=True,
        )
    return gone


class Server:
    """A peer that runs, and one connection to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def get(self, path: str, **query: str | float) -> bytes:
        return self._asked("GET", f"{path}?{urlencode(query)}" if query else path, None)

    def post(self, path: str, body: bytes) -> bytes:
        return self._asked("POST", path, body)

    def _asked(self, method: str, path: str, body: bytes | None) -> bytes:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path} on port {self.port}: {answer.status} {text[:500]!r}")
        return text


@contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[Server]:
    """The server of this command, ready when it says so."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}, see {log}:\n{log.read_text()[-2000:]}")
            try:
                server = Server(port)
                server.get("/-/ready" if "prometheus" in command[0] else "/health")
                break
            except (OSError, SystemExit):
                time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} does not answer, see {log}")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def victoria(folder: Path) -> Iterator[Server]:
    """VictoriaMetrics over this folder."""
    port = free_port()
    command = [
        "victoria-metrics",
        f"-storageDataPath={folder}",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-retentionPeriod=12",
        "-search.latencyOffset=0s",
    ]
    with running(command, port, folder.with_suffix(".log")) as server:
        yield server


def fill_victoria(folder: Path, samples: Samples) -> int:
    """Import, merge, stop; bytes of all that it keeps of the data, without the caches that it writes when it stops."""
    with victoria(folder) as server:
        together: list[str] = []
        for place, series in enumerate(samples.series):
            here = ~np.isnan(samples.values[:, place])
            together.append(
                json.dumps(
                    {
                        "metric": {"__name__": series.name, **series.labels},
                        "values": samples.values[here, place].tolist(),
                        "timestamps": samples.times[here].tolist(),
                    }
                )
            )
            if len(together) >= 50 or place == len(samples.series) - 1:
                server.post("/api/v1/import", "\n".join(together).encode())
                together = []
        server.get("/internal/force_flush")
        server.get("/internal/force_merge")
        _until_merged(server)
    size = folder_bytes(folder / "data") + folder_bytes(folder / "indexdb") + folder_bytes(folder / "metadata")
    with victoria(folder) as server:
        expect(len(samples), _counted(server, samples), VICTORIA)
    return size


def _until_merged(server: Server) -> None:
    """Wait until no part is in memory or being merged any more."""
    quiet = 0
    for _ in range(600):
        page = server.get("/metrics").decode()
        active = sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vm_active_merges"))
        quiet = 0 if active else quiet + 1
        if quiet >= 10:
            return
        time.sleep(0.1)
    raise SystemExit("VictoriaMetrics still merges after a minute")


def _counted(server: Server, samples: Samples) -> int:
    window = f"{(samples.times[-1] - samples.times[0]) // 1000 + 1}s"
    total = 0
    for name in sorted({series.name for series in samples.series}):
        query = f"sum(count_over_time({name}[{window}]))"
        answer = json.loads(server.get("/api/v1/query", query=query, time=samples.times[-1] / 1000, nocache=1))
        total += sum(int(float(one["value"][1])) for one in answer["data"]["result"])
    return total


@contextmanager
def prometheus(folder: Path) -> Iterator[Server]:
    """Prometheus over this folder, scraping nothing."""
    port = free_port()
    config = folder.with_suffix(".yml")
    config.write_text("scrape_configs: []\n")
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=15d",
    ]
    with running(command, port, folder.with_suffix(".log")) as server:
        yield server


def fill_prometheus(folder: Path, samples: Samples) -> int:
    """Blocks as they are after compaction, and their bytes; neither WAL nor head, which a server has beside them."""
    text = folder.with_suffix(".openmetrics")
    spans = samples.times // 1000 // _SPAN_S
    for span in np.unique(spans).tolist():
        rows = spans == span
        _write_openmetrics(text, samples.series, samples.times[rows], samples.values[rows])
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", f"--max-block-duration={_SPAN_S}s"]
        done = subprocess.run([*command, text, folder], capture_output=True, text=True, check=False)
        text.unlink()
        if done.returncode:
            raise SystemExit(f"promtool refused the samples:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    size = folder_bytes(folder)
    with prometheus(folder) as server:
        expect(len(samples), _counted(server, samples), PROMETHEUS)
    return size


def _write_openmetrics(file: Path, names: list[SeriesId], times: Numbers, values: Numbers) -> None:
    stamps = [f" {time_ms / 1000:.3f}\n" for time_ms in times.tolist()]
    with file.open("w") as out:
        for place, series in enumerate(names):
            labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in series.pairs)
            prefix = f"{series.name}{{{labels}}} "
            column = values[:, place].tolist()
            out.write("".join(f"{prefix}{v!r}{t}" for v, t in zip(column, stamps, strict=True) if v == v))
        out.write("# EOF\n")


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def expect(samples: int, found: int, peer: str) -> None:
    if found != samples:
        raise SystemExit(f"{peer} holds {found} of {samples} samples: that is no comparison")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files, as long as they are and not as blocks of the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
