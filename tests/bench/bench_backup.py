# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup and restore of 7 days of 1,000 series at 15 s, as commands, beside tar of the same store with nobody writing.

`make bench ONLY_BENCH=backup`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from agent_process import SOURCE, AgentProcess, configuration, environment, free_port
from row import Row

SERIES, STEP_S, DAYS = 1000, 15, 7
ROWS = DAYS * 86400 // STEP_S
MORE = 240 // STEP_S  # what comes in the four minutes between two backups


def rows() -> Iterator[Row]:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        store, backups = folder / "store", folder / "backups"
        fill(store, 0, ROWS)
        port = free_port()
        text = configuration(port, 1.0, more=f'[tsdb]\nlocal_tsdb_path = "{store}"\nmax_disk_mb = 1000')
        (folder / "esnode.toml").write_text(text)
        backup = ("backup", backups, "--config", folder / "esnode.toml")

        first = seconds(*esnode(*backup))
        packed = seconds("tar", "-czf", folder / "store.tgz", "-C", folder, "store")
        yield Row("backup: first, 7 days x 1,000 series x 15 s", first, "s", "tar czf", packed)
        yield Row("backup: its size", size_mb(backups), "MB", "tar czf", size_mb(folder / "store.tgz"))
        yield Row("backup: the store", size_mb(store), "MB", "", None)

        fill(store, ROWS, MORE)
        before = size_mb(backups)
        further = seconds(*esnode(*backup))
        yield Row("backup: 4 minutes later", further, "s", "tar czf", packed)
        yield Row("backup: written then", size_mb(backups) - before, "MB", "tar czf", size_mb(folder / "store.tgz"))
        yield Row("backup: verify", seconds(*esnode("backup", "--verify", backups)), "s", "", None)

        (store).rename(folder / "lost")
        (folder / "unpacked").mkdir()
        unpack = seconds("tar", "-xzf", folder / "store.tgz", "-C", folder / "unpacked")
        restore = seconds(*esnode("restore", backups, "--config", folder / "esnode.toml"))
        yield Row("restore: 7 days", restore, "s", "tar xzf", unpack)
        began = time.perf_counter()
        with AgentProcess(folder, text, port):
            yield Row("restore: then the agent answers", time.perf_counter() - began, "s", "", None)


def esnode(*words: object) -> tuple[object, ...]:
    return (sys.executable, "-m", "esnode.cli", *words)


def seconds(*command: object) -> float:
    began = time.perf_counter()
    subprocess.run([str(word) for word in command], env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def size_mb(path: Path) -> float:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def fill(path: Path, first: int, count: int) -> None:
    """Append rows that end now: constants, counters, temperatures in whole degrees, watts, percentages, doubles."""
    sys.path.insert(0, str(SOURCE))
    from esnode import store
    from esnode.store import SeriesId

    names = [SeriesId.of(f"esnode_bench_{place % 6}", {"place": str(place)}) for place in range(SERIES)]
    place = np.arange(SERIES)
    kind = place % 6
    dice = np.random.default_rng(first)
    end_s = time.time()
    options = store.Options(seal_values=480_000, retention_s=365 * 86400.0)
    with store.open(path, options) as one:
        for tick in range(first, first + count):
            noise = dice.standard_normal(SERIES)
            values = np.select(
                [kind == number for number in range(5)],
                [
                    place.astype(float),
                    tick * 15.0 * (place + 1),
                    60 + np.round(4 * np.sin(tick / 500 + place) + noise),
                    np.round(300 + 50 * noise, 3),
                    np.round(np.clip(50 + 20 * noise, 0, 100), 1),
                ],
                noise,
            )
            one.append(
                int((end_s - (ROWS + MORE - tick) * STEP_S) * 1000), dict(zip(names, values.tolist(), strict=True))
            )
            if tick % 120 == 119:
                one.flush()
            if tick % 480 == 479:
                one.settle()
