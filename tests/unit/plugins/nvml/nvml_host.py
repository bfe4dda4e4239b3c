# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""A host with simulated GPUs on which modules run: each run is a process of its own, as on a target."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nvmlsim import Simulator, run

# A run of a module is a process: many of them on the newest Python, a few on the others.
THOROUGH = sys.version_info >= (3, 13)
FEW_BOARDS = ("t4", "rtx4090", "h100", "gb200")
ROOT = Path(__file__).parents[4]
MODULES = "ansible_collections.esnode.core.plugins.modules"
APPLY = "ansible_collections.esnode.core.plugins.module_utils._nvml_apply"

# What of the simulator's state is a setting: physics moves by itself.
SETTINGS = (
    "power_limit_mw",
    "module_limit_mw",
    "gpu_locked_clocks",
    "memory_locked_clocks",
    "application_clocks",
    "persistence_mode",
    "compute_mode",
    "ecc_current",
    "ecc_pending",
    "mig_current",
    "mig_pending",
    "gpu_instances",
    "accounting_mode",
    "api_restricted",
)


def boards() -> list[str]:
    """The boards that the simulator knows, or those that differ most."""
    known = [line.split()[0] for line in run("profiles").splitlines()]
    return known if THOROUGH else [name for name in known if name in FEW_BOARDS]


class Host:
    """A machine of the simulator with its own /etc and /run."""

    def __init__(self, folder: Path, gpus: str, **options: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.sim = Simulator(folder / "nvml.state", gpus, **options)
        self.run_dir = folder / "run"
        self.state_file = folder / "etc" / "gpu-state.json"
        self.folder = folder

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, **self.sim.env, "PYTHONPATH": str(ROOT / "collections"), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(self, module: str, check: bool = False, diff: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a module; `finish()` takes its result."""
        arguments = {"run_dir": str(self.run_dir), **options, "_ansible_check_mode": check, "_ansible_diff": diff}
        if module != "nvml_ecc_mode":
            arguments.setdefault("state_file", str(self.state_file))
        process = subprocess.Popen(
            [sys.executable, "-m", f"{MODULES}.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
        )
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        process.stdin.close()
        process.stdin = None
        return process

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        assert len(lines) == 1, f"no result\n{out}\n{err}"
        result: dict[str, Any] = json.loads(lines[0])
        result.pop("invocation", None)
        # ansible-core 2.19 and newer hand warnings over as objects
        result["warnings"] = [
            w if isinstance(w, str) else w.get("event", w).get("msg", "") for w in result.get("warnings", [])
        ]
        return result

    def __call__(self, module: str, check: bool = False, diff: bool = False, **options: Any) -> dict[str, Any]:
        return self.finish(self.start(module, check, diff, **options))

    def ok(self, module: str, **options: Any) -> dict[str, Any]:
        result = self(module, **options)
        assert not result.get("failed"), result["msg"]
        return result

    def fails(self, module: str, **options: Any) -> dict[str, Any]:
        result = self(module, **options)
        assert result.get("failed"), result
        return result

    def apply(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run what a boot runs."""
        where = ["--state-file", str(self.state_file), "--run-dir", str(self.run_dir)]
        command = [sys.executable, "-m", APPLY, *where, *arguments]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)

    def settings(self) -> list[dict[str, Any]]:
        """What is set on each GPU, from the simulator itself."""
        return [{key: gpu.get(key) for key in SETTINGS} for gpu in self.sim.state()["gpus"]]

    def files(self) -> dict[str, bytes]:
        """Everything but the simulator's own file."""
        found = (path for path in sorted(self.folder.rglob("*")) if path != self.sim.path)
        return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}

    def limits(self) -> list[int]:
        return [gpu["power_limit_mw"] for gpu in self.sim.state()["gpus"]]
