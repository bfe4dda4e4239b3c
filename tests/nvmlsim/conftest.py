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
from nvmlsim import Simulator

CHILD = """
import ctypes, json, sys, threading, time, traceback
import pynvml as n
def plain(x):
    if isinstance(x, ctypes._SimpleCData): return plain(x.value)
    if isinstance(x, bytes): return x.decode()
    if isinstance(x, (list, tuple, ctypes.Array)): return [plain(y) for y in x]
    if isinstance(x, dict): return {k: plain(v) for k, v in x.items()}
    if isinstance(x, ctypes.Structure): return {f[0]: plain(getattr(x, f[0])) for f in x._fields_ if not hasattr(f[1], 'contents')}
    if type(x).__name__ == "nvmlFriendlyObject": return {k: plain(v) for k, v in vars(x).items()}
    return x if isinstance(x, (int, float, str, type(None))) else repr(x)
def h(i=0): return n.nvmlDeviceGetHandleByIndex(i)
def fields(wanted, i=0):
    return [(f.nvmlReturn, {0: f.value.dVal, 1: f.value.uiVal, 3: f.value.ullVal, 5: f.value.siVal}[f.valueType] if not f.nvmlReturn else None)
            for f in n.nvmlDeviceGetFieldValues(h(i), wanted)]
names = {"n": n, "ctypes": ctypes, "h": h, "fields": fields, "time": time, "threading": threading}
for line in sys.stdin:
    try:
        code = json.loads(line)
        try:
            reply = {"value": plain(eval(compile(code, "client", "eval"), names))}
        except SyntaxError:
            exec(code, names)
            reply = {"value": None}
    except n.NVMLError as e:
        reply = {"nvml": e.value}
    except BaseException:
        reply = {"error": traceback.format_exc()}
    print(json.dumps(reply), flush=True)
"""


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
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
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
