# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball holds the collection and nothing of its making."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHIPPED = {
    *("CHANGELOG.md", "LICENSE", "README.md", "FILES.json", "MANIFEST.json"),
    *("changelogs", "docs", "extensions", "meta", "playbooks", "plugins", "roles", "tests"),
}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("dist")
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    subprocess.run([galaxy, "collection", "build", "--output-path", folder], cwd=ROOT, check=True, capture_output=True)
    (tarball,) = folder.glob("esnode-core-*.tar.gz")
    with tarfile.open(tarball) as archive:
        return [member.name for member in archive if not member.isdir()]


def test_only_what_serves_its_users_is_in_it(members: list[str]) -> None:
    assert {name.split("/")[0] for name in members} <= SHIPPED
    tests = {name for name in members if name.startswith("tests/")}
    assert {
        name for name in tests if name != "tests/config.yml" and not name.startswith("tests/sanity/ignore-")
    } == set()


def test_nothing_that_git_ignores_is_in_it(members: list[str]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what git ignores is not known")
    names = "\n".join(name for name in members if name not in ("FILES.json", "MANIFEST.json"))
    command = ["git", "check-ignore", "--stdin"]
    asked = subprocess.run(command, cwd=ROOT, input=names, capture_output=True, text=True, check=False)
    assert asked.stdout == ""


def test_the_simulator_is_not_in_it(members: list[str]) -> None:
    assert [name for name in members if "nvmlsim" in name] == []
