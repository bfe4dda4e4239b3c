# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Root works in a folder of another user as that user: whoever can exchange what is there leads it nowhere else."""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from esnode.backup import BackupError

_Ids = tuple[int, int]


def _exposed(path: Path) -> tuple[dict[int, int], Path | None]:
    """Users with their groups who own something on the way to this path, and a folder of root's that others may write.

    What lies in a folder that only root gets through is out of their reach.
    """
    users: dict[int, int] = {}
    shared = None
    for one in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status, link = one.stat(), one.lstat()
            others = 0o010 if status.st_gid else 0
            if not status.st_uid and not status.st_mode & (0o001 | others):
                users, shared = {}, None
            elif not status.st_uid and status.st_mode & (0o002 | others << 1) and not status.st_mode & stat.S_ISVTX:
                shared = one
            for found in (status, link):
                if found.st_uid:
                    users.setdefault(found.st_uid, found.st_gid)
    return users, shared


def _user(path: Path) -> _Ids | None:
    """Who besides root can exchange what is at this path; None: nobody. BackupError when there are several."""
    users: dict[int, int] = {}
    for way in {path.absolute(), path.resolve()}:
        found, shared = _exposed(way)
        if shared is not None:
            raise BackupError(
                f"users other than root may write to {shared}, where root is to work: chmod go-w {shared}"
            )
        users |= found
    if len(users) > 1:
        names = " and ".join(sorted(map(_name, users)))
        raise BackupError(f"{path} lies in folders of {names}: root does not work there, one of them has to")
    return next(iter(users.items()), None)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


@contextlib.contextmanager
def acting_in(path: Path) -> Iterator[None]:
    """Be whom this folder belongs to, or the one above it, for the length of a with block; for root alone."""
    if os.getuid() != 0:
        yield
        return
    before = os.geteuid(), os.getegid(), os.getgroups()
    os.seteuid(0)  # also within such a block for another folder
    ids = None
    try:
        ids = _user(path)
        if ids is not None:
            _become(*ids, [ids[1]])
        yield
    except PermissionError as error:
        if ids is None:
            raise
        who = _name(ids[0])
        raise BackupError(
            f"{error.filename or path}: {who} may not, as whom root works in a folder of {who}"
        ) from error
    finally:
        _become(*before)


def _become(uid: int, gid: int, groups: list[int]) -> None:
    os.seteuid(0)
    with contextlib.suppress(PermissionError):  # where a container forbids it
        os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)


def refuse_other(path: Path, uid: int | None) -> None:
    """BackupError when root acts as somebody in this folder who is not the one that its files are for."""
    if os.getuid() == 0 and os.geteuid() not in (0, uid) and uid is not None:
        raise BackupError(f"{path} is a folder of {_name(os.geteuid())}, where no files for {_name(uid)} can be made")
