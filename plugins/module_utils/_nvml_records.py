# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept in files about GPUs: the desired state (in /etc), what was applied to which no getter exists (in /run).

Both are small JSON files of root's, replaced in one step and never written in place. Who writes holds `exclusive()`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
import typing as t

from .nvml import NO_PERMISSION, ROOT_HINT, Gpu, NvmlError

STATE_FILE = "/etc/esnode/gpu-state.json"
RUN_DIR = "/run/esnode-gpu"
_VERSION = 1
_PATIENCE_S = 60.0
_APPLIED = "applied.json"
_MEND = "mend it, or remove it and record again with persist: true"
_RETRY_S = 600  # a GPU that is broken stays so for long


@contextlib.contextmanager
def exclusive(run_dir: str = RUN_DIR, patience_s: float = _PATIENCE_S) -> t.Iterator[None]:
    """One writer at a time on this host, the agent and Ansible alike. Raises NvmlError when it takes too long."""
    path = os.path.join(run_dir, "lock")
    try:
        os.makedirs(run_dir, mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NvmlError(
                f"settings of GPUs can't be changed: {ROOT_HINT}; {path} is root's", NO_PERMISSION
            ) from error
        raise NvmlError(f"{path} can't be opened: {error.strerror}") from error
    try:
        until = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise NvmlError(f"another process changes GPUs for more than {patience_s:g} s ({path})") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def load(path: str) -> dict[str, t.Any]:
    """The content of such a file, {} when there is none. Raises NvmlError when it can't be trusted or read."""
    try:
        with open(path, encoding="utf-8") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise NvmlError(
                    f"{path} must belong to root and be writable by root alone (it is uid {status.st_uid}, "
                    f"mode {status.st_mode & 0o7777:04o}): what it says is done as root"
                )
            content = json.load(stream)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise NvmlError(f"{path} can't be read: {error}; {_MEND}") from error
    if not isinstance(content, dict) or content.get("version") != _VERSION or not isinstance(content.get("gpus"), dict):
        raise NvmlError(f'{path} must have "version": {_VERSION} and "gpus"; {_MEND}')
    return content


def store(path: str, gpus: dict[str, t.Any], durable: bool = True) -> None:
    """Replace the file in one step; without any GPU it is removed. Raises OSError."""
    folder = os.path.dirname(path) or "."
    if not gpus:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    os.makedirs(folder, mode=0o755, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump({"version": _VERSION, "gpus": gpus}, stream, indent=2, sort_keys=True)
            stream.write("\n")
            stream.flush()
            os.fchmod(descriptor, 0o644)
            if durable:
                os.fsync(descriptor)
        os.rename(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
    if durable:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class DesiredState:
    """What shall hold after a reboot: by UUID and name of the setting, what makes the setting. Changed, then saved."""

    def __init__(self, path: str = STATE_FILE) -> None:
        self.path = path
        self.before: dict[str, t.Any] = load(path).get("gpus", {})
        self.after: dict[str, t.Any] = json.loads(json.dumps(self.before))

    @property
    def changed(self) -> bool:
        return self.after != self.before

    def settings(self, uuid: str) -> dict[str, t.Any]:
        """{name of the setting: what makes it} of one GPU."""
        return dict(self.after.get(uuid, {}).get("settings", {}))

    def put(self, gpu: Gpu, name: str, record: dict[str, t.Any]) -> None:
        entry = self.after.setdefault(gpu.uuid, {})
        entry["name"] = gpu.name  # for who reads the file
        entry.setdefault("settings", {})[name] = record

    def drop(self, uuid: str, name: str) -> None:
        entry = self.after.get(uuid, {})
        entry.get("settings", {}).pop(name, None)
        if not entry.get("settings"):
            self.after.pop(uuid, None)

    def forget(self, uuid: str) -> None:
        """A GPU that is no longer there."""
        self.after.pop(uuid, None)

    def save(self) -> None:
        if self.changed:
            store(self.path, self.after)


class AppliedLocks:
    """Clock locks that were set, with the signs by which to tell whether the driver still has them.

    NVML has no getter for them. An entry counts until the host has rebooted, the driver was loaded anew or the GPU has
    started over.
    """

    def __init__(self, run_dir: str = RUN_DIR) -> None:
        self.path = os.path.join(run_dir, "clock-locks.json")
        self._mine: set[str] = set()  # UUIDs written by this process

    def lookup(self, gpu: Gpu) -> tuple[dict[str, t.Any], str]:
        """({domain: lock}, why not): the locks that are in force, or {} and why nothing is known."""
        try:
            entry = load(self.path).get("gpus", {}).get(gpu.uuid)
        except NvmlError:
            return {}, "state_unknown"  # a damaged note is no note
        if not entry:
            return {}, "state_unknown"
        why = self._lost(gpu, entry["signs"])
        return ({}, why) if why else (dict(entry["locks"]), "")

    def note(self, gpu: Gpu, domain: str, lock: t.Any) -> None:
        """Remember that a domain was set; None: that it is not known."""
        try:
            gpus = load(self.path).get("gpus", {})
        except NvmlError:
            gpus = {}
        locks = self.lookup(gpu)[0]
        locks[domain] = lock
        locks = {key: value for key, value in locks.items() if value is not None}
        gpus.pop(gpu.uuid, None)
        if locks:
            gpus[gpu.uuid] = {"locks": locks, "signs": _signs(gpu)}
        try:
            store(self.path, gpus, durable=False)
        except OSError as error:
            raise gpu.refused(f"{self.path} can't be written: {error.strerror}") from error
        self._mine.add(gpu.uuid)

    def _lost(self, gpu: Gpu, then: dict[str, t.Any]) -> str:
        now = _signs(gpu)
        if now["boot_id"] != then["boot_id"]:
            return "rebooted"
        if _both(now, then, "driver") and now["driver"] != then["driver"]:
            return "driver_reloaded"
        if _both(now, then, "energy_mj") and now["energy_mj"] < then["energy_mj"]:
            return "gpu_restarted"
        if _both(now, then, "uptime_s"):
            # whole seconds on both sides
            return "gpu_restarted" if now["uptime_s"] + 2 < then["uptime_s"] + now["at_s"] - then["at_s"] else ""
        if gpu.uuid in self._mine:
            return ""
        if not _both(now, then, "energy_mj") and not _both(now, then, "driver"):
            return "state_unknown"
        return "persistence_off" if gpu.ask("nvmlDeviceGetPersistenceMode") == 0 else ""


def signs(state_file: str) -> dict[str, t.Any]:
    """What tells a driver and a record of desired state from those of another time."""
    try:
        record: int | None = os.stat(state_file).st_mtime_ns
    except OSError:
        record = None
    return {"boot_id": _boot(), "driver": _driver(), "record": record}


def note_applied(run_dir: str, seen: dict[str, t.Any], good: bool) -> None:
    """Note that the desired state was applied, and whether all of it holds. `seen`: the signs from before it was."""
    at_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    store(os.path.join(run_dir, _APPLIED), {"all": {"signs": seen, "good": good, "at_s": at_s}}, durable=False)


def is_new(run_dir: str, seen: dict[str, t.Any]) -> bool:
    """Whether there is something to apply: nothing was yet, the signs are others, or what failed is worth a new try."""
    try:
        note = load(os.path.join(run_dir, _APPLIED)).get("gpus", {}).get("all")
    except NvmlError:
        return True
    if not note or note["signs"] != seen:
        return True
    return not note["good"] and time.clock_gettime(time.CLOCK_BOOTTIME) > note["at_s"] + _RETRY_S


def _boot() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def _driver() -> int | None:
    """Another number each time the driver is loaded; None where there is none."""
    try:
        return os.stat("/sys/module/nvidia").st_ino
    except OSError:
        return None


def _both(now: dict[str, t.Any], then: dict[str, t.Any], key: str) -> bool:
    return now.get(key) is not None and then.get(key) is not None


def _signs(gpu: Gpu) -> dict[str, t.Any]:
    """What changes when the driver forgets: boot, load of the kernel module, energy since it, time since it."""
    return {
        "boot_id": _boot(),
        "driver": _driver(),
        "energy_mj": gpu.ask("nvmlDeviceGetTotalEnergyConsumption"),
        "uptime_s": gpu.uptime_s(),
        "at_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
    }
