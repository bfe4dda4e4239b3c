# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locked clocks of the graphics and the memory domain, in MHz. NVML has no getter for them: see AppliedLocks."""

from __future__ import annotations

import re
import typing as t

from ._nvml_change import Plan, Setting, State
from ._nvml_records import RUN_DIR, AppliedLocks
from .nvml import NOT_SUPPORTED, REFUSALS, Gpu, NvmlError

UNLOCKED = "unlocked"
UNKNOWN = "unknown"
UNSUPPORTED = "unsupported"

_AMPERE, _VOLTA = 7, 5
_SINCE = {"graphics": _VOLTA, "memory": _AMPERE}
_CLOCK = {"graphics": 0, "memory": 2}  # NVML_CLOCK_*
_FUNCTION = {"graphics": "Gpu", "memory": "Memory"}
_RANGE = re.compile(r"^([0-9]+)(?:\s*-\s*([0-9]+))?\s*(?:MHz)?$", re.IGNORECASE)
# SW power cap, HW slowdown, SW and HW thermal, power brake: these take clocks below a lock.
_LIMITED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
_TOLERANCE_MHZ = 30  # a reading may be a step of the table beside the lock


def parse(text: str, option: str) -> State | str:
    """C(1200-1500), C(1500) or C(unlocked); raises ValueError."""
    if text.strip() == UNLOCKED:
        return UNLOCKED
    match = _RANGE.match(text.strip())
    if not match:
        raise ValueError(f"{option}: {text!r} is no clock; write 1200-1500, 1500 (both ends) or unlocked, in MHz")
    low = int(match.group(1))
    high = int(match.group(2) or low)
    if low > high:
        raise ValueError(f"{option}: {text!r} has its lower end above its upper end")
    return {"min_mhz": low, "max_mhz": high}


class ClockLock(Setting):
    """Locks one or both domains. A state is {domain: {min_mhz, max_mhz} | unlocked | unknown | unsupported}."""

    name = "clock_lock"
    volatile = True

    def __init__(self, graphics: str | None = None, memory: str | None = None, run_dir: str = RUN_DIR) -> None:
        self._texts = {"graphics": graphics, "memory": memory}
        self._wanted = {domain: parse(text, domain) for domain, text in self._texts.items() if text is not None}
        if not self._wanted:
            raise ValueError("neither graphics nor memory is given")
        self.keys = tuple(self._wanted)
        self._applied = AppliedLocks(run_dir)
        self._why: dict[str, str] = {}

    def record(self) -> State:
        return {domain: text for domain, text in self._texts.items() if text is not None}

    def read(self, gpu: Gpu) -> State:
        known, why = self._applied.lookup(gpu)
        architecture = gpu.ask("nvmlDeviceGetArchitecture") or 0
        state: State = {}
        for domain in self._texts:
            if architecture < _SINCE[domain]:
                state[domain] = UNSUPPORTED
                continue
            state[domain] = known.get(domain, UNKNOWN)
            if isinstance(state[domain], dict) and self._is_loose(gpu, domain, state[domain]):
                state[domain], why = UNKNOWN, "drift"
        self._why[gpu.uuid] = why or "state_unknown"
        return state

    @staticmethod
    def _is_loose(gpu: Gpu, domain: str, lock: State) -> bool:
        """Whether the clock runs where the lock would not let it. Inside proves nothing."""
        clock = gpu.ask("nvmlDeviceGetClockInfo", _CLOCK[domain])
        if clock is None or domain == "memory":  # memory clocks fall at idle on some boards whatever the lock
            return bool(clock and clock > lock["max_mhz"] + _TOLERANCE_MHZ)
        # With the memory slowed down at idle, a board may have no clock near the lock.
        memory = gpu.ask("nvmlDeviceGetClockInfo", _CLOCK["memory"])
        table = None if memory is None else gpu.ask("nvmlDeviceGetSupportedGraphicsClocks", memory)
        if not table:
            return False
        low, high = _nearest(table, lock["min_mhz"]), _nearest(table, lock["max_mhz"])
        if clock > high + _TOLERANCE_MHZ:
            return True
        reasons = gpu.ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        return bool(clock < low - _TOLERANCE_MHZ and not reasons & _LIMITED)

    def plan(self, gpu: Gpu, now: State) -> Plan:
        target, notes, rounded = dict(now), [], {}
        for domain, wanted in self._wanted.items():
            if now[domain] == UNSUPPORTED:
                if wanted == UNLOCKED:
                    target[domain] = UNSUPPORTED
                    continue
                generation = "Volta" if domain == "graphics" else "Ampere"
                raise gpu.refused(
                    f"{gpu.name} can't lock its {domain} clock: that takes {generation} or newer", NOT_SUPPORTED
                )
            if isinstance(wanted, str):
                target[domain] = wanted
                continue
            target[domain] = self._in_table(gpu, domain, wanted)
            if target[domain] != wanted:
                rounded[domain] = wanted
                notes.append(
                    f"{domain} {_text(wanted)} was asked for; the nearest clocks it has are {_text(target[domain])}"
                )
        changing = [domain for domain in self.keys if now[domain] != target[domain]]
        reason = self._why[gpu.uuid] if any(now[domain] == UNKNOWN for domain in changing) else ""
        return Plan(target, bool(changing), reason, notes, {"rounded_from": rounded} if rounded else {})

    def _in_table(self, gpu: Gpu, domain: str, wanted: State) -> State:
        table = sorted(self._table(gpu, domain))
        highest = table[-1] if table else gpu.ask("nvmlDeviceGetMaxClockInfo", _CLOCK[domain])
        lowest = table[0] if table else 0
        if highest is not None and not (lowest <= wanted["min_mhz"] and wanted["max_mhz"] <= highest):
            raise gpu.refused(f"{domain} {_text(wanted)} is out of range; {gpu.name} has {lowest} to {highest} MHz")
        if not table:
            return wanted
        return {end: _nearest(table, mhz) for end, mhz in wanted.items()}

    @staticmethod
    def _table(gpu: Gpu, domain: str) -> list[int]:
        memory = [int(clock) for clock in gpu.ask("nvmlDeviceGetSupportedMemoryClocks") or ()]
        if domain == "memory" or not memory:
            return memory if domain == "memory" else []
        graphics: set[int] = set()
        for clock in memory:
            graphics.update(int(each) for each in gpu.ask("nvmlDeviceGetSupportedGraphicsClocks", clock) or ())
        return list(graphics)

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        lost = []
        for domain in self.keys:
            if now[domain] == target[domain]:
                continue
            name, lock = _FUNCTION[domain], target[domain]
            # Whoever is killed here must not leave a note that says more than is known.
            self._applied.note(gpu, domain, None)
            try:
                if isinstance(lock, dict):
                    gpu.set(f"nvmlDeviceSet{name}LockedClocks", lock["min_mhz"], lock["max_mhz"])
                else:
                    gpu.set(f"nvmlDeviceReset{name}LockedClocks")
            except NvmlError as error:
                if error.code in REFUSALS and now[domain] != UNKNOWN:
                    self._applied.note(gpu, domain, now[domain])
                raise
            if lock == UNKNOWN:
                lost.append(domain)
            else:
                self._applied.note(gpu, domain, lock)
        if lost:
            raise gpu.refused(
                f"what its {' and '.join(lost)} clock was locked to before is not known; it is unlocked now"
            )

    def notes(self, gpu: Gpu, target: State, state: State) -> list[str]:
        return []


def _nearest(table: t.Iterable[int], mhz: int) -> int:
    """The clock of the table that is nearest, the lower one of two."""
    return min((int(clock) for clock in table), key=lambda clock: (abs(clock - mhz), clock))


def _text(lock: t.Any) -> str:
    low, high = lock["min_mhz"], lock["max_mhz"]
    return f"{low} MHz" if low == high else f"{low}-{high} MHz"
