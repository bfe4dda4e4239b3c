# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Eight threads that call NVML at random, getters and setters: python hammer.py CALLS."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable
from typing import Any

import pynvml as n  # type: ignore[import-untyped]

GPUS = 8


def work(seed: int, calls: int, errors: list[str]) -> None:
    r = random.Random(seed)
    kinds: list[Callable[[Any], object]] = [
        n.nvmlDeviceGetPowerUsage,
        n.nvmlDeviceGetTotalEnergyConsumption,
        n.nvmlDeviceGetMemoryInfo,
        n.nvmlDeviceGetUUID,
        n.nvmlDeviceGetComputeRunningProcesses,
        n.nvmlDeviceResetGpuLockedClocks,
        lambda h: n.nvmlDeviceGetFieldValues(h, [83, 185, 186, 3, 142, (138, 2)]),
        lambda h: n.nvmlDeviceGetSupportedGraphicsClocks(h, 2619),
        lambda h: n.nvmlDeviceSetPowerManagementLimit(h, r.randrange(200000, 700001)),
        lambda h: n.nvmlDeviceSetGpuLockedClocks(h, 345, r.randrange(345, 1981)),
        lambda _: (n.nvmlInit(), n.nvmlShutdown()),
        lambda _: n.nvmlEventSetFree(n.nvmlEventSetCreate()),
    ]
    last: dict[int, int] = {}
    try:
        for _ in range(calls):
            i = r.randrange(GPUS)
            handle = n.nvmlDeviceGetHandleByIndex(i)
            r.choice(kinds)(handle)
            energy = n.nvmlDeviceGetTotalEnergyConsumption(handle)
            if energy < last.get(i, 0):
                errors.append(f"GPU {i}: energy went back from {last[i]} to {energy} mJ")
                return
            last[i] = energy
    except BaseException as e:
        errors.append(repr(e))


def main() -> None:
    n.nvmlInit()
    errors: list[str] = []
    threads = [threading.Thread(target=work, args=(k, int(sys.argv[1]), errors)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    n.nvmlShutdown()
    print(errors or "good")


if __name__ == "__main__":
    main()
