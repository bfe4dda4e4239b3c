# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release ran well with, kept beside it, so that the host can go back to it.

`<prefix>/releases/<name>/deployed.json` is written when the agent was seen to be healthy: the files that define and
configure it, where it answered, and what it saw. It holds secrets, so only its owner may read it.
`<prefix>/releases/<name>/left.json` says that the host went back from this release, and to which.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import time
import typing as t

from ansible_collections.esnode.core.plugins.module_utils import files, release

_DEPLOYED = "deployed.json"
_LEFT = "left.json"


@dataclasses.dataclass(frozen=True)
class Agent:
    """How an agent runs: release name, path of its configuration, "host:port", certificate (empty: plain HTTP)."""

    release: str
    config: str
    listen_address: str
    certificate: str


@dataclasses.dataclass(frozen=True)
class Record:
    """An agent that was healthy, the texts of its files (None: there was none), and what of /status is compared."""

    agent: Agent
    files: dict[str, dict[str, t.Any] | None]
    status: dict[str, t.Any]
    at: float


def _write(path: str, content: dict[str, t.Any]) -> None:
    """Write JSON that only the owner may read, whole or not at all."""
    handle, scratch = tempfile.mkstemp(prefix=".new-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def _read(prefix: str, name: str, file: str) -> dict[str, t.Any] | None:
    try:
        with open(os.path.join(release.release_dir(prefix, name), file), encoding="utf-8") as stream:
            return t.cast("dict[str, t.Any]", json.load(stream))
    except (OSError, ValueError):
        return None


def keep(prefix: str, agent: Agent, paths: t.Iterable[str], status: dict[str, t.Any], fresh: bool) -> None:
    """Note that the agent is healthy with the files as they are now; `fresh`: another release ran before it."""
    compared = {
        "gpus": [{"name": gpu["name"], "state": gpu.get("state", "ok")} for gpu in status["gpus"]],
        "collectors": {name: {"state": c["state"]} for name, c in status["collectors"].items()},
    }
    now = {"agent": dataclasses.asdict(agent), "files": {path: files.read(path) for path in paths}, "status": compared}
    folder = release.release_dir(prefix, agent.release)
    before = _read(prefix, agent.release, _DEPLOYED) or {}
    if fresh or {**before, "at": 0} != {**now, "at": 0}:
        _write(os.path.join(folder, _DEPLOYED), {**now, "at": time.time()})
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, _LEFT))


def of(prefix: str, name: str) -> Record | None:
    """The record of a release; None when it never was healthy here."""
    found = _read(prefix, name, _DEPLOYED)
    if found is None or not release.is_complete(prefix, name):
        return None
    return Record(Agent(**found["agent"]), found["files"], found["status"], found["at"])


def leave(prefix: str, name: str, to: str, reason: str) -> None:
    """Note that the host goes back from a release, so that nothing goes back to it."""
    folder = release.release_dir(prefix, name)
    if os.path.isdir(folder):
        _write(os.path.join(folder, _LEFT), {"to": to, "reason": reason, "at": time.time()})


def left(prefix: str, name: str) -> dict[str, t.Any] | None:
    """{to, reason, at} of a release that the host went back from."""
    return _read(prefix, name, _LEFT)


def previous(prefix: str, than: str) -> Record | None:
    """The release that was healthy last, other than `than` and than those that the host went back from."""
    names = [n for n in release.installed(prefix) if n != than and left(prefix, n) is None]
    records = [found for found in (of(prefix, n) for n in names) if found is not None]
    return max(records, key=lambda one: one.at, default=None)
