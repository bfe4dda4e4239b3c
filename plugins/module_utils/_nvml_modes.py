# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistence, compute and ECC mode."""

from __future__ import annotations

from ._nvml_change import Plan, Setting, State
from .nvml import COMPUTE_MODES, Gpu

_DAEMON = "nvidia-persistenced"
_DAEMON_PID = "/run/nvidia-persistenced/nvidia-persistenced.pid"


def daemon_runs(pid_file: str = _DAEMON_PID) -> bool:
    """Whether nvidia-persistenced runs: the driver then passes changes of persistence mode on to it."""
    try:
        with open(pid_file, encoding="ascii") as stream:
            pid = int(stream.read())
        with open(f"/proc/{pid}/comm", encoding="ascii") as stream:
            return stream.read().strip() == _DAEMON[:15]  # the kernel keeps that many letters
    except (OSError, ValueError):
        return False


class PersistenceMode(Setting):
    """Whether the driver keeps the GPU set up while no process uses it."""

    name = "persistence_mode"
    keys = ("enabled",)

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def record(self) -> State:
        return {"enabled": self.enabled}

    def read(self, gpu: Gpu) -> State:
        mode = gpu.ask("nvmlDeviceGetPersistenceMode")
        if mode is None:
            raise gpu.refused(f"{gpu.name} has no persistence mode")
        return {"enabled": bool(mode), "manager": _DAEMON if daemon_runs() else "driver"}

    def plan(self, gpu: Gpu, now: State) -> Plan:
        notes = []
        needed = now["enabled"] != self.enabled
        if needed and now["manager"] == _DAEMON:
            notes.append(f"{_DAEMON} runs here: the options of its service decide what holds after a reboot")
        if needed and not self.enabled:
            notes.append(
                "power limit, clock locks and compute mode go back to their defaults when the last process lets go"
            )
        return Plan({**now, "enabled": self.enabled}, needed, notes=notes)

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        gpu.set("nvmlDeviceSetPersistenceMode", int(target["enabled"]))
        # Without it a GPU with a coherent link to its CPU goes away for a moment, and the handle with it.
        gpu.refresh()


class ComputeMode(Setting):
    """Which processes may compute on the GPU."""

    name = "compute_mode"
    keys = ("mode",)
    volatile = True

    def __init__(self, mode: str) -> None:
        if mode not in COMPUTE_MODES:
            raise ValueError(f"mode: {mode!r} is none of {', '.join(COMPUTE_MODES)}")
        self.mode = mode

    def record(self) -> State:
        return {"mode": self.mode}

    def read(self, gpu: Gpu) -> State:
        number = gpu.ask("nvmlDeviceGetComputeMode")
        names = {value: name for name, value in COMPUTE_MODES.items()}
        if number is None:
            raise gpu.refused(f"{gpu.name} has no compute mode")
        return {"mode": names.get(number, f"number {number}")}

    def plan(self, gpu: Gpu, now: State) -> Plan:
        needed = now["mode"] != self.mode
        if needed and (gpu.ask("nvmlDeviceGetMigMode") or (0, 0))[0]:
            raise gpu.refused("its compute mode is 'default' and can't be changed while MIG mode is on")
        return Plan({"mode": self.mode}, needed)

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        gpu.set("nvmlDeviceSetComputeMode", _number(target["mode"]))


def _number(mode: str) -> int:
    return COMPUTE_MODES[mode] if mode in COMPUTE_MODES else int(mode.rpartition(" ")[2])


class EccMode(Setting):
    """ECC as it shall be after the next reset. `pending` is set; `current` follows then."""

    name = "ecc_mode"
    keys = ("pending",)

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def record(self) -> State:
        return {"enabled": self.enabled}

    def read(self, gpu: Gpu) -> State:
        modes = gpu.ask("nvmlDeviceGetEccMode")
        if modes is None:
            raise gpu.refused(f"{gpu.name} has no ECC that can be switched")
        current, pending = (bool(mode) for mode in modes)
        return {"current": current, "pending": pending, "reset_required": current != pending}

    def plan(self, gpu: Gpu, now: State) -> Plan:
        target = {**now, "pending": self.enabled, "reset_required": now["current"] != self.enabled}
        notes = []
        if target["reset_required"]:
            word = "on" if self.enabled else "off"
            notes.append(
                f"ECC is {word} after the next reset of the GPU or reboot (esnode.core.nvml_reset), not before"
            )
        return Plan(target, now["pending"] != self.enabled, notes=notes)

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        gpu.set("nvmlDeviceSetEccMode", int(target["pending"]))
