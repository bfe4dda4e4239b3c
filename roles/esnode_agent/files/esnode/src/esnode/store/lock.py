# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One writer a store."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from esnode.store.errors import StoreBusy, StoreError


class Lock:
    """Holds the store until it is released or the process is gone, however it went."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"can't write to the store {path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise StoreBusy(
                f"the store {path.parent} is in use by process {holder}: stop it, or give this one another path"
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock itself holds all the same

    def release(self) -> None:
        """Let the next one in."""
        os.close(self._fd)
