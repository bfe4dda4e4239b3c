# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the deployments that are tried on this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import ROOT, Deployment


@pytest.fixture(scope="session")
def ansible() -> Path:
    """The bin folder of the environment of `make deploy`."""
    made = subprocess.run(["tools/py", "tools/env.py", "deploy"], cwd=ROOT, capture_output=True, text=True, check=True)
    return Path(made.stdout.strip()) / "bin"


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collections path with what a tarball would hold, as it was when the tests began."""
    path = tmp_path_factory.mktemp("snapshot")
    core = path / "ansible_collections/esnode/core"
    for part in ("meta", "plugins", "roles", "playbooks"):
        shutil.copytree(ROOT / part, core / part, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    for name in ("galaxy.yml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, core)
    return path


@pytest.fixture
def altered(snapshot: Path, tmp_path: Path) -> Path:
    """Another copy, to be changed; the package of the agent is at `altered / AGENT`."""
    shutil.copytree(snapshot, tmp_path / "altered")
    return tmp_path / "altered"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, ansible: Path, snapshot: Path) -> Iterator[Deployment]:
    one = Deployment(tmp_path_factory.mktemp("home"), ansible, snapshot)
    try:
        yield one
    finally:
        one.clean()
