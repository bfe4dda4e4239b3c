# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Drive the NVML simulator from Python: for tests of the simulator and of everything that talks to NVML.

    sim = Simulator(tmp_path / "nvml.state", "h100:8")
    subprocess.run([...], env={**os.environ, **sim.env})
    sim("inject", "xid", 3, 79)
    assert sim.gpu(3)["last_xid"] == 79

`state()` is read from the simulator itself, not through NVML: the independent reading to compare with.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parent
BUILD = SOURCE.parents[1] / "build" / "nvmlsim"


class SimulatorError(Exception):
    """The `nvmlsim` command refused; the text says why."""


@functools.cache
def build() -> Path:
    """Build library and command once, whoever asks first, and return their directory."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run(["make", "-s", "-j2", "-C", str(SOURCE)], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SimulatorError(f"make -C {SOURCE} failed:\n{made.stdout}{made.stderr}")
    return BUILD


def run(*args: object) -> str:
    """Run the `nvmlsim` command and return what it prints."""
    command = [str(build() / "nvmlsim"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimulatorError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Simulator:
    """A simulated machine, kept in one state file.

    `gpus` is a list of profiles, "h100:8" or "a100:2,l4"; `nvmlsim profiles` lists them. Persistence mode is on to
    begin with: with it off, settings and counters are gone when the last process has let go of NVML, as on a real
    machine.
    """

    def __init__(
        self,
        path: Path | str,
        gpus: str = "h100:1",
        *,
        driver_version: str | None = None,
        load: str | None = None,
        persistence: bool = True,
        seed: int = 0,
    ) -> None:
        self.path = Path(path)
        options = ["--persistence", "on" if persistence else "off", "--seed", str(seed)]
        if driver_version:
            options += ["--driver-version", driver_version]
        if load:
            options += ["--load", load]
        run("init", self.path, gpus, *options)

    @property
    def library_dir(self) -> Path:
        """Where libnvidia-ml.so.1 is."""
        return build()

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to find the simulated NVML."""
        search = [str(build()), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {"LD_LIBRARY_PATH": ":".join(search), "NVMLSIM_STATE": str(self.path)}

    def __call__(self, *args: object) -> str:
        """Run a command on this machine: `sim("set-load", 0, 0.8)`."""
        return run(self.path, *args)

    cli = __call__

    def state(self) -> dict[str, Any]:
        """The whole state; power in mW, energy in mJ, clocks in MHz, memory in bytes, temperature in degrees C."""
        state: dict[str, Any] = json.loads(self("show", "--json"))
        return state

    def gpu(self, index: int = 0) -> dict[str, Any]:
        """The state of one GPU."""
        gpu: dict[str, Any] = self.state()["gpus"][index]
        return gpu

    def advance(self, seconds: float) -> None:
        """Let simulated time jump ahead: temperature, energy and counters follow."""
        self("advance", seconds)
