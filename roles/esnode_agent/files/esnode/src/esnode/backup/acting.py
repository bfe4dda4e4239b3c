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
_MOST_LINKS = 40  # as the kernel
_NO_GROUP = 65534


def _led(path: Path) -> Iterator[Path]:
    """Each link that is met on the way along this path, and where it ends; none has a link among its folders."""
    at, rest, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    while rest:
        part = rest.pop()
        if part == "..":
            at = at.parent
            continue
        here = at / part
        try:
            target = os.readlink(here)
        except OSError:  # no link, or not there
            at = here
            continue
        yield here
        links += 1
        if links > _MOST_LINKS:
            raise BackupError(f"{path}: too many links")
        at = Path("/") if target.startswith("/") else at
        rest += reversed([one for one in target.split("/") if one not in ("", ".")])
    yield at


def _exposed(path: Path) -> tuple[dict[int, int], Path | None]:
    """Users with their groups who own something on the way to this path, and a folder of root's that others may write.

    What lies in a folder that only root gets through is out of their reach.
    """
    users: dict[int, int] = {}
    shared = None
    for one in (path, *path.parents):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = one.lstat()
            others = 0o010 if status.st_gid else 0
            if status.st_uid:
                users.setdefault(status.st_uid, status.st_gid)
            elif stat.S_ISLNK(status.st_mode):
                continue
            elif not status.st_mode & (0o001 | others):
                users, shared = {}, None
            elif status.st_mode & (0o002 | others << 1) and not status.st_mode & stat.S_ISVTX:
                shared = one
    return users, shared


def _user(path: Path) -> _Ids | None:
    """Who besides root can exchange what is at this path; None: nobody. BackupError when there are several."""
    users: dict[int, int] = {}
    for way in _led(path):
        found, shared = _exposed(way)
        if shared is not None:
            raise BackupError(
                f"users other than root may write to {shared}, where root is to work: chmod go-w {shared}"
            )
        users = found | users
    if len(users) > 1:
        names = " and ".join(sorted(map(_name, users)))
        raise BackupError(f"{path} lies in folders of {names}: root does not work there, one of them has to")
    return next(iter(users.items()), None)


def _groups(uid: int, gid: int) -> list[int]:
    """The groups of this user, first the folder's if it is one of them: root's group is no present to a user."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return [gid or _NO_GROUP]
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    return sorted(groups, key=lambda group: (group != gid, group != user.pw_gid))


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
            groups = _groups(*ids)
            _become(ids[0], groups[0], groups)
        elif before[0] != 0:
            _become(0, 0, [0])
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
