# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The store beside Debian's VictoriaMetrics and Prometheus, all filled with the same samples.

`make bench ONLY_BENCH=store`, some six minutes: three of them record real pages of this machine, while all that is not
timed is made and an agent with a store runs. The recording stays in build/bench/ for the next run; delete it for a new
one. What is measured in which way is in docs/performance.md.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import store_peers
from agent_process import COLLECTORS, AgentProcess, configuration, environment, free_port
from bench_agent import GPUS, first_answer, resident_mb
from esnode import store
from esnode.store.selecting import Selecting
from nvmlsim import Simulator
from recorded_node import Samples, recorded
from row import Row
from store_peers import PROMETHEUS, VICTORIA
from store_process import FILLED, STEP_MS
from store_queries import OWN, Question, hour_of_hundred, range_of_one
from synthetic_node import SyntheticNode

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build/bench"
RECORDING = FOLDER / "recorded.npz"
SERIES = 1000
DAY_ROWS, WEEK_ROWS = 86_400_000 // STEP_MS, 7 * 86_400_000 // STEP_MS
APPENDS, APPEND_EVERY_S = 3000, 0.01
CURVE, CURVE_ROWS = (500, 2000, 5000, 20_000), 720
QUESTIONS, WARM_QUESTIONS = 60, 10
RUN_S = 120.0  # of the agent with a store
Fill = Callable[[Path, Samples], int]
PEERS: dict[str, Fill] = {
    VICTORIA: store_peers.fill_victoria,
    PROMETHEUS: store_peers.fill_prometheus,
}
SIZE_BARS = {VICTORIA: 1.0, PROMETHEUS: 1 / 3}


def rows() -> Iterator[Row]:
    gone = store_peers.missing()
    peers = {name: fill for name, fill in PEERS.items() if name not in gone}
    made = FOLDER / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        with ExitStack() as stack:
            workers = stack.enter_context(ThreadPoolExecutor(3))
            simulator = Simulator(made / "gpus", GPUS, load="training")
            day = _day()
            # Nothing of this is timed, and together it is the load of the recording.
            running = workers.submit(memory, made, simulator)
            week = workers.submit(build_week, made / "week")
            day_sizes = workers.submit(_sizes, made, "day", day, peers)
            real = recorded(RECORDING)
            yield from sizes("real pages", real, _sizes(made, "real", real, peers))
            yield from sizes("synthetic day", day, day_sizes.result())
            yield from week_rows(week, made / "week")
            yield running.result()
        yield from appends(made)
        yield from queries(made, day, list(peers))
        yield from restart(made, simulator)
        yield from curve(made)
    finally:
        shutil.rmtree(made)


def _say(text: str) -> None:
    print(f"   {text}", file=sys.stderr, flush=True)


# Sizes


def _day() -> Samples:
    node = SyntheticNode(SERIES)
    start = (int(time.time()) // 64_800 - 2) * 64_800_000
    return Samples(node.names, start + STEP_MS * np.arange(DAY_ROWS), np.concatenate(list(node.rows(DAY_ROWS))))


def _sizes(
    made: Path, what: str, samples: Samples, peers: Mapping[str, Callable[[Path, Samples], int]]
) -> dict[str, int]:
    """Bytes on the disk by engine; each is left in a folder of its own, closed."""
    found = {}
    folder = made / f"{what}-esnode"
    options = FILLED if what == "day" else store.Options(retention_s=FILLED.retention_s)
    with store.open(folder, options) as opened:
        for at, (time_ms, row) in enumerate(zip(samples.times.tolist(), samples.values, strict=True)):
            here = zip(samples.series, row.tolist(), strict=True)
            opened.append(time_ms, {series: value for series, value in here if value == value})
            if at % 240 == 239:
                opened.flush()
                opened.settle()
        opened.seal()
    found[OWN] = store_peers.folder_bytes(folder)
    with store.open_for_reading(folder) as opened:
        store_peers.expect(len(samples), sum(len(piece.times) for piece in opened.export()), "the store")
    for name, fill in peers.items():
        found[name] = fill(made / f"{what}-{name}", samples)
    _say(f"{what}: {len(samples.series)} series, {len(samples)} samples, bytes {found}")
    return found


def sizes(what: str, samples: Samples, found: dict[str, int]) -> Iterator[Row]:
    own = found[OWN] / len(samples)
    for name, bar in SIZE_BARS.items():
        if name in found:
            # The bars are for real data.
            yield Row(f"{what}, on disk", own, "B/sample", name, found[name] / len(samples), _real(what, bar))


def _real(what: str, bar: float) -> float | None:
    return bar if what.startswith("real") else None


def build_week(folder: Path) -> dict[str, float]:
    first_ms = (int(time.time()) // 15 - WEEK_ROWS) * STEP_MS
    return _child("build", folder, SERIES, WEEK_ROWS, first_ms)


def week_rows(made: Future[dict[str, float]], folder: Path) -> Iterator[Row]:
    built = made.result()
    yield Row(f"7 days of {SERIES} series, on disk", store_peers.folder_bytes(folder) / 1e6, "MB", "", None, 150)
    _say(f"7 days were filled in {built['s']:.0f} s into {built['blocks']:.0f} blocks")
    opening = []
    for _ in range(5):
        began = time.perf_counter()
        with store.open(folder, FILLED):
            opening.append(time.perf_counter() - began)
    yield Row(f"7 days of {SERIES} series, opened", statistics.median(opening) * 1e3, "ms", "", None)


# Appending


def appends(made: Path) -> Iterator[Row]:
    """Appends as they come, while the writer flushes and seals; another process looks what of it is on the disk."""
    folder = made / "appended"
    command = _command("append", folder, SERIES, APPENDS, APPEND_EVERY_S)
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        try:
            age_s = _oldest_not_on_disk(folder, process)
            output, _ = process.communicate()
        finally:
            process.kill()
    if process.returncode:
        raise SystemExit(f"the appends ended with {process.returncode}")
    took = json.loads(output)
    _say(f"appends: {took}, {APPEND_EVERY_S} s apart")
    yield Row(f"append of {SERIES} series p50", took["p50"], "ms", "", None)
    yield Row(f"append of {SERIES} series p99", took["p99"], "ms", "", None, 1.0)
    yield Row("oldest sample that is not on the disk yet", age_s, "s", "", None, 10.0)


def _oldest_not_on_disk(folder: Path, process: subprocess.Popen[bytes]) -> float:
    """The longest that another process had to wait for a sample, seconds."""
    newest_ms, worst_ms = None, 0.0
    name = SyntheticNode(SERIES).names[0]
    wanted = [store.Matcher("__name__", "=", name.name), store.Matcher("device", "=", name.labels["device"])]
    while process.poll() is None:
        time.sleep(0.25)
        if not (folder / "identity").exists():
            continue
        now_ms = time.time() * 1000
        with store.open_for_reading(folder) as opened:
            found = opened.select(wanted)
        if found:
            newest_ms = int(found[0].times[-1])
            worst_ms = max(worst_ms, now_ms - newest_ms)
    if newest_ms is None:
        raise SystemExit("nothing that was appended came to the disk")
    return worst_ms / 1000


# Queries


def queries(made: Path, day: Samples, peers: list[str]) -> Iterator[Row]:
    """The same questions to all, by turns; the peer of a row is the fastest way to ask the faster of the two."""
    with ExitStack() as stack:
        asked: dict[str, store_peers.Server] = {}
        if VICTORIA in peers:
            asked[VICTORIA] = stack.enter_context(store_peers.victoria(made / "day-VictoriaMetrics"))
        if PROMETHEUS in peers:
            asked[PROMETHEUS] = stack.enter_context(store_peers.prometheus(made / "day-Prometheus"))
        agent = stack.enter_context(_agent(made, made / "day-esnode-served", made / "day-esnode", None))
        opened = stack.enter_context(store.open(made / "day-esnode", FILLED))
        until_storing(agent)
        asked[OWN] = store_peers.Server(agent.port)
        for label, questions in (
            ("1 series, 24 h", [range_of_one(day, at) for at in range(QUESTIONS)]),
            ("100 series, 1 h", [hour_of_hundred(day, at) for at in range(QUESTIONS)]),
        ):
            yield from _asked(label, questions, opened, asked)


def _asked(
    label: str, questions: list[Question], opened: Selecting, servers: dict[str, store_peers.Server]
) -> Iterator[Row]:
    first: dict[str, list[float]] = {}
    again: dict[str, list[float]] = {}  # as a dashboard does
    for at, question in enumerate(questions):
        for way, ask, count in question.ways(opened, servers):
            for taken in (first, again):
                began = time.perf_counter()
                answer = ask()
                if at >= WARM_QUESTIONS:
                    taken.setdefault(way, []).append(time.perf_counter() - began)
                store_peers.expect(question.samples, count(answer), way)
    for name, taken in ((label, first), (f"{label}, asked again", again)):
        yield from _compared(name, taken)


def _compared(label: str, taken: dict[str, list[float]]) -> Iterator[Row]:
    medians = {way: statistics.median(times) * 1e3 for way, times in taken.items()}
    _say(f"{label}: " + ", ".join(f"{way} {ms:.2f} ms" for way, ms in medians.items()))
    for way, ms in medians.items():
        if not way.startswith(OWN):
            continue
        # By HTTP beside the same work: a value for each step, or the samples as they are, in whatever way is fastest.
        stepped = "query_range" in way
        theirs = {
            peer: taken
            for peer, taken in medians.items()
            if not peer.startswith(OWN) and ("process" in way or ("query_range" in peer) is stepped)
        }
        fastest = min(theirs, key=theirs.__getitem__, default="")
        bar = 1.0 if theirs else None
        yield Row(f"{label}, {way.removeprefix('esnode ')}", ms, "ms", fastest, theirs.get(fastest), bar)


# The agent


def until_storing(agent: AgentProcess) -> dict[str, Any]:
    """What /status says of its store once that takes samples."""
    for _ in range(600):
        found: dict[str, Any] = agent.status()["tsdb"]
        if found["state"] == "ok" and found["samples_appended"] and "blocks" in found:
            return found
        time.sleep(0.1)
    raise SystemExit(f"the agent has no store: {found}\n{agent.text[-2000:]}")


def _agent(
    made: Path, path: Path, copied: Path | None, simulator: Simulator | None, interval_s: float = 15.0
) -> AgentProcess:
    """An agent with this store, which is `copied` there first."""
    folder = made / f"agent-{path.name}"
    folder.mkdir(exist_ok=True)
    if copied is not None:
        shutil.copytree(copied, path)
    more = f'[tsdb]\nlocal_tsdb_path = "{path}"\nretention_hours = 200\n'
    port = free_port()
    enable, env = (COLLECTORS, simulator.env) if simulator else (("cpu",), {})
    return AgentProcess(folder, configuration(port, interval_s, enable, more), port, env=env)


def memory(made: Path, simulator: Simulator) -> Row:
    with _agent(made, made / "agent-store", None, simulator, interval_s=1.0) as running:
        until_storing(running)
        until, most = time.monotonic() + RUN_S, 0.0
        while time.monotonic() < until:
            time.sleep(1)
            running.metrics()
            most = max(most, resident_mb(running.process.pid))
        tsdb = until_storing(running)
    _say(f"agent: {tsdb['samples_appended']} samples of {tsdb['series']} series in {RUN_S:.0f} s")
    return Row(f"agent with store, {GPUS} at 1 s, resident memory", most, "MB", "", None, 100)


def restart(made: Path, simulator: Simulator) -> Iterator[Row]:
    """From the start of the process to the first whole page, over 7 days of samples and over none, by turns."""
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(5):
        for with_week in (True, False):
            folder, port = made / "restarted", free_port()
            folder.mkdir(exist_ok=True)
            tsdb = f'local_tsdb_path = "{made / "week"}"\nretention_hours = 200\n' if with_week else ""
            more = f"[tsdb]\nenable_local_tsdb = {str(with_week).lower()}\n{tsdb}"
            text = configuration(port, 15, COLLECTORS, more)
            began = time.monotonic()
            with AgentProcess(folder, text, port, env=simulator.env, wait=False) as running:
                page = first_answer(port)
                taken[with_week].append(time.monotonic() - began)
                if b"esnode_gpu_power_watts" not in page:
                    raise SystemExit("the first page has no GPU")
                if with_week and until_storing(running)["blocks"] < 7:
                    raise SystemExit("the agent does not serve the 7 days")
    own, without = (statistics.median(taken[which]) for which in (True, False))
    yield Row("restart with 7 days to first good scrape", own, "s", "", None, 1.0)
    yield Row("restart with 7 days to first good scrape", own, "s", "agent without a store", without)


# Growth


def curve(made: Path) -> Iterator[Row]:
    columns = {
        "private_mb": ("private memory", "MB"),
        "bytes": ("on disk", "B/sample"),
        "p99": ("append p99", "ms"),
        "flush_ms": ("flush of 5 rows", "ms"),
        "seal_s": ("sealed", "s"),
        "one_ms": ("1 series, 3 h", "ms"),
        "hundred_ms": ("100 series, 1 h", "ms"),
    }
    for series in CURVE:
        found = _child("growth", made / f"grown-{series}", series, CURVE_ROWS)
        _say(f"{series} series: {found}")
        for key, (what, unit) in columns.items():
            yield Row(f"{series} series: {what}", found[key], unit, "", None)


def _command(command: str, folder: Path, *numbers: float) -> list[str]:
    return [sys.executable, str(HERE / "store_process.py"), command, str(folder), *map(str, numbers)]


def _child(command: str, folder: Path, *numbers: float) -> dict[str, float]:
    done = subprocess.run(
        _command(command, folder, *numbers), capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode:
        raise SystemExit(f"store_process.py {command} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
