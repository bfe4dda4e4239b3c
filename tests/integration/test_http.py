# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP face of a real agent: what it answers, and what clients can't do to it."""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess, configuration, environment, free_port
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, interval=1, enable=("cpu", "memory", "network")), port) as running:
        yield running


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {series} in\n{text[:2000]}"
    return float(found[1])


def test_metrics_in_every_form(agent: AgentProcess) -> None:
    # Rates, and the count of requests, have samples from the second collection on.
    _until(lambda: b"esnode_cpu_usage_percent" in (page := agent.get("/metrics")[2]) and b"http_requests" in page)
    status, headers, body = agent.get("/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    names = {f.name for f in text_string_to_metric_families(body.decode())}
    assert {"esnode_build_info", "esnode_cpu_seconds", "esnode_memory_total_bytes"} <= names

    accept = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
    status, headers, body = agent.get("/metrics", accept)
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {f.name for f in openmetrics.text_string_to_metric_families(gzip.decompress(body).decode())} == names
    assert "Accept" in headers["Vary"]


def test_pages(agent: AgentProcess) -> None:
    assert agent.get("/healthz")[0] == 200
    _until(lambda: agent.get("/readyz")[0] == 200)
    status, headers, body = agent.get("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    for link in ("/metrics", "/status", "/healthz", "/readyz"):
        assert f'href="{link}"' in body.decode()
    assert "aiohttp" not in str(headers)
    state = agent.status()
    assert state["collectors"]["cpu"]["state"] == "ok"
    assert state["ready"] is True and state["config"]["path"] == str(agent.config)
    assert agent.get("/nothing")[0] == 404
    assert agent.get("/../../etc/passwd")[0] == 404


def test_numbers_move_with_each_tick_and_requests_are_counted_by_route(agent: AgentProcess) -> None:
    agent.get("/no/such/path?token=abc")
    first = value(agent.metrics(), 'esnode_collector_last_success_timestamp_seconds{collector="cpu"}')
    until = time.monotonic() + 20
    while time.monotonic() < until:
        text = agent.metrics()
        if value(text, 'esnode_collector_last_success_timestamp_seconds{collector="cpu"}') > first + 0.3:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the numbers stand still")
    assert value(text, 'esnode_http_requests_total{route="unmatched",method="GET",code="404"}') == 1
    assert value(text, 'esnode_http_requests_total{route="/metrics",method="GET",code="200"}') >= 2
    assert value(text, "esnode_scrape_duration_seconds_count") >= 2
    assert "abc" not in text


def test_oversized_headers_are_refused_and_nothing_else_suffers(agent: AgentProcess) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), 20) as greedy:
        greedy.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * 100_000 + b"\r\n\r\n")
        assert b" 400 Bad Request" in greedy.recv(4096)
    with socket.create_connection(("127.0.0.1", agent.port), 20) as odd:
        odd.sendall(b"\x16\x03\x01\x00garbage\r\n\r\n")
        assert b" 400 Bad Request" in odd.recv(4096)
    assert agent.get("/healthz")[0] == 200


def test_clients_that_do_not_read_or_do_not_ask_cost_nothing(agent: AgentProcess) -> None:
    """200 connections of each kind are held open while a scraper goes on; collection goes on too."""
    held = []
    try:
        for _ in range(200):
            silent = socket.create_connection(("127.0.0.1", agent.port), 20)
            held.append(silent)
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            deaf.settimeout(20)
            deaf.connect(("127.0.0.1", agent.port))
            deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
            held.append(deaf)
        before = value(agent.metrics(), "esnode_start_time_seconds")
        errors = [agent.get("/metrics")[0] for _ in range(20)]
        assert errors == [200] * 20
        assert value(agent.metrics(), "esnode_start_time_seconds") == before
        assert agent.status()["collectors"]["cpu"]["errors_total"] == 0
    finally:
        for one in held:
            one.close()


def test_a_flood_of_idle_connections_does_not_shut_the_scraper_out(agent: AgentProcess) -> None:
    held = []
    try:
        for _ in range(700):
            held.append(socket.create_connection(("127.0.0.1", agent.port), 20))
        assert agent.get("/metrics")[0] == 200
        closed = [s for s in select.select(held, [], [], 5)[0] if _is_closed(s)]
        assert len(closed) >= 700 - 512
    finally:
        for one in held:
            one.close()


def _is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True


def test_a_silent_connection_is_closed(agent: AgentProcess) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), 60) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
        assert _is_closed(silent)


def test_sigterm_ends_it_within_two_seconds_even_with_clients(agent: AgentProcess) -> None:
    held = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(20)]
    assert agent.get("/healthz")[0] == 200  # it runs, and not only the kernel listens for it
    for one in held[:10]:
        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(2) == 0
    assert agent.log[-1]["message"] == "stopping"
    for one in held:
        one.close()


def test_the_command_line_speaks_to_the_running_agent(agent: AgentProcess) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "esnode", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)

    assert "esnode_cpu_seconds_total{" in run("metrics", "--config", str(agent.config)).stdout
    shown = run("status", "--config", str(agent.config)).stdout
    assert "ready, every 1 s" in shown and re.search(r"cpu +ok +\d+ series", shown)
    assert json.loads(run("status", "--json", "--url", f"http://127.0.0.1:{agent.port}").stdout)["ready"] is True
    assert run("version").stdout == "esnode-core 1.0.0\n"
    nobody = run("status", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 1 and "no answer from" in nobody.stderr


def test_a_taken_port_is_named(agent: AgentProcess, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("second")
    with AgentProcess(folder, configuration(agent.port), agent.port, wait=False) as second:
        assert second.process.wait(20) == 1
        assert "Address already in use" in second.log[-1]["message"]
        assert "agent.listen_address" in second.log[-1]["message"]


def test_sighup_reloads_what_can_be_and_keeps_the_old_when_the_new_is_bad(agent: AgentProcess) -> None:
    assert "esnode_load1 " in agent.metrics()
    agent.config.write_text(configuration(agent.port, interval=0.3, enable=("memory", "network")))
    agent.process.send_signal(signal.SIGHUP)
    agent.until_logged("configuration reloaded")
    _until(lambda: "esnode_load1 " not in agent.metrics())
    assert agent.status()["interval_seconds"] == 0.3
    assert value(agent.metrics(), 'esnode_config_reloads_total{result="success"}') == 1

    agent.config.write_text("[agent]\nlog_level = 3\n[nonsense]\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.until_logged("agent.log_level = 3: expected")
    agent.until_logged("nonsense: unknown section")
    _until(lambda: value(agent.metrics(), 'esnode_config_reloads_total{result="failure"}') == 1)
    assert agent.status()["interval_seconds"] == 0.3
    assert len(agent.status()["config"]["reload_errors"]) == 2
    assert "esnode_memory_total_bytes" in agent.metrics()

    agent.config.write_text(configuration(free_port(), enable=("cpu",)))
    agent.process.send_signal(signal.SIGHUP)
    assert "needs a restart" in agent.until_logged("agent.listen_address has changed")["message"]
    assert agent.get("/healthz")[0] == 200
    assert agent.status()["config"]["restart_needed_for"] == ["agent.listen_address"]


def _until(true: object, timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)


def test_an_interval_of_a_tenth_of_a_second_is_kept(tmp_path: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, interval=0.1), port) as agent:
        series = 'esnode_collector_last_success_timestamp_seconds{collector="cpu"}'
        seen: set[float] = set()
        until = time.monotonic() + 20
        while len(seen) < 10 and time.monotonic() < until:
            seen.add(value(agent.metrics(), series))
            time.sleep(0.02)
        steps = sorted(b - a for a, b in zip(sorted(seen), sorted(seen)[1:], strict=False))
        assert 0.05 < steps[len(steps) // 2] < 0.15


def test_a_bad_configuration_stops_the_start_with_every_mistake(tmp_path: Path) -> None:
    text = (
        '[agent]\nlog_level = "loud"\n'
        '[security]\nenable_tls = true\ntls_cert_path = "/no/such.crt"\ntls_key_path = "/no/such.key"\n'
    )
    with AgentProcess(tmp_path, text, 0, wait=False) as agent:
        assert agent.process.wait(20) == 1
        for expected in ("agent.log_level", "security.tls_cert_path", "security.tls_key_path"):
            assert expected in agent.text
    check = [sys.executable, "-m", "esnode", "check-config", "--config", str(tmp_path / "esnode.toml")]
    checked = subprocess.run(check, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 1 and len(checked.stderr.splitlines()) == 3


def test_no_descriptor_is_lost_over_many_connections(agent: AgentProcess) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{agent.process.pid}/fd"))

    for _ in range(30):
        agent.get("/metrics")
    before = descriptors()
    for _ in range(300):
        agent.get("/metrics")
    _until(lambda: descriptors() <= before + 2)
