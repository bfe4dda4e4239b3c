# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MIG mode and the layout of instances as one setting."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
import typing as t
from collections import Counter

from . import _nvml_instances as mig
from ._nvml_change import Plan, Setting, State
from ._nvml_instances import Instance
from .nvml import IN_USE, RESET_REQUIRED, Gpu, meaning, process_name, process_unit

_COMPUTE = re.compile(r"^(?:([0-9]+)c\.)?([0-9]+)g\.")  # 1c.3g.40gb takes one slice, 3g.40gb all three
_PATIENCE_S = 10.0
_HOST_PIDS = "pid:[4026531836]"  # the first PID namespace has this number in every kernel


def parse(layout: t.Sequence[t.Mapping[str, t.Any]]) -> list[Instance]:
    """C([{profile: 3g.40gb, count: 2, compute: [1c, 2c]}]) as instances; without `compute` one takes it whole."""
    found = []
    for entry in layout:
        profile = str(entry["profile"]).strip().lower()
        names = entry.get("compute")
        compute = [profile] if names is None else [str(name).strip().lower() for name in names]
        compute = [name if "." in name else f"{name}.{profile}" for name in compute]
        count = int(entry.get("count") or 1)
        if count < 1:
            raise ValueError(f"layout: count of {profile} is {count}; it must be 1 or more")
        found += [Instance(profile, sorted(compute)) for number in range(count)]
    return found


class Mig(Setting):
    """MIG mode, and with `layout` exactly these instances. Without it instances are left alone.

    `terminate`: end the processes that use an instance which has to go, instead of refusing.
    """

    name = "mig"

    def __init__(
        self, enabled: bool = True, layout: t.Sequence[t.Mapping[str, t.Any]] | None = None, terminate: bool = False
    ) -> None:
        self.enabled = enabled
        self.keys = ("enabled", "pending") if layout is None else ("enabled", "pending", "instances")
        self._layout = None if layout is None else [dict(entry) for entry in layout]
        self._wanted = None if layout is None else parse(layout)
        self._terminate = terminate
        if self._wanted and not enabled:
            raise ValueError("a layout takes MIG mode: enabled is false")

    def record(self) -> State:
        return {"enabled": self.enabled, **({} if self._layout is None else {"layout": self._layout})}

    def read(self, gpu: Gpu) -> State:
        modes = gpu.ask("nvmlDeviceGetMigMode")
        if modes is None:
            raise gpu.refused(f"{gpu.name} has no MIG")
        current, pending = (bool(mode) for mode in modes)
        return {
            "enabled": current,
            "pending": pending,
            "reset_required": current != pending,
            "instances": [each.as_state() for each in mig.instances(gpu)] if current else [],
            "devices": mig.devices(gpu) if current else [],
        }

    def plan(self, gpu: Gpu, now: State) -> Plan:
        target = {**now, "enabled": self.enabled, "pending": self.enabled, "reset_required": False}
        if now["enabled"] != self.enabled and now["pending"] == self.enabled:
            return Plan(now, False, notes=[_waiting(self.enabled, bool(self._wanted))])
        if now["enabled"] != self.enabled:
            self._refuse_in_use(gpu, gpu.processes())
            target.update(instances=[], devices=[])
        if self.enabled and self._wanted is not None:
            self._validate(gpu, self._wanted)
            if now["enabled"]:
                self._refuse_in_use(gpu, _users(gpu, self._steps(gpu, self._wanted)[0]))
            if _units(now["instances"]) != self._units():
                target.update(instances=[each.as_state() for each in self._wanted], devices=[])
        return Plan(target, self.differs(now, target))

    def _units(self) -> Counter[t.Any]:
        return _units([each.as_state() for each in self._wanted or ()])

    def _validate(self, gpu: Gpu, wanted: list[Instance]) -> None:
        known = mig.profiles(gpu)
        if not known:
            return  # this driver tells only while MIG mode is on
        for name, count in Counter(each.profile for each in wanted).items():
            if name not in known:
                raise gpu.refused(f"it has no MIG profile {name!r}; it has {', '.join(sorted(known))}")
            if count > known[name].count:
                raise gpu.refused(f"it takes {known[name].count} of {name}, not {count}")
        for each in wanted:
            self._validate_compute(gpu, each, known[each.profile].slices)
        slices = sum(known[each.profile].slices for each in wanted)
        whole = max(profile.slices for profile in known.values())
        if slices > whole:
            raise gpu.refused(f"the layout takes {slices} compute slices; it has {whole}")

    @staticmethod
    def _validate_compute(gpu: Gpu, instance: Instance, slices: int) -> None:
        """By the names alone: the driver tells profiles of compute instances only of a GPU instance that is there."""
        taken = 0
        for name in instance.compute:
            match = _COMPUTE.match(name)
            if not match:
                raise gpu.refused(f"compute: {name!r} is no compute instance; write 1c, 2c or {instance.profile}")
            taken += int(match.group(1) or match.group(2))
        if taken > slices:
            raise gpu.refused(
                f"compute: {', '.join(instance.compute)} take {taken} compute slices; {instance.profile} has {slices}"
            )

    def _steps(self, gpu: Gpu, wanted: list[Instance]) -> tuple[list[Instance], list[Instance]]:
        """(what has to go, what has to be made and where). What is there and wanted is left alone if the rest fits."""
        there = mig.instances(gpu)
        missing, kept = list(wanted), []
        for each in there:
            match = next((w for w in missing if w.unit() == each.unit() and w.start in (-1, each.start)), None)
            if match:
                missing.remove(match)
                kept.append(each)
        placed = mig.place(gpu, missing, kept)
        if placed is not None:
            return [each for each in there if each not in kept], placed
        placed = mig.place(gpu, wanted, [])
        if placed is None:
            raise gpu.refused("the layout does not fit: there is no place for all of it at once")
        return there, placed

    def _refuse_in_use(self, gpu: Gpu, users: list[dict[str, t.Any]]) -> None:
        if users and not self._terminate:
            raise gpu.refused(
                f"it is in use by {named(users)}; stop them, or have them ended by terminate_processes: true", IN_USE
            )

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        switching = now["enabled"] != target["enabled"] or now["pending"] != target["pending"]
        if switching:
            if now["enabled"] != target["enabled"]:
                self._end(gpu, gpu.processes())
            if now["enabled"] and not target["pending"]:
                for each in mig.instances(gpu):
                    mig.destroy(gpu, each)
            if not self._switch(gpu, now, target):
                return
        if target["enabled"] and target["instances"] != now["instances"]:
            wanted = [_instance(gpu, each) for each in target["instances"]]
            doomed, missing = self._steps(gpu, wanted)
            self._end(gpu, _users(gpu, doomed))
            for each in doomed:
                mig.destroy(gpu, each)
            for each in missing:
                mig.create(gpu, each)

    @staticmethod
    def _switch(gpu: Gpu, now: State, target: State) -> bool:
        """Whether the mode is in force now; False when it waits for a reboot."""
        # What this returns besides raising tells whether the mode is in force.
        status = int(gpu.set("nvmlDeviceSetMigMode", int(target["pending"])))
        gpu.refresh()
        if status == RESET_REQUIRED:
            return False
        if status:
            gpu.set("nvmlDeviceSetMigMode", int(now["pending"]))
            users = named(gpu.processes())
            held = f" by {users}" if users else "; programs that keep NVML open hold it, too: a monitoring agent, DCGM"
            raise gpu.refused(
                f"MIG mode could not be switched: {meaning(status, 'nvmlDeviceSetMigMode')}{held}", status
            )
        return True

    def _end(self, gpu: Gpu, users: list[dict[str, t.Any]]) -> None:
        """End these processes, if we may; they were named in the plan, or have come since."""
        if not users:
            return
        self._refuse_in_use(gpu, users)
        if os.readlink("/proc/self/ns/pid") != _HOST_PIDS:
            raise gpu.refused(
                "the driver counts processes as the host does: they can't be ended from a container", IN_USE
            )
        for number in (signal.SIGTERM, signal.SIGKILL):
            for user in users:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(user["pid"], number)
            until = time.monotonic() + _PATIENCE_S
            while time.monotonic() < until:
                there = {user["pid"] for user in gpu.processes()}
                users = [user for user in users if user["pid"] in there]
                if not users:
                    return
                time.sleep(0.05)
        raise gpu.refused(f"{named(users)} did not end", IN_USE)

    def reached(self, target: State, state: State) -> bool:
        if state["pending"] != target["pending"]:
            return False
        return bool(state["enabled"] != state["pending"]) or not self.differs(target, state)

    def differs(self, one: State, other: State) -> bool:
        modes = any(one[key] != other[key] for key in ("enabled", "pending"))
        # Switching the mode takes the instances away: putting back means them, too, whatever was declared.
        return modes or _units(one["instances"]) != _units(other["instances"])

    def notes(self, gpu: Gpu, target: State, state: State) -> list[str]:
        return [_waiting(target["pending"], bool(self._wanted))] if state["enabled"] != state["pending"] else []


def _waiting(enabled: bool, layout: bool) -> str:
    later = "; the layout can be made then" if layout else ""
    return f"MIG mode is {'on' if enabled else 'off'} after the next reset or reboot, not before{later}"


def _units(states: list[State]) -> Counter[t.Any]:
    return Counter((each["profile"], tuple(sorted(each["compute"]))) for each in states)


def _instance(gpu: Gpu, state: State) -> Instance:
    start = state.get("start", -1)
    made = Instance(state["profile"], list(state["compute"]), start)
    if start < 0:
        return made
    profile = mig.profile_of(gpu, made.profile, mig.profiles(gpu))
    size = next((size for at, size in mig.placements(gpu, profile) if at == start), 0)
    return dataclasses.replace(made, size=size)


def _users(gpu: Gpu, doomed: list[Instance]) -> list[dict[str, t.Any]]:
    ids = {each.id for each in doomed}
    return [user for user in gpu.processes() if user.get("gpu_instance") in ids]


def named(users: t.Iterable[t.Mapping[str, t.Any]]) -> str:
    """C(python3 (pid 4711, train.service), ...) for messages."""
    found = []
    for user in users:
        where = ", ".join(filter(None, (f"pid {user['pid']}", process_unit(user["pid"]))))
        found.append(f"{process_name(user['pid'])} ({where})")
    return ", ".join(found)
