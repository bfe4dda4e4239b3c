# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task for eight GPUs takes beside ansible.builtin.ping on the same host: the module's own time, and the play's.

`make bench ONLY_BENCH=nvml`. Both run by turns, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from controller import ansible, copy_collection, run
from nvmlsim import Simulator
from row import Row

TASKS = 40
ROUNDS = 3
PEER = "ansible.builtin.ping"
PING = {"ansible.builtin.ping": {}}
CALLS = {
    "power limit, nothing to do": {"esnode.core.nvml_power_limit": {"gpus": "all", "limit": "300W"}},
    "reading all of it": {"esnode.core.nvml_info": {}},
}


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sim = Simulator(folder / "nvml.state", "h100:8")
        python = folder / "python"
        exports = "".join(f"export {name}='{value}'\n" for name, value in sim.env.items())
        venv = os.environ.get("VIRTUAL_ENV") or str(Path(sys.executable).parents[1])
        python.write_text(f'#!/bin/sh\n{exports}exec {venv}/bin/python "$@"\n')
        python.chmod(0o755)
        copy_collection(folder / "collections")
        seconds(folder, python, CALLS["power limit, nothing to do"], 1)  # sets it
        for label, call in CALLS.items():
            ours, pings = [], []
            for _round in range(ROUNDS):
                pings.append(a_task(folder, python, PING))
                ours.append(a_task(folder, python, call))
            print(f"   {label}: {ours} s, {PEER}: {pings} s for a task", file=sys.stderr, flush=True)
            yield Row(f"8 GPUs, {label}", statistics.median(ours) * 1000, "ms", PEER, statistics.median(pings) * 1000)


def a_task(folder: Path, python: Path, task: dict[str, object]) -> float:
    """Seconds for one of many equal tasks, with the start of Ansible taken off."""
    return (seconds(folder, python, task, TASKS) - seconds(folder, python, task, 0)) / TASKS


def seconds(folder: Path, python: Path, task: dict[str, object], count: int) -> float:
    variables = {"ansible_connection": "local", "ansible_python_interpreter": str(python), "ansible_pipelining": True}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node": variables}}}))
    plays = [{"name": "Run", "hosts": "node", "gather_facts": False, "tasks": [{"name": "Call", **task}] * count}]
    (folder / "play.yml").write_text(json.dumps(plays))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
    }
    began = time.monotonic()
    took = run(
        [str(ansible() / "ansible-playbook"), "-i", str(folder / "hosts.json"), str(folder / "play.yml")],
        environment,
        folder / "log",
    )
    if took.code:
        raise SystemExit(f"ansible-playbook ended with {took.code}:\n{took.output[-2000:]}")
    return time.monotonic() - began
