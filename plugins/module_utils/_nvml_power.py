# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power limits: of a GPU, or of a whole module (a Grace Hopper or Grace Blackwell superchip). In mW throughout."""

from __future__ import annotations

import ctypes
import decimal
import re

from ._nvml_change import Plan, Setting, State
from .nvml import FUNCTION_NOT_FOUND, Gpu, NvmlError

# Field values (NVML_FI_DEV_POWER_*), which take a scope.
_MIN, _MAX, _DEFAULT, _ENFORCED, _REQUESTED = 187, 188, 189, 190, 192
_SCOPES = {"gpu": 0, "module": 1}
_VERSION_2 = 0x0200000C
_ROUNDING_MW = 1000  # a driver that keeps limits in whole watts has done what was asked

_ABSOLUTE = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*(mW|W|kW)?$", re.IGNORECASE)
_PERCENT = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*%$")
_IN_MW = {"mw": 1, "w": 1000, "kw": 1000000}


class _PowerValue(ctypes.Structure):
    """nvmlPowerValue_v2_t"""

    _fields_ = (("version", ctypes.c_uint), ("scope", ctypes.c_ubyte), ("mw", ctypes.c_uint))


def milliwatts(text: str, option: str) -> int:
    """C(300), C(300W), C(0.3kW) in mW; raises ValueError."""
    match = _ABSOLUTE.match(text.strip())
    if not match:
        raise ValueError(f"{option}: {text!r} is no power; write 300, 300W or 0.3kW")
    return int(decimal.Decimal(match.group(1)) * _IN_MW[(match.group(2) or "W").lower()])


def watts(mw: int) -> str:
    """For messages: 300000 is C(300 W)."""
    return f"{decimal.Decimal(mw) / 1000:f} W"


class PowerLimit(Setting):
    """The requested limit. What is enforced may be lower: a BMC or the board itself can cap it further."""

    keys = ("limit_mw",)
    volatile = True

    def __init__(self, limit: str, percent_of: str = "default", scope: str = "gpu", ceiling: str | None = None) -> None:
        self.limit = limit.strip()
        self.percent_of = percent_of
        self.scope = scope
        self.ceiling = ceiling
        self.name = "power_limit" if scope == "gpu" else f"{scope}_power_limit"
        self._ceiling_mw = milliwatts(ceiling, "ceiling") if ceiling else None
        self._percent = None
        self._mw = None
        percent = _PERCENT.match(self.limit)
        if percent:
            self._percent = decimal.Decimal(percent.group(1))
        elif self.limit not in ("default", "min", "max"):
            try:
                self._mw = milliwatts(self.limit, "limit")
            except ValueError as error:
                raise ValueError(f"{error}, a percentage such as 70%, default, min or max") from error

    def record(self) -> State:
        known = {"limit": self.limit, "percent_of": self.percent_of, "scope": self.scope, "ceiling": self.ceiling}
        return {key: value for key, value in known.items() if value is not None}

    def read(self, gpu: Gpu) -> State:
        numbers = self._read_module(gpu) if self.scope == "module" else self._read_gpu(gpu)
        absent = [name for name in ("limit_mw", "min_limit_mw", "max_limit_mw") if numbers[name] is None]
        if absent:
            what = "GPU has no power limit" if self.scope == "gpu" else "GPU has no power limit for its module"
            raise gpu.refused(f"this {what} that can be set ({gpu.name})")
        return {name: value for name, value in numbers.items() if value is not None}

    @staticmethod
    def _read_gpu(gpu: Gpu) -> State:
        low, high = gpu.ask("nvmlDeviceGetPowerManagementLimitConstraints") or (None, None)
        return {
            "limit_mw": gpu.ask("nvmlDeviceGetPowerManagementLimit"),
            "enforced_limit_mw": gpu.ask("nvmlDeviceGetEnforcedPowerLimit"),
            "default_limit_mw": gpu.ask("nvmlDeviceGetPowerManagementDefaultLimit"),
            "min_limit_mw": low,
            "max_limit_mw": high,
        }

    @staticmethod
    def _read_module(gpu: Gpu) -> State:
        fields = {
            "limit_mw": _REQUESTED,
            "enforced_limit_mw": _ENFORCED,
            "default_limit_mw": _DEFAULT,
            "min_limit_mw": _MIN,
            "max_limit_mw": _MAX,
        }
        return {name: gpu.field(field, _SCOPES["module"]) for name, field in fields.items()}

    def plan(self, gpu: Gpu, now: State) -> Plan:
        notes: list[str] = []
        wanted = self._wanted(gpu, now)
        if self._ceiling_mw is not None and wanted > self._ceiling_mw:
            notes.append(f"{watts(wanted)} was asked for; the ceiling makes it {watts(self._ceiling_mw)}")
            wanted = self._ceiling_mw
        low, high = now["min_limit_mw"], now["max_limit_mw"]
        if not low <= wanted <= high:
            asked = watts(wanted)
            if notes:
                asked = f"the ceiling of {asked}"
            elif self._percent is not None:
                asked = f"{self.limit} of its {self.percent_of} is {asked}, which"
            raise gpu.refused(f"{asked} is out of range; {gpu.name} takes {watts(low)} to {watts(high)}")
        target = {**now, "limit_mw": wanted}
        enforced = now.get("enforced_limit_mw")
        if enforced is not None and wanted <= enforced:
            target["enforced_limit_mw"] = wanted
        elif enforced == now["limit_mw"]:
            target.pop("enforced_limit_mw", None)  # a cap from outside shows only once the request is above it
        needed = wanted != now["limit_mw"]
        if not needed:
            notes += self.notes(gpu, target, now)
        return Plan(target, needed, notes=notes)

    def _wanted(self, gpu: Gpu, now: State) -> int:
        if self._mw is not None:
            return self._mw
        word = self.limit if self._percent is None else self.percent_of
        value = now.get(f"{word}_limit_mw")
        if value is None:
            raise gpu.refused(f"it does not tell its {word} power limit: give watts")
        return int(value) if self._percent is None else int(value * self._percent / 100)

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        if self.scope == "gpu":
            # Version 2 of this call drops the return code in pynvml.
            gpu.set("nvmlDeviceSetPowerManagementLimit", target["limit_mw"])
            return
        value = _PowerValue(_VERSION_2, _SCOPES["module"], target["limit_mw"])
        try:
            gpu.raw("nvmlDeviceSetPowerManagementLimit_v2", ctypes.byref(value))
        except NvmlError as error:
            if error.code == FUNCTION_NOT_FOUND:
                raise gpu.refused("module limits need driver 535 or newer", error.code) from error
            raise

    def reached(self, target: State, state: State) -> bool:
        return abs(int(target["limit_mw"]) - int(state["limit_mw"])) < _ROUNDING_MW

    def notes(self, gpu: Gpu, target: State, state: State) -> list[str]:
        notes = []
        if state["limit_mw"] != target["limit_mw"]:
            notes.append(f"{watts(target['limit_mw'])} was asked for; the driver made it {watts(state['limit_mw'])}")
        enforced = state.get("enforced_limit_mw")
        if enforced is not None and enforced < state["limit_mw"]:
            notes.append(
                f"{watts(state['limit_mw'])} is requested but {watts(enforced)} is enforced: something else "
                "(a BMC, the board) caps it lower"
            )
        return notes
