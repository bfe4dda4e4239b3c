# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a release on the controller: one tar of wheels, locked and hashed, for one Python and architecture.

The name of a release comes from what goes in (the agent's source, the locks, Python, architecture), so every
controller gives the same source the same name, and a bundle is built once per kind of host.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.esnode.core.plugins.module_utils.release import MANIFEST, REQUIREMENTS, sha256

Progress = Callable[[str], None]

_FORMAT = "1"  # part of every name: raise it when bundles of the same input come out different
_GLIBC_MINORS = range(28, 16, -1)
_OLD_TAGS = ("manylinux2014", "manylinux_2_12", "manylinux2010", "manylinux_2_5", "manylinux1")
_KEPT = 20  # bundles in the cache, some 44 MB each


class BundleError(Exception):
    """Why no release could be built, and what to do."""


class Source:
    """What a release is built from: a folder with C(esnode/) (the agent) and C(requirements/) (the locks)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "esnode" / "pyproject.toml").is_file():
            raise BundleError(f"{folder} holds no source of the agent; is the collection completely installed?")

    def version(self) -> str:
        """The agent's version, as the package itself names it."""
        text = (self.folder / "esnode/src/esnode/__init__.py").read_text("utf-8")
        found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
        if not found:
            raise BundleError(f"{self.folder}/esnode/src/esnode/__init__.py names no __version__")
        return found[1]

    def agent_files(self) -> list[Path]:
        """The files of the agent's project, relative to it; nothing that tools left behind."""
        project = self.folder / "esnode"
        package = sorted(p.relative_to(project) for p in (project / "src").rglob("*") if p.is_file())
        kept = [p for p in package if not any(part.startswith(".") or part == "__pycache__" for part in p.parts)]
        return [Path("pyproject.toml"), *kept]

    def lock(self, python: str) -> Path:
        """The locked dependencies for a Python such as "3.11"."""
        path = self.folder / "requirements" / f"cp{python.replace('.', '')}.txt"
        if not path.is_file():
            raise BundleError(f"no locked dependencies for Python {python}: {path} does not exist")
        return path

    @property
    def build_lock(self) -> Path:
        """The locked build tools, and the pip that installs the release on the host."""
        return self.folder / "requirements" / "build.txt"

    def name(self, python: str, machine: str) -> str:
        """Name of the release for a kind of host: <version>-<digest of all that goes in>."""
        digest = hashlib.sha256(f"{_FORMAT} {python} {machine}\n".encode())
        inputs = [(str(p), self.folder / "esnode" / p) for p in self.agent_files()]
        inputs += [("lock", self.lock(python)), ("build", self.build_lock)]
        for label, path in inputs:
            digest.update(f"{label} {sha256(path)}\n".encode())
        return f"{self.version()}-{digest.hexdigest()[:12]}"


def ensure(source: Source, python: str, machine: str, cache: Path, wheelhouse: str, progress: Progress) -> Path:
    """Path of the bundle for a kind of host, built when the cache has none. Safe to call from many forks at once."""
    bundle = cache / f"{source.name(python, machine)}.tar"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(cache / f".{bundle.name}.lock"):
        if not bundle.is_file():
            with tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as work:
                _build(source, python, machine, Path(work), wheelhouse, progress)
                os.replace(Path(work) / "bundle.tar", bundle)
            _prune(cache)
        os.utime(bundle)
    return bundle


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _prune(cache: Path) -> None:
    bundles = sorted(cache.glob("*.tar"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in bundles[_KEPT:]:
        old.unlink(missing_ok=True)
        (cache / f".{old.name}.lock").unlink(missing_ok=True)


def _build(source: Source, python: str, machine: str, work: Path, wheelhouse: str, progress: Progress) -> None:
    origin = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
    tools, backend, content = work / "tools", work / "backend", work / "content"
    wheels = content / "wheels"
    pip = _pip(work, progress)
    get = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--require-hashes"]

    progress("1/4 the build tools")
    _run([*pip, *get, *origin, "--dest", str(tools), "--requirement", str(source.build_lock)])
    for wheel in tools.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(backend)
    progress(f"2/4 the dependencies for Python {python} on {machine}, by their hashes")
    _run([*pip, *get, *origin, *_target(python, machine), "--dest", str(wheels), "-r", str(source.lock(python))])
    shutil.copy(next(tools.glob("pip-*.whl")), wheels)

    progress(f"3/4 the agent {source.version()}")
    project = work / "esnode"
    for path in source.agent_files():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.folder / "esnode" / path, project / path)
    environment = {**os.environ, "PYTHONPATH": str(backend), "SOURCE_DATE_EPOCH": "1577836800"}
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)], cwd=project, env=environment)

    progress("4/4 the bundle")
    files = sorted(wheels.glob("*.whl"))
    lines = [_requirement(f) for f in files if not f.name.startswith("pip-")]
    (content / REQUIREMENTS).write_text("\n".join(lines) + "\n", "utf-8")
    files = [content / REQUIREMENTS, *files]
    manifest = {
        "name": source.name(python, machine),
        "version": source.version(),
        "python": python,
        "machine": machine,
        "files": {str(f.relative_to(content)): sha256(f) for f in files},
    }
    (content / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    with tarfile.open(work / "bundle.tar", "w") as archive:
        for path in [content / MANIFEST, *files]:
            archive.add(path, str(path.relative_to(content)), filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _requirement(wheel: Path) -> str:
    """The line of requirements.txt that admits this very file."""
    name, version = wheel.name.split("-")[:2]
    return f"{name.replace('_', '-')}=={version} --hash=sha256:{sha256(wheel)}"


def _target(python: str, machine: str) -> list[str]:
    """pip's options for another Python and architecture than its own."""
    tags = [f"manylinux_2_{minor}" for minor in _GLIBC_MINORS] + list(_OLD_TAGS)
    abi = f"cp{python.replace('.', '')}"
    options = ["--implementation", "cp", "--python-version", python]
    options += [f"--abi={a}" for a in (abi, "abi3", "none")]
    return options + [f"--platform={tag}_{machine}" for tag in tags]


def _pip(work: Path, progress: Progress) -> list[str]:
    """A pip to run: the one beside Ansible, or one in a virtual environment made for it."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    progress("0/4 a virtual environment with pip")
    try:
        _run([sys.executable, "-m", "venv", str(work / "venv")])
    except BundleError as error:
        raise BundleError(
            f"the Python of Ansible ({sys.executable}) has neither pip nor ensurepip, one of which the controller "
            f"needs to build a release (Debian: apt install python3-venv). {error}"
        ) from error
    return [str(work / "venv/bin/python"), "-m", "pip"]


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise BundleError(
            f"building the release failed: {' '.join(command[:5])} ... ended with {done.returncode}:\n{tail}\n"
            "The controller needs a Python package index (pip's own configuration names it) or "
            "esnode_agent_wheelhouse, a folder that holds the locked wheels."
        )
