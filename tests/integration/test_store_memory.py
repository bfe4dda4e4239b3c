# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process whose store is fed for long needs no more memory than after a while."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from esnode import store

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from esnode import store
from samples import START_MS, named, row

def private_kb():
    return sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Private_"))

now = [START_MS / 1000]
options = store.Options(wall=lambda: now[0], monotonic=lambda: now[0], seal_rows=50, retention_s=500)
one = store.open(Path(sys.argv[1]), options)
steady = row(300, 1)
pid, figures = 0, []
for tick in range(900):
    now[0] += 1
    pid += 4
    values = {**steady, **{named(n, "esnode_process_gpu_memory_bytes"): float(n) for n in range(pid, pid + 40)}}
    one.append(int(now[0] * 1000), values)
    if tick % 50 == 49:
        one.settle()
        one.series()
        figures.append(private_kb())
print(len(figures), max(figures[6:10]), max(figures[14:]))
one.close()
"""


def test_processes_that_come_and_go_for_long_take_no_more_memory(tmp_path: Path) -> None:
    """3,600 series, of which retention keeps half: a row has another set of them than the one before."""
    paths = (ROOT / "tests/unit/agent/store", Path(store.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "store"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, middle_kb, late_kb = map(int, done.stdout.split())
    assert count == 18
    assert late_kb < middle_kb + 4096
    assert late_kb < 100_000
