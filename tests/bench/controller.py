# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run of ansible-playbook, with what it took on the controller."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Took:
    """`memory_mb` is the most that the controller's processes held together, what they share counted once."""

    code: int
    output: str
    wall_s: float
    cpu_s: float
    memory_mb: float

    def recap(self) -> dict[str, dict[str, int]]:
        """Host to what the recap counts."""
        lines = re.findall(r"^(\S+)\s+: (ok=\d.*)$", self.output, re.MULTILINE)
        return {
            host: {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in lines
        }

    def tasks(self) -> float:
        """Tasks a host, skipped ones among them: they cost the controller about the same."""
        hosts = [counts for host, counts in self.recap().items() if host != "localhost"]
        return sum(one["ok"] + one["skipped"] + one["rescued"] for one in hosts) / len(hosts)

    def changed(self) -> int:
        return sum(counts["changed"] for counts in self.recap().values())


def ansible() -> Path:
    """The bin folder of the environment of `make deploy`."""
    made = subprocess.run(["tools/py", "tools/env.py", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    return Path(made.stdout.strip()) / "bin"


def copy_collection(to: Path) -> Path:
    """A collections path with what a tarball would hold, as it is now."""
    core = to / "ansible_collections/esnode/core"
    for part in ("meta", "plugins", "roles", "playbooks"):
        shutil.copytree(ROOT / part, core / part, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    shutil.copy(ROOT / "galaxy.yml", core)
    return to


def run(command: list[str], environment: dict[str, str], log: Path) -> Took:
    """Its output lies in `log`, too, for whoever asks why it took so long."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent)
        watch = _Memory(process.pid)
        watch.start()
        code = process.wait()
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    watch.join()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(code, log.read_text(errors="replace"), wall, cpu, watch.most_kb / 1024)


class _Memory(threading.Thread):
    """Samples a process with all its descendants until it has ended."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self.most_kb = 0

    def run(self) -> None:
        while _alive(self._pid):
            self.most_kb = max(self.most_kb, sum(map(_proportional_kb, _family(self._pid))))
            time.sleep(1)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _family(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
    return found


def _proportional_kb(pid: int) -> int:
    """Memory of a process in which a page that n processes share counts as 1/n of a page."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
