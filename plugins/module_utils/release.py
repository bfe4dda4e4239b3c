# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on a host: `<prefix>/releases/<version>-<digest>/` side by side, and the link `<prefix>/current`.

A release is a virtual environment, installed offline from a bundle (one tar file that the controller has built).
A release without its marker file was interrupted half way and counts for nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
import typing as t

from ansible_collections.esnode.core.plugins.module_utils.command import Failed, Run, must

MARKER = "release.json"
MANIFEST = "manifest.json"
REQUIREMENTS = "requirements.txt"
LOCK = ".lock"
_SCRATCH = ".unpacked-"
_NAME = re.compile(r"^(?P<version>[0-9][A-Za-z0-9.+!]*)-(?P<digest>[0-9a-f]{12})$")


class ReleaseError(Exception):
    """What can't be installed, activated or removed; the text says why and what to do."""


def version_of(name: str) -> str:
    """Version of a release name such as C(1.0.0-0123456789ab)."""
    match = _NAME.match(name)
    if not match:
        raise ReleaseError(f"{name!r} is no release name; expected <version>-<12 hex digits>")
    return match.group("version")


def release_dir(prefix: str, name: str) -> str:
    return os.path.join(prefix, "releases", name)


def is_complete(prefix: str, name: str) -> bool:
    return os.path.isfile(os.path.join(release_dir(prefix, name), MARKER))


def installed(prefix: str) -> list[str]:
    """Names of the complete releases, the oldest installation first."""
    try:
        entries = os.listdir(os.path.join(prefix, "releases"))
    except OSError:
        return []
    names = [n for n in entries if _NAME.match(n) and is_complete(prefix, n)]
    return sorted(names, key=lambda n: (os.stat(os.path.join(release_dir(prefix, n), MARKER)).st_mtime_ns, n))


def current(prefix: str) -> str | None:
    """Name of the release that C(current) points at, None when there is none."""
    try:
        target = os.readlink(os.path.join(prefix, "current"))
    except OSError:
        return None
    return os.path.basename(target.rstrip("/"))


def must_be_complete(prefix: str, name: str) -> None:
    if not is_complete(prefix, name):
        raise ReleaseError(f"release {name} is not completely installed below {prefix}; run the deployment again")


def flip(prefix: str, name: str) -> None:
    """Point C(current) at a release in one step: there is no moment without it."""
    must_be_complete(prefix, name)
    link = os.path.join(prefix, "current")
    if os.path.isdir(link) and not os.path.islink(link):
        raise ReleaseError(f"{link} is a directory, not a link made by this collection; move it away")
    fresh = f"{link}.{os.getpid()}"
    if os.path.lexists(fresh):
        os.unlink(fresh)
    os.symlink(os.path.join("releases", name), fresh)
    os.replace(fresh, link)


@contextlib.contextmanager
def locked(prefix: str, patience_s: float = 300) -> t.Iterator[None]:
    """Hold the host for one deployment at a time; raises ReleaseError with who holds it when it takes too long."""
    path = os.path.join(prefix, LOCK)
    until = time.monotonic() + patience_s
    while True:
        os.makedirs(prefix, mode=0o755, exist_ok=True)
        with open(path, "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    lock.seek(0)
                    raise ReleaseError(
                        f"another deployment of this host has not ended after {patience_s:.0f} s: it holds {path} as "
                        f"{lock.read().strip() or 'an unknown process'}. Let it finish, or end it, and deploy again"
                    ) from None
                time.sleep(0.2)
                continue
            if not _is(lock.fileno(), path):
                continue  # a removal had it, and took it away at its end
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")
            lock.flush()
            yield
            return


def _is(handle: int, path: str) -> bool:
    """Whether an open file is still the one at the path."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def prunable(prefix: str, keep: int, wanted: str, spared: str = "") -> list[str]:
    """Releases that go once `wanted` runs: all but it and the newest others, `keep` in all; and half-installed ones.

    `spared` is the one that a rollback would go to; it counts as the newest.
    """
    complete = installed(prefix)
    others = sorted((n for n in complete if n != wanted), key=lambda n: n == spared)
    old = others[: max(0, len(others) - max(keep - 1, 0))]
    try:
        entries = sorted(os.listdir(os.path.join(prefix, "releases")))
    except OSError:
        entries = []
    half = [n for n in entries if _NAME.match(n) and n not in complete]
    return old + [n for n in half if n != wanted]


def remove(prefix: str, name: str) -> None:
    """Remove a release; the marker goes first, so that an interruption leaves a half one and not a broken one."""
    directory = release_dir(prefix, name)
    marker = os.path.join(directory, MARKER)
    if os.path.exists(marker):
        os.unlink(marker)
    shutil.rmtree(directory)


def leftovers(prefix: str) -> list[str]:
    """Paths below the prefix that belong to releases and exist; what `state=absent` removes."""
    paths = [os.path.join(prefix, n) for n in ("current", "releases", LOCK)]
    return [p for p in paths if os.path.lexists(p)]


def remove_all(prefix: str) -> None:
    """Remove every release and the link; the prefix itself only if nothing else is in it."""
    for path in leftovers(prefix):
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)
    with contextlib.suppress(OSError):  # not there, or somebody else keeps files in it
        os.rmdir(prefix)


def configuration(folder: str) -> list[str]:
    """Paths in the folder of the configuration that the role makes and that exist."""
    names = ("esnode.toml", "environment", "supervisord.conf", "certs")
    there = [path for path in (os.path.join(folder, n) for n in names) if os.path.lexists(path)]
    return there or ([folder] if os.path.isdir(folder) and not os.listdir(folder) else [])


def remove_configuration(folder: str) -> None:
    """Remove what the role has made there, and the folder if nothing else is in it."""
    for path in configuration(folder):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    with contextlib.suppress(OSError):  # not there, or somebody else keeps files in it
        os.rmdir(folder)


def sha256(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def verify(directory: str, name: str) -> dict[str, t.Any]:
    """Check an unpacked bundle against its manifest; returns the manifest."""
    path = os.path.join(directory, MANIFEST)
    try:
        with open(path, encoding="utf-8") as stream:
            manifest = json.load(stream)
    except (OSError, ValueError) as error:
        raise ReleaseError(f"the bundle has no readable {MANIFEST}: {error}") from error
    if manifest.get("name") != name:
        raise ReleaseError(f"the bundle holds release {manifest.get('name')}, expected {name}")
    there = {
        os.path.relpath(os.path.join(base, f), directory) for base, _dirs, files in os.walk(directory) for f in files
    } - {MANIFEST}
    listed = manifest["files"]
    wrong = sorted(there.symmetric_difference(listed))
    wrong += [f for f in sorted(there.intersection(listed)) if sha256(os.path.join(directory, f)) != listed[f]]
    if wrong:
        raise ReleaseError(
            "the bundle is damaged: {0} not as its manifest says; remove it from the controller's cache "
            "(esnode_agent_cache_dir) and deploy again".format(", ".join(wrong))
        )
    return t.cast("dict[str, t.Any]", manifest)


def install(prefix: str, name: str, bundle: str, python: str, run: Run) -> None:
    """Install a bundle offline beside the other releases, with a virtual environment of `python` of its own.

    A half-installed one is wiped first. Nothing is activated. Raises ReleaseError with what the installer
    said. `run` is AnsibleModule.run_command.
    """
    mask = os.umask(0o022)  # the service's user must be able to read what root installs
    try:
        with locked(prefix):  # another controller may be at it, too
            os.makedirs(os.path.join(prefix, "releases"), exist_ok=True)
            if not is_complete(prefix, name):
                _install(prefix, name, bundle, python, run)
    except Failed as error:
        raise ReleaseError(f"release {name} can't be installed: {error}") from error
    finally:
        os.umask(mask)


def _install(prefix: str, name: str, bundle: str, python: str, run: Run) -> None:
    directory = release_dir(prefix, name)
    if os.path.lexists(directory):
        remove(prefix, name)
    for old in glob.glob(os.path.join(prefix, "releases", _SCRATCH + "*")):
        shutil.rmtree(old)  # of one that was killed
    scratch = tempfile.mkdtemp(prefix=_SCRATCH, dir=os.path.dirname(directory))
    try:
        _unpack(bundle, scratch)
        manifest = verify(scratch, name)
        # No ensurepip: Debian ships it in python3-venv, which hosts need not have. pip runs out of its own wheel.
        must(run, [python, "-I", "-m", "venv", "--without-pip", directory])
        program = os.path.join(directory, "bin", "python")
        pip = next(f for f in manifest["files"] if f.startswith("wheels/pip-"))
        must(
            run,
            [
                program,
                os.path.join(scratch, pip, "pip"),
                "install",
                "--isolated",
                "--disable-pip-version-check",
                "--no-cache-dir",
                "--no-compile",
                "--quiet",
                "--no-index",
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--find-links",
                os.path.join(scratch, "wheels"),
                "--requirement",
                os.path.join(scratch, REQUIREMENTS),
            ],
        )
        # In a sandbox that may not write nothing is compiled later. What is left out is as much again.
        library = glob.glob(os.path.join(directory, "lib", "python3*", "site-packages"))
        must(run, [program, "-m", "compileall", "-q", "-x", "site-packages/.*/(tests|testing|f2py|lexers)/", *library])
        must(run, [os.path.join(directory, "bin", "esnode-core"), "version"])
        shutil.copyfile(os.path.join(scratch, MANIFEST), os.path.join(directory, MARKER + ".part"))
        os.replace(os.path.join(directory, MARKER + ".part"), os.path.join(directory, MARKER))
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)  # on a full disk above all
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(bundle: str, directory: str) -> None:
    try:
        with tarfile.open(bundle) as archive:
            for member in archive:
                if not member.isfile() or os.path.isabs(member.name) or ".." in member.name.split("/"):
                    raise ReleaseError(f"the bundle holds {member.name!r}, which is no plain file below it")
                target = os.path.join(directory, member.name)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                source = archive.extractfile(member)
                if source is None:
                    raise ReleaseError(f"the bundle holds {member.name!r} without content")
                with source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ReleaseError(f"the bundle can't be unpacked below {directory}: {error}") from error
