# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the last backup went, in a small file: the command writes it, the agent makes metrics of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

from esnode.backup import BackupError

PATH = Path("/var/lib/esnode-backup/state.json")
"""Where the role `esnode_backup` has it written and the agent looks for it."""


class State(msgspec.Struct, frozen=True):
    """`ended`: when the last run did; `taken`, `size`: of the last one that succeeded, None when there was none.

    Times in seconds since 1970; the size is that of all files of the backup, in bytes.
    """

    ended: float
    success: bool
    taken: float | None
    size: int | None


def read(path: Path) -> State:
    """The state; FileNotFoundError when there is none, BackupError when it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except msgspec.DecodeError as error:
        raise BackupError(f"{path} is not what esnode-core backup writes: {error}; the next backup mends it") from error


def write(path: Path, state: State) -> None:
    """Replace it in one step. Everybody may read it: the agent need not be who takes backups."""
    handle, draft = tempfile.mkstemp(prefix=".state-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(state))
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def failed(path: Path, now: float) -> None:
    """Note that a run did not succeed; what the last good one was stays."""
    before = None
    with contextlib.suppress(BackupError, OSError):
        before = read(path)
    write(path, State(now, False, before.taken if before else None, before.size if before else None))
