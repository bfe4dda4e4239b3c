# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator asks of a GPU, read only. What a board or a driver has no answer to is absent, never 0."""

from __future__ import annotations

import ctypes
import time
import typing as t

from .nvml import COMPUTE_MODES, GPU_IS_LOST, INVALID_ARGUMENT, RESET_REQUIRED, Gpu, NvmlError, process_name, text

Facts = dict[str, t.Any]

_ARCHITECTURES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper"}
_ARCHITECTURES.update({10: "Blackwell"})
_REASONS = {
    0x1: "idle",
    0x2: "application_clocks",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
    0x100: "display",
}
_CLOCKS = {"graphics": 0, "sm": 1, "memory": 2, "video": 3}
_THRESHOLDS = {"shutdown": 0, "slowdown": 1, "memory_max": 2, "gpu_max": 3}
_VIRTUALIZATION = {0: "none", 1: "passthrough", 2: "vgpu", 3: "host_vgpu", 4: "host_vsga"}
_FABRIC = {0: "not_supported", 1: "not_started", 2: "in_progress", 3: "completed"}
_ACTIONS = {0: "none", 1: "reset", 2: "reboot", 3: "drain_p2p", 4: "drain_and_reset"}
_FI_MEMORY_TEMPERATURE, _FI_RECOVERY_ACTION, _FI_LINKS = 82, 230, 91
_ECC_KINDS = {"corrected": 0, "uncorrected": 1}
_LIFETIMES = {"volatile": 0, "aggregate": 1}


def mean_draw_mw(gpus: list[Gpu], seconds: float) -> dict[int, int]:
    """By index the mean power in mW of the next `seconds`, for GPUs that count their energy."""
    before = {gpu.index: _energy(gpu) for gpu in gpus}
    time.sleep(seconds)
    found = {}
    for gpu in gpus:
        then, now = before[gpu.index], _energy(gpu)
        if then and now and now[0] >= then[0]:  # less than before is a GPU that has started over
            found[gpu.index] = round((now[0] - then[0]) / (now[1] - then[1]))
    return found


def _energy(gpu: Gpu) -> tuple[int, float] | None:
    """(mJ, when), None where it is not told."""
    try:
        energy = gpu.ask("nvmlDeviceGetTotalEnergyConsumption") if gpu.error is None else None
    except NvmlError:
        return None
    return None if energy is None else (int(energy), time.monotonic())


class Reader:
    """Reads one GPU group by group. A GPU that can't be read gives what it has and `state`, `error`."""

    def __init__(self, gpu: Gpu, supported_clocks: bool = False, draw_mw: int | None = None) -> None:
        self._gpu = gpu
        self._supported_clocks = supported_clocks
        self._draw_mw = draw_mw

    def facts(self) -> Facts:
        facts: Facts = {**self._gpu.identity(), "state": "ok"}
        try:
            if self._gpu.error:
                raise self._gpu.error
            for name, read in self._groups().items():
                found = read()
                if isinstance(found, dict):
                    found = {key: value for key, value in found.items() if value not in (None, {})}
                if found or isinstance(found, list):
                    facts[name] = found
            facts.update({key: value for key, value in self._board().items() if value is not None})
        except NvmlError as error:
            states = {GPU_IS_LOST: "lost", RESET_REQUIRED: "reset_required"}
            facts.update(state=states.get(error.code or 0, "error"), error=str(error))
        return facts

    def _groups(self) -> dict[str, t.Callable[[], t.Any]]:
        return {
            "memory": self._memory,
            "power": self._power,
            "clocks": self._clocks,
            "temperature": self._temperature,
            "utilization": self._utilization,
            "fans_percent": self._fans,
            "modes": self._modes,
            "mig_instances": self._mig_instances,
            "mig_devices": self._mig_devices,
            "pcie": self._pcie,
            "nvlink": self._nvlink,
            "fabric": self._fabric,
            "health": self._health,
            "processes": self._processes,
        }

    def _ask(self, function: str, *args: t.Any) -> t.Any:
        """None where there is no answer: also where the driver refuses, for some getters take root, too."""
        try:
            return self._gpu.ask(function, *args)
        except NvmlError as error:
            if error.code in (GPU_IS_LOST, RESET_REQUIRED):
                raise
            return None

    def _field(self, field: int, scope: int = 0) -> int | None:
        try:
            return self._gpu.field(field, scope)
        except NvmlError as error:
            if error.code in (GPU_IS_LOST, RESET_REQUIRED):
                raise
            return None

    def _text(self, function: str) -> str | None:
        value = self._ask(function)
        return None if value is None else text(value)

    def _board(self) -> Facts:
        architecture = self._ask("nvmlDeviceGetArchitecture")
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        return {
            "serial": self._text("nvmlDeviceGetSerial"),
            "part_number": self._text("nvmlDeviceGetBoardPartNumber"),
            "vbios_version": self._text("nvmlDeviceGetVbiosVersion"),
            "inforom_version": self._text("nvmlDeviceGetInforomImageVersion"),
            "gsp_firmware_version": self._text("nvmlDeviceGetGspFirmwareVersion"),
            "virtualization": _VIRTUALIZATION.get(self._ask("nvmlDeviceGetVirtualizationMode")),
            "minor_number": self._ask("nvmlDeviceGetMinorNumber"),
            "architecture": None if architecture is None else _ARCHITECTURES.get(architecture, str(architecture)),
            "compute_capability": None if capability is None else "{}.{}".format(*capability),
        }

    def _memory(self) -> Facts:
        info = self._ask("nvmlDeviceGetMemoryInfo")
        bar1 = self._ask("nvmlDeviceGetBAR1MemoryInfo")
        return {
            "total_bytes": info and info.total,
            "used_bytes": info and info.used,
            "free_bytes": info and info.free,
            "bar1_total_bytes": bar1 and bar1.bar1Total,
        }

    def _power(self) -> Facts:
        low, high = self._ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        return {
            "usage_mw": self._ask("nvmlDeviceGetPowerUsage"),
            "draw_mw": self._draw_mw,
            "energy_mj": self._ask("nvmlDeviceGetTotalEnergyConsumption"),
            "limit_mw": self._ask("nvmlDeviceGetPowerManagementLimit"),
            "enforced_limit_mw": self._ask("nvmlDeviceGetEnforcedPowerLimit"),
            "default_limit_mw": self._ask("nvmlDeviceGetPowerManagementDefaultLimit"),
            "min_limit_mw": low,
            "max_limit_mw": high,
            "module_limit_mw": self._field(192, 1),
            "module_enforced_limit_mw": self._field(190, 1),
        }

    def _clocks(self) -> Facts:
        facts: Facts = {}
        for name, number in _CLOCKS.items():
            facts[f"{name}_mhz"] = self._ask("nvmlDeviceGetClockInfo", number)
            facts[f"max_{name}_mhz"] = self._ask("nvmlDeviceGetMaxClockInfo", number)
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        if reasons is not None:
            facts["event_reasons"] = [name for bit, name in _REASONS.items() if reasons & bit]
        if self._supported_clocks:
            memory = self._ask("nvmlDeviceGetSupportedMemoryClocks")
            facts["supported_mhz"] = {
                str(clock): sorted(self._ask("nvmlDeviceGetSupportedGraphicsClocks", clock) or ())
                for clock in memory or ()
            }
        return facts

    def _temperature(self) -> Facts:
        limits = {
            f"{name}_celsius": self._ask("nvmlDeviceGetTemperatureThreshold", number)
            for name, number in _THRESHOLDS.items()
        }
        memory = self._field(_FI_MEMORY_TEMPERATURE)
        return {
            "gpu_celsius": self._ask("nvmlDeviceGetTemperature", 0),
            "memory_celsius": memory or None,  # 0 is how boards without the sensor answer
            "margin_celsius": self._margin(),
            **limits,
        }

    def _margin(self) -> int | None:
        value = self._ask("nvmlDeviceGetMarginTemperature")
        return None if value is None else int(getattr(value, "marginTemperature", value))

    def _utilization(self) -> Facts:
        rates = self._ask("nvmlDeviceGetUtilizationRates")
        encoder = self._ask("nvmlDeviceGetEncoderUtilization")
        decoder = self._ask("nvmlDeviceGetDecoderUtilization")
        return {
            "gpu_percent": rates and rates.gpu,
            "memory_percent": rates and rates.memory,
            "encoder_percent": encoder and encoder[0],
            "decoder_percent": decoder and decoder[0],
        }

    def _fans(self) -> list[int] | None:
        count = self._ask("nvmlDeviceGetNumFans")
        if count is None:
            return None
        speeds = [self._ask("nvmlDeviceGetFanSpeed_v2", fan) for fan in range(count)]
        return [int(speed) for speed in speeds if speed is not None] or None

    def _has_mig(self) -> bool:
        return bool((self._ask("nvmlDeviceGetMigMode") or (0, 0))[0])

    # What MIG takes is read from the disk only where a GPU is split: it is a tenth of what the module costs.
    def _mig_instances(self) -> list[Facts] | None:
        if not self._has_mig():
            return None
        from ._nvml_instances import instances

        return [each.as_state() for each in instances(self._gpu)]

    def _mig_devices(self) -> list[Facts] | None:
        if not self._has_mig():
            return None
        from ._nvml_instances import devices

        return devices(self._gpu)

    def _modes(self) -> Facts:
        persistence = self._ask("nvmlDeviceGetPersistenceMode")
        compute = self._ask("nvmlDeviceGetComputeMode")
        accounting = self._ask("nvmlDeviceGetAccountingMode")
        names = {number: name for name, number in COMPUTE_MODES.items()}
        facts: Facts = {
            "persistence": None if persistence is None else bool(persistence),
            "compute": None if compute is None else names.get(compute, f"number {compute}"),
            "accounting": None if accounting is None else bool(accounting),
        }
        for name in ("Ecc", "Mig"):
            modes = self._ask(f"nvmlDeviceGet{name}Mode")
            if modes is not None:
                facts[name.lower()], facts[f"{name.lower()}_pending"] = (bool(mode) for mode in modes)
        return facts

    def _pcie(self) -> Facts:
        return {
            "generation": self._ask("nvmlDeviceGetCurrPcieLinkGeneration"),
            "max_generation": self._ask("nvmlDeviceGetMaxPcieLinkGeneration"),
            "width": self._ask("nvmlDeviceGetCurrPcieLinkWidth"),
            "max_width": self._ask("nvmlDeviceGetMaxPcieLinkWidth"),
            "replays": self._ask("nvmlDeviceGetPcieReplayCounter"),
        }

    def _nvlink(self) -> Facts:
        count = self._field(_FI_LINKS)
        if not count:
            return {}
        states = {}
        for link in range(count):
            try:
                states[link] = self._ask("nvmlDeviceGetNvLinkState", link)
            except NvmlError as error:
                if error.code != INVALID_ARGUMENT:
                    raise
        down = [link for link, state in states.items() if state == 0]
        return {"links": count, "up": sum(state == 1 for state in states.values()), "down": down}

    def _fabric(self) -> Facts:
        """Whether the GPU takes part in NVSwitch's fabric, which CUDA waits for on such boards."""
        kind = self._gpu.session.type("c_nvmlGpuFabricInfoV_t")
        if kind is None:
            return {}
        info = kind()
        if self._ask("nvmlDeviceGetGpuFabricInfoV", ctypes.byref(info)) is None:
            return {}
        state = _FABRIC.get(info.state, f"number {info.state}")
        return {"state": state, "status": int(info.status), "clique_id": int(info.cliqueId)}

    def _health(self) -> Facts:
        facts: Facts = {}
        for lifetime, number in _LIFETIMES.items():
            errors = {
                kind: self._ask("nvmlDeviceGetTotalEccErrors", which, number) for kind, which in _ECC_KINDS.items()
            }
            facts[f"ecc_{lifetime}"] = {kind: count for kind, count in errors.items() if count is not None}
        rows = self._ask("nvmlDeviceGetRemappedRows")
        if rows is not None:
            names = ("correctable", "uncorrectable", "pending", "failed")
            facts["remapped_rows"] = {
                name: bool(value) if name in ("pending", "failed") else value for name, value in zip(names, rows)
            }
        pages = [self._ask("nvmlDeviceGetRetiredPages", cause) for cause in (0, 1)]
        if any(found is not None for found in pages):
            facts["retired_pages"] = sum(len(found or ()) for found in pages)
        action = self._field(_FI_RECOVERY_ACTION)
        if action is not None:
            facts["recovery_action"] = _ACTIONS.get(action, f"number {action}")
        return facts

    def _processes(self) -> list[Facts] | None:
        try:
            found = self._gpu.processes()
        except NvmlError as error:
            if error.code in (GPU_IS_LOST, RESET_REQUIRED):
                raise
            return None
        return [{**process, "name": process_name(process["pid"])} for process in found]
