# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""query, export and top against a real agent with a store and eight simulated GPUs, on a terminal and in a pipe."""

from __future__ import annotations

import codecs
import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb  # type: ignore[import-not-found]
import numpy as np
import pytest
from agent_process import SOURCE, AgentProcess, configuration, environment, free_port
from esnode import sample_stream
from esnode.store import SeriesId
from history_data import STEP_MS, filled
from nvmlsim import Simulator
from rich.cells import cell_len

Expected = dict[SeriesId, tuple[list[int], list[float]]]
HOUR_MS = 3_600_000
ESCAPE = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07)")
ON_BUSY_MACHINES_S = 60


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "esnode", *map(str, arguments)]


def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(**more), timeout=ON_BUSY_MACHINES_S
    )


class Terminal:
    """`with Terminal(...)`: a command on a pseudo-terminal; `text` is all that it wrote so far."""

    def __init__(self, *arguments: object, columns: int = 80, lines: int = 24, **more: str) -> None:
        self._outer, self._inner = pty.openpty()
        fcntl.ioctl(self._inner, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = self.modes()
        # Of the terminal that the tests themselves run in nothing is taken over.
        kept = {k: v for k, v in environment().items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        env = {**kept, "TERM": "xterm-256color", **more}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=self._inner,
            stdout=self._inner,
            stderr=self._inner,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is one
        )
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._inner)
        os.close(self._outer)

    def read(self, timeout_s: float = 0.2) -> None:
        while select.select([self._outer], [], [], timeout_s)[0]:
            self.text += self._decoder.decode(os.read(self._outer, 65536))
            timeout_s = 0

    def until(self, wanted: str, after: int = 0) -> int:
        """Wait for a text in what is written after this place; the place behind it."""
        end = time.monotonic() + ON_BUSY_MACHINES_S
        while wanted not in self.text[after:]:
            assert time.monotonic() < end and self.process.poll() is None, f"no {wanted!r} in {self.text[after:]}"
            self.read()
        return self.text.index(wanted, after) + len(wanted)

    def type(self, keys: str) -> None:
        os.write(self._outer, keys.encode())

    def end(self) -> int:
        code = None
        end = time.monotonic() + ON_BUSY_MACHINES_S
        while code is None and time.monotonic() < end:
            self.read()
            code = self.process.poll()
        self.read()
        assert code is not None, f"it does not end: {self.text[-500:]}"
        return code


class Node(AgentProcess):
    """An agent with eight GPUs, whose store held `expected` before it began."""

    expected: Expected
    sim: Simulator
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    start_ms = int(time.time() * 1000) - HOUR_MS
    expected = filled(folder / "tsdb", start_ms, HOUR_MS // STEP_MS)
    sim = Simulator(folder / "nvml.state", "h100:8", load="training")
    port = free_port()
    without = folder / "without"  # what the agent can't import
    without.mkdir()
    (without / "pyarrow.py").write_text("raise ImportError('not installed')\n")
    env = {**sim.env, "PYTHONPATH": f"{without}:{SOURCE}"}
    text = configuration(
        port, 0.5, ("cpu", "memory", "network", "disk", "gpu", "gpu_events"),
        f'[tsdb]\nlocal_tsdb_path = "{folder / "tsdb"}"',
    )  # fmt: skip
    running = Node(folder, text, port, env=env)
    running.expected, running.sim, running.folder = expected, sim, folder
    with running:
        end = time.monotonic() + ON_BUSY_MACHINES_S
        while running.get("/tsdb/export?from=-1s")[0] != 200:
            assert time.monotonic() < end, running.text
            time.sleep(0.1)
        yield running


def plain(text: str) -> list[str]:
    return [line.rstrip("\r") for line in ESCAPE.sub("", text).split("\n")]


# Pictures


def test_a_plot_fits_a_terminal_of_80_by_24_and_has_a_legend_with_units(node: Node) -> None:
    with Terminal("query", 'esnode_gpu_power_watts{uuid=~"GPU-000."}', "--url", node.url, "--plot") as terminal:
        assert terminal.end() == 0, terminal.text
    lines = plain(terminal.text)
    assert lines.pop() == ""
    assert len(lines) <= 23 and all(cell_len(line) <= 80 for line in lines), terminal.text
    assert "esnode_gpu_power_watts in W" in lines[0]
    assert "local time" in terminal.text
    for gpu in range(4):
        assert re.search(rf"━━ gpu={gpu}  last +(?:[\d.]+|NaN)  min +[\d.]+  max +[\d.]+", "\n".join(lines))
    assert sum(0x2800 < ord(letter) < 0x2900 for letter in terminal.text) > 100, "lines of dots are drawn"
    assert "\x1b[38;5;" in terminal.text


def test_a_plot_has_no_colours_where_none_are_wanted(node: Node) -> None:
    selector = 'esnode_gpu_power_watts{uuid=~"GPU-000."}'
    with Terminal("query", selector, "--url", node.url, "--plot", NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    piped = run("query", selector, "--url", node.url, "--plot", "--utc")
    for text in (terminal.text, piped.stdout):
        assert "\x1b" not in text
        assert "a gpu=0" in text and "d gpu=3" in text, "letters tell the lines apart"
    assert max(map(cell_len, piped.stdout.splitlines())) <= 80
    assert piped.stdout.count("UTC") == 1 and piped.stderr == ""


def test_a_table_gives_the_figures_of_all_samples(node: Node) -> None:
    done = run("query", 'esnode_cpu_seconds_total{cpu="1",mode="user"}', "--url", node.url, "--from", "-2h")
    assert done.returncode == 0, done.stderr
    # The agent's own samples of this series are younger than those that were there before it.
    head, row = done.stdout.splitlines()[-2:]
    assert head.split() == ["last", "min", "max", "mean", "samples", "last", "at"]
    values = node.expected[SeriesId.of("esnode_cpu_seconds_total", {"cpu": "1", "mode": "user"})][1]
    assert float(row.split()[1]) == pytest.approx(min(values), abs=0.1)
    assert int(row.split()[4]) > len(values)
    with Terminal("query", "esnode_load1", "--url", node.url, "--since", "5m", columns=90) as terminal:
        assert terminal.end() == 2 or "course" in terminal.text


def test_samples_for_other_programs(node: Node) -> None:
    times, values = node.expected[SeriesId("odd_values")]
    rows = list(
        csv.DictReader(run("query", "odd_values", "--url", node.url, "--since", "2h", "--csv").stdout.splitlines())
    )
    assert [row["value"] for row in rows[:4]] == ["NaN", "+Inf", "-Inf", "-0.0"]
    assert np.array_equal([float(row["value"]) for row in rows], values, equal_nan=True)
    (one,) = json.loads(run("query", "odd_values", "--url", node.url, "--since", "2h", "--json").stdout)
    assert one["metric"] == {"__name__": "odd_values"}
    assert [round(at * 1000) for at, _ in one["values"]] == times
    assert np.array_equal([float(value) for _, value in one["values"]], values, equal_nan=True)


def test_a_name_that_is_not_there(node: Node) -> None:
    done = run("query", "esnode_gpu_powr_watts", "--url", node.url)
    assert done.returncode == 1 and done.stdout == ""
    assert "near names: esnode_gpu_power_watts" in done.stderr
    done = run("query", 'esnode_gpu_power_watts{gpu="9"}', "--url", node.url)
    assert "not with these labels or not at that time" in done.stderr
    done = run("query", "rate(esnode_gpu_power_watts[5m])", "--url", node.url)
    assert done.returncode == 2 and "is none: at character 5" in done.stderr
    done = run("query", '{__name__=~"esnode_gpu_p.*_watts",gpu="9"}', "--url", node.url)
    assert "there is esnode_gpu_power_limit_watts, esnode_gpu_power_watts, but not with" in done.stderr
    assert "the names are esnode_" in run("query", '{__name__=~"z.*"}', "--url", node.url).stderr


@pytest.mark.parametrize("library", ["rich", "plotext"])
def test_a_library_that_is_not_installed(node: Node, library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from esnode.cli import main; sys.exit(main())"
    asked = ["query", "odd_values", "--url", node.url, *(["--plot"] if library == "plotext" else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "pip install 'esnode-core[terminal]'" in done.stderr


# Exports


def content(data: bytes) -> Expected:
    found: Expected = {}
    for piece in sample_stream.decode([data]):
        times, values = found.setdefault(piece.series, ([], []))
        times.extend(piece.times.tolist())
        values.extend(piece.values.tolist())
    return found


def same(found: Expected, expected: Expected) -> bool:
    return found.keys() == expected.keys() and all(
        found[one][0] == expected[one][0]
        and np.array_equal(np.array(found[one][1]).view(np.uint64), np.array(expected[one][1]).view(np.uint64))
        for one in expected
    )


def test_an_export_is_what_the_store_holds(node: Node, tmp_path: Path) -> None:
    wanted = {one: node.expected[one] for one in node.expected if one.name in ("odd_values", "texts")}
    matches = ("--match", "odd_values", "--match", '{__name__=~"text.|odd_.*"}')
    for source in (("--url", node.url), ("--config", node.config), ("--store", node.folder / "tsdb")):
        target = tmp_path / "history"
        done = run("export", *source, *matches, "--format", "native", "--output", target, "--force")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert same(content(target.read_bytes()), wanted), source
        lines = run("export", *source, *matches).stdout.splitlines()
        assert {json.loads(line)["metric"]["__name__"] for line in lines} == {"odd_values", "texts"}
    stepped = run("export", "--url", node.url, "--match", "texts", "--step", "5m").stdout
    assert 12 <= sum(len(json.loads(line)["values"]) for line in stepped.splitlines()) <= 14
    assert list(tmp_path.iterdir()) == [target]


def test_parquet_is_made_here_when_the_agent_has_no_pyarrow(node: Node, tmp_path: Path) -> None:
    status, _, body = node.get("/tsdb/export?format=parquet&match[]=texts")
    assert status == 501, body
    target = tmp_path / "history.parquet"
    done = run("export", "--url", node.url, "--format", "parquet", "--match", "texts", "-o", target)
    assert (done.returncode, done.stderr) == (0, "")
    rows = duckdb.sql(f"SELECT epoch_ms(timestamp), value, labels FROM '{target}' ORDER BY timestamp").fetchall()
    ((series, (times, values)),) = [(one, held) for one, held in node.expected.items() if one.name == "texts"]
    assert [row[0] for row in rows] == times
    assert [row[1] for row in rows] == values
    assert rows[0][2] == series.labels


def test_what_is_read_only_in_part_is_not_kept(tmp_path: Path) -> None:
    def cut_off(listening: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for body in (b"Content-Length: 0\r\n", None):
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + body + b"\r\n" if body else head + b"5\r\nhello\r\n")
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=cut_off, args=(listening,))
        thread.start()
        target = tmp_path / "history.jsonl"
        done = run("export", "--url", f"http://127.0.0.1:{listening.getsockname()[1]}", "-o", target)
        thread.join()
    assert done.returncode == 1 and "broke off" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_head_closes_the_pipe_quietly(node: Node) -> None:
    with subprocess.Popen(
        command("export", "--url", node.url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(8) == b'{"metric'
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b"" and process.returncode == 0


def test_bytes_are_not_for_a_terminal(node: Node) -> None:
    with Terminal("export", "--url", node.url, "--format", "native") as terminal:
        assert terminal.end() == 2
    assert "name a file with --output" in terminal.text


def test_a_dead_agent_is_read_from_its_store(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)
    expected = filled(tmp_path / "tsdb", now_ms - HOUR_MS, 100)
    port = free_port()
    config = tmp_path / "esnode.toml"
    config.write_text(configuration(port, more=f'[tsdb]\nlocal_tsdb_path = "{tmp_path / "tsdb"}"'))
    done = run("query", "texts", "--config", config, "--since", "2h", "--csv")
    assert done.returncode == 0
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 100
    assert f"no answer from http://127.0.0.1:{port}" in done.stderr
    assert f"reading its store {tmp_path / 'tsdb'} instead" in done.stderr
    target = tmp_path / "history"
    run("export", "--config", config, "--format", "native", "-o", target)
    assert same(content(target.read_bytes()), expected)
    # With an address it was that agent that was meant.
    done = run("query", "texts", "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1 and done.stdout == "" and "instead" not in done.stderr
    (tmp_path / "tsdb" / "store.db").unlink()
    done = run("query", "texts", "--config", config)
    assert done.returncode == 1
    assert f"nor can its store be read: there is no store in {tmp_path / 'tsdb'}" in done.stderr


# top


def test_top_once_shows_eight_gpus_and_their_course(node: Node) -> None:
    node.sim("inject", "xid", 3, 79)
    end = time.monotonic() + ON_BUSY_MACHINES_S
    while "esnode_gpu_last_xid{" not in node.metrics():
        assert time.monotonic() < end
        time.sleep(0.1)
    done = run("top", "--once", "--config", node.config, COLUMNS="100")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(cell_len, lines)) <= 100 and "\x1b" not in done.stdout
    rows = [line for line in lines if re.match(r" +\d +\d+/700 ", line)]
    assert [int(row.split()[0]) for row in rows] == list(range(8))
    assert " 79 " in rows[3] and all(re.search(r"/79\.6 ", row) for row in rows)
    assert all(row.rstrip()[-1] in "▁▂▃▄▅▆▇█" for row in rows), "the course of the utilisation"
    assert re.search(r"CPU \d+% of \d+ +load ", done.stdout) and " ↓ " in done.stdout, "rates at once, out of the store"


def test_top_shows_a_gpu_that_is_lost_and_fits_any_terminal(node: Node) -> None:
    node.sim("lose", 5)
    end = time.monotonic() + ON_BUSY_MACHINES_S
    while node.status()["gpus"][5]["state"] != "lost":
        assert time.monotonic() < end
        time.sleep(0.1)
    try:
        for columns in (200, 80, 40):
            lines = run("top", "--once", "--url", node.url, COLUMNS=str(columns)).stdout.splitlines()
            assert max(map(cell_len, lines)) <= columns
            (row,) = [line for line in lines if re.match(" +5 ", line)]
            assert row.split()[1:3] == ["H100" if columns == 200 else "-", "80GB" if columns == 200 else "-"]
            assert ("lost: the GPU is" in row) == (columns == 200), "what is wrong, as far as there is room"
            assert "the GPU is lost, it has fallen off the bus" in " ".join(line.strip() for line in lines)
    finally:
        node.sim("restore", 5)


def test_top_ends_by_a_key_a_signal_and_leaves_the_terminal_as_it_was(node: Node) -> None:
    for how in ("q", "\x03", signal.SIGTERM):
        with Terminal("top", "--url", node.url, "--interval", "0.2") as terminal:
            terminal.until("clocks held by")
            if isinstance(how, str):
                terminal.type(how)
            else:
                terminal.process.send_signal(how)
            code = terminal.end()
            assert code == {"q": 0, "\x03": 130, signal.SIGTERM: 143}[how], terminal.text[-300:]
            assert terminal.modes() == terminal.before
        after = terminal.text.rindex("\x1b[?1049l")
        assert "\x1b[?25h" in terminal.text[after - 100 :], "the cursor is back"
        assert "Traceback" not in terminal.text


def test_top_waits_for_an_agent_that_restarts(tmp_path: Path) -> None:
    """One without GPUs and without a store."""
    port = free_port()
    text = configuration(port, enable=("cpu", "memory", "gpu"))
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(AgentProcess(tmp_path, text, port))
        agent.metrics()
        terminal = stack.enter_context(Terminal("top", "--config", agent.config, "--interval", "0.2"))
        terminal.until("no GPU")
        agent.__exit__()
        terminal.until("no answer from")
        with AgentProcess(tmp_path, text, port):
            end = time.monotonic() + ON_BUSY_MACHINES_S
            while "no answer from" in terminal.text[terminal.text.rindex("every 0.2 s") :]:
                assert time.monotonic() < end, terminal.text[-2000:]
                terminal.read()
            terminal.type("q")
            assert terminal.end() == 0
    alone = run("top", "--once", "--url", f"http://127.0.0.1:{port}")
    assert alone.returncode == 1 and "does the agent run" in alone.stderr
    assert "top --once prints one picture" in run("top", "--config", agent.config).stderr
