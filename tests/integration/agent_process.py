# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real agent process for tests: a configuration of its own, a free port, its log, and its end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "roles/esnode_agent/files/esnode/src"
COLLECTORS = ("cpu", "memory", "disk", "network", "gpu", "power", "gpu_events", "gpu_settings", "backup")


def free_port() -> int:
    """One that no other worker of pytest-xdist is given, so that it stays free until it is used."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port // 2 % workers == mine:  # in twos: bind gives odd ports, connect even ones
            return port


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), **extra}


def configuration(port: int, interval: float = 0.2, enable: tuple[str, ...] = ("cpu",), more: str = "") -> str:
    """Without a store unless `more` has a section for it."""
    if "[tsdb]" not in more:
        more += "\n[tsdb]\nenable_local_tsdb = false\n"
    switches = "\n".join(f"enable_{name} = {str(name in enable).lower()}" for name in COLLECTORS)
    return (
        f'[agent]\nlisten_address = "127.0.0.1:{port}"\nscrape_interval_seconds = {interval}\nlog_format = "json"\n'
        f"[collectors]\n{switches}\n{more}\n"
    )


class AgentProcess:
    """`with AgentProcess(folder, configuration(...)) as agent`: runs until the block ends; `log` has its lines."""

    def __init__(
        self,
        folder: Path,
        text: str,
        port: int,
        *,
        env: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        wait: bool = True,
    ) -> None:
        self.config = folder / "esnode.toml"
        self.config.write_text(text)
        self.port = port
        self._log = folder / "agent.log"
        self.command = [*prefix, sys.executable, "-m", "esnode", "run", "--config", str(self.config), *arguments]
        self._env = environment(**(env or {}))
        self._wait = wait

    def __enter__(self) -> AgentProcess:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stderr=log, stdout=log, env=self._env, close_fds=True)
        if self._wait:
            self.until_answering()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def until_answering(self) -> None:
        for _ in range(600):
            if self.process.poll() is not None:
                raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.text}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError(f"the agent does not listen:\n{self.text}")

    @property
    def text(self) -> str:
        return self._log.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    def until_logged(self, words: str, timeout_s: float = 20) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for entry in self.log:
                if words in entry["message"]:
                    return entry
            time.sleep(0.05)
        raise AssertionError(f"not logged: {words}\n{self.text}")

    def get(
        self, path: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if context is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=context)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def metrics(self) -> str:
        status, _, body = self.get("/metrics")
        assert status == 200
        return body.decode()

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get("/status")[2])
        return found
