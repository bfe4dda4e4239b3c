# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The name of a release, and the building of it but for the packages themselves (tests/e2e builds real ones)."""

from __future__ import annotations

import multiprocessing
import re
import shutil
import sys
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import host
from ansible_collections.esnode.core.plugins.plugin_utils import bundle
from ansible_collections.esnode.core.plugins.plugin_utils.bundle import BundleError, Source
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    from tomllib import loads as parse_toml
else:
    from tomli import loads as parse_toml

SHIPPED = Path(__file__).resolve().parents[3] / "roles" / "esnode_agent" / "files"


@pytest.fixture
def copy(tmp_path: Path) -> Source:
    shutil.copytree(SHIPPED, tmp_path / "files", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return Source(tmp_path / "files")


def test_the_same_source_has_the_same_name_wherever_it_lies(copy: Source) -> None:
    leftovers = copy.folder / "esnode/src/esnode/__pycache__"
    leftovers.mkdir()
    (leftovers / "agent.cpython-311.pyc").touch()
    (copy.folder / "esnode/src/esnode/.ruff_cache").mkdir()
    (copy.folder / "esnode/src/esnode/.ruff_cache/x").touch()
    assert copy.name("3.11", "x86_64") == Source(SHIPPED).name("3.11", "x86_64")


@pytest.mark.parametrize("path", ["esnode/src/esnode/cli.py", "esnode/pyproject.toml", "requirements/cp311.txt",
                                  "requirements/build.txt"])  # fmt: skip
def test_whatever_goes_in_changes_the_name(copy: Source, path: str) -> None:
    before = copy.name("3.11", "x86_64")
    with (copy.folder / path).open("a") as stream:
        stream.write("# changed\n")
    assert copy.name("3.11", "x86_64") != before


def test_each_kind_of_host_has_its_own_name() -> None:
    source = Source(SHIPPED)
    kinds = [(p, m) for p in ("3.10", "3.11", "3.12", "3.13") for m in ("x86_64", "aarch64")]
    names = {source.name(p, m) for p, m in kinds}
    assert len(names) == len(kinds)
    assert {n.rpartition("-")[0] for n in names} == {source.version()}


def test_a_python_without_lock_is_named() -> None:
    with pytest.raises(BundleError, match=r"no locked dependencies for Python 3\.9"):
        Source(SHIPPED).name("3.9", "x86_64")


def test_every_requirement_is_locked_by_hash() -> None:
    for lock in (SHIPPED / "requirements").glob("*.txt"):
        lines = [line for line in lock.read_text().splitlines() if line and not line.startswith("#")]
        for index, line in enumerate(lines):
            if not line.startswith(" "):
                assert "==" in line and "--hash=sha256:" in lines[index + 1], f"{lock.name}: {line}"


@pytest.mark.parametrize("python", host.PYTHONS)
def test_the_locks_hold_what_the_agent_asks_for(python: str) -> None:
    project = parse_toml((SHIPPED / "esnode/pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [Requirement(r) for r in project["dependencies"] + extras["release"]]
    own = [one for one in asked if one.name == project["name"]]  # extras that the release takes as they are
    asked = [one for one in asked if one not in own]
    asked += [Requirement(r) for one in own for extra in one.extras for r in extras[extra]]
    lock = (SHIPPED / "requirements" / f"cp{python.replace('.', '')}.txt").read_text()
    locked = {canonicalize_name(n): v for n, v in re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", lock, re.MULTILINE)}
    for one in asked:
        if one.marker is None or one.marker.evaluate({"python_version": python}):
            assert one.specifier.contains(locked[canonicalize_name(one.name)]), f"{one}: run make release-lock"


def _ensure(folder: Path, cache: Path) -> None:
    def build(_source: Source, _python: str, _machine: str, work: Path, *_rest: object) -> None:
        with (cache / "built").open("a") as stream:
            stream.write("x")
        (work / "bundle.tar").write_text("content")

    bundle._build = build  # type: ignore[assignment]
    bundle.ensure(Source(folder), "3.11", "x86_64", cache, "", print)


def test_forks_build_once(copy: Source, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    forks = [multiprocessing.get_context("fork").Process(target=_ensure, args=(copy.folder, cache)) for _ in range(6)]
    for fork in forks:
        fork.start()
    for fork in forks:
        fork.join()
    assert [f.exitcode for f in forks] == [0] * 6
    assert (cache / "built").read_text() == "x"
    assert [p.name for p in cache.glob("*.tar")] == [f"{copy.name('3.11', 'x86_64')}.tar"]


def test_the_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    import os

    for age in range(25):
        path = tmp_path / f"1.0.0-{age:012x}.tar"
        path.touch()
        os.utime(path, (age, age))
    bundle._prune(tmp_path)
    assert sorted(int(p.stem[-12:], 16) for p in tmp_path.glob("*.tar")) == list(range(5, 25))


def test_a_failed_step_shows_what_the_tool_said(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"(?s)ended with 3:\nno index\n.*esnode_agent_wheelhouse"):
        bundle._run(["sh", "-c", "echo no index; exit 3"])


def test_a_wheel_of_another_kind_of_host_is_asked_for_by_its_tags() -> None:
    options = bundle._target("3.12", "aarch64")
    assert "--abi=cp312" in options and "--platform=manylinux_2_28_aarch64" in options
    assert not any("x86_64" in o for o in options)
