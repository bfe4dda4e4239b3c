# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where backups lie: a folder here; a bucket and a tar look the same."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from esnode.backup import BackupError
from esnode.backup.acting import acting_in
from esnode.store.identity import sync_folder

PARTS = ("manifests", "blocks", "head", "config")
KNOWN = re.compile(rf"({'|'.join(PARTS)})/[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of the files of a backup; others are left alone."""
_DRAFT = ".new"


class Place(Protocol):
    """Files by name. Reading, writing and deleting raise OSError with the reason."""

    def sizes(self) -> dict[str, int]:
        """All files, with their sizes in bytes."""

    def read(self, name: str) -> bytes:
        """A whole file."""

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, whole or not at all; it is durable when this returns."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete files."""

    def __str__(self) -> str:
        """The place as its user named it."""


class Folder:
    """A folder of this machine, in which root works as the folder's owner."""

    def __init__(self, path: Path, what: str = "") -> None:
        self.path, self._what = path, what or str(path)

    def __str__(self) -> str:
        return self._what

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        with acting_in(self.path):
            for part in PARTS:
                with contextlib.suppress(FileNotFoundError), os.scandir(self.path / part) as entries:
                    for entry in entries:
                        name = f"{part}/{entry.name}"
                        if KNOWN.fullmatch(name) and not name.endswith(_DRAFT):
                            # A backup that runs may let it go just now; the others are still there.
                            with contextlib.suppress(FileNotFoundError):
                                found[name] = entry.stat().st_size
        return found

    def read(self, name: str) -> bytes:
        with acting_in(self.path):
            return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        with acting_in(self.path):
            self._write(self.path / name, data)

    def _write(self, path: Path, data: bytes) -> None:
        draft = path.with_name(path.name + _DRAFT)
        if not path.parent.exists():
            self.path.mkdir(mode=0o700, exist_ok=True)
            path.parent.mkdir(mode=0o700)
        if path.parent.is_symlink():
            raise BackupError(f"{path.parent} is a link: a backup writes into folders of its own only")
        try:
            with open(draft, "xb", opener=_private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
        sync_folder(path.parent)

    def delete(self, names: Iterable[str]) -> None:
        with acting_in(self.path):
            for name in names:
                (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one that changes this folder, which is made if need be; BackupError when somebody else does."""
        try:
            with acting_in(self.path):
                # Not its parents: where they are missing, something is probably not mounted.
                self.path.mkdir(mode=0o700, exist_ok=True)
                handle = _private(str(self.path / "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except FileNotFoundError as error:
            above = self.path.absolute().parent
            raise BackupError(f"{above} is not there: make it, or mount what belongs there") from error
        except OSError as error:
            raise BackupError(f"can't write to {self.path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise BackupError(f"can't lock {self.path}/lock: {error.strerror}") from error
                raise BackupError(f"another backup to {self.path} is running: wait until it has ended") from error
            with acting_in(self.path):
                for part in PARTS:  # drafts of one that was cut off
                    for draft in (self.path / part).glob(f"*{_DRAFT}"):
                        if KNOWN.fullmatch(f"{part}/{draft.name}"):
                            draft.unlink()
            yield
        finally:
            os.close(handle)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
