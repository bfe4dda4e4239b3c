# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""MIG mode and layouts: declared, kept, refused, put back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from nvml_host import Host

HALVES = [{"profile": "3g.40gb", "count": 2}]
BOARDS = {
    "a100": ("3g.40gb", "1g.10gb"),
    "h100": ("3g.40gb", "1g.10gb"),
    "h200": ("3g.71gb", "1g.18gb"),
    "b200": ("3g.90gb", "1g.23gb"),
}


def there(h: Host, index: int = 0) -> list[tuple[str, int]]:
    return sorted((each["name"], len(each["compute_instances"])) for each in h.sim.gpu(index)["gpu_instances"])


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lasts until it is ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    threading.Thread(target=process.wait, daemon=True).start()  # or it would stay as a zombie
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("board", BOARDS)
def test_layouts_on_every_board(host, board):
    h = host(board)
    large, small = BOARDS[board]
    layout = [{"profile": large, "compute": ["1c", "2c"]}, {"profile": small, "count": 2}]
    predicted = h.ok("nvml_mig", gpus="all", layout=layout, check=True)
    assert h.sim.gpu()["mig_current"] == 0
    done = h.ok("nvml_mig", gpus="all", layout=layout)
    assert done["changed"] and predicted["changed"]
    assert there(h) == sorted([(large, 2), (small, 1), (small, 1)])

    def kinds(result):
        return sorted((each["profile"], each["compute"]) for each in result["gpus"][0]["after"]["instances"])

    assert kinds(done) == kinds(predicted)
    assert len(done["gpus"][0]["after"]["devices"]) == 4
    again = h.ok("nvml_mig", gpus="all", layout=layout)
    assert not again["changed"] and again["gpus"][0]["before"] == done["gpus"][0]["after"]
    assert h.ok("nvml_mig", gpus="all", layout=[])["changed"] and there(h) == []
    assert h.ok("nvml_mig", gpus="all", enabled=False)["changed"] and h.sim.gpu()["mig_current"] == 0
    assert not h.ok("nvml_mig", gpus="all", enabled=False)["changed"]


def test_what_is_there_and_wanted_stays_with_what_runs_in_it(host, worker):
    h = host("h100:1")
    h.ok("nvml_mig", gpus="all", layout=HALVES)
    first = h.sim.gpu()["gpu_instances"][0]
    h.sim("process", "add", 0, worker.pid, "--gpu-instance", first["id"], "--compute-instance", 0)
    h.ok("nvml_mig", gpus="all", layout=[{"profile": "3g.40gb"}, {"profile": "1g.10gb"}])
    assert there(h) == [("1g.10gb", 1), ("3g.40gb", 1)]
    assert first["id"] in [each["id"] for each in h.sim.gpu()["gpu_instances"]]
    assert worker.poll() is None


def test_instances_in_use_are_not_destroyed_unless_told_to(host, worker):
    h = host("h100:2")
    h.ok("nvml_mig", gpus="all", layout=HALVES)
    instance = h.sim.gpu(1)["gpu_instances"][1]
    h.sim("process", "add", 1, worker.pid, "--gpu-instance", instance["id"], "--compute-instance", 0)
    before = h.settings()
    refused: list[dict[str, Any]] = [{"layout": [{"profile": "7g.80gb"}]}, {"enabled": False}, {"layout": []}]
    for options in refused:
        for check in (True, False):
            result = h.fails("nvml_mig", gpus="all", check=check, **options)
            assert f"(pid {worker.pid}" in result["msg"] and "Nothing was changed" in result["msg"]
    assert h.settings() == before and worker.poll() is None
    h.ok("nvml_mig", gpus="all", layout=[{"profile": "7g.80gb"}], terminate_processes=True)
    assert worker.wait(5) is not None
    assert there(h, 0) == there(h, 1) == [("7g.80gb", 1)]


def test_what_does_not_fit_is_refused_before_anything_is_done(host):
    h = host("h100:1")
    for layout, words in (
        ([{"profile": "9g.90gb"}], "it has 1g.10gb"),
        ([{"profile": "3g.40gb", "count": 3}], "takes 2 of 3g.40gb, not 3"),
        ([{"profile": "4g.40gb"}, {"profile": "3g.40gb"}, {"profile": "1g.10gb"}], "8 compute slices; it has 7"),
        ([{"profile": "3g.40gb", "compute": ["2c", "2c"]}], "take 4 compute slices; 3g.40gb has 3"),
        ([{"profile": "3g.40gb", "compute": ["7g.80gb"]}], "take 7 compute slices"),
        ([{"profile": "3g.40gb", "compute": ["half"]}], "'half.3g.40gb' is no compute instance; write 1c, 2c"),
    ):
        for check in (True, False):
            result = h.fails("nvml_mig", gpus="all", layout=layout, check=check)
            assert words in result["msg"] and "Nothing was changed" in result["msg"], result["msg"]
        assert h.sim.gpu()["mig_current"] == 0
    assert "takes MIG mode" in h.fails("nvml_mig", gpus="all", enabled=False, layout=HALVES)["msg"]
    # seven slices, but no place for all three
    h.ok("nvml_mig", gpus="all", layout=HALVES)
    before = h.settings()
    crowded = [{"profile": "3g.40gb", "count": 2}, {"profile": "1g.10gb"}]
    for check in (True, False):
        assert "does not fit" in h.fails("nvml_mig", gpus="all", layout=crowded, check=check)["msg"]
    assert h.settings() == before


def test_idle_instances_move_when_they_are_in_the_way(host):
    h = host("h100:1")
    h.sim("mig", "mode", 0, "on")
    h.sim("mig", "create", 0, "1g.10gb,1g.10gb,1g.10gb,1g.10gb")
    layout = [{"profile": "4g.40gb"}, {"profile": "1g.10gb", "count": 3}]
    h.ok("nvml_mig", gpus="all", layout=layout)
    assert there(h) == [("1g.10gb", 1)] * 3 + [("4g.40gb", 1)]


def test_a_failure_puts_mode_and_instances_back(host):
    h = host("h100:3")
    h.ok("nvml_mig", gpus="1", layout=HALVES)
    before = h.settings()
    layout = [{"profile": "2g.20gb", "compute": ["1c", "1c"]}, {"profile": "1g.10gb"}]
    h.sim("fail", "nvmlGpuInstanceCreateComputeInstance", 23, "--gpu", 2, "--after", 1)
    result = h.fails("nvml_mig", gpus="all", layout=layout)
    assert result["changed"] is False and not result["rollback_failed"], result
    assert h.settings() == before
    h.sim("clear", "faults")
    assert h.ok("nvml_mig", gpus="all", layout=layout)["changed"]


def test_the_inner_status_counts(host):
    h = host("a100:1")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import pynvml; pynvml.nvmlInit(); print(flush=True); input()"],
        env=h.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout and holder.stdout.readline()
        before = h.settings()
        result = h.fails("nvml_mig", gpus="all")
        assert "could not be switched" in result["msg"] and "keep NVML open" in result["msg"]
        assert h.settings() == before  # nothing is left pending either
    finally:
        holder.communicate(b"\n")
    assert h.ok("nvml_mig", gpus="all")["changed"]


def test_in_a_virtual_machine_it_waits_for_a_reboot(host):
    h = host("a100:1")
    h.sim("vm", "on")
    done = h.ok("nvml_mig", gpus="all", layout=HALVES)
    after = done["gpus"][0]["after"]
    assert done["changed"] and after["reset_required"] and not after["enabled"]
    assert [w for w in done["warnings"] if "after the next reset or reboot" in w and "layout" in w]
    again = h.ok("nvml_mig", gpus="all", layout=HALVES)
    assert not again["changed"] and again["gpus"][0]["after"]["reset_required"]
    h.sim("reboot")
    assert h.ok("nvml_mig", gpus="all", layout=HALVES)["changed"]
    assert there(h) == [("3g.40gb", 1)] * 2


def test_boards_without_mig(host):
    assert "has no MIG" in host("l40s").fails("nvml_mig", gpus="all")["msg"]
