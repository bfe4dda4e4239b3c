# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The modules' RETURN beside what they really return: every key documented, every documented key seen, types right."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ansible_collections.esnode.core.plugins.filter import gpu_facts, power_budget, power_plan
from nvml_host import MODULES, ROOT, Host
from nvmlsim import build

NAMES = ("clock_lock", "compute_mode", "ecc_mode", "info", "mig", "persistence_mode", "power_limit", "reset")
TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "dict": dict,
    "list": list,
    "float": float,
    "raw": object,
}
# What Ansible itself adds to any result.
ANSIBLES_OWN = {"changed", "failed", "msg", "diff", "skipped", "warnings", "exception", "deprecations"}


def returns(module: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(importlib.import_module(f"{MODULES}.nvml_{module}").RETURN)
    return found


def compare(value: dict[str, Any], documented: dict[str, Any], where: str, seen: set[str]) -> None:
    for key, found in value.items():
        name = f"{where}.{key}"
        assert key in documented, f"{name} is returned and not documented"
        seen.add(name)
        doc = documented[key]
        assert isinstance(found, TYPES[doc["type"]]), f"{name}: {found!r} is no {doc['type']}"
        assert doc["type"] == "bool" or not isinstance(found, bool), f"{name}: {found!r} is no {doc['type']}"
        if doc["type"] == "list":
            kind = TYPES[doc["elements"]]
            assert all(isinstance(each, kind) for each in found), name
        if "contains" in doc:
            for each in found if isinstance(found, list) else [found]:
                compare(each, doc["contains"], name, seen)


def every_key(documented: dict[str, Any], where: str = "") -> set[str]:
    keys = set()
    for key, doc in documented.items():
        keys.add(f"{where}.{key}")
        keys |= every_key(doc.get("contains", {}), f"{where}.{key}")
    return keys


def runs(host) -> dict[str, list[dict[str, Any]]]:
    """Real results of each module that together have everything in them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}

    def run(h, module, **options):
        found[module].append(h(f"nvml_{module}", gpus="all", diff=True, **options))

    h = host("h100:3")
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        h.sim("process", "add", 1, worker.pid, "--memory", 100)
        run(h, "reset", when="always")
    finally:
        worker.communicate(b"\n")
    options: dict[str, dict[str, Any]] = {
        "power_limit": {"limit": "300W"},
        "clock_lock": {"graphics": "1207-1500"},
        "compute_mode": {"mode": "prohibited"},
        "ecc_mode": {"enabled": False},
        "persistence_mode": {"enabled": False},
        "mig": {"layout": [{"profile": "3g.40gb"}]},
    }
    for module, wanted in options.items():
        persist = {} if module == "ecc_mode" else {"persist": True}
        h = host("h100:3")
        h.sim("fail", "nvmlDeviceSet*", 23, "--gpu", 2)
        run(h, module, **wanted)
        h.sim("clear", "faults")
        run(h, module, check=True, **wanted, **persist)
        run(h, module, **wanted, **persist)
        run(h, module, **wanted)
    h = host("a6000:1")
    h.ok("nvml_power_limit", gpus="all", limit="max", persist=True)
    h.sim("inject", "recovery", 0, 1)
    uuid = h.sim.gpu()["uuid"]
    tool = h.folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nexec {build()}/nvmlsim {h.sim.path} reset {uuid}\n")
    tool.chmod(0o755)
    run(h, "reset", nvidia_smi=str(tool))
    for gpus in ("h100,v100,rtx4090,gh200,a100", "b200"):
        h = host(gpus)
        h.ok("nvml_power_limit", gpus="0", limit="max", persist=True)
        h.ok("nvml_clock_lock", gpus="0", graphics="900")
        h.sim("process", "add", 0, 1, "--memory", 100)
        if gpus == "b200":
            h.sim("lose", 0)
        else:
            h.sim("mig", "mode", 4, "on")
            h.sim("mig", "create", 4, "3g.40gb")
            h.sim("process", "add", 4, 1, "--gpu-instance", 2, "--compute-instance", 0)
        run(h, "info", supported_clocks=True, draw_seconds=0.1)
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    made = iter(range(100))
    return runs(lambda gpus: Host(tmp_path_factory.mktemp("docs") / str(next(made)), gpus))


@pytest.mark.parametrize("module", NAMES)
def test_what_is_returned_is_what_is_documented(results, module):
    documented = returns(module)
    seen: set[str] = set()
    for result in results[module]:
        compare({k: v for k, v in result.items() if k not in ANSIBLES_OWN}, documented, "", seen)
    unseen = every_key(documented) - seen
    assert not unseen, f"documented and never returned: {sorted(unseen)}"


def complete(value: dict[str, Any], documented: dict[str, Any]) -> None:
    """All that is documented is there, and nothing else."""
    seen: set[str] = set()
    compare(value, documented, "", seen)
    assert every_key(documented) == seen


def test_prune_and_the_filters_return_what_they_document(host):
    h = host("h100:2")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    pruned = h.ok("gpu_state_prune", owner="role", settings=[])
    pruned = {key: value for key, value in pruned.items() if key not in ANSIBLES_OWN}
    complete(pruned, yaml.safe_load(importlib.import_module(f"{MODULES}.gpu_state_prune").RETURN))
    info = h.ok("nvml_info")
    answer = {"gpus": info["gpus"], "unreachable": False, "failure": "", "budgets": {"rack": "1kW"}, "share": "equal"}
    answer.update(host_watts=0, ceilings=[], persistence_mode="")
    for module, made in (
        (gpu_facts, gpu_facts.gpu_facts(info)),
        (power_budget, power_budget.power_budget({"gpu01": info["gpus"]}, "1kW")),
        (power_plan, power_plan.plan_run({"gpu01": answer}, {"rack": ["gpu01"]})),
    ):
        complete(made, yaml.safe_load(module.RETURN)["_value"]["contains"])


def test_every_module_is_in_the_action_group():
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())
    there = {path.stem for path in (ROOT / "plugins/modules").glob("nvml_*.py")}
    assert set(runtime["action_groups"]["nvml"]) == there == {f"nvml_{name}" for name in NAMES}
