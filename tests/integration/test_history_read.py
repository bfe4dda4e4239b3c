# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real agent's history over HTTP: the export's forms to the last bit, and Prometheus' API and its own client."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import duckdb  # type: ignore[import-not-found]
import numpy as np
import pandas  # type: ignore[import-untyped]
import pytest
from agent_process import SOURCE, AgentProcess, configuration, free_port
from esnode import sample_stream, store
from esnode.store import SeriesId
from history_data import STEP_MS, History, history_agent
from prometheus_client.openmetrics import parser as openmetrics


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with history_agent(tmp_path_factory.mktemp("history")) as agent:
        yield agent


def bits(values: object) -> bytes:
    return np.asarray(values, np.float64).tobytes()


def test_the_line_of_the_documentation(history: History, tmp_path: Path) -> None:
    file = tmp_path / "week.jsonl.gz"
    line = f'curl -s "{history.url}/tsdb/export?from=-168h&to=now" | gzip > {file}; zcat {file}'
    lines = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout.splitlines()
    found = {json.loads(one)["metric"]["__name__"] for one in lines}
    assert {"esnode_gpu_power_watts", "esnode_build_info"} <= found  # what was filled in, and what was collected since


@pytest.mark.parametrize("options", [["--compressed"], ["-H", "Accept-Encoding: gzip"], []])
def test_curl_takes_each_coding(history: History, options: list[str]) -> None:
    command = ["curl", "-s", *options, f"{history.url}/tsdb/export?{history.span()}"]
    body = subprocess.run(command, capture_output=True, check=True).stdout
    assert (body[:2] == b"\x1f\x8b") == (options[:1] == ["-H"])
    assert options[:1] == ["-H"] or body.startswith(b'{"metric":{"__name__":')


def test_native_brings_every_bit(history: History) -> None:
    found: dict[SeriesId, tuple[list[int], list[float]]] = {}
    for piece in sample_stream.decode([history.get(f"/tsdb/export?{history.span()}&format=native")[2]]):
        times, values = found.setdefault(piece.series, ([], []))
        times.extend(piece.times.tolist())
        values.extend(piece.values.tolist())
    assert found.keys() == history.expected.keys()
    for series, (times, values) in history.expected.items():
        assert found[series][0] == times and bits(found[series][1]) == bits(values), series


def test_json_lines_bring_every_number_and_null_for_none(history: History) -> None:
    found: dict[SeriesId, dict[int, float | str | None]] = {}
    for line in history.get(f"/tsdb/export?{history.span()}")[2].splitlines():
        one = json.loads(line)
        name = one["metric"].pop("__name__")
        samples = zip(one["timestamps"], one["values"], strict=True)
        found.setdefault(SeriesId.of(name, one["metric"]), {}).update(samples)
        assert all(isinstance(value, float) for value in one["values"]) or not any(
            isinstance(value, float) for value in one["values"]
        )
    assert found.keys() == history.expected.keys()
    spelt = {math.inf: "Infinity", -math.inf: "-Infinity"}
    for series, (times, values) in history.expected.items():
        assert found[series] == {t: None if v != v else spelt.get(v, v) for t, v in zip(times, values, strict=True)}


def test_open_metrics_pass_a_strict_parser(history: History) -> None:
    text = history.get(f"/tsdb/export?{history.span()}&format=openmetrics")[2].decode()
    samples: dict[SeriesId, tuple[list[int], list[float]]] = {}
    kinds = {}
    for family in openmetrics.text_string_to_metric_families(text):
        kinds[family.name] = family.type
        for one in family.samples:
            held = samples.setdefault(SeriesId.of(one.name, one.labels), ([], []))
            held[0].append(round(float(one.timestamp) * 1000))
            held[1].append(one.value)
    assert (kinds["esnode_cpu_seconds"], kinds["esnode_gpu_power_watts"]) == ("counter", "gauge")
    assert kinds.keys() == {"esnode_cpu_seconds", "esnode_gpu_power_watts", "odd_values", "texts"}
    for series, (times, values) in history.expected.items():
        # A staleness marker has no spelling in the text.
        kept = [n for n, bit in enumerate(np.array(values).view(np.uint64).tolist()) if bit != 0x7FF0000000000002]
        assert samples[series][0] == [times[n] for n in kept]
        assert samples[series][1] == pytest.approx([values[n] for n in kept], rel=0, nan_ok=True)


def test_pandas_and_duckdb_open_the_parquet(history: History, tmp_path: Path) -> None:
    status, headers, body = history.get(f"/tsdb/export?{history.span()}&format=parquet", {"Accept-Encoding": "gzip"})
    assert status == 200 and "Content-Encoding" not in headers
    frame = pandas.read_parquet(BytesIO(body))
    assert list(frame.columns) == ["name", "labels", "timestamp", "value"]
    assert str(frame["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert len(frame) == sum(len(times) for times, _ in history.expected.values())
    series = SeriesId.of("esnode_gpu_power_watts", {"gpu": "1", "uuid": "GPU-0001"})
    times, values = history.expected[series]
    is_mine = [
        name == series.name and dict(labels).get("gpu") == "1"
        for name, labels in zip(frame["name"], frame["labels"], strict=True)
    ]
    mine = frame[is_mine]
    assert mine["timestamp"].astype("int64").tolist() == times and bits(mine["value"]) == bits(values)

    file = tmp_path / "history.parquet"
    file.write_bytes(body)
    found = duckdb.sql(
        f"SELECT labels['gpu'] AS gpu, count(*), max(value) FROM '{file}' WHERE name = 'esnode_gpu_power_watts' "
        "AND NOT isnan(value) GROUP BY gpu ORDER BY gpu"
    ).fetchall()
    expected = [values for one, (_, values) in sorted(history.expected.items()) if one.name == "esnode_gpu_power_watts"]
    assert [(count, most) for _, count, most in found] == [
        (sum(v == v for v in values), max(v for v in values if v == v)) for values in expected
    ]


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError\n")
    port = free_port()
    text = configuration(port, more=f'[tsdb]\nlocal_tsdb_path = "{tmp_path}/tsdb"')
    agent = AgentProcess(tmp_path, text, port, env={"PYTHONPATH": f"{tmp_path}:{SOURCE}"})
    with agent:
        until = time.monotonic() + 20
        while (answer := agent.get("/tsdb/export?format=parquet"))[0] == 503 and time.monotonic() < until:
            time.sleep(0.1)
        assert answer[0] == 501 and b"esnode-core[parquet]" in answer[2] and b"format=jsonl" in answer[2]


def test_names_and_labels(history: History) -> None:
    status, answer = history.api("/api/v1/series", **{"match[]": ["esnode_gpu_power_watts", '{gpu="1"}']})
    assert status == 200 and answer["status"] == "success"
    assert [one["gpu"] for one in answer["data"]] == ["0", "1", "2", "3"]
    assert {"gpu", "uuid", "__name__", "path"} <= set(history.api("/api/v1/labels")[1]["data"])
    _, answer = history.api("/api/v1/labels", **{"match[]": "odd_values"})
    assert answer["data"] == ["__name__"]
    _, answer = history.api("/api/v1/label/uuid/values", **{"match[]": '{gpu=~"[12]"}'})
    assert answer["data"] == ["GPU-0001", "GPU-0002"]
    _, answer = history.api("/api/v1/label/path/values")
    assert answer["data"] == ['a "b"\\c\né']
    # What was collected since is in other blocks than what was filled in.
    _, answer = history.api("/api/v1/label/__name__/values", end=history.end_ms / 1000)
    assert answer["data"] == ["esnode_cpu_seconds_total", "esnode_gpu_power_watts", "odd_values", "texts"]
    assert history.api("/api/v1/labels", limit=1)[1]["data"] == ["__name__"]


def test_values_at_each_step(history: History) -> None:
    series = SeriesId.of("esnode_gpu_power_watts", {"gpu": "3", "uuid": "GPU-0003"})
    times, values = history.expected[series]
    start, step = history.start_ms - 60_000, 37_000
    end = history.end_ms
    status, answer = history.api(
        "/api/v1/query_range", query='esnode_gpu_power_watts{gpu="3"}', start=start / 1000, end=end / 1000, step="37s"
    )
    assert status == 200 and answer["data"]["resultType"] == "matrix"
    (one,) = answer["data"]["result"]
    assert one["metric"] == {"__name__": series.name, **series.labels}
    # The GPU went with a staleness marker: nothing follows, not even for the look back of five minutes.
    expected = {
        moment: values[(moment - times[0]) // STEP_MS]
        for moment in range(start, end + 1, step)
        if times[0] <= moment < times[-1]
    }
    assert {round(t * 1000): float(value) for t, value in one["values"]} == expected

    status, answer = history.api("/api/v1/query", query="odd_values", time=(history.start_ms + STEP_MS) / 1000)
    assert answer["data"]["result"][0]["value"] == [(history.start_ms + STEP_MS) / 1000, "+Inf"]
    # Five minutes after the end of a series without a marker it is over.
    for after_ms, count in ((299_000, 1), (300_000, 0)):
        _, answer = history.api("/api/v1/query", query="texts", time=(history.end_ms + after_ms) / 1000)
        assert len(answer["data"]["result"]) == count


def test_what_is_not_answered_says_so(history: History) -> None:
    span = {"start": history.start_ms / 1000, "end": history.end_ms / 1000}
    for path, given, code, kind, words in (
        ("query", {"query": "rate(a[5m])"}, 422, "execution", "remote_read"),
        ("query_range", {"query": "sum by (gpu) (a)", "step": 60, **span}, 422, "execution", "remote_read"),
        ("query", {"query": "a[5m]"}, 422, "execution", "at character 2"),
        ("query", {}, 400, "bad_data", "'query': it is missing"),
        ("query", {"query": "{}"}, 400, "bad_data", "does not match the empty value"),
        ("query", {"query": "a", "time": "noon"}, 400, "bad_data", "'time'"),
        ("query_range", {"query": "texts", "step": 0.1, **span}, 400, "bad_data", "11000 points"),
        ("query_range", {"query": "texts", "step": 0, **span}, 400, "bad_data", "'step'"),
        ("query_range", {"query": "texts", **span}, 400, "bad_data", "'step': it is missing"),
        ("query_range", {"query": "texts", "start": 2, "end": 1, "step": 1}, 400, "bad_data", "before start"),
        ("series", {}, 400, "bad_data", "no match[]"),
        ("series", {"match[]": 'a{b=~"("}'}, 400, "bad_data", "at character 6: the regular expression of label b"),
        ("label/a-b/values", {}, 400, "bad_data", "invalid label name"),
        ("labels", {"limit": "x"}, 400, "bad_data", "'limit'"),
    ):
        status, answer = history.api(f"/api/v1/{path}", **given)
        assert (status, answer["status"], answer["errorType"]) == (code, "error", kind), answer
        assert words in answer["error"]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", "query", *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_promtool_asks_the_agent(history: History) -> None:
    """It uses POST, as Grafana does."""
    assert promtool("series", "--match=texts", history.url).stdout == '{__name__="texts", path="a \\"b\\"\\\\c\\né"}\n'
    assert promtool("labels", history.url, "gpu").stdout.split() == ["0", "1", "2", "3"]
    at = f"{history.start_ms // 1000}"
    shown = promtool("instant", f"--time={at}", history.url, 'esnode_gpu_power_watts{gpu="0"}').stdout
    assert shown == f'esnode_gpu_power_watts{{gpu="0", uuid="GPU-0000"}} => 300 @[{at}]\n'
    ranged = promtool("range", f"--start={at}", f"--end={int(at) + 60}", "--step=30s", history.url, "texts").stdout
    assert len(re.findall(r"@\[\d+\]", ranged)) == 3
    refused = promtool("instant", history.url, "rate(texts[5m])")
    assert refused.returncode == 1 and "no plain selector" in refused.stderr


def test_memory_does_not_grow_with_an_export(tmp_path: Path) -> None:
    """Forty megabytes of text go through; a part of that may be in memory at a time."""
    now_ms = int(time.time()) * 1000
    series = [SeriesId.of("esnode_test", {"number": str(n)}) for n in range(500)]
    with store.open(tmp_path / "tsdb") as filled:
        for tick in range(2400):
            filled.append(now_ms - 4_000_000 + tick * 1000, {one: tick / (n + 7) for n, one in enumerate(series)})
            if tick % 400 == 399:
                filled.seal()
    port = free_port()
    agent = AgentProcess(tmp_path, configuration(port, more=f'[tsdb]\nlocal_tsdb_path = "{tmp_path}/tsdb"'), port)
    with agent:

        def most_resident_kb() -> int:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{agent.process.pid}/status").read_text())
            assert found
            return int(found[1])

        until = time.monotonic() + 20
        while agent.get("/tsdb/export?match[]=esnode_test{number='1'}")[0] == 503 and time.monotonic() < until:
            time.sleep(0.1)
        before = most_resident_kb()
        body = agent.get("/tsdb/export?match[]=esnode_test")[2]
        assert body.count(b"\n") >= 2400 * 500 / 1800 and len(body) > 36_000_000
        assert most_resident_kb() < before + 20_000


def test_requests_are_counted_by_route(history: History) -> None:
    history.api("/api/v1/label/any/values")
    assert 'route="/api/v1/label/{name}/values",method="GET",code="200"' in history.metrics()
    assert 'href="/tsdb/export' in history.get("/")[2].decode()
