# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What defines the agent on a host besides its release: the folders, the service, its environment and configuration."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import shutil
import stat
import tempfile
import typing as t

from ansible_collections.esnode.core.plugins.module_utils import files
from ansible_collections.esnode.core.plugins.module_utils.command import Run, attempt

CONFIG = "esnode.toml"
ENVIRONMENT = "environment"
# Readable for the service's group alone: they may hold secrets.
_MODES = {CONFIG: 0o640, ENVIRONMENT: 0o640}


class DefinitionError(Exception):
    """Files or folders that can't be as wanted, or that the agent refuses."""


class Owner(t.NamedTuple):
    """Who the agent runs as: user id and group id, None when there is no such user or group (yet)."""

    uid: int | None
    gid: int | None


def owner(user: str, group: str) -> Owner:
    """Ids of a user and a group; of who runs this when the names are empty."""
    try:
        uid = pwd.getpwnam(user).pw_uid if user else os.geteuid()
    except KeyError:
        uid = None
    try:
        gid = grp.getgrnam(group).gr_gid if group else os.getegid()
    except KeyError:
        gid = None
    return Owner(uid, gid)


def paths(layout: dict[str, str]) -> dict[str, str]:
    """{name: path} of the files that define the agent on this host."""
    folder = layout["config_dir"]
    if layout["manager"] == "systemd":
        service = {"esnode-core.service": layout["unit"], "esnode-core.socket": layout["socket"]}
    else:
        service = {"supervisord.conf": os.path.join(folder, "supervisord.conf")}
    return {**service, **{name: os.path.join(folder, name) for name in (ENVIRONMENT, CONFIG)}}


def wanted(layout: dict[str, str], texts: t.Mapping[str, str], group: Owner) -> dict[str, dict[str, t.Any]]:
    """The files with these texts, as module_utils/files.py takes them. Raises DefinitionError for other names."""
    places = paths(layout)
    odd = sorted(set(places).symmetric_difference(texts))
    if odd:
        raise DefinitionError(
            f"the files of an agent that {layout['manager']} runs are {', '.join(places)}; wrong or missing: "
            f"{', '.join(odd)}"
        )
    return {
        places[name]: {
            "text": texts[name],
            "mode": _MODES.get(name, 0o644),
            "uid": os.geteuid(),
            "gid": -1 if group.gid is None else group.gid,
        }
        for name in places
    }


def folders(layout: dict[str, str], agent: Owner, store_dir: str = "") -> dict[str, tuple[int, int | None, int | None]]:
    """{path: (mode, uid, gid)} of the folders that the agent needs; `store_dir`: of a store outside its data."""
    mine = (os.geteuid(), os.getegid())
    found: dict[str, tuple[int, int | None, int | None]] = {layout["config_dir"]: (0o755, *mine)}
    if layout["manager"] == "systemd" and layout["scope"] == "user":
        found[os.path.dirname(layout["unit"])] = (0o755, *mine)
    if layout["manager"] == "supervisor" and layout["scope"] == "system":
        found[layout["service_log_dir"]] = (0o755, *mine)
    for name in ("data_dir", "log_dir"):
        found[layout[name]] = (0o750, *agent)
    if store_dir:
        found[store_dir] = (0o700, *agent)
    return found


def check_store_dir(path: str, agent: Owner) -> None:
    """Raise DefinitionError for a folder that the store can't have for itself: it becomes the agent's alone."""
    if not path:
        return
    if os.path.normpath(path) != path or path.count("/") < 2:
        raise DefinitionError(f"{path} can't be the store's folder: name one of its own, such as /data/esnode-tsdb")
    try:
        mine = os.stat(path).st_uid == agent.uid
        there = sorted(os.listdir(path))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DefinitionError(f"{path} can't be the store's folder: {error.strerror}") from error
    if there and there != ["lost+found"] and "store.db" not in there and not mine:
        raise DefinitionError(
            f"{path} can't be the store's folder, {there[0]} is in it: name one of its own, such as "
            f"{os.path.join(path, 'esnode-tsdb')}"
        )


def wrong_folders(places: t.Mapping[str, tuple[int, int | None, int | None]]) -> list[str]:
    """Paths of the folders that are missing or not as wanted; raises DefinitionError when something else is there."""
    wrong = []
    for path, rights in places.items():
        try:
            about = os.stat(path)
        except FileNotFoundError:
            wrong.append(path)
            continue
        if not stat.S_ISDIR(about.st_mode):
            raise DefinitionError(f"{path} is no folder, and the agent needs one there: move it away")
        if (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) != rights:
            wrong.append(path)
    return wrong


def make_folders(places: t.Mapping[str, tuple[int, int | None, int | None]]) -> None:
    for path in wrong_folders(places):
        mode, uid, gid = places[path]
        mask = os.umask(0o022)  # the service's user has to get through the folders above
        try:
            os.makedirs(path, exist_ok=True)
        finally:
            os.umask(mask)
        if os.geteuid() == 0:
            os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
        os.chmod(path, mode)


def strays(layout: dict[str, str], agent: Owner, store_dir: str = "") -> dict[str, int]:
    """{path: uid} of what lies in the agent's folders and belongs to neither it nor root: to a user before it.

    Left are links, what has a second name elsewhere, and other file systems, bind mounts too: none of it is surely the
    agent's.
    """
    return {path: uid for path, uid, _folder, _name in _strays(layout, agent, store_dir)}


def give_strays(layout: dict[str, str], agent: Owner, store_dir: str = "") -> None:
    """Give that to the agent, who could not read what it has kept."""
    for path, _uid, folder, name in _strays(layout, agent, store_dir):
        # The agent may swap files while this looks at them: what is given is what was looked at.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            handle = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DefinitionError(f"{path} can't be given to the agent: {error.strerror}") from error
        try:
            if _is_stray(os.fstat(handle), agent):
                os.fchown(handle, -1 if agent.uid is None else agent.uid, -1 if agent.gid is None else agent.gid)
        finally:
            os.close(handle)


def _strays(layout: dict[str, str], agent: Owner, store_dir: str) -> t.Iterator[tuple[str, int, int, str]]:
    """(path, uid, descriptor of the folder, name in it) of each."""
    if os.geteuid():
        return  # nothing can be given away
    mounts = _mounts()
    for top in filter(os.path.isdir, (layout["data_dir"], layout["log_dir"], store_dir)):
        for path, below, names, folder in os.fwalk(os.path.realpath(top), follow_symlinks=False):
            below[:] = [name for name in below if os.path.join(path, name) not in mounts]
            for name in (*below, *names):
                with contextlib.suppress(FileNotFoundError):
                    about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if _is_stray(about, agent):
                        yield os.path.join(path, name), about.st_uid, folder, name


def _is_stray(about: os.stat_result, agent: Owner) -> bool:
    kind = stat.S_ISDIR(about.st_mode) or (stat.S_ISREG(about.st_mode) and about.st_nlink == 1)
    return kind and about.st_uid not in (0, agent.uid)


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        places = [line.split(" ")[4] for line in stream]
    return {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place) for place in places}


def check(run: Run, layout: dict[str, str], program: str, these: files.Wanted, scratch: str) -> None:
    """Ask the release what it says of the configuration, in its environment; raises DefinitionError.

    `program`: its esnode-core. `scratch`: a folder for copies that nobody else may read.
    """
    places = paths(layout)
    folder = tempfile.mkdtemp(prefix="esnode-", dir=scratch)
    try:
        copies = {name: os.path.join(folder, name) for name in (ENVIRONMENT, CONFIG)}
        for name, copy in copies.items():
            content = these[places[name]]
            files.put({copy: content and {**content, "mode": 0o600, "uid": os.geteuid(), "gid": os.getegid()}})
        script = 'set -a; . "$1"; exec "$2" check-config --config "$3"'
        argv = ["/bin/sh", "-c", script, "sh", copies[ENVIRONMENT], program, copies[CONFIG]]
        code, said = attempt(run, argv, limit_s=60)
    finally:
        shutil.rmtree(folder)
    if code:
        for name, copy in copies.items():
            said = said.replace(copy, places[name])
        raise DefinitionError(
            f"the configuration is refused by esnode-core check-config ({code}):\n{said.strip()}\n"
            "The running agent and its configuration are untouched."
        )
