# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one call of a GPU module costs a host with eight GPUs, beside ansible.builtin.ping on the same host.

Measured is the processor time of the program that Ansible sends to a host: it waits for nothing, so that is its cost,
whatever else the machine does. What the controller and the connection add is the same for both.
`make bench ONLY_BENCH=modules`
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nvmlsim import Simulator
from row import Row

ROOT = Path(__file__).parents[2]
GPUS = 8
CALLS = 30
PING = "ansible.builtin.ping"


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulator = Simulator(folder / "nvml.state", f"h100:{GPUS}")
        sent = Sent(folder, simulator)
        ping = sent.program(PING)
        limits = [sent.program("esnode.core.nvml_power_limit", f"limit={watts}W") for watts in (300, 310)]
        programs = {
            "nvml_power_limit sets": limits,
            "nvml_power_limit, nothing to do": limits[1:],  # after the one above
            "nvml_info": [sent.program("esnode.core.nvml_info")],
        }
        own: dict[str, list[float]] = {what: [] for what in programs}
        peer: list[float] = []
        # By turns, so that whatever else this machine does hits all of them.
        for _ in range(CALLS):
            peer.append(sent.cpu_ms(ping, False))
            for what, several in programs.items():
                own[what] += [sent.cpu_ms(program, what.endswith("sets")) for program in several]
        for what, times in own.items():
            yield Row(f"{what}, {GPUS} GPUs", statistics.median(times), "ms CPU", PING, statistics.median(peer))


class Sent:
    """Programs as Ansible sends them, kept to be run again."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self._folder = folder
        made = subprocess.run(
            ["tools/py", "tools/env.py", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        self._ansible = Path(made.stdout.strip()) / "bin/ansible"
        self._env = {
            **os.environ,
            **simulator.env,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(folder / "sent"),
            "ANSIBLE_KEEP_REMOTE_FILES": "true",
        }

    def program(self, module: str, arguments: str = "") -> Path:
        there = set(self._all())
        if module != PING:
            arguments += f" gpus=all run_dir={self._folder}/run state_file={self._folder}/gpu-state.json"
        command = [str(self._ansible), "all", "-i", "gpu01,", "-c", "local", "-m", module, "-a", arguments]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        done = subprocess.run(command, env=self._env, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{module} failed:\n{done.stdout}{done.stderr}")
        (new,) = set(self._all()) - there
        return new

    def _all(self) -> Iterator[Path]:
        return (self._folder / "sent").rglob("AnsiballZ_*.py")

    def cpu_ms(self, program: Path, changes: bool) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, program], env=self._env, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode or ('"changed": true' in done.stdout) != changes:
            sys.exit(f"{program.name} did something else than it is measured for:\n{done.stdout}{done.stderr}")
        return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1e3
