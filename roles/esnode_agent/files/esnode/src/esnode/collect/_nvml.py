# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML's session, shared by the collectors gpu and gpu_events; the only module of the agent that imports pynvml.

NVML is initialised once a process. The driver can be reloaded below it: then every call answers DRIVER_NOT_LOADED or
UNINITIALIZED until NVML was shut down and initialised again, and all handles are new. A shutdown must not happen
while another thread is in a call, so each use is framed by `enter` and `leave`.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pynvml  # type: ignore[import-untyped]

from esnode.collect import NotPresent, Roots
from esnode.collect._gpu_pci import display_devices

NVMLError: type[Exception] = pynvml.NVMLError

SUCCESS: int = pynvml.NVML_SUCCESS
UNINITIALIZED: int = pynvml.NVML_ERROR_UNINITIALIZED
INVALID_ARGUMENT: int = pynvml.NVML_ERROR_INVALID_ARGUMENT
NOT_SUPPORTED: int = pynvml.NVML_ERROR_NOT_SUPPORTED
NO_PERMISSION: int = pynvml.NVML_ERROR_NO_PERMISSION
NOT_FOUND: int = pynvml.NVML_ERROR_NOT_FOUND
INSUFFICIENT_SIZE: int = pynvml.NVML_ERROR_INSUFFICIENT_SIZE
DRIVER_NOT_LOADED: int = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
TIMEOUT: int = pynvml.NVML_ERROR_TIMEOUT
LIBRARY_NOT_FOUND: int = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
FUNCTION_NOT_FOUND: int = pynvml.NVML_ERROR_FUNCTION_NOT_FOUND
GPU_IS_LOST: int = pynvml.NVML_ERROR_GPU_IS_LOST
RESET_REQUIRED: int = 16
OPERATING_SYSTEM: int = 17
LIB_RM_VERSION_MISMATCH: int = 18
GPU_NOT_FOUND: int = 28

ABSENT = frozenset({INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, 22, 25, 26})
"""This GPU or driver has no such reading (22 no vGPU with ECC, 25 other struct version, 26 deprecated)."""
NOT_NOW = frozenset({NOT_FOUND, 21, 27})
"""There is no value at this moment (21 no data, 27 not ready)."""
GONE = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
"""The GPU cannot be used any more."""
CLOSED = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED})
"""NVML has to be initialised again."""

_LEAVE_S = 2.5

_WHAT: dict[int, str] = {
    GPU_IS_LOST: "the GPU is lost, it has fallen off the bus: drain the node, look for NVRM and Xid lines in the kernel"
    " log, reset the GPU or reboot",
    RESET_REQUIRED: "the GPU needs a reset before it can be used: drain it, stop what holds it (this agent too) and run"
    " nvidia-smi --gpu-reset, or reboot",
    GPU_NOT_FOUND: "the driver does not find the GPU any more: look for NVRM lines in the kernel log",
    TIMEOUT: "the driver timed out: look for Xid 119 (GSP timeout) in the kernel log; if it stays, reset the GPU",
    999: "the driver answers Unknown Error: look for NVRM and Xid lines in the kernel log; if it stays, reset the GPU",
}

_START_WHAT: dict[int, str] = {
    LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 cannot be loaded: install the driver's user-space libraries, or give the"
    " container the driver's libraries (NVIDIA_DRIVER_CAPABILITIES=utility)",
    DRIVER_NOT_LOADED: "the kernel driver is not loaded: run modprobe nvidia and look at the kernel log for why it is"
    " not there",
    LIB_RM_VERSION_MISMATCH: "the kernel driver and libnvidia-ml.so.1 have different versions, as after an upgrade:"
    " reload the kernel driver or reboot, then restart this agent",
    NO_PERMISSION: "this user may not open /dev/nvidiactl: allow the NVIDIA devices to the agent's service",
    OPERATING_SYSTEM: "the system blocks /dev/nvidiactl: allow the NVIDIA devices to the agent's service or container",
}


def code_of(raised: Exception) -> int:
    """The nvmlReturn_t of an NVMLError."""
    return int(getattr(raised, "value", 999))


def meaning(code: int) -> str:
    """What a code means for a GPU and what to do, without the GPU's name."""
    return _WHAT.get(code) or f"NVML answers {pynvml.NVMLError(code)}"


def error(code: int) -> Exception:
    """The NVMLError of a code."""
    made: Exception = pynvml.NVMLError(code)
    return made


def address(handle: Any) -> int:
    """What tells one device handle from another."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def pci_bus_id(handle: Any) -> str:
    """The PCI address, "00000000:53:00.0"; "" where NVML does not tell. Raises NVMLError for a GPU that is gone."""
    try:
        found = pynvml.nvmlDeviceGetPciInfo(handle).busId
    except NVMLError as raised:
        if code_of(raised) in GONE | CLOSED:
            raise
        return ""
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def pointer(name: str) -> Callable[..., int] | None:
    """A function of the loaded library, None where the driver's library has not got it. It returns nvmlReturn_t."""
    try:
        found: Callable[..., int] = pynvml._nvmlGetFunctionPointer(name)
    except NVMLError:
        return None
    return found


def call(name: str, *args: Any) -> Any:
    """Call a function of pynvml; one that this pynvml or driver lacks raises NVMLError FUNCTION_NOT_FOUND."""
    function = getattr(pynvml, name, None)
    if function is None:
        raise error(FUNCTION_NOT_FOUND)
    return function(*args)


def constants(prefix: str) -> dict[str, int]:
    """The whole-number constants of this pynvml by name without the prefix: they differ between its versions."""
    return {n.removeprefix(prefix): v for n, v in vars(pynvml).items() if n.startswith(prefix) and isinstance(v, int)}


def gpm_query(metrics: tuple[int, ...]) -> Any:
    """An nvmlGpmMetricsGet_t that asks for these metrics; the caller sets the two samples."""
    query = pynvml.c_nvmlGpmMetricsGet_t()
    query.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    query.numMetrics = len(metrics)
    for i, number in enumerate(metrics):
        query.metrics[i].metricId = number
    return query


class Closed(Exception):
    """NVML is not open now."""


class Busy(Exception):
    """NVML cannot be shut down: a call on it hangs."""


class Session:
    """NVML as this process holds it. `generation` counts the initialisations; a handle is of one generation."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._idle = threading.Condition()
        self._inside = 0
        self._barred = False
        self._opened = 0
        self._users = 0
        self.generation = 0
        self._touched: dict[str, int] = {}

    def join(self) -> None:
        """Take part; every user ends with `part`."""
        with self._idle:
            self._users += 1
            self._idle.notify_all()

    def part(self) -> None:
        """End the part of one user; the last one shuts NVML down, on a thread of its own since that may hang."""
        with self._idle:
            self._users -= 1
            last = self._users == 0
        if last:
            threading.Thread(target=self._shutdown_unused, name="nvml-shutdown", daemon=True).start()

    def _shutdown_unused(self) -> None:
        with self._idle:
            self._idle.wait_for(lambda: self._users or not self._inside)  # a call that hangs may hang for ever
            if self._users:
                return
        with contextlib.suppress(Busy):
            self.close(self.generation)

    def open(self) -> int:
        """Initialise NVML unless it is; the generation. May hang as long as the driver does; raises NVMLError."""
        with self._opening:
            if not self.generation:
                pynvml.nvmlInit()
                self._opened += 1
                self.generation = self._opened
            return self.generation

    def close(self, generation: int) -> None:
        """Shut NVML down if it is still of this generation; `Busy` when a call does not come back within 2.5 s."""
        with self._opening:
            if self.generation != generation or not generation:
                return
            with self._idle:
                self._barred = True
                free = self._idle.wait_for(lambda: self._inside == 0, _LEAVE_S)
                self._barred = False
                if not free:
                    raise Busy
                self.generation = 0
            with contextlib.suppress(NVMLError):  # the driver may have gone already
                pynvml.nvmlShutdown()

    def enter(self) -> int:
        """Begin a use of NVML; the generation. `Closed` when it is not open."""
        with self._idle:
            if not self.generation or self._barred:
                raise Closed
            self._inside += 1
            return self.generation

    def leave(self) -> None:
        """End a use of NVML."""
        with self._idle:
            self._inside -= 1
            if not self._inside:
                self._idle.notify_all()

    def touch(self, uuid: str) -> None:
        """Say that something happened to this GPU, so that what is read rarely is worth a look now."""
        self._touched[uuid] = self._touched.get(uuid, 0) + 1

    def touches(self, uuid: str) -> int:
        """How often `touch` was called for this GPU."""
        return self._touched.get(uuid, 0)


SESSION = Session()


def start_trouble(raised: Exception, roots: Roots, *, seen: bool) -> str:
    """Why NVML could not be opened, as a sentence; raises `NotPresent` where that only means that there is no GPU.

    `seen`: this process has read a GPU before, so that its absence is news.
    """
    code = code_of(raised)
    devices = display_devices(roots.sys)
    if not devices and not seen and code in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED):
        library = "no NVML library" if code == LIBRARY_NOT_FOUND else "no NVIDIA driver loaded"
        raise NotPresent(f"no NVIDIA GPU on the PCI bus and {library}")
    where = f"NVIDIA GPU at {', '.join(devices)}" if devices else "NVIDIA driver"
    return f"{where}: {_START_WHAT.get(code) or f'NVML does not start: {pynvml.NVMLError(code)}'}"
