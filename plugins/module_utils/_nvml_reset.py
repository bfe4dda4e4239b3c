# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a GPU waits for a reset, and who stands in its way. NVML itself can't reset; the driver's nvidia-smi does."""

from __future__ import annotations

import glob
import os
import typing as t

from .nvml import RESET_REQUIRED, Gpu, NvmlError, process_name

_FI_RECOVERY_ACTION = 230
_RECOVERY = {1: "the driver recommends a reset", 4: "the driver recommends to drain and reset it"}
_DAEMON = "nvidia-persist"  # as far as the kernel keeps the name; the driver asks it to let go


def reasons(gpu: Gpu) -> list[str]:
    """Why this GPU should be reset; [] when nothing waits for it."""
    if gpu.error:
        if gpu.error.code == RESET_REQUIRED:
            return ["it can't be used before a reset"]
        raise gpu.error
    try:
        return _pending(gpu)
    except NvmlError as error:
        if error.code == RESET_REQUIRED:
            return ["it can't be used before a reset"]
        raise


def _pending(gpu: Gpu) -> list[str]:
    found = []
    for name, function in (("ECC", "nvmlDeviceGetEccMode"), ("MIG", "nvmlDeviceGetMigMode")):
        current, pending = gpu.ask(function) or (0, 0)
        if current != pending:
            found.append(f"{name} mode is to be switched {'on' if pending else 'off'}")
    # Any call but those for identity shows whether the GPU can be used at all.
    gpu.ask("nvmlDeviceGetPerformanceState")
    action = gpu.field(_FI_RECOVERY_ACTION)
    if action in _RECOVERY:
        found.append(_RECOVERY[action])
    rows = gpu.ask("nvmlDeviceGetRemappedRows")
    if rows and rows[2]:
        found.append("rows of its memory wait to be remapped")
    if gpu.ask("nvmlDeviceGetRetiredPagesPendingStatus"):
        found.append("pages of its memory wait to be retired")
    return found


def users(gpu: Gpu, devices: str = "/dev/nvidia") -> list[dict[str, t.Any]]:
    """[{pid, name}] of the processes that use it: those that the driver tells, and those that have its device open."""
    try:
        pids = {process["pid"] for process in gpu.processes()} if gpu.handle else set()
        minor = gpu.ask("nvmlDeviceGetMinorNumber")
    except NvmlError as error:
        if error.code != RESET_REQUIRED:
            raise
        pids, minor = set(), gpu.index
    pids |= _holders(f"{devices}{minor}")
    found = [{"pid": pid, "name": process_name(pid)} for pid in sorted(pids - {os.getpid()})]
    return [user for user in found if not user["name"].startswith(_DAEMON)]


def _holders(device: str) -> set[int]:
    """Processes that have the device open; without root those of others are not seen."""
    pids = set()
    for link in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == device:
                pids.add(int(link.split("/")[2]))
        except OSError:
            continue
    return pids
