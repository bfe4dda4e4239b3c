# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVML for whoever sets something on a GPU: one session, its GPUs, and errors that say what to do.

Needs nvidia-ml-py and nothing else, so that modules on a target and the agent can both use it. The private siblings
hold what is built on it: `_nvml_select` (which GPUs), `_nvml_change` (plan, apply, read back, put back),
`_nvml_power`, `_nvml_clocks`, `_nvml_modes`, `_nvml_mig` (the settings), `_nvml_records` (what is kept in files),
`_nvml_apply`.
"""

from __future__ import annotations

import ctypes
import glob
import importlib
import os
import sys
import typing as t

# Where the agent's own environment has a copy of the binding.
AGENT_PACKAGES = "/opt/esnode/current/lib/python*/site-packages"
PCI_DEVICES = "/sys/bus/pci/devices"

NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INVALID_ARGUMENT = 2
_NO_BINDING = -1

COMPUTE_MODES = {"default": 0, "prohibited": 2, "exclusive_process": 3}  # NVML_COMPUTEMODE_*; 1 is gone

# A setter that answers one of these has not touched the GPU.
REFUSALS = frozenset((INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, 24, 25, 26))

# Codes of a question that this board or this driver has no answer to.
_ABSENT = frozenset((NOT_SUPPORTED, NOT_FOUND, FUNCTION_NOT_FOUND, 21, 26))

ROOT_HINT = "it takes root (become: true), and in a container CAP_SYS_ADMIN as well"

_MEANING = {
    INVALID_ARGUMENT: "the driver takes the value for invalid",
    NOT_SUPPORTED: "this GPU or driver does not support it",
    NO_PERMISSION: f"not permitted: {ROOT_HINT}",
    DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded: see `modprobe nvidia` and `dmesg | grep NVRM`",
    LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 is not installed: it comes with the NVIDIA driver",
    FUNCTION_NOT_FOUND: "the installed driver or nvidia-ml-py is too old for it",
    14: "the board's InfoROM is corrupted",
    GPU_IS_LOST: "the GPU has fallen off the bus; `dmesg | grep Xid` says when, a reboot may bring it back",
    RESET_REQUIRED: "the GPU must be reset before it can be used (esnode.core.nvml_reset)",
    17: "the operating system blocks access to the GPU",
    18: "the driver was upgraded but the old one is still loaded: reboot, or reload the driver",
    IN_USE: "the GPU is in use",
    23: "there is no room for it on the GPU",
    26: "this driver has given the function up",
    27: "the system is not ready",
    999: "the driver reports an unknown error; `dmesg | grep NVRM` may say more",
}


class NvmlError(Exception):
    """What NVML or this collection refuses; the text is for an operator and names the GPU when there is one.

    `code` is NVML's return code, None when the refusal is our own.
    """

    def __init__(self, text: str, code: int | None = None, function: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.function = function

    @property
    def absent(self) -> bool:
        """The board or the driver has no answer, which is no failure."""
        return self.code in _ABSENT


class NoGpuError(NvmlError):
    """There is nothing to talk to: no binding, no driver library, no loaded driver, no GPU."""


def meaning(code: int, function: str = "") -> str:
    """What a return code of NVML says to an operator."""
    text = _MEANING.get(code, f"NVML error {code}")
    return f"{text} ({function} returned {code})" if function else text


def nvidia_devices(devices: str = PCI_DEVICES) -> list[str]:
    """PCI addresses of NVIDIA GPUs, whether or not a driver is loaded: from sysfs."""
    found = []
    for path in sorted(glob.glob(os.path.join(devices, "*"))):
        try:
            with open(os.path.join(path, "vendor"), encoding="ascii") as vendor:
                is_nvidia = vendor.read().strip() == "0x10de"
            with open(os.path.join(path, "class"), encoding="ascii") as kind:
                is_gpu = kind.read().startswith("0x03")
        except OSError:
            continue
        if is_nvidia and is_gpu:
            found.append(os.path.basename(path))
    return found


def binding() -> t.Any:
    """The module pynvml of nvidia-ml-py; the agent's copy of it when this Python has none."""
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        pass
    for folder in sorted(glob.glob(AGENT_PACKAGES)):
        path = os.path.join(folder, "pynvml.py")
        # This process may be root: take only what root, or whoever runs this, has put there.
        if not os.path.isfile(path) or os.stat(path).st_uid not in (0, os.geteuid()):
            continue
        sys.path.append(folder)
        try:
            return importlib.import_module("pynvml")
        except ImportError:
            continue
        finally:
            sys.path.remove(folder)
    raise NoGpuError(
        f"the Python package nvidia-ml-py is needed by {sys.executable} and not there "
        f"(`{sys.executable} -m pip install nvidia-ml-py`); nor is it in {AGENT_PACKAGES}",
        _NO_BINDING,
    )


class Gpu:
    """One GPU of a session. `error` is set when even its identity could not be read (a lost GPU, say).

    A handle goes stale when the GPU is reset or loses a coherent link; `refresh()` takes a new one.
    """

    def __init__(self, session: Session, index: int) -> None:
        self.session = session
        self.index = index
        self.uuid = self.name = self.pci_bus_id = ""
        self._failure: NvmlError | None = None
        self.handle: t.Any = None
        try:
            self.handle = session.call("nvmlDeviceGetHandleByIndex", index)
            self.uuid = text(session.call("nvmlDeviceGetUUID", self.handle))
            self.name = text(session.call("nvmlDeviceGetName", self.handle))
            self.pci_bus_id = text(session.call("nvmlDeviceGetPciInfo", self.handle).busId)
        except NvmlError as error:
            self._failure = error

    @property
    def error(self) -> NvmlError | None:
        return self._own(self._failure) if self._failure else None

    def __str__(self) -> str:
        known = self.uuid or (f"at {self.pci_bus_id}" if self.pci_bus_id else "UUID unknown")
        return f"GPU {self.index} ({known})"

    def identity(self) -> dict[str, t.Any]:
        """{index, uuid, name, pci_bus_id}; what could not be read is not in it."""
        known = {"uuid": self.uuid, "name": self.name, "pci_bus_id": self.pci_bus_id}
        return {"index": self.index, **{key: value for key, value in known.items() if value}}

    def refresh(self) -> None:
        self.handle = self._try("nvmlDeviceGetHandleByUUID", self.uuid)

    def get(self, function: str, *args: t.Any) -> t.Any:
        """Call a function of pynvml on this GPU; raises NvmlError that names it."""
        return self._try(function, self.handle, *args)

    set = get

    def ask(self, function: str, *args: t.Any) -> t.Any:
        """As `get`, but None when this board or driver has no answer."""
        try:
            return self.get(function, *args)
        except NvmlError as error:
            if error.absent:
                return None
            raise

    def field(self, field: int, scope: int = 0) -> int | None:
        """An integer field value (NVML_FI_...), None when there is none."""
        try:
            (value,) = self.get("nvmlDeviceGetFieldValues", [(field, scope)])
        except NvmlError as error:
            if error.absent or error.code == INVALID_ARGUMENT:
                return None
            raise
        if value.nvmlReturn == GPU_IS_LOST:
            raise self.refused(meaning(GPU_IS_LOST), GPU_IS_LOST)
        if value.nvmlReturn:
            return None
        # in the order of nvmlValueType_t
        kinds = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
        return int(getattr(value.value, kinds[value.valueType]))

    def raw(self, function: str, *args: t.Any) -> None:
        """Call the C function itself: for what pynvml does not know or whose return code it drops."""
        try:
            self.session.raw(function, self.handle, *args)
        except NvmlError as error:
            raise self._own(error) from error

    def uptime_s(self) -> int | None:
        """Seconds since the driver has set this GPU up; None before driver 610."""
        seconds = ctypes.c_uint()
        try:
            self.raw("nvmlDeviceGetGpuUptime_v1", ctypes.byref(seconds))
        except NvmlError as error:
            if error.absent:
                return None
            raise
        return seconds.value

    def processes(self) -> list[dict[str, t.Any]]:
        """Processes that compute or draw on it: [{pid, kind, memory_bytes?, gpu_instance?, compute_instance?}]."""
        found: dict[int, dict[str, t.Any]] = {}
        kinds = {"compute": "Compute", "graphics": "Graphics", "mps": "MPSCompute"}
        for kind, name in kinds.items():
            function = f"nvmlDeviceGet{name}RunningProcesses"
            there = self.ask(function)
            for each in self.ask(f"{function}_v2") or () if there is None else there:
                entry: dict[str, t.Any] = {"pid": int(each.pid), "kind": kind}
                if each.usedGpuMemory is not None:
                    entry["memory_bytes"] = int(each.usedGpuMemory)
                for key, attribute in (("gpu_instance", "gpuInstanceId"), ("compute_instance", "computeInstanceId")):
                    number = getattr(each, attribute, None)
                    if number is not None and number != 0xFFFFFFFF:
                        entry[key] = int(number)
                found.setdefault(entry["pid"], entry)
        return [found[pid] for pid in sorted(found)]

    def refused(self, why: str, code: int | None = None, function: str = "") -> NvmlError:
        """An error about this GPU."""
        return NvmlError(f"{self}: {why}", code, function)

    def _try(self, function: str, *args: t.Any) -> t.Any:
        try:
            return self.session.call(function, *args)
        except NvmlError as error:
            raise self._own(error) from error

    def _own(self, error: NvmlError) -> NvmlError:
        return self.refused(str(error), error.code, error.function)


class Session:
    """`with Session() as nvml:` is NVML's init to its shutdown. Raises NoGpuError when there is no driver to talk
    to."""

    def __init__(self) -> None:
        self._pynvml: t.Any = None
        self._open = False
        self._gpus: list[Gpu] | None = None

    def __enter__(self) -> Session:
        self._pynvml = binding()
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        try:
            self.call("nvmlInit")
        except NvmlError as error:
            kind = NoGpuError if error.code in (DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND) else NvmlError
            raise kind(str(error), error.code, error.function) from error
        self._open = True

    def close(self) -> None:
        """Let go of the driver; what comes after needs `restart()`."""
        if self._open:
            self._open = False
            try:
                self.call("nvmlShutdown")
            except NvmlError as error:
                if error.code not in (1, DRIVER_NOT_LOADED):  # it was gone already
                    raise

    def restart(self) -> None:
        """Let go of the driver and come back, with fresh handles: shows what outlives this process."""
        self.close()
        self._start()
        for gpu in self._gpus or ():
            if gpu.uuid:
                gpu.refresh()

    def rescan(self) -> None:
        """Let go of the driver and come back to whatever GPUs there are then: for after a reset."""
        self.close()
        self._gpus = None
        self._start()

    def call(self, function: str, *args: t.Any) -> t.Any:
        """Call a function of pynvml; raises NvmlError."""
        wrapper = getattr(self._pynvml, function, None)
        if wrapper is None:
            raise NvmlError(meaning(FUNCTION_NOT_FOUND, function), FUNCTION_NOT_FOUND, function)
        # An old driver has no function of the version that pynvml asks for; that is no NVMLError.
        too_old = getattr(self._pynvml, "NVMLLibraryMismatchError", self._pynvml.NVMLError_FunctionNotFound)
        try:
            return wrapper(*args)
        except too_old as error:
            raise NvmlError(meaning(FUNCTION_NOT_FOUND, function), FUNCTION_NOT_FOUND, function) from error
        except self._pynvml.NVMLError as error:
            raise NvmlError(meaning(error.value, function), error.value, function) from error

    def raw(self, function: str, *args: t.Any) -> None:
        """Call a function of the library and check what it returns, which some of pynvml's wrappers don't."""
        try:
            pointer = self._pynvml._nvmlGetFunctionPointer(function)
        except self._pynvml.NVMLError as error:
            raise NvmlError(meaning(error.value, function), error.value, function) from error
        code = int(pointer(*args))
        if code:
            raise NvmlError(meaning(code, function), code, function)

    def type(self, name: str) -> t.Any:
        """A ctypes structure or a constant of pynvml; None when it has none of that name."""
        return getattr(self._pynvml, name, None)

    def gpus(self) -> list[Gpu]:
        """Every GPU that NVML counts, lost ones too."""
        if self._gpus is None:
            self._gpus = [Gpu(self, index) for index in range(self.call("nvmlDeviceGetCount"))]
            _find_nameless(self._gpus)
        return self._gpus

    @property
    def driver_version(self) -> str:
        return text(self.call("nvmlSystemGetDriverVersion"))


def _find_nameless(gpus: list[Gpu]) -> None:
    """A GPU that has fallen off the bus does not tell where it is; the bus does, if it is the only one."""
    nameless = [gpu for gpu in gpus if not gpu.pci_bus_id]
    if len(nameless) != 1:
        return
    known = {gpu.pci_bus_id.lower()[-12:] for gpu in gpus}  # NVML writes the domain with eight digits, sysfs with four
    left = [address for address in nvidia_devices() if address not in known]
    if len(left) == 1:
        nameless[0].pci_bus_id = f"0000{left[0].upper()}"


def text(value: t.Any) -> str:
    """Strings came as bytes from older versions of pynvml."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def process_name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "a process of another container or host"


def process_unit(pid: int, proc: str = "/proc") -> str:
    """The unit of systemd, or the container's scope, that is to be stopped for the process to go; "" without one."""
    try:
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as stream:
            groups = [line.rstrip("\n").split(":", 2) for line in stream]
    except OSError:
        return ""
    # Hierarchy, controllers, path: systemd's is the one without controllers, on cgroup v1 a named one.
    paths = [group[2] for group in groups if len(group) == 3 and group[1] in ("", "name=systemd")]
    parts = [part for path in paths for part in path.split("/") if part.endswith((".service", ".scope"))]
    return parts[-1] if parts else ""
