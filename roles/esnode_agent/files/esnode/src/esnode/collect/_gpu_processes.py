# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes on a GPU: how many, and with `gpu_process_memory` what each holds and whose it is.

Sources: nvmlDeviceGet{Compute,Graphics,MPSCompute}RunningProcesses, /proc/PID/comm, /proc/PID/cgroup.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from esnode import catalogue
from esnode.catalogue import Family
from esnode.collect import _nvml
from esnode.collect._gpu_query import RETRY_S, Trouble
from esnode.snapshot import Samples

_KINDS = {
    "compute": "nvmlDeviceGetComputeRunningProcesses",
    "graphics": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps": "nvmlDeviceGetMPSComputeRunningProcesses",
}
_NAME_LENGTH = 64
_ID = re.compile(r"[0-9a-f]{64}")
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})")
_JOB = re.compile(r"/job_(\d+)(?:/|$)")
_UNIT = re.compile(r"[^/]+\.(?:service|scope|socket|mount|slice)")
_LXC = re.compile(r"/(?:lxc\.payload|lxc)[./]([^/]+)")


class Processes:
    """Makes the source of each GPU. `proc`: None leaves the memory of single processes out."""

    def __init__(self, proc: Path | None) -> None:
        self._proc = proc

    def of(self, handle: Any, of: tuple[str, str]) -> OfGpu:
        """The source of one GPU."""
        return OfGpu(handle, of, self._proc)


class OfGpu:
    """The processes of one GPU."""

    def __init__(self, handle: Any, of: tuple[str, str], proc: Path | None) -> None:
        self._handle = handle
        self._of = of
        self._proc = proc
        self._silent_until = dict.fromkeys(_KINDS, 0.0)

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        answered = 0
        # A process with compute and graphics contexts is in both lists with the same memory.
        held: dict[tuple[int, int, int], int] = {}
        for kind, function in _KINDS.items():
            if now < self._silent_until[kind]:
                continue
            try:
                listed = self._list(function)
            except _nvml.NVMLError as error:
                code = _nvml.code_of(error)
                if code in _nvml.ABSENT:
                    self._silent_until[kind] = now + RETRY_S
                elif code not in _nvml.NOT_NOW:
                    trouble.setdefault(code, []).append(function)
                continue
            answered += 1
            samples[catalogue.GPU_PROCESSES.series(*self._of, kind)] = len({one.pid for one in listed})
            for one in listed:
                if one.usedGpuMemory is not None:
                    key = (one.pid, getattr(one, "gpuInstanceId", 0), getattr(one, "computeInstanceId", 0))
                    held[key] = max(held.get(key, 0), one.usedGpuMemory)
        if self._proc is not None:
            self._add_memory(self._proc, held, samples)
        return answered

    def _list(self, function: str) -> list[Any]:
        try:
            listed: list[Any] = _nvml.call(f"{function}_v3", self._handle)
        except _nvml.NVMLError as error:
            if _nvml.code_of(error) != _nvml.FUNCTION_NOT_FOUND:
                raise
            listed = _nvml.call(f"{function}_v2", self._handle)  # a driver before 510
        return listed

    def _add_memory(self, proc: Path, held: dict[tuple[int, int, int], int], samples: Samples) -> None:
        by_pid: dict[int, int] = {}
        for (pid, _unused, _unused), octets in held.items():
            by_pid[pid] = by_pid.get(pid, 0) + octets
        for pid, octets in by_pid.items():
            name = sanitized(_text(proc / str(pid) / "comm"))
            unit = unit_of(_text(proc / str(pid) / "cgroup"))
            samples[catalogue.GPU_PROCESS_MEMORY.series(*self._of, str(pid), name, unit)] = octets

    def families(self) -> set[Family]:
        """See `Source`."""
        return {catalogue.GPU_PROCESSES}

    def close(self) -> None:
        """See `Source`."""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # the process has ended, or is of another PID namespace


def sanitized(name: str) -> str:
    """A process's name as a label value: printable, of bounded length."""
    return "".join(char if char.isprintable() else "?" for char in name.strip())[:_NAME_LENGTH]


def unit_of(cgroup: str) -> str:
    """Whose process it is, from /proc/PID/cgroup of either version; "" when the cgroup tells nothing.

    "slurm-job-42", "pod-<uid>", "container-<12 digits>", "lxc-<name>" or the systemd unit ("vllm.service").
    """
    paths = [line.split(":", 2)[2] for line in cgroup.splitlines() if line.count(":") >= 2]
    for path in paths:
        if "slurm" in path and (job := _JOB.search(path)):
            return f"slurm-job-{job[1]}"
    for path in paths:
        if pod := _POD.search(path):
            return f"pod-{pod[1].replace('_', '-')}"
    for path in paths:
        if container := _ID.search(path):
            return f"container-{container[0][:12]}"
    for path in paths:
        if lxc := _LXC.search(path):
            return f"lxc-{sanitized(lxc[1])}"
    for path in paths:
        if units := [u for u in _UNIT.findall(path) if not u.endswith(".slice")]:
            return sanitized(units[-1])
    return ""
