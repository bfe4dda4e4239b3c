# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Profiles, budgets and facts over a mixed fleet: each host is this one, with GPUs of its own simulator."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from nvmlsim import Simulator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SET = """
import pynvml, sys
pynvml.nvmlInit()
for index in range(pynvml.nvmlDeviceGetCount()):
    pynvml.nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(index), int(sys.argv[1]) * 1000)
"""


class Run:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.output = done.stdout + done.stderr

    def recap(self, key: str) -> dict[str, int]:
        """By host, from the last lines."""
        return {host: int(count) for host, count in re.findall(rf"^(\w+) +:.*\b{key}=(\d+)", self.output, re.M)}


class Fleet:
    """`sims` by host; the playbooks run with the variables given for each."""

    def __init__(self, folder: Path, hosts: dict[str, str | None]) -> None:
        self.folder = folder
        self.sims: dict[str, Simulator] = {}
        self.vars: dict[str, dict[str, Any]] = {}
        for seed, (host, gpus) in enumerate(hosts.items()):
            (folder / host).mkdir()
            sim = Simulator(folder / host / "nvml.state", gpus or "h100:1", seed=seed)
            if gpus:
                self.sims[host] = sim
            else:
                sim("unload-driver", "--force")
            # Ansible's own setting of the environment is a play's; the interpreter is each host's.
            python = folder / host / "python"
            exports = "".join(f"export {name}='{value}'\n" for name, value in sim.env.items())
            python.write_text(f'#!/bin/sh\n{exports}exec {sys.executable} "$@"\n')
            python.chmod(0o755)
            self.vars[host] = {
                "ansible_connection": "local",
                "ansible_python_interpreter": str(python),
                "esnode_power_state_file": str(self.state_file(host)),
                "esnode_power_run_dir": str(folder / host / "run"),
                "esnode_power_keep": False,  # this machine has a systemd of its own, perhaps
            }
        self.groups: dict[str, list[str]] = {"rack": list(hosts)}

    def state_file(self, host: str) -> Path:
        return self.folder / host / "etc/gpu-state.json"

    def limits(self, host: str) -> list[int]:
        """In W."""
        return [gpu["power_limit_mw"] // 1000 for gpu in self.sims[host].state()["gpus"]]

    def set_limits(self, host: str, watts: int) -> None:
        """By somebody else's hand."""
        command = [sys.executable, "-c", SET, str(watts)]
        subprocess.run(command, env={**os.environ, **self.sims[host].env}, check=True)

    def total(self) -> int:
        return sum(sum(self.limits(host)) for host in self.sims)

    def play(self, playbook: str | Path, *options: str, **variables: Any) -> Run:
        children = {name: {"hosts": dict.fromkeys(hosts)} for name, hosts in self.groups.items()}
        inventory = self.folder / "hosts.json"
        inventory.write_text(json.dumps({"all": {"hosts": self.vars, "vars": variables, "children": children}}))
        return Run(self.run("ansible-playbook", "-i", str(inventory), str(playbook), *options))

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        env = {
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_HOME": str(self.folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_RETRY_FILES_ENABLED": "0",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.folder / "cache"),
        }
        command = [str(BIN / program), *arguments]
        return subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)

    def power(self, *options: str, **variables: Any) -> Run:
        return self.play("esnode.core.power", *options, **variables)


class Watch(threading.Thread):
    """Keeps looking at the sum of all limits.

    A sum counts when two readings in a row are the same: while one host is read another one may change.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self.fleet = fleet
        self.totals: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        before: dict[str, list[int]] = {}
        while not self.stop.is_set():
            now = {host: self.fleet.limits(host) for host in self.fleet.sims}
            total = sum(map(sum, now.values()))
            if now == before and self.totals[-1:] != [total]:
                self.totals.append(total)
            before = now
            self.stop.wait(0.1)  # leaves the processor to those that are watched

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        self.stop.set()
        self.join()


def records(fleet: Fleet, host: str) -> list[dict[str, Any]]:
    return [entry["settings"] for entry in json.loads(fleet.state_file(host).read_text())["gpus"].values()]


def test_a_budget_is_kept_at_every_moment(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"small": "l40s:4", "big": "h100:8", "cpu": None})
    fleet.set_limits("small", 100)
    rack = {"esnode_power_budgets": {"rack": "5.5kW"}, "esnode_power_host_watts": 100}

    half = fleet.power("--limit", "big,cpu", **rack)
    assert half.code == 2 and "leaves out small of it" in half.output, half.output

    check = fleet.power("--check", **rack)
    assert check.code == 0 and "all: 6300 -> 5500 W" in check.output, check.output
    assert check.recap("changed")["big"] > 0 and check.recap("changed")["cpu"] == 0, check.output
    assert fleet.limits("big") == [700] * 8 and fleet.limits("small") == [100] * 4
    assert not any(fleet.state_file(host).exists() for host in fleet.vars)

    with Watch(fleet) as watch:
        done = fleet.power(**rack)
    assert done.code == 0 and "all: 6300 -> 5500 W" in done.output, done.output
    assert fleet.limits("small") == [350] * 4 and fleet.limits("big") == [475] * 8
    assert max(watch.totals) <= 6000 and watch.totals[0] == 6000, watch.totals
    # Once it has come below the budget it stays there.
    assert all(total <= 5200 for total in itertools.dropwhile(lambda total: total > 5200, watch.totals)), watch.totals
    assert {entry["power_limit"]["limit"] for entry in records(fleet, "big")} == {"475W"}

    again = fleet.power(**rack)
    assert set(again.recap("changed").values()) == {0}, again.output


def test_what_a_host_keeps_that_can_not_lower_is_not_given_to_others(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"canary": "h100:2", "stuck": "h100:2", "gone": "h100:1", "low": "l40s:2"})
    fleet.set_limits("low", 100)
    budget = {"esnode_power_budgets": {"rack": 3400}}
    fleet.sims["canary"]("fail", "nvmlDeviceSetPowerManagementLimit", 999, "--gpu", 1)
    stopped = fleet.power(**budget)
    assert stopped.code == 2 and "Nothing has been raised." in stopped.output, stopped.output
    assert fleet.total() == 3700 and fleet.limits("stuck") == [700] * 2, stopped.output
    fleet.sims["canary"]("clear", "faults")

    fleet.sims["stuck"]("fail", "nvmlDeviceSetPowerManagementLimit", 999, "--gpu", 1)
    fleet.vars["gone"]["ansible_remote_tmp"] = "{{ '/dev/null/gone' if esnode_power__pass is defined else '/tmp' }}"
    with Watch(fleet) as watch:
        done = fleet.power(**budget)
    assert done.code != 0 and done.recap("failed")["stuck"] == 1 and done.recap("unreachable")["gone"] == 1, done.output
    assert fleet.limits("stuck") == [700] * 2 and fleet.limits("gone") == [700] and fleet.limits("canary") == [540] * 2
    # 350 W each were planned; 20 W are left.
    assert fleet.limits("low") == [110] * 2 and max(watch.totals) <= 3700, (watch.totals, done.output)
    assert "and 1 hosts that could not be read" in done.output, done.output


def test_a_budget_goes_by_what_was_drawn_and_keeps_the_ceiling(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"busy": "h100:1", "calm": "h100:1", "idle": "h100:1"})
    for host, load in (("busy", 1.0), ("calm", 0.4), ("idle", 0)):
        fleet.sims[host]("set-load", 0, load)
        fleet.sims[host].advance(60)
    rack = {"esnode_power_budgets": {"rack": "1.2kW"}, "esnode_power_share": "draw", "esnode_power_draw_seconds": 0.5}
    run = fleet.power("--check", esnode_power_ceiling="550W", **rack)
    assert run.code == 0, run.output
    now = {host: int(watts) for host, watts in re.findall(r"(\w+): 700 -> (\d+) W", run.output)}
    assert now["busy"] == 550 and now["idle"] == 200 and sum(now.values()) == 1200, run.output


def test_a_profile_is_kept_and_forgotten(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"gpu": "h100:2", "cpu": None})
    tasks = [{"name": "Keep the profile", "hosts": "all", "gather_facts": False, "roles": ["esnode.core.esnode_power"]}]
    role = tmp_path / "role.yml"
    role.write_text(json.dumps(tasks))
    profile: dict[str, Any] = {
        "persistence_mode": True,
        "compute_mode": "exclusive_process",
        "power_limit": "70%",
        "clock_lock": {"graphics": "1200-1500"},
    }
    capped = fleet.play(role, "--check", esnode_power_profile=profile, esnode_power_ceiling="450W")
    assert "490 W was asked for; the ceiling makes it 450 W" in " ".join(capped.output.split()), capped.output
    first = fleet.play(role, esnode_power_profile=profile)
    assert first.code == 0 and first.recap("failed") == {"gpu": 0, "cpu": 0}, first.output
    assert fleet.limits("gpu") == [490] * 2 and first.recap("changed")["cpu"] == 0, first.output
    assert [sorted(settings) for settings in records(fleet, "gpu")] == [sorted(profile)] * 2
    # Somebody else's entry, which is not the role's to remove.
    content = json.loads(fleet.state_file("gpu").read_text())
    for entry in content["gpus"].values():
        entry["settings"]["mig"] = {"enabled": False}
    fleet.state_file("gpu").write_text(json.dumps(content))
    again = fleet.power(esnode_power_profile=profile)
    assert again.code == 0 and set(again.recap("changed").values()) == {0}, again.output

    del profile["clock_lock"]
    less = fleet.play(role, "--diff", esnode_power_profile=profile)
    assert less.code == 0 and '-            "clock_lock"' in less.output, less.output
    assert [sorted(settings) for settings in records(fleet, "gpu")] == [sorted([*profile, "mig"])] * 2
    none = fleet.play(role)
    assert none.code == 0 and none.recap("changed") == {"gpu": 1, "cpu": 0}, none.output
    assert records(fleet, "gpu") == [{"mig": {"enabled": False}}] * 2
    assert fleet.limits("gpu") == [490] * 2 and fleet.sims["gpu"].gpu()["compute_mode"]

    wrong = fleet.power(esnode_power_profile={"power_limt": "70%"})
    assert wrong.code == 2 and "power_limt" in wrong.output, wrong.output


def test_hosts_are_grouped_by_what_they_have(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {"big": "h100:2", "small": "l40s:1", "cpu": None})
    groups = ["gpu_h100", "gpu_l40s", "gpu_none", "gpu_x2"]
    show = {"name": "Show", "ansible.builtin.debug": {"msg": "is {{ group_names | select('match', 'gpu') | sort }}"}}
    play = [
        {"import_playbook": "esnode.core.facts"},
        *[{"name": group, "hosts": group, "gather_facts": False, "tasks": [show]} for group in groups],
    ]
    path = tmp_path / "play.yml"
    path.write_text(json.dumps(play))
    run = fleet.play(path)
    assert run.code == 0 and set(run.recap("changed").values()) == {0}, run.output
    assert "is ['gpu', 'gpu_h100', 'gpu_x2']" in run.output and "is ['gpu_none']" in run.output, run.output
    # Another run knows it from the cache of facts.
    constructed = tmp_path / "constructed.yml"
    constructed.write_text(
        "plugin: ansible.builtin.constructed\nstrict: false\nkeyed_groups:\n"
        "  - {key: esnode_gpu.groups, prefix: '', separator: ''}\n"
    )
    found = fleet.run("ansible-inventory", "-i", str(tmp_path / "hosts.json"), "-i", str(constructed), "--list")
    inventory = json.loads(found.stdout)
    assert {group: inventory[group]["hosts"] for group in groups} == {
        "gpu_h100": ["big"],
        "gpu_l40s": ["small"],
        "gpu_none": ["cpu"],
        "gpu_x2": ["big"],
    }, found.stdout
