# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The NVML modules as Ansible runs them: ad hoc and in plays, on this host, with simulated GPUs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ansible  # type: ignore[import-untyped]
import pynvml  # type: ignore[import-untyped]
import pytest
from nvmlsim import Simulator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class Control:
    """Runs ansible against this host, with `python` for the modules."""

    def __init__(self, folder: Path, gpus: str, python: str = sys.executable) -> None:
        self.folder, self.python = folder, python
        self.sim = Simulator(folder / "nvml.state", gpus)
        self.run_dir, self.state_file = folder / "run", folder / "etc/gpu-state.json"
        self.env = {
            **os.environ,
            **self.sim.env,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }

    def __call__(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / program),
            "-i",
            "gpu01,",
            "-c",
            "local",
            "-e",
            f"ansible_python_interpreter={self.python}",
        ]
        return subprocess.run(
            [*command, *arguments], env=self.env, cwd=self.folder, capture_output=True, text=True, check=False
        )

    def adhoc(self, module: str, arguments: str, *more: str) -> subprocess.CompletedProcess[str]:
        return self("ansible", "all", "-m", f"esnode.core.{module}", "-a", arguments, *more)

    def play(self, tasks: list[dict[str, Any]], *more: str) -> subprocess.CompletedProcess[str]:
        own = {"run_dir": str(self.run_dir), "gpus": "all"}
        play = {
            "name": "GPUs",
            "hosts": "all",
            "gather_facts": False,
            "module_defaults": {"group/esnode.core.nvml": own},
            "tasks": tasks,
        }
        path = self.folder / "play.yml"
        path.write_text(json.dumps([play]))  # JSON is YAML
        return self("ansible-playbook", str(path), *more)


@pytest.fixture
def control(tmp_path):
    return lambda gpus: Control(tmp_path, gpus)


def limits(control: Control) -> list[int]:
    return [gpu["power_limit_mw"] for gpu in control.sim.state()["gpus"]]


def test_ad_hoc_as_in_the_readme(control):
    c = control("h100:8")
    arguments = f"gpus=all limit=300W run_dir={c.run_dir}"
    check = c.adhoc("nvml_power_limit", arguments, "--check", "--diff")
    assert check.returncode == 0 and "CHANGED" in check.stdout, check.stdout + check.stderr
    assert '"limit_mw": 300000' in check.stdout and limits(c) == [700000] * 8 and not c.run_dir.exists()
    done = c.adhoc("nvml_power_limit", arguments)
    assert "CHANGED" in done.stdout and limits(c) == [300000] * 8
    assert "SUCCESS" in c.adhoc("nvml_power_limit", arguments).stdout
    refused = c.adhoc("nvml_power_limit", f"gpus=all limit=9kW run_dir={c.run_dir}")
    assert refused.returncode == 2 and "200 W to 700 W" in refused.stdout and limits(c) == [300000] * 8


def test_a_play_of_all_of_them_twice(control):
    c = control("h100:2,l4:1")
    keep = {"persist": True, "state_file": str(c.state_file)}
    tasks = [
        {"name": "Persistence", "esnode.core.nvml_persistence_mode": {**keep}},
        {"name": "Limit", "esnode.core.nvml_power_limit": {"limit": "80%", **keep}},
        {"name": "Clocks", "esnode.core.nvml_clock_lock": {"graphics": "1200-1500", **keep}},
        {"name": "Compute", "esnode.core.nvml_compute_mode": {"mode": "exclusive_process", "gpus": ["*L4"], **keep}},
        {"name": "MIG", "esnode.core.nvml_mig": {"gpus": "1", "layout": [{"profile": "3g.40gb", "count": 2}], **keep}},
        {"name": "ECC", "esnode.core.nvml_ecc_mode": {"enabled": True}},
        {"name": "Reset", "esnode.core.nvml_reset": {"state_file": str(c.state_file)}},
        {"name": "Look", "esnode.core.nvml_info": {"state_file": str(c.state_file)}, "register": "seen"},
        {
            "name": "All of it is there",
            "ansible.builtin.assert": {
                "that": [
                    "seen.gpus | map(attribute='power.limit_mw') | list == [560000, 560000, 57600]",
                    "seen.gpus[2].modes.compute == 'exclusive_process'",
                    "seen.gpus[1].mig_instances | length == 2",
                    "seen.gpus[0].clock_lock.graphics.max_mhz == 1500",
                    "seen.gpus[0].desired.power_limit.limit == '80%'",
                ]
            },
        },
    ]
    check = c.play(tasks[:-1], "--check", "--diff")
    assert "changed=5" in check.stdout and "failed=0" in check.stdout, check.stdout + check.stderr
    assert not c.state_file.exists() and limits(c) == [700000, 700000, 72000]
    first = c.play(tasks)
    assert "changed=5" in first.stdout and "failed=0" in first.stdout, first.stdout + first.stderr
    second = c.play(tasks)
    assert "changed=0" in second.stdout and "failed=0" in second.stdout, second.stdout + second.stderr


def oldest() -> str | None:
    """The oldest Python that modules run on, if this machine has one."""
    found = [*Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9"), shutil.which("python3.9")]
    return next((str(path) for path in found if path and runs(path)), None)


def runs(path: Path | str) -> bool:
    return subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


def test_every_module_runs_on_the_oldest_python(tmp_path):
    python = oldest()
    if not python:
        pytest.skip("there is no python3.9 here")
    c = Control(tmp_path, "a6000:1,h100:1", python)
    # The binding and nothing else.
    (tmp_path / "packages").mkdir()
    shutil.copy(pynvml.__file__, tmp_path / "packages")
    c.env["PYTHONPATH"] = str(tmp_path / "packages")
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nexec {c.sim.library_dir}/nvmlsim {c.sim.path} reset 0\n")
    smi.chmod(0o755)
    keep = {"persist": True, "state_file": str(c.state_file)}
    tasks = [
        {"name": "Persistence", "esnode.core.nvml_persistence_mode": {**keep}},
        {"name": "Limit", "esnode.core.nvml_power_limit": {"limit": "80%", **keep}},
        {"name": "Clocks", "esnode.core.nvml_clock_lock": {"graphics": "1200-1500", **keep}},
        {"name": "Compute", "esnode.core.nvml_compute_mode": {"mode": "prohibited", "gpus": "0", **keep}},
        {"name": "MIG", "esnode.core.nvml_mig": {"gpus": "1", "layout": [{"profile": "3g.40gb"}], **keep}},
        {"name": "ECC", "esnode.core.nvml_ecc_mode": {"gpus": "0", "enabled": not c.sim.gpu()["ecc_current"]}},
        {"name": "Reset", "esnode.core.nvml_reset": {"nvidia_smi": str(smi), "state_file": str(c.state_file)}},
        {"name": "Look", "esnode.core.nvml_info": {}, "register": "seen"},
        {
            "name": "All of it is there",
            "ansible.builtin.assert": {
                "that": [
                    "seen.gpus | map(attribute='power.limit_mw') | list == [240000, 560000]",
                    "seen.gpus[0].modes.ecc == seen.gpus[0].modes.ecc_pending",
                    "seen.gpus[1].mig_instances | length == 1",
                ]
            },
        },
    ]
    done = c.play(tasks)
    assert "changed=7" in done.stdout and "failed=0" in done.stdout, done.stdout + done.stderr


def test_a_failed_task_tells_what_became_of_each_gpu(control):
    c = control("h100:4")
    c.sim("fail", "nvmlDeviceSetPowerManagementLimit", 15, "--gpu", 2)
    tasks = [
        {
            "name": "Limit",
            "esnode.core.nvml_power_limit": {"limit": "300W"},
            "register": "limit",
            "ignore_errors": True,
        },
        {
            "name": "It says so",
            "ansible.builtin.assert": {
                "that": [
                    "limit is failed",
                    "limit is not changed",
                    "limit.errors[0].index == 2",
                    "limit.rolled_back | length == 2",
                    "limit.rollback_failed == {}",
                ]
            },
        },
    ]
    done = c.play(tasks)
    assert done.returncode == 0 and limits(c) == [700000] * 4, done.stdout + done.stderr


def test_a_host_without_a_driver_is_skipped_when_asked_to(control):
    c = control("h100:1")
    c.sim("unload-driver", "--force")
    done = c.play([{"name": "Limit", "esnode.core.nvml_power_limit": {"limit": "300W", "missing_ok": True}}])
    assert done.returncode == 0 and "skipped=1" in done.stdout, done.stdout + done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's process takes root")
def test_an_unprivileged_user_is_told_to_become():
    # Others can't look into pytest's own folder, and may not reach the interpreter that runs this.
    candidates = [path for path in (sys.executable, "/usr/bin/python3") if os.path.exists(path)]
    reach = [
        path for path in candidates if subprocess.run(["test", "-x", path], check=False, user=65534).returncode == 0
    ]
    if not reach:
        pytest.skip(f"none of {candidates} is in reach of other users")
    packages = Path(ansible.__file__).parents[1]
    arguments = {"ANSIBLE_MODULE_ARGS": {"gpus": "all", "limit": "300W", "run_dir": "/run/esnode-gpu-of-root"}}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        c = Control(Path(folder), "h100:1")
        done = subprocess.run(
            [reach[0], "-B", "-m", "ansible_collections.esnode.core.plugins.modules.nvml_power_limit"],
            env={**c.env, "PYTHONPATH": f"{ROOT / 'collections'}:{packages}", "HOME": "/"},
            cwd="/",
            input=json.dumps(arguments),
            capture_output=True,
            text=True,
            check=False,
            user=65534,
            group=65534,
            extra_groups=[],
        )
        assert "become: true" in done.stdout and '"failed": true' in done.stdout, done.stdout + done.stderr
        assert limits(c) == [700000]
    assert not Path("/run/esnode-gpu-of-root").exists()
