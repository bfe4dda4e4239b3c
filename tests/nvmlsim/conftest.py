# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Real processes with the real pynvml: each client is one, and answers one expression at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nvmlsim import SOURCE, Simulator


class NvmlCode(Exception):
    """The call ended with this NVML return code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML returned {code}")
        self.code = code


class Client:
    """A process that has done nvmlInit(), unless told not to."""

    def __init__(self, sim: Simulator, *, init: bool = True, env: dict[str, str] | None = None) -> None:
        environment = {**os.environ, **sim.env, **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, str(SOURCE / "pynvml_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if init:
            self("n.nvmlInit()")

    def send(self, code: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def receive(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the client died with {self.process.wait()}"
        reply = json.loads(line)
        if "nvml" in reply:
            raise NvmlCode(reply["nvml"])
        assert "error" not in reply, reply["error"]
        return reply["value"]

    def __call__(self, code: str) -> Any:
        self.send(code)
        return self.receive()

    def code(self, call: str) -> int:
        """The return code of a call, 0 for success."""
        try:
            self(call)
        except NvmlCode as e:
            return e.code
        return 0

    def close(self, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Simulator]:
    """Makes simulated machines: machine("h100:8", persistence=False)."""
    made = 0

    def make(gpus: str = "h100:1", **options: Any) -> Simulator:
        nonlocal made
        made += 1
        return Simulator(tmp_path / f"nvml{made}.state", gpus, **options)

    return make


@pytest.fixture
def client() -> Iterator[Callable[..., Client]]:
    """Makes clients of a machine and ends them afterwards."""
    started: list[Client] = []

    def start(sim: Simulator, **options: Any) -> Client:
        started.append(Client(sim, **options))
        return started[-1]

    yield start
    for each in started:
        each.close(kill=True)
