# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Persistence, compute and ECC mode."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils._nvml_modes import daemon_runs
from nvml_host import boards


@pytest.mark.parametrize("profile", boards())
def test_persistence_on_every_board(host, profile):
    h = host(profile, persistence=False)
    for enabled in (True, False):
        predicted = h.ok("nvml_persistence_mode", gpus="all", enabled=enabled, check=True)
        done = h.ok("nvml_persistence_mode", gpus="all", enabled=enabled)
        assert done["changed"] and predicted["gpus"] == done["gpus"]
        assert done["gpus"][0]["after"] == {"enabled": enabled, "manager": "driver"}
        assert h.sim.gpu()["persistence_mode"] == int(enabled)
        assert not h.ok("nvml_persistence_mode", gpus="all", enabled=enabled)["changed"]


def test_the_daemon_is_known_by_its_process(tmp_path):
    pid = tmp_path / "pid"
    assert not daemon_runs(str(pid))
    pid.write_text(f"{os.getpid()}\n")
    assert not daemon_runs(str(pid))
    tool = tmp_path / "nvidia-persistenced"
    tool.symlink_to(sys.executable)
    process = subprocess.Popen([tool, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pid.write_text(f"{process.pid}\n")
        end = time.monotonic() + 20  # the kernel names a process a moment after Popen has come back
        while not daemon_runs(str(pid)):
            assert time.monotonic() < end, Path(f"/proc/{process.pid}/comm").read_text()
    finally:
        process.communicate(b"\n")
    assert not daemon_runs(str(pid))


def test_compute_mode(host):
    h = host("h100:2,v100")
    for mode, number in (("exclusive_process", 3), ("prohibited", 2), ("default", 0)):
        predicted = h.ok("nvml_compute_mode", gpus="all", mode=mode, check=True)
        done = h.ok("nvml_compute_mode", gpus="all", mode=mode)
        assert done["changed"] and predicted["gpus"] == done["gpus"]
        assert [gpu["compute_mode"] for gpu in h.settings()] == [number] * 3
        assert not h.ok("nvml_compute_mode", gpus="all", mode=mode)["changed"]


def test_compute_mode_under_mig(host):
    h = host("h100:2")
    h.sim("mig", "mode", 1, "on")
    result = h.fails("nvml_compute_mode", gpus="all", mode="prohibited")
    assert "while MIG mode is on" in result["msg"] and [gpu["compute_mode"] for gpu in h.settings()] == [0, 0]
    assert not h.ok("nvml_compute_mode", gpus="1", mode="default")["changed"]


def test_compute_mode_is_gone_with_the_last_client(host):
    h = host("h100:1", persistence=False)
    result = h.fails("nvml_compute_mode", gpus="all", mode="prohibited")
    assert "persistence mode is off" in result["msg"] and not result["changed"]


def test_ecc_waits_for_a_reset(host):
    h = host("a6000:2")
    state = h.settings()[0]["ecc_current"]
    predicted = h.ok("nvml_ecc_mode", gpus="all", enabled=not state, check=True)
    done = h.ok("nvml_ecc_mode", gpus="all", enabled=not state)
    assert predicted["gpus"] == done["gpus"] and done["changed"]
    assert done["gpus"][1]["after"] == {"current": bool(state), "pending": not state, "reset_required": True}
    assert [w for w in done["warnings"] if "after the next reset" in w]
    assert not h.ok("nvml_ecc_mode", gpus="all", enabled=not state)["changed"]
    h.sim("reset", "all")
    after = h.ok("nvml_ecc_mode", gpus="all", enabled=not state)
    assert not after["changed"] and after["gpus"][0]["after"]["reset_required"] is False


def test_ecc_of_one_refusing_is_taken_back_on_the_other(host):
    h = host("a6000:3")
    before = h.settings()
    h.sim("fail", "nvmlDeviceSetEccMode", 999, "--gpu", 2)
    result = h.fails("nvml_ecc_mode", gpus="all", enabled=not before[0]["ecc_current"])
    assert h.settings() == before and len(result["rolled_back"]) == 2 and not result["changed"]


def test_a_board_without_ecc(host):
    h = host("h100:1")
    h.sim("fail", "nvmlDeviceGetEccMode", 3)
    assert "no ECC that can be switched" in h.fails("nvml_ecc_mode", gpus="all", enabled=True)["msg"]
