# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the kernel's small files, and what to say when that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from esnode.catalogue import Series
from esnode.snapshot import Reading, Samples

_CHUNK = 65536
# What the kernel answers for "this machine has no such thing" or "no value now".
_NOT_HERE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENODEV,
        errno.ENXIO,
        errno.EOPNOTSUPP,
        errno.EINVAL,
        errno.ENODATA,
        errno.EAGAIN,
    }
)
_HINTS = {
    errno.EACCES: "give the agent's user the right to read it",
    errno.EPERM: "give the agent's user the right to read it",
    errno.ENOENT: "check that the kernel's file systems are mounted there",
    errno.EMFILE: "raise LimitNOFILE of the service",
}


def read_bytes(path: str | Path) -> bytes:
    """Read a whole file of procfs or sysfs; an `OSError` always names the path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _read_from_start(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise _named(error, path) from None


def read_optional(path: str | Path) -> bytes | None:
    """Read a file that not every machine has: None where the kernel says that there is no such thing."""
    try:
        return read_bytes(path)
    except OSError as error:
        if error.errno in _NOT_HERE:
            return None
        raise


def read_number(path: str | Path) -> int | None:
    """Read a file that holds one whole number: None where there is no such thing or it holds a text (`N/A`)."""
    content = read_optional(path)
    try:
        return None if content is None else int(content)
    except ValueError:
        return None


def read_each(samples: Samples, files: Iterable[tuple[str | Path, Series]], divisor: int = 1) -> None:
    """Read files of one number each; one that fails costs its own series, and the first failure is raised at the end.

    `divisor`: how many of the file's units make one of the family's.
    """
    failure: OSError | None = None
    for path, series in files:
        try:
            value = read_number(path)
        except OSError as error:
            failure = failure or error
        else:
            if value is not None:
                samples[series] = value / divisor if divisor != 1 else value
    if failure is not None:
        raise failure


def read_text(path: str | Path) -> str:
    """Read a file that holds one short text, stripped: empty where there is no such file."""
    return (read_optional(path) or b"").decode("utf-8", "replace").strip()


def list_directory(path: str | Path) -> list[str]:
    """Names in a directory, sorted: none where there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        if error.errno in _NOT_HERE:
            return []
        raise


class HeldFile:
    """A file that is read at every collection: kept open, since opening costs more than reading."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self._fd = -1
        self._closed = False

    def read(self) -> bytes:
        """Read it anew from its start; an `OSError` always names the path."""
        try:
            if self._fd < 0:
                if self._closed:
                    raise OSError(errno.EBADF, os.strerror(errno.EBADF))
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            return _read_from_start(self._fd)
        except OSError as error:
            self._release()  # the file's object may be gone and a new one under its name
            raise _named(error, self.path) from None

    def read_optional(self) -> bytes | None:
        """Read it anew, as the function of that name does."""
        try:
            return self.read()
        except OSError as error:
            if error.errno in _NOT_HERE:
                return None
            raise

    def close(self) -> None:
        """Give the descriptor back for good."""
        self._closed = True
        self._release()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _read_from_start(fd: int) -> bytes:
    # The kernel hands out a page at a time of some files, whatever is asked for: only an empty read is the end.
    content = os.pread(fd, _CHUNK, 0)
    parts, offset = [content], len(content)
    while more := os.pread(fd, _CHUNK, offset):
        parts.append(more)
        offset += len(more)
    return content if len(parts) == 1 else b"".join(parts)


def _named(error: OSError, path: str | Path) -> OSError:
    return OSError(error.errno, error.strerror, os.fspath(path))


def sentence(what: str, error: Exception) -> str:
    """One sentence for `Reading.errors`: what could not be read, where, and what to do.

    It is the same text as long as the trouble is the same, so that a log can tell news from repetition.
    """
    if isinstance(error, OSError):
        hint = _HINTS.get(error.errno or 0, "see the kernel log")
        return f"cannot read {what} from {error.filename}: {error.strerror}; {hint}"
    return f"cannot read {what}: {error}; the kernel's file has an unknown form, please report it with its content"


def attempt(reading: Reading, what: str, part: Callable[[Samples], None]) -> None:
    """Run one part of a collector: where it fails it keeps what it had read and costs one error."""
    samples: Samples = {}
    try:
        part(samples)
    except (OSError, ValueError, IndexError, KeyError) as error:
        reading.errors.append(sentence(what, error))
    reading.samples.update(samples)
