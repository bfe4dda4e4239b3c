# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""What is read of every board, and of those that are not well."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nvml_host import boards


@pytest.mark.parametrize("profile", boards())
def test_every_board_beside_the_simulators_own_word(host, profile):
    h = host(f"{profile}:2", load="0.5")
    h.sim.advance(30)
    result = h.ok("nvml_info")
    assert len(result["gpus"]) == 2 and result["driver_version"] == h.sim.state()["driver_version"]
    for mine, real in zip(result["gpus"], h.sim.state()["gpus"], strict=True):
        assert mine["state"] == "ok" and "error" not in mine
        assert [mine[key] for key in ("uuid", "name", "pci_bus_id")] == [
            real[key] for key in ("uuid", "name", "pci_bus_id")
        ]
        assert mine["memory"]["total_bytes"] == real["memory_total_bytes"]
        assert mine["power"]["limit_mw"] == real["power_limit_mw"]
        assert mine["power"]["enforced_limit_mw"] == real["enforced_limit_mw"]
        assert mine["power"].get("module_limit_mw") == real["module_limit_mw"]
        assert mine["clocks"]["max_graphics_mhz"] == real["max_graphics_clock_mhz"]
        assert abs(mine["temperature"]["gpu_celsius"] - real["temperature_c"]) <= 1
        assert mine["pcie"]["width"] == real["pcie_width"]
        assert mine.get("nvlink", {}).get("links", 0) == len(real["nvlinks"])
        assert mine["virtualization"] == "none" and mine["inforom_version"]
        fabric = {"state": "completed", "status": 0, "clique_id": 2 if profile.startswith("gb") else 0}
        assert mine.get("fabric") == (fabric if profile in ("h100", "h200", "b200", "gb200", "gb300") else None), (
            profile
        )
        assert ("mig" in mine["modes"]) == profile.startswith(("a100", "h", "b", "g"))


@pytest.mark.parametrize("driver", ["470.57.02", "525.60.13", "590.44.01", "615.10.01"])
def test_other_drivers(host, driver):
    gpu = host("h100", driver_version=driver).ok("nvml_info")["gpus"][0]
    assert gpu["state"] == "ok" and gpu["power"]["limit_mw"] == 700000


def test_gpus_that_are_not_well(host):
    h = host("h100:4")
    h.sim("lose", 1)
    h.sim("inject", "xid", 2, 95, "--reset-required")
    h.sim("fail", "nvmlDeviceGetMemoryInfo", 999, "--gpu", 3)
    gpus = h.ok("nvml_info")["gpus"]
    assert [gpu["state"] for gpu in gpus] == ["ok", "lost", "reset_required", "ok"]
    assert "fallen off" in gpus[1]["error"] and "nvml_reset" in gpus[2]["error"]
    assert "total_bytes" not in gpus[3].get("memory", {})


def test_what_is_declared_and_locked_is_told(host):
    h = host("h100:1")
    h.ok("nvml_power_limit", gpus="all", limit="70%", persist=True)
    h.ok("nvml_clock_lock", gpus="all", graphics="1200-1500")
    gpu = h.ok("nvml_info")["gpus"][0]
    assert gpu["desired"]["power_limit"]["limit"] == "70%"
    assert gpu["clock_lock"] == {"graphics": {"min_mhz": 1200, "max_mhz": 1500}}


def test_processes_and_instances(host):
    h = host("h100:1,l4:1")
    h.sim("mig", "mode", 0, "on")
    h.sim("mig", "create", 0, "3g.40gb")
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        h.sim("process", "add", 1, worker.pid, "--memory", 1024)
        mig, plain = h.ok("nvml_info")["gpus"]
    finally:
        worker.communicate(b"\n")
    assert mig["mig_instances"] == [{"profile": "3g.40gb", "compute": ["3g.40gb"], "start": 0}]
    assert mig["mig_devices"][0]["uuid"].startswith("MIG-")
    (process,) = plain["processes"]
    assert process["pid"] == worker.pid and process["memory_bytes"] == 1024 * 1024**2 and process["name"]


def test_the_mean_draw_is_measured(host):
    h = host("h100:2,v100", load="1.0")
    h.sim.advance(30)
    h.sim("lose", 1)
    busy, lost, old = h.ok("nvml_info", draw_seconds=0.5)["gpus"]
    for gpu in (busy, old):
        assert 0.9 < gpu["power"]["draw_mw"] / gpu["power"]["usage_mw"] < 1.1
    assert lost["state"] == "lost" and "power" not in lost
    assert "draw_mw" not in h.ok("nvml_info")["gpus"][0]["power"]
    for seconds in (-1, 3601):
        assert "must be 0 to 3600" in h.fails("nvml_info", draw_seconds=seconds)["msg"]


def test_it_needs_no_rights_and_no_files(host):
    h = host("h100:1")
    h.sim("pretend-uid", 1000)
    files = h.files()
    assert h.ok("nvml_info")["gpus"][0]["state"] == "ok" and h.files() == files
