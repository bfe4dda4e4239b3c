# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Clock locks, which no NVML call reads back: what is noted, and when the note no longer counts."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from nvml_host import boards

LOCK = {"min_mhz": 1200, "max_mhz": 1500}


def locked(h, index: int = 0) -> Any:
    return h.sim.gpu(index)["gpu_locked_clocks"]


@pytest.mark.parametrize("profile", boards())
def test_every_board(host, profile):
    h = host(profile)
    top = h.sim.gpu()["max_graphics_clock_mhz"]
    wanted = f"{top // 2}-{top - 7}"
    predicted = h.ok("nvml_clock_lock", gpus="all", graphics=wanted, check=True)
    assert locked(h) == []
    done = h.ok("nvml_clock_lock", gpus="all", graphics=wanted)
    assert predicted["gpus"] == done["gpus"] and done["changed"]
    after = done["gpus"][0]["after"]["graphics"]
    assert locked(h) == [after["min_mhz"], after["max_mhz"]]
    table = h.ok("nvml_info", supported_clocks=True)["gpus"][0]["clocks"]["supported_mhz"]
    every = {clock for clocks in table.values() for clock in clocks}
    assert after["min_mhz"] in every and after["max_mhz"] in every
    assert not h.ok("nvml_clock_lock", gpus="all", graphics=wanted)["changed"]
    result = h.fails("nvml_clock_lock", gpus="all", graphics=str(max(every) + 100))
    assert f"{min(every)} to {max(every)} MHz" in result["msg"]
    assert h.ok("nvml_clock_lock", gpus="all", graphics="unlocked")["changed"] and locked(h) == []
    assert not h.ok("nvml_clock_lock", gpus="all", graphics="unlocked")["changed"]


def test_rounding_is_said_and_returned(host):
    h = host("h100:1")
    result = h.ok("nvml_clock_lock", gpus="all", graphics="1207-1500")
    assert result["gpus"][0]["rounded_from"] == {"graphics": {"min_mhz": 1207, "max_mhz": 1500}}
    assert result["gpus"][0]["after"]["graphics"] == LOCK
    assert [w for w in result["warnings"] if "1207-1500 MHz was asked for" in w and "1200-1500 MHz" in w]


@pytest.mark.parametrize("text", ["fast", "1500-1200", "-1500", "1200-", "1.5GHz"])
def test_nonsense(host, text):
    assert "graphics" in host("h100:1").fails("nvml_clock_lock", gpus="all", graphics=text)["msg"]


def test_memory_clocks_and_old_boards(host):
    h = host("h100:1")
    done = h.ok("nvml_clock_lock", gpus="all", memory="1600")
    assert h.sim.gpu()["memory_locked_clocks"] == [1593, 1593]
    assert done["gpus"][0]["after"]["memory"] == {"min_mhz": 1593, "max_mhz": 1593}
    assert done["gpus"][0]["after"]["graphics"] == "unknown"
    h = host("v100:1")
    assert "Ampere or newer" in h.fails("nvml_clock_lock", gpus="all", graphics="1005", memory="877")["msg"]
    assert locked(h) == []
    assert not h.ok("nvml_clock_lock", gpus="all", memory="unlocked")["changed"]


def test_without_a_note_a_lock_is_set_anew_and_it_says_why(host):
    h = host("h100:1")
    h.sim.advance(100)
    assert h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")["gpus"][0]["reason"] == "state_unknown"
    assert "reason" not in h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")["gpus"][0]
    (h.run_dir / "clock-locks.json").unlink()
    result = h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")
    assert result["changed"] and result["gpus"][0]["reason"] == "state_unknown"
    (h.run_dir / "clock-locks.json").write_text("{damaged")
    assert h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")["changed"]
    assert h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")["changed"] is False


@pytest.mark.parametrize("driver", ["580.105.08", "615.10.01"])
@pytest.mark.parametrize("event", [("reload-driver",), ("reset", 0), ("reboot",)])
def test_what_takes_locks_away_is_noticed(host, driver, event):
    h = host("h100:1", driver_version=driver)
    h.sim("persistenced", "on")
    h.sim.advance(100)
    h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")
    h.sim(*event)
    assert locked(h) == []
    predicted = h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500", check=True)
    result = h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")
    assert predicted["changed"] and result["changed"] and locked(h) == [1200, 1500]
    assert result["gpus"][0]["reason"] == "gpu_restarted"


def test_another_boot_is_noticed(host):
    h = host("h100:1")
    h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")
    path = h.run_dir / "clock-locks.json"
    content = json.loads(path.read_text())
    for gpu in content["gpus"].values():
        gpu["signs"]["boot_id"] = "00000000-0000-0000-0000-000000000000"
    path.write_text(json.dumps(content))
    assert h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")["gpus"][0]["reason"] == "rebooted"


def test_a_clock_that_runs_free_shows_that_the_lock_is_gone(host):
    h = host("h100:1")
    h.ok("nvml_clock_lock", gpus="all", graphics="600-900")
    code = "import pynvml as n; n.nvmlInit(); n.nvmlDeviceResetGpuLockedClocks(n.nvmlDeviceGetHandleByIndex(0))"
    subprocess.run([sys.executable, "-c", code], env=h.env, check=True)
    h.sim("set-load", 0, 1.0)
    h.sim.advance(10)
    result = h.ok("nvml_clock_lock", gpus="all", graphics="600-900")
    assert result["changed"] and result["gpus"][0]["reason"] == "drift" and locked(h) == [600, 900]


def test_a_clock_below_its_lock_for_heat_or_power_is_no_drift(host):
    h = host("h100:1", load="1.0")
    h.ok("nvml_clock_lock", gpus="all", graphics="1900-1980")
    h.ok("nvml_power_limit", gpus="all", limit="min")
    h.sim.advance(20)
    assert h.sim.gpu()["graphics_clock_mhz"] < 1800
    assert not h.ok("nvml_clock_lock", gpus="all", graphics="1900-1980")["changed"]


def test_persistence_off_and_nobody_else_means_no_lock_and_no_lie(host):
    h = host("h100:1", persistence=False)
    result = h.fails("nvml_clock_lock", gpus="all", graphics="1200-1500")
    assert "persistence mode is off" in result["msg"] and locked(h) == []
    assert "persistence mode is off" in " ".join(
        h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500", check=True)["warnings"]
    )


def test_the_second_domain_failing_takes_the_first_back(host):
    h = host("h100:2")
    h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500", memory="unlocked")
    h.sim("fail", "nvmlDeviceSetMemoryLockedClocks", 3, "--gpu", 1)
    result = h.fails("nvml_clock_lock", gpus="all", graphics="600", memory="1593")
    assert [locked(h, i) for i in (0, 1)] == [[1200, 1500], [1200, 1500]]
    assert [h.sim.gpu(i)["memory_locked_clocks"] for i in (0, 1)] == [[], []]
    assert not result["changed"] and not result["rollback_failed"]
    h.sim("clear", "faults")
    assert not h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500", memory="unlocked")["changed"]


def test_what_can_not_be_known_is_not_called_put_back(host):
    h = host("h100:2")
    h.sim("fail", "nvmlDeviceSetGpuLockedClocks", 999, "--gpu", 1)
    result = h.fails("nvml_clock_lock", gpus="all", graphics="1200-1500")
    assert locked(h) == [] and "is not known; it is unlocked now" in result["msg"]
    assert list(result["rollback_failed"]) == [h.sim.gpu(0)["uuid"]] and result["changed"]
