# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools that we did not write read the node's history: Prometheus by remote read and by backfill, VictoriaMetrics."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
import pytest
from agent_process import free_port
from esnode import wire
from esnode.store import SeriesId
from history_data import STALE, STEP_MS, History, history_agent
from tsdb_peers import newest


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with history_agent(tmp_path_factory.mktemp("history")) as agent:
        yield agent


def ask(url: str, **parameters: Any) -> Any:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters, doseq=True)}", timeout=20) as answer:
        return json.loads(answer.read())


@contextmanager
def server(folder: Path, ready: str, *command: str) -> Iterator[None]:
    """A peer that answers at `ready`, until the block ends."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with (folder / "peer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 40
        while True:
            try:
                urllib.request.urlopen(ready, timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "peer.log").read_text()
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def newest_or_skip(name: str) -> str:
    if not (program := newest(name)):
        pytest.skip(f"no {name} in build/peers that runs: tools/newest_peers fetches it")
    return program


@contextmanager
def prometheus(folder: Path, config: str, program: str = "prometheus") -> Iterator[str]:
    port = free_port()
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{port}"
    with server(
        folder,
        f"{url}/-/ready",
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=10y",
    ):
        yield url


def in_range(url: str, history: History, query: str) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
    answer = ask(
        f"{url}/api/v1/query_range", query=query, start=history.start_ms / 1000, end=history.end_ms / 1000, step="60s"
    )
    assert not answer.get("warnings"), answer["warnings"]
    return {
        tuple(sorted(one["metric"].items())): {round(t * 1000): float(v) for t, v in one["values"]}
        for one in answer["data"]["result"]
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_a_real_prometheus_runs_promql_over_the_history(history: History, tmp_path: Path, streamed: bool) -> None:
    config = f"remote_read:\n  - url: {history.url}/api/v1/read\n    read_recent: true\n"
    with prometheus(tmp_path, config, newest_or_skip("prometheus") if streamed else "prometheus") as url:
        power = in_range(url, history, "max_over_time(esnode_gpu_power_watts[5m])")
        assert len(power) == 4
        series = SeriesId.of("esnode_gpu_power_watts", {"gpu": "1", "uuid": "GPU-0001"})
        times, values = history.expected[series]
        for moment, value in power[tuple(sorted(series.pairs))].items():
            # From version 3 on the left end is left out.
            within = [v for t, v in zip(times, values, strict=True) if moment - 300_000 <= t - streamed and t <= moment]
            assert value == max(within)
        # Each CPU counts (n + 1) quarters every 15 s.
        rates = in_range(url, history, "sum by (mode) (rate(esnode_cpu_seconds_total[2m]))")
        expected = {"idle": sum(n + 1 for n in (0, 2, 4, 6)) / 60, "user": sum(n + 1 for n in (1, 3, 5, 7)) / 60}
        for mode, rate in expected.items():
            found = rates[(("mode", mode),)]
            assert len(found) > 100 and all(math.isclose(value, rate) for value in list(found.values())[3:])
        # The marker ended this one.
        gone = in_range(url, history, 'esnode_gpu_power_watts{gpu="3"}')
        ((_, samples),) = gone.items()
        assert max(samples) < times[len(times) // 2]
        # Every expression that a matcher can be.
        names = in_range(url, history, '{__name__=~"esnode_gpu.*|texts", gpu!="0", gpu!~"1|2"}')
        assert sorted(dict(one)["__name__"] for one in names) == ["esnode_gpu_power_watts", "texts"]
        # All of it, to the last bit that JSON shows.
        for one, (times, values) in history.expected.items():
            query = _selector(one) + f"[{(times[-1] - times[0]) // 1000 + 60}s]"
            (found,) = ask(f"{url}/api/v1/query", query=query, time=times[-1] / 1000 + 1)["data"]["result"]
            wanted = [(t, v) for t, v in zip(times, values, strict=True) if not _is_stale(v)]
            got = [(round(t * 1000), float(v)) for t, v in found["values"]]
            assert np.array_equal(np.array(got), np.array(wanted), equal_nan=True)
        if streamed:
            with urllib.request.urlopen(f"{url}/metrics", timeout=20) as page:
                lines = [line for line in page.read().decode().splitlines() if "response_type=" in line]
            assert lines and all('response_type="chunked"' in line for line in lines)


def test_promtool_makes_blocks_that_prometheus_serves_to_the_last_bit(history: History, tmp_path: Path) -> None:
    text = tmp_path / "history.om"
    text.write_bytes(history.get(f"/tsdb/export?{history.span()}&format=openmetrics")[2])
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(tmp_path / "data")]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 0, made.stderr
    with prometheus(tmp_path, "global: {}\n") as url:
        for series, (times, values) in history.expected.items():
            answer = ask(
                f"{url}/api/v1/query",
                query=_selector(series) + f"[{(times[-1] - times[0]) // 1000 + 60}s]",
                time=times[-1] / 1000 + 1,
            )
            (one,) = answer["data"]["result"]
            wanted = [(t, v) for t, v in zip(times, values, strict=True) if not _is_stale(v)]
            assert [round(t * 1000) for t, _ in one["values"]] == [t for t, _ in wanted]
            for (_, got), (_, value) in zip(one["values"], wanted, strict=True):
                assert float(got) == value or (math.isnan(float(got)) and math.isnan(value))


def _selector(series: SeriesId) -> str:
    return series.name + "{" + ",".join(f"{label}={json.dumps(value)}" for label, value in series.pairs) + "}"


def _is_stale(value: float) -> bool:
    return struct.pack("<d", value) == struct.pack("<d", STALE)


def exported(url: str, selector: str, at_least: int) -> dict[SeriesId, list[tuple[int, float]]]:
    """What VictoriaMetrics has of matching series, once there are so many numbers: it shows them a while later."""
    until = time.monotonic() + 30
    while True:
        found: dict[SeriesId, list[tuple[int, float]]] = {}
        query = urllib.parse.urlencode({"match[]": selector})
        with urllib.request.urlopen(f"{url}/api/v1/export?{query}", timeout=20) as answer:
            for line in answer:
                one = json.loads(line)
                series = SeriesId.of(one["metric"].pop("__name__"), one["metric"])
                numbers = zip(one["timestamps"], one["values"], strict=True)
                found.setdefault(series, []).extend((t, v) for t, v in numbers if v is not None)
        if (there := sum(map(len, found.values()))) >= at_least:
            return found
        assert time.monotonic() < until, f"{there} of {at_least}"
        time.sleep(0.3)


def test_victoria_metrics_imports_the_export_and_exports_it_again(history: History, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    lines = history.get(f"/tsdb/export?{history.span()}&match[]=esnode_gpu_power_watts&match[]=texts")[2]
    arguments = (f"-storageDataPath={tmp_path}/data", f"-httpListenAddr=127.0.0.1:{port}", "-search.latencyOffset=0s")
    with server(tmp_path, f"{url}/health", "victoria-metrics", *arguments, "-retentionPeriod=10y"):
        with urllib.request.urlopen(f"{url}/api/v1/import", lines, timeout=20) as answer:
            assert answer.status == 204
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=20).close()
        wanted = {
            series: [(t, v) for t, v in zip(*samples, strict=True) if math.isfinite(v)]
            for series, samples in history.expected.items()
            if series.name in ("esnode_gpu_power_watts", "texts")
        }
        found = exported(url, '{__name__!=""}', sum(map(len, wanted.values())))
        assert found.keys() == wanted.keys()
        for series, samples in wanted.items():
            # VictoriaMetrics keeps some 15 digits.
            assert [t for t, _ in found[series]] == [t for t, _ in samples]
            assert [v for _, v in sorted(found[series])] == pytest.approx([v for _, v in samples], rel=1e-13)


def test_vmctl_streams_the_history_into_victoria_metrics(history: History, tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = (f"-storageDataPath={tmp_path}/data", f"-httpListenAddr=127.0.0.1:{port}", "-search.latencyOffset=0s")
    with server(tmp_path, f"{url}/health", newest_or_skip("victoria-metrics"), *arguments, "-retentionPeriod=10y"):
        start, end = (
            f"{datetime.fromtimestamp(ms / 1000, timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}"
            for ms in (history.start_ms, history.end_ms + 1000)
        )
        command = [newest_or_skip("vmctl"), "remote-read", "-s", "--disable-progress-bar", "--remote-read-use-stream"]
        command += [f"--vm-addr={url}", f"--remote-read-src-addr={history.url}", "--remote-read-step-interval=hour"]
        command += [f"--remote-read-filter-time-start={start}", f"--remote-read-filter-time-end={end}"]
        command += ["--remote-read-filter-label=__name__", "--remote-read-filter-label-value=esnode_.*|texts"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        urllib.request.urlopen(f"{url}/internal/force_flush", timeout=20).close()
        for series, (times, values) in history.expected.items():
            if series.name == "odd_values":
                continue
            wanted = [(t, v) for t, v in zip(times, values, strict=True) if math.isfinite(v)]
            found = exported(url, _selector(series), len(wanted))[series]
            assert [t for t, _ in found] == [t for t, _ in wanted]
            # VictoriaMetrics keeps some 15 digits.
            assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=1e-13)


# Remote read as Prometheus itself would not ask.


def read(history: History, body: bytes) -> tuple[int, bytes]:
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(f"{history.url}/api/v1/read", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def packed(message: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(message))


def query(from_ms: int, to_ms: int, *matchers: tuple[int, str, str]) -> bytes:
    body = wire.integer(1, from_ms) + wire.integer(2, to_ms)
    for kind, name, value in matchers:
        body += wire.payload(3, wire.integer(1, kind) + wire.text(2, name) + wire.text(3, value))
    return wire.payload(1, body)


def test_both_ends_of_a_span_are_included_and_labels_are_sorted(history: History) -> None:
    first, last = history.start_ms + STEP_MS, history.start_ms + 3 * STEP_MS
    wanted = query(first, last, (2, "__name__", "esnode_gpu_.*"), (0, "gpu", "2"))
    nothing = query(first, last, (0, "__name__", "none"))
    status, body = read(history, packed(wanted + nothing))
    assert status == 200
    results = [wire.message(content) for _, content in wire.fields(bytes(cramjam.snappy.decompress_raw(body)))]
    assert len(results) == 2 and results[1] == b""
    ((_, series),) = wire.fields(results[0])
    fields = list(wire.fields(wire.message(series)))
    labels = [[wire.string(v) for _, v in wire.fields(wire.message(content))] for n, content in fields if n == 1]
    assert labels == [["__name__", "esnode_gpu_power_watts"], ["gpu", "2"], ["uuid", "GPU-0002"]]
    stamps = [wire.signed(dict(wire.fields(wire.message(content)))[2]) for n, content in fields if n == 2]
    assert stamps == [first, first + STEP_MS, last]


def test_what_is_no_request_is_refused(history: History) -> None:
    unknown_only = query(0, 1, (0, "a", "b")) + wire.integer(2, 2)
    for body, words in (
        (b"", b"snappy"),
        (b"not snappy", b"snappy"),
        (packed(b"\x0a\xff"), b"no ReadRequest"),
        (packed(query(0, 1, (9, "a", "b"))), b"unknown type 9"),
        (packed(query(0, 1, (2, "a", "(b"))), b"expression of label a is not valid"),
        (packed(unknown_only), b"SAMPLES"),
        (b"\xff\xff\xff\xff\x0f" + b"a" * 100, b"too large"),
    ):
        status, answer = read(history, body)
        assert status == 400 and words in answer, (body, answer)
    # Packed or not, as a list of enums may be written; the later of the two kinds is what Prometheus sends.
    for accepted in (wire.integer(2, 1) + wire.integer(2, 0), wire.payload(2, b"\x01\x00")):
        assert read(history, packed(query(0, 1, (0, "a", "b")) + accepted))[0] == 200
