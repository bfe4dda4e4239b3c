# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent with eight simulated H100s and this host, beside Debian's node_exporter and PyPI's nvitop-exporter."""

from __future__ import annotations

import http.client
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent_process import COLLECTORS, AgentProcess, configuration, free_port
from nvmlsim import Simulator
from row import Row

SCRAPES = 2000
GPUS = "h100:8"


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        simulator = Simulator(folder / "gpus", GPUS, load="training")
        peer_port, node = stack.enter_context(node_exporter())
        yield from scraping(folder, simulator, peer_port, node)
        yield from cpu_use(folder, simulator, peer_port, node, interval_s=15, seconds=75)
        yield from start(folder, simulator)


@contextmanager
def agent(folder: Path, simulator: Simulator, interval_s: float) -> Iterator[AgentProcess]:
    port = free_port()
    text = configuration(port, interval_s, COLLECTORS)
    with AgentProcess(folder, text, port, env=simulator.env) as running:
        running.metrics()
        yield running


@contextmanager
def node_exporter() -> Iterator[tuple[int, int]]:
    """Port and process id of a node_exporter."""
    port = free_port()
    found = shutil.which("prometheus-node-exporter")
    if not found:
        sys.exit("the benchmark needs its peer: apt-get install prometheus-node-exporter")
    process = subprocess.Popen(
        [found, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        first_answer(port)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def scraping(folder: Path, simulator: Simulator, peer_port: int, node: int) -> Iterator[Row]:
    """Latency of a scrape, resident memory, and CPU at 1 s, of one run."""
    with agent(folder, simulator, 1.0) as running:
        time.sleep(3)
        yield from cpu_use_of(running, peer_port, node, interval_s=1, seconds=30)
        ours, theirs = Scraper(running.port), Scraper(peer_port)
        for _ in range(100):
            ours.once(), theirs.once()
        own, peer = [], []
        # By turns, so that whatever else this machine does hits both.
        for _ in range(SCRAPES):
            own.append(ours.once())
            peer.append(theirs.once())
        yield Row("series on a page", ours.series, "series", "node_exporter", theirs.series)
        for label, percent in (("p50", 50), ("p99", 99)):
            a, b = (statistics.quantiles(times, n=100)[percent - 1] * 1e6 for times in (own, peer))
            yield Row(f"scrape {label}", a / 1e3, "ms", "node_exporter", b / 1e3)
            yield Row(
                f"scrape {label} for as many series", a / ours.series, "us/series", "node_exporter", b / theirs.series
            )
        exporters_mb = resident_mb(node) + (nvitop_mb(simulator) or 0)
        yield Row(
            "resident memory", resident_mb(running.process.pid), "MB", "node_exporter + nvitop-exporter", exporters_mb
        )


def cpu_use(
    folder: Path, simulator: Simulator, peer_port: int, node: int, interval_s: int, seconds: int
) -> Iterator[Row]:
    with agent(folder, simulator, interval_s) as running:
        time.sleep(3)
        yield from cpu_use_of(running, peer_port, node, interval_s, seconds)


def cpu_use_of(running: AgentProcess, peer_port: int, node: int, interval_s: int, seconds: int) -> Iterator[Row]:
    """CPU over a span in which both are scraped once an interval, as Prometheus does it."""
    ours, theirs = Scraper(running.port), Scraper(peer_port)
    before, began = (cpu_s(running.process.pid), cpu_s(node)), time.monotonic()
    while time.monotonic() - began < seconds:
        ours.once(), theirs.once()
        time.sleep(interval_s)
    span = time.monotonic() - began
    after = (cpu_s(running.process.pid), cpu_s(node))
    own, peer = ((b - a) / span * 100 for a, b in zip(before, after, strict=True))
    yield Row(f"CPU at an interval of {interval_s} s", own, "% core", "node_exporter", peer)


def start(folder: Path, simulator: Simulator) -> Iterator[Row]:
    """From the start of the process to the first whole page."""
    own, peer = [], []
    for _ in range(5):
        port = free_port()
        began = time.monotonic()
        with AgentProcess(folder, configuration(port, 15, COLLECTORS), port, env=simulator.env, wait=False):
            page = first_answer(port)
            own.append(time.monotonic() - began)
            assert b"esnode_gpu_power_watts" in page, "the first page has no GPU"
        began = time.monotonic()
        with node_exporter():
            peer.append(time.monotonic() - began)
    yield Row("start to first good scrape", statistics.median(own), "s", "node_exporter", statistics.median(peer))


class Scraper:
    """A connection that is kept, asking as Prometheus does."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.series = 0
        self.series = sum(1 for line in self._get({}).splitlines() if line and not line.startswith(b"#"))

    def _get(self, headers: dict[str, str]) -> bytes:
        self._connection.request("GET", "/metrics", headers=headers)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200
        return body

    def once(self) -> float:
        """Seconds for one scrape."""
        began = time.perf_counter()
        self._get({"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "Accept-Encoding": "gzip"})
        return time.perf_counter() - began


def first_answer(port: int) -> bytes:
    for _ in range(4000):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status == 200:
                return answer.read()
        except OSError:
            time.sleep(0.005)
        finally:
            connection.close()
    raise AssertionError("no answer")


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads, to the nanosecond."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def nvitop_mb(simulator: Simulator) -> float | None:
    """Memory of nvitop-exporter over the same GPUs, None when it is not installed here."""
    found = Path(sys.executable).with_name("nvitop-exporter")
    if not found.exists():
        print("nvitop-exporter is not installed: left out of the peer's memory", file=sys.stderr)
        return None
    port = free_port()
    process = subprocess.Popen(
        [found, "--bind-address", "127.0.0.1", "--port", str(port)],
        env={**os.environ, **simulator.env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        first_answer(port)
        time.sleep(3)
        return resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait()
