# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A place for a lab on this machine: a number of its own, a folder, a subnet; and how all of it is taken away again.

The number makes every name of a lab: folder, cgroups, machine names and the subnet 10.231.NUMBER.0/24. A lab belongs to
the process that holds the lock of its folder, so one that was killed is known by its free lock. Taking down needs
nothing but the number: it works whatever state the lab was left in.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BASE = Path("/var/lib/esnode-lab")
CGROUPS = Path("/sys/fs/cgroup")
CGROUPS_V1 = not (CGROUPS / "cgroup.controllers").exists()
SLOTS = 256


def wait_for(condition: Callable[[], object], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"after {seconds:.0f} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """One process at a time looks for places and takes down what was left; the lock leaves no file behind."""
    fd = os.open(BASE.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


class Slot:
    """A claimed place."""

    def __init__(self, path: Path, owner: int | None = None) -> None:
        self.path = path
        self.number = int(path.name)
        self._owner = owner

    @property
    def description(self) -> dict[str, Any]:
        """What the lab wrote about itself; empty when it was killed before it could."""
        try:
            return dict(json.loads((self.path / "lab.json").read_text()))
        except (OSError, ValueError):
            return {}

    @property
    def prefix(self) -> str:
        """How the names of cgroups and machines of this lab begin."""
        return f"esnode-lab-{self.number}-"

    def address(self, number: int) -> str:
        return f"10.231.{self.number}.{number}"

    def abandoned(self) -> bool:
        """Whether the process that it belongs to is gone. A lab that stays belongs to none."""
        if self._owner is not None or self.description.get("stays"):
            return False
        try:
            with (self.path / "owner").open() as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Take everything down and give the place back."""
        self.clear()
        with machine_lock():
            self.give_back()

    def clear(self) -> None:
        """Take everything down."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(end, {group.name for group in folders(f"{self.prefix}*")}))
        for control in (self.path / "cp").glob("*"):
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    ["ssh", "-o", f"ControlPath={control}", "-O", "exit", "lab"], capture_output=True, timeout=10
                )
        for mount in mounts_below(self.path):
            if subprocess.run(["umount", mount], capture_output=True).returncode:
                subprocess.run(["umount", "--lazy", mount], check=True, capture_output=True)
        # Without its owner's file it would be taken for abandoned.
        most = [path for path in self.path.glob("*") if path.name != "owner"]
        subprocess.run(["rm", "-rf", "--one-file-system", *most], check=True)
        subprocess.run(["rm", "-rf", *Path("/run/systemd/nspawn/propagate").glob(f"{self.prefix}*")], check=True)

    def give_back(self) -> None:
        """Let others have the place; only with the lock of the machine, since they may look for one just now."""
        subprocess.run(["rm", "-rf", self.path], check=True)
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None
        with contextlib.suppress(OSError):
            BASE.rmdir()  # the last one out


def hierarchies() -> list[Path]:
    """The single one of cgroup v2, or those of v1."""
    return sorted(path.parent for path in CGROUPS.glob("*/cgroup.procs")) if CGROUPS_V1 else [CGROUPS]


def folders(group: str) -> list[Path]:
    """The folders of a cgroup, or of all that a pattern matches, in every hierarchy."""
    return [path for hierarchy in hierarchies() for path in hierarchy.glob(group)]


def members(group: str) -> dict[int, bool]:
    """The processes of a host's cgroup; True for those inside of the host, False for nspawn's own."""
    found = {}
    # Each hierarchy has all of them. Groups come and go meanwhile, which os.walk passes over.
    for folder, _folders, _files in itertools.chain(*map(os.walk, folders(group)[:1])):
        with contextlib.suppress(OSError):
            for pid in Path(folder, "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError, StopIteration):
                    found[int(pid)] = len(pid_in_namespaces(int(pid))) > 1
    return found


def pid_in_namespaces(pid: int) -> list[int]:
    """The process's id here and, if it is in a namespace, there."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [int(word) for word in next(line for line in lines if line.startswith("NSpid:")).split()[1:]]


def end(group: str) -> None:
    """Power a host off the hard way and take its cgroup away."""

    def kill(which: Callable[[bool], bool]) -> bool:
        """Whether none is left."""
        pids = [pid for pid, inside in members(group).items() if which(inside)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    # nspawn clears up after itself when what is inside has ended.
    wait_for(lambda: kill(lambda inside: inside), f"processes in {group} do not end", 30)
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: not members(group), "nspawn does not end", 5)
    wait_for(lambda: kill(lambda _inside: True), f"processes of {group} do not end", 30)
    wait_for(lambda: remove_groups(group), f"the cgroup {group} can't be removed", 30)


def remove_groups(group: str) -> bool:
    for top in folders(group):
        for folder, _folders, _files in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    return not folders(group)


def mounts_below(path: Path) -> list[str]:
    """The newest first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in reversed(points) if Path(point).is_relative_to(path)]


def slots() -> list[Slot]:
    return [Slot(path) for path in sorted(BASE.glob("[0-9]*"))]


def sweep(unwanted: Callable[[Slot], bool] = Slot.abandoned) -> int:
    """Take down what is `unwanted`: the labs of processes that are gone. How many there were."""
    with machine_lock():
        return _sweep(unwanted)


def _sweep(unwanted: Callable[[Slot], bool]) -> int:
    found = [slot for slot in slots() if unwanted(slot)]
    for slot in found:
        slot.clear()
        slot.give_back()
    return len(found)


def claim(description: dict[str, Any]) -> Slot:
    with machine_lock():
        _sweep(Slot.abandoned)
        BASE.mkdir(mode=0o700, exist_ok=True)
        path = next(path for number in range(SLOTS) if not (path := BASE / str(number)).exists())
        path.mkdir()
        owner = os.open(path / "owner", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(owner, fcntl.LOCK_EX)
        (path / "lab.json").write_text(json.dumps(description))
        return Slot(path, owner)
