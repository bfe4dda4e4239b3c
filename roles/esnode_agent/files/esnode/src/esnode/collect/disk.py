# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""File systems and block devices.

Sources: mountinfo of process 1 and statvfs(3); /proc/diskstats and /sys/block. All whole devices are told, those
that stand on others too (dm, md, multipath): a sum over devices counts such I/O twice, as with node_exporter.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any

from esnode import catalogue
from esnode.catalogue import Series
from esnode.collect import Settings
from esnode.collect._aside import Aside
from esnode.collect._mounts import Mount, parse, real
from esnode.collect._procfs import HeldFile, attempt
from esnode.snapshot import Reading, Samples
from esnode.worker import Late

_SECTOR_BYTES = 512
"""Unit of /proc/diskstats, whatever the sectors of the device are."""
_HIDDEN = "hidden from the agent by another mount, by its container or by the service's sandbox"
_SKIPPED_DEVICES = ("loop", "ram", "zram", "fd")

_FILESYSTEM_FAMILIES = (
    catalogue.FILESYSTEM_SIZE,
    catalogue.FILESYSTEM_AVAILABLE,
    catalogue.FILESYSTEM_USED,
    catalogue.FILESYSTEM_READONLY,
)
# Field of /proc/diskstats after the device's name, the family, and how it comes to the family's unit: times, by.
_DISKSTATS = (
    (0, catalogue.DISK_READS, 1, 1),
    (2, catalogue.DISK_READ_BYTES, _SECTOR_BYTES, 1),
    (3, catalogue.DISK_READ_SECONDS, 1, 1000),
    (4, catalogue.DISK_WRITES, 1, 1),
    (6, catalogue.DISK_WRITTEN_BYTES, _SECTOR_BYTES, 1),
    (7, catalogue.DISK_WRITE_SECONDS, 1, 1000),
    (8, catalogue.DISK_IO_IN_PROGRESS, 1, 1),
    (9, catalogue.DISK_IO_SECONDS, 1, 1000),
)
_Plan = list[tuple[int, Series, int, int]]


def create(settings: Settings) -> Disk:
    """Make the collector."""
    return Disk(settings)


class _Hidden(Exception):
    """What is at the mount point, as the agent sees it, is not the file system of the mount table."""


class _FileSystem:
    """One mounted file system and its series."""

    def __init__(self, mount: Mount, root: Path) -> None:
        self.mount = mount
        self.path = os.path.join(root, mount.mountpoint.lstrip("/"))
        labels = (mount.mountpoint, mount.device, mount.fstype)
        self.series = [family.series(*labels) for family in _FILESYSTEM_FAMILIES]
        self.files_free = catalogue.FILESYSTEM_FILES_FREE.series(*labels)
        self.aside = Aside(f"statvfs {mount.mountpoint}", self.read) if mount.may_hang else None

    def read(self) -> Samples:
        """Ask the file system."""
        mount = self.mount
        if mount.on_block_device:
            found = os.stat(self.path)
            if f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}" != mount.number:
                raise _Hidden
            if not stat.S_ISDIR(found.st_mode):  # a file that a container runtime mounted
                return {}
        answer = os.statvfs(self.path)
        if not answer.f_blocks:  # one without storage of its own, which df leaves out too
            return {}
        block = answer.f_frsize
        size, used = answer.f_blocks * block, (answer.f_blocks - answer.f_bfree) * block
        samples: Samples = dict(
            zip(self.series, (size, answer.f_bavail * block, used, int(mount.readonly)), strict=True)
        )
        if answer.f_files:  # btrfs, vfat and others count no inodes
            samples[self.files_free] = answer.f_ffree
        return samples

    def close(self) -> None:
        """End the thread, if there is one."""
        if self.aside is not None:
            self.aside.close()


class Disk:
    """Reads all of it at each run; a file system that may hang is asked on a thread of its own."""

    name = "disk"

    def __init__(self, settings: Settings) -> None:
        roots = settings.roots
        self._root = roots.root
        self._part_deadline_s = settings.part_deadline_s
        # Process 1 sees the machine's mounts; our own table has those of our sandbox or container.
        self._mountinfos = [
            HeldFile(roots.proc / "1/mountinfo"),
            HeldFile(roots.proc / "self/mountinfo"),
        ]
        self._diskstats = HeldFile(roots.proc / "diskstats")
        self._block = roots.sys / "block"
        self._mountinfo = b""
        self._filesystems: dict[Mount, _FileSystem] = {}
        self._devices: dict[bytes, _Plan | None] = {}

    def collect(self) -> Reading:
        """Read once."""
        reading = Reading()
        until = time.monotonic() + self._part_deadline_s
        attempt(reading, "block devices", self._read_diskstats)
        attempt(reading, "the mount table", lambda _unused: self._refresh_mounts())
        self._read_filesystems(reading, until)
        return reading

    def _refresh_mounts(self) -> None:
        process_1, own = self._mountinfos
        prefix = str(self._root).rstrip("/")
        try:
            content, strip = process_1.read(), ""
        except OSError:
            content, strip = own.read(), prefix
        if content == self._mountinfo:
            return
        mounts = parse(content, strip)
        if prefix and any(mount.mountpoint == prefix for mount in mounts):
            # Process 1 is the first of the agent's own container: the machine's mounts are below the prefix there too.
            mounts = parse(content, prefix)
        kept = self._filesystems
        self._filesystems = {mount: kept.get(mount) or _FileSystem(mount, self._root) for mount in real(mounts)}
        self._mountinfo = content
        for mount in kept.keys() - self._filesystems.keys():
            kept[mount].close()

    def _read_filesystems(self, reading: Reading, until: float) -> None:
        notes: dict[str, str] = {}
        filesystems = self._filesystems.values()
        for filesystem in filesystems:
            if filesystem.aside is not None:
                filesystem.aside.start()
        # Those that answer at once come first, so that what they say never waits for a dead server.
        for filesystem in sorted(filesystems, key=lambda one: one.aside is not None):
            mount = filesystem.mount
            try:
                reading.samples.update(
                    filesystem.read() if filesystem.aside is None else filesystem.aside.get(until) or {}
                )
            except Late:
                reading.errors.append(
                    f"file system {mount.mountpoint} ({mount.fstype} from {mount.device}) does not answer; "
                    "check its server or unmount it (umount -l)"
                )
                assert filesystem.aside is not None
                notes[mount.mountpoint] = f"no answer for {filesystem.aside.hung_s or 0.0:.0f} s"
            except (_Hidden, FileNotFoundError):
                notes[mount.mountpoint] = _HIDDEN
            except OSError as error:
                if error.errno == errno.EACCES and mount.fstype.startswith("fuse"):
                    notes[mount.mountpoint] = "readable by the user who mounted it alone"
                    continue
                reading.errors.append(
                    f"cannot read the file system {mount.mountpoint} ({mount.fstype} from {mount.device}): "
                    f"{error.strerror}; {_hint(error)}"
                )
        detail: dict[str, Any] = {"filesystems": len(filesystems)}
        if notes:
            detail["not_read"] = notes
        reading.detail = detail

    def _read_diskstats(self, samples: Samples) -> None:
        seen: dict[bytes, _Plan | None] = {}
        for line in self._diskstats.read().splitlines():
            _unused, _unused, name, rest = line.split(None, 3)
            fields = rest.split(None, 11)
            plan = seen[name] = self._devices[name] if name in self._devices else self._plan(name)
            if plan is not None:
                for field, series, times, by in plan:
                    samples[series] = int(fields[field]) * times if by == 1 else int(fields[field]) / by
        self._devices = seen

    def _plan(self, name: bytes) -> _Plan | None:
        """What to take from the line of a device; None for a partition or one of no interest."""
        device = name.decode("utf-8", "replace")
        if device.rstrip("0123456789") in _SKIPPED_DEVICES:
            return None
        # Whole devices have a directory of their own there; sysfs writes "!" for the "/" of cciss/c0d0.
        os.stat(self._block)
        if not (self._block / device.replace("/", "!")).exists():
            return None
        return [(field, family.series(device), times, by) for field, family, times, by in _DISKSTATS]

    def close(self) -> None:
        """Close the files and let the threads end."""
        for file in (*self._mountinfos, self._diskstats):
            file.close()
        for filesystem in list(self._filesystems.values()):
            filesystem.close()


def _hint(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "give the agent's user the right to search the directories above it"
    if error.errno == errno.ESTALE:
        return "the server has lost it: unmount and mount it again"
    if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
        return "the process behind it has died: unmount it (umount -l) and mount it again"
    return "see the kernel log"
