# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent and its store: killed, refused, out of room, told otherwise; its metrics are served throughout."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from agent_process import AgentProcess, configuration, free_port
from esnode import store
from esnode.store import Matcher
from esnode.store.keys import read_keys
from small_disks import ext4_image, fill_up, mounted, tmpfs

LOAD = [Matcher("__name__", "=", "esnode_load1")]


def text(port: int, folder: Path, more: str = "") -> str:
    return configuration(port, more=f'[tsdb]\nlocal_tsdb_path = "{folder}"\n{more}')


def until(condition: Callable[[], object], timeout_s: float = 40) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.1)


def counted(agent: AgentProcess, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", agent.metrics(), re.MULTILINE)
    assert found, series
    return float(found[1])


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_what_an_agent_has_served_is_there_after_its_end_and_the_next_one_goes_on(tmp_path: Path, end: int) -> None:
    port, folder = free_port(), tmp_path / "tsdb"
    with AgentProcess(tmp_path, text(port, folder), port) as agent:
        until(lambda: agent.status()["tsdb"]["state"] == "ok")
        began = agent.status()["started"]
        time.sleep(8 if end == signal.SIGKILL else 1)
        served = agent.status()["collectors"]["cpu"]["last_success"]
        agent.process.send_signal(end)
        agent.process.wait(10)
    with store.open_for_reading(folder) as reader:
        (load,) = reader.select(LOAD)
    times = load.times / 1000
    # Killed: durable after 5 s and the time of a write. Stopped: everything.
    assert times[-1] >= served - (6.5 if end == signal.SIGKILL else 0.001)
    assert times[0] < began + 2
    assert np.max(np.diff(times)) < 1.5, "none is missing in between"
    with AgentProcess(tmp_path, text(port, folder), port) as agent:
        until(lambda: agent.status()["tsdb"].get("oldest"))
        assert agent.status()["tsdb"]["oldest"] == times[0]


def test_a_second_agent_on_the_same_store_is_refused_and_serves_its_metrics(tmp_path: Path) -> None:
    folder, ports = tmp_path / "tsdb", (free_port(), free_port())
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with AgentProcess(tmp_path / "one", text(ports[0], folder), ports[0]) as first:
        until(lambda: first.status()["tsdb"]["state"] == "ok")
        with AgentProcess(tmp_path / "two", text(ports[1], folder), ports[1]) as second:
            until(lambda: second.status()["tsdb"]["state"] == "failed")
            assert str(first.process.pid) in second.status()["tsdb"]["error"]
            until(lambda: counted(second, 'esnode_tsdb_errors_total{operation="open"}') >= 1)
            assert second.get("/readyz")[0] == 200
            until(lambda: "esnode_load1 " in second.metrics())
        assert first.status()["tsdb"]["state"] == "ok"


def until_failed(agent: AgentProcess) -> str:
    """Wait until the store says that it can't write; the reason."""
    until(lambda: agent.status()["tsdb"]["state"] == "failed")
    until(lambda: counted(agent, 'esnode_tsdb_errors_total{operation="write"}') >= 1)
    assert agent.get("/readyz")[0] == 200
    until(lambda: "esnode_load1 " in agent.metrics())
    return str(agent.status()["tsdb"]["error"])


def test_a_full_disk_costs_no_sample_and_is_written_again_when_it_has_room(tmp_path: Path) -> None:
    port, disk = free_port(), tmp_path / "disk"
    with tmpfs(disk, "4m"):
        with AgentProcess(tmp_path, text(port, disk / "tsdb"), port) as agent:
            until(lambda: agent.status()["tsdb"]["state"] == "ok")
            ballast = fill_up(disk)
            assert "full" in until_failed(agent)
            ballast.unlink()
            until(lambda: agent.status()["tsdb"]["state"] == "ok")
            assert counted(agent, "esnode_tsdb_samples_lost_total") == 0, "they waited in memory"
        with store.open_for_reading(disk / "tsdb") as reader:
            (load,) = reader.select(LOAD)
        assert np.max(np.diff(load.times)) < 1500


def test_a_disk_that_has_become_read_only_is_served_from_and_said(tmp_path: Path) -> None:
    port, disk, image = free_port(), tmp_path / "disk", ext4_image(tmp_path / "image", 24 << 20)
    with mounted(disk, "-o", "loop,errors=remount-ro", image):
        device = subprocess.run(["losetup", "--noheadings", "--output", "name", "--associated", image],
                                capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        with AgentProcess(tmp_path, text(port, disk / "tsdb"), port) as agent:
            until(lambda: (agent.status()["tsdb"].get("newest") or 0) > agent.status()["started"] + 8)
            # The kernel's own way: it meets an error in the file system and takes no more writes.
            Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("tried by a test")
            broken = time.time()
            assert "read" in until_failed(agent).lower()
            with store.open_for_reading(disk / "tsdb") as reader:
                (load,) = reader.select(LOAD)
            assert load.times[-1] / 1000 > broken - 8
    fixed = subprocess.run(["e2fsck", "-fy", image], capture_output=True, check=False)
    assert fixed.returncode in (0, 1), fixed.stdout
    with mounted(disk, "-o", "loop", image), AgentProcess(tmp_path, text(port, disk / "tsdb"), port) as agent:
        until(lambda: agent.status()["tsdb"].get("oldest") == load.times[0] / 1000)


def test_a_reload_encrypts_the_store_and_rotates_its_key_and_a_key_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    port, folder, key = free_port(), tmp_path / "tsdb", tmp_path / "key"
    with AgentProcess(tmp_path, text(port, folder), port) as agent:
        until(lambda: agent.status()["tsdb"]["state"] == "ok")
        encrypted = text(port, folder, f'encryption_key_path = "{key}"\n')
        agent.config.write_text(encrypted)
        agent.process.send_signal(signal.SIGHUP)
        agent.until_logged("tsdb.encryption_key_path: can't read the key file")
        assert not agent.status()["tsdb"]["encrypted"]
        key.touch(0o600)
        key.write_text("17" * 32 + "\n")
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: agent.status()["tsdb"]["encrypted"] and agent.status()["tsdb"]["state"] == "ok")
        until(lambda: agent.status()["tsdb"].get("old_keys") == [])
        old = key.read_text()
        key.write_text("29" * 32 + "\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.until_logged("is encrypted with key")
        key.write_text("29" * 32 + "\n" + old)
        agent.process.send_signal(signal.SIGHUP)
        rotated = [found.name.hex() for found in read_keys(key)]
        until(lambda: agent.status()["tsdb"].get("old_keys") == rotated[1:])
        until(lambda: agent.status()["tsdb"].get("old_keys") == [])
        assert agent.status()["config"]["reload_errors"] == []
        key.write_text("29" * 32 + "\n")  # the old key is no longer needed
    assert b"esnode_load1" not in b"".join(path.read_bytes() for path in folder.iterdir())
    with store.open_for_reading(folder, key) as reader:
        assert len(reader.select(LOAD)[0].times) > 3
