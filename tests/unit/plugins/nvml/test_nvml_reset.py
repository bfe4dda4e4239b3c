# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Resets. The driver's tool is not here: a script in its place hands the call on to the simulator."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils._nvml_reset import _holders
from ansible_collections.esnode.core.plugins.module_utils.nvml import process_unit
from nvml_host import Host
from nvmlsim import build


class Reset:
    """The module with a script as nvidia-smi, whose calls are in `calls()`."""

    def __init__(self, folder: Path) -> None:
        self._log, self._script = folder / "calls", folder / "nvidia-smi"

    def __call__(self, h: Host, works: bool = True, good: bool = True, **options: Any) -> dict[str, Any]:
        """`works`: it resets; `good`: it says so."""
        gpus = h.sim.state()["gpus"]
        cases = "".join(f"{gpu['pci_bus_id']}) gpu={gpu['index']};; " for gpu in gpus)
        action = f"{build()}/nvmlsim {h.sim.path} reset $gpu || exit 3" if works else ":"
        self._script.write_text(
            f'#!/bin/sh\necho "$@" >> {self._log}\n[ "$1 $2" = "--gpu-reset -i" ] || exit 9\n'
            f'for gpu in $(echo "$3" | tr , " "); do case $gpu in {cases}esac; {action}; done\n'
            + ("exit 0\n" if good else "echo GPU is busy >&2; exit 3\n")
        )
        self._script.chmod(0o755)
        return h("nvml_reset", nvidia_smi=str(self._script), **{"gpus": "all", **options})

    def calls(self) -> list[str]:
        return self._log.read_text().splitlines() if self._log.exists() else []


@pytest.fixture
def reset(tmp_path):
    return Reset(tmp_path)


def test_only_what_waits_for_it_and_only_once(host, reset):
    h = host("a6000:3")
    h.ok("nvml_ecc_mode", gpus="1", enabled=not h.sim.gpu()["ecc_current"])
    predicted = reset(h, check=True)
    assert predicted["changed"] and reset.calls() == []
    done = reset(h)
    assert [gpu["changed"] for gpu in done["gpus"]] == [False, True, False]
    assert done["gpus"] == predicted["gpus"] and "ECC mode" in done["gpus"][1]["reasons"][0]
    assert reset.calls() == [f"--gpu-reset -i {h.sim.gpu(1)['pci_bus_id']}"]
    assert h.sim.gpu(1)["ecc_current"] == h.sim.gpu(1)["ecc_pending"]
    assert not reset(h)["changed"] and len(reset.calls()) == 1


@pytest.mark.parametrize(
    "inject",
    [
        ("xid", 0, 95, "--reset-required"),
        ("recovery", 0, 1),
        ("remap", 0, "uncorrected", "--pending"),
    ],
)
def test_reasons(host, reset, inject):
    h = host("h100:2")
    h.sim("inject", *inject)
    done = reset(h)
    assert not done.get("failed"), done["msg"]
    assert [gpu["changed"] for gpu in done["gpus"]] == [True, False]
    assert not reset(h)["changed"]


def test_whoever_uses_it_is_named_and_nothing_is_reset(host, reset):
    h = host("h100:2")
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    threading.Thread(target=worker.wait, daemon=True).start()
    try:
        h.sim("process", "add", 1, worker.pid)
        for check in (True, False):
            result = reset(h, when="always", check=check)
            assert result["failed"] and not result["changed"] and f"(pid {worker.pid}" in result["msg"]
            assert result["errors"][0]["processes"][0]["pid"] == worker.pid and result["errors"][0]["index"] == 1
        assert reset.calls() == []
        assert not reset(h, gpus="0", when="always").get("failed")
    finally:
        worker.communicate(b"\n")


def test_who_has_the_device_open_is_found(tmp_path):
    device = tmp_path / "nvidia0"
    device.touch()
    code = f"stream = open({str(device)!r}); print(flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline()
        assert _holders(str(device)) == {process.pid}
    finally:
        process.communicate(b"\n")
    assert _holders(str(device)) == set()


def test_the_unit_to_stop_is_named(tmp_path):
    cgroup = tmp_path / "7" / "cgroup"
    cgroup.parent.mkdir()
    for text, unit in (
        ("0::/system.slice/esnode-core.service\n", "esnode-core.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("4:cpu,cpuacct:/a.service\n1:name=systemd:/system.slice/dcgm.service/worker\n", "dcgm.service"),
        ("0::/user.slice\n", ""),
    ):
        cgroup.write_text(text)
        assert process_unit(7, str(tmp_path)) == unit
    assert process_unit(8, str(tmp_path)) == ""


@pytest.mark.parametrize("check", [True, False])
def test_without_the_tool_nothing_is_reset_and_it_is_said_what_to_install(host, check):
    h = host("h100:1")
    nowhere = h.fails("nvml_reset", gpus="all", when="always", nvidia_smi=str(h.folder / "nvidia-smi"), check=check)
    assert "is no program. Nothing was reset" in nowhere["msg"] and not nowhere["changed"]
    if not shutil.which("nvidia-smi"):
        missing = h.fails("nvml_reset", gpus="all", when="always", check=check)
        assert "nvidia-smi is not in PATH" in missing["msg"] and not missing["changed"]


def test_what_is_recorded_holds_again_afterwards(host, reset):
    h = host("h100:2")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim.advance(60)
    done = reset(h, gpus="0", when="always")
    assert done["reapplied"] == [{"uuid": h.sim.gpu()["uuid"], "setting": "power_limit", "changed": True}]
    assert h.limits() == [300000, 300000]


def test_a_tool_that_fails_or_does_nothing_is_no_success(host, reset):
    h = host("a6000:2")
    h.ok("nvml_ecc_mode", gpus="all", enabled=not h.sim.gpu()["ecc_current"])
    result = reset(h, works=False)
    assert result["failed"] and "after the reset ECC mode is to be switched" in result["msg"]
    result = reset(h, works=False, good=False)
    assert result["failed"] and "GPU is busy" in result["msg"] and not result["changed"]
    h.sim.advance(60)
    result = reset(h, good=False)
    assert result["failed"] and result["changed"] and "It did reset GPU 0" in result["msg"]
