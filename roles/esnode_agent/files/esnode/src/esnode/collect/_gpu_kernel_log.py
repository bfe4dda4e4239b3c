# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""XID errors in the kernel log. Source: /dev/kmsg, from its end on.

To open it takes CAP_SYSLOG or kernel.dmesg_restrict=0; to read it does not, so a service manager may hand it over as
standard input to an agent that has no capability (StandardInput=file:/dev/kmsg).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from esnode.collect._gpu_pci import bus_key

_KMSG = (1, 11)  # major and minor of /dev/kmsg, Documentation/admin-guide/devices.txt
_RECORD = 16384  # a record is at most 8 KiB; a shorter buffer would be refused
_MARK = b"NVRM: Xid ("
# "NVRM: Xid (PCI:0000:53:00): 79, pid=..." and, before driver 340 or so, without "PCI:". A MIG instance may follow.
_LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)[^)]*\): (\d+)(?:, (.*))?")
RETRY_S = 60.0
MOST_RECORDS = 20_000
"""Of one run; what is left comes with the next."""


def _handed_over(path: Path) -> int | None:
    """The kernel log that is our standard input, None when that is something else or another file is wanted."""
    if str(path) != "/dev/kmsg":
        return None
    try:
        kind = os.fstat(0)
    except OSError:  # closed
        return None
    if not stat.S_ISCHR(kind.st_mode) or (os.major(kind.st_rdev), os.minor(kind.st_rdev)) != _KMSG:
        return None
    fd = os.dup(0)  # not /proc/self/fd/0, which would be opened anew
    os.set_blocking(fd, False)
    return fd


class Line(NamedTuple):
    """An XID line: the PCI address as `bus_key` writes it, the code, the rest of the line, Unix time in seconds."""

    pci: str
    xid: int
    text: str
    timestamp: float


def parse(record: str) -> tuple[str, int, str] | None:
    """PCI address, code and rest of an XID line; None for any other."""
    found = _LINE.search(record)
    if found is None:
        return None
    try:
        return bus_key(found[1]), int(found[2]), found[3] or ""
    except (ValueError, IndexError):
        return None


class KernelLog:
    """The kernel log as it grows. `trouble` says why it cannot be read, None while it can."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._rest = b""
        self._due = 0.0
        self.lost = 0
        """Times that the kernel dropped records before they were read."""
        self.trouble: str | None = "not opened yet"

    def open(self) -> bool:
        """Open at the end unless it is open; whether it is. Tried once a minute."""
        if self._fd >= 0:
            return True
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + RETRY_S
        try:
            fd = _handed_over(self._path)
            if fd is None:
                fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            self.trouble = f"{self._path}: {error.strerror}"
            return False
        try:
            os.lseek(fd, 0, os.SEEK_END)
        except OSError as error:
            os.close(fd)
            self.trouble = f"{self._path}: {error.strerror}"
            return False
        self._fd, self._rest, self.trouble = fd, b"", None
        return True

    def read(self) -> Iterator[Line]:
        """The XID lines since the last time."""
        for _unused in range(MOST_RECORDS):
            if self._fd < 0:
                return
            try:
                data = os.read(self._fd, _RECORD)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.EPIPE:  # the ring went round: the next read is of the oldest that is left
                    self.lost += 1
                    continue
                self._fail(error)
                return
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                if _MARK in line and (found := self._line(line)):
                    yield found

    @staticmethod
    def _line(line: bytes) -> Line | None:
        head, _unused, text = line.decode(errors="replace").partition(";")
        found = parse(text)
        if found is None:
            return None
        pci, xid, rest = found
        try:
            # priority, number, microseconds of the clock that the kernel log has, flags
            ago = time.monotonic() - int(head.split(",")[2]) / 1e6
        except (ValueError, IndexError):
            ago = 0.0
        return Line(pci, xid, rest, time.time() - max(0.0, ago))

    def _fail(self, error: OSError) -> None:
        self.close()
        self.trouble = f"{self._path}: {error.strerror}"
        self._due = time.monotonic() + RETRY_S

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
