# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases side by side, on a real file system with real virtual environments."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import release
from ansible_collections.esnode.core.plugins.module_utils.release import ReleaseError

A, B, C = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb", "1.2.0-cccccccccccc"
PYTHON = os.path.realpath(sys.executable)


def run(command: list[str]) -> tuple[int, str, str]:
    """Stands in the place of AnsibleModule.run_command."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


Make = Callable[..., Path]


def pack(content: Path, bundle: Path) -> Path:
    with tarfile.open(bundle, "w") as archive:
        for path in sorted(p for p in content.rglob("*") if p.is_file()):
            archive.add(path, str(path.relative_to(content)))
    return bundle


def pretend(prefix: Path, *names: str) -> str:
    """Complete releases without content, in the order given."""
    for age, name in enumerate(names):
        marker = prefix / "releases" / name / release.MARKER
        marker.parent.mkdir(parents=True)
        marker.touch()
        os.utime(marker, (1000 + age, 1000 + age))
    return str(prefix)


@pytest.fixture
def private_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_installs_offline_beside_the_others(tmp_path: Path, make: Make, private_umask: None) -> None:
    prefix = pretend(tmp_path / "opt", A)
    (tmp_path / "opt/releases/.unpacked-killed").mkdir()
    (tmp_path / "opt").chmod(0o755)
    release.install(prefix, B, str(make(B)), PYTHON, run)
    assert release.installed(prefix) == [A, B]
    assert release.current(prefix) is None, "installing activates nothing"
    said = subprocess.run([release.release_dir(prefix, B) + "/bin/esnode-core"], capture_output=True, text=True)
    assert said.stdout == "tiny\n"
    assert sorted(os.listdir(os.path.join(prefix, "releases"))) == [A, B], "no scratch folder is left"
    assert oct(os.stat(prefix).st_mode)[-3:] == "755"
    assert oct(os.stat(release.release_dir(prefix, B)).st_mode)[-3:] == "755", "the service's user can enter it"


def test_a_half_installed_release_counts_for_nothing_and_is_done_again(tmp_path: Path, make: Make) -> None:
    prefix = str(tmp_path / "opt")
    rest = Path(release.release_dir(prefix, A)) / "bin" / "rest"
    rest.parent.mkdir(parents=True)
    rest.touch()
    assert release.installed(prefix) == []
    with pytest.raises(ReleaseError, match="not completely installed"):
        release.flip(prefix, A)
    release.install(prefix, A, str(make(A)), PYTHON, run)
    assert release.installed(prefix) == [A]
    assert not rest.exists()


def test_an_agent_that_does_not_start_is_not_installed(tmp_path: Path, make: Make) -> None:
    prefix = str(tmp_path / "opt")
    broken = make(A, "import no_such_module\ndef main(): pass")
    with pytest.raises(ReleaseError, match="No module named 'no_such_module'"):
        release.install(prefix, A, str(broken), PYTHON, run)
    assert release.installed(prefix) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_a_damaged_bundle_is_refused(tmp_path: Path, make: Make, damage: str) -> None:
    make(A)
    content = tmp_path / f"content-{A}"
    victim = next(content.glob("wheels/esnode_core-*.whl"))
    if damage == "changed":
        victim.write_bytes(victim.read_bytes() + b"x")
    elif damage == "missing":
        victim.unlink()
    else:
        (content / "wheels" / "evil-1-py3-none-any.whl").touch()
    with pytest.raises(ReleaseError, match=r"damaged: .*wheels/.*as its manifest says"):
        release.install(str(tmp_path / "opt"), A, str(pack(content, tmp_path / "damaged.tar")), PYTHON, run)
    assert os.listdir(tmp_path / "opt" / "releases") == []


def test_a_bundle_of_another_name_or_a_cut_one_is_refused(tmp_path: Path, make: Make) -> None:
    bundle = make(A)
    with pytest.raises(ReleaseError, match=f"holds release {A}, expected {B}"):
        release.install(str(tmp_path / "opt"), B, str(bundle), PYTHON, run)
    bundle.write_bytes(bundle.read_bytes()[:100000])
    with pytest.raises(ReleaseError, match="can't be unpacked"):
        release.install(str(tmp_path / "opt"), A, str(bundle), PYTHON, run)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_a_bundle_reaches_nothing_outside(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ReleaseError, match="no plain file below it"):
        release.install(str(tmp_path / "opt"), A, str(tmp_path / "evil.tar"), PYTHON, run)
    assert not (tmp_path / "opt" / "outside").exists()


def test_flip_leaves_no_moment_without_a_current_release(tmp_path: Path) -> None:
    prefix = pretend(tmp_path, A, B)
    release.flip(prefix, A)
    stop, gaps = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            if not os.path.exists(os.path.join(prefix, "current", release.MARKER)):
                gaps.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for turn in range(500):
        release.flip(prefix, (A, B)[turn % 2])
    stop.set()
    watcher.join()
    assert not gaps
    assert release.current(prefix) == B
    assert sorted(os.listdir(prefix)) == ["current", "releases"]


def test_flip_does_not_replace_a_folder_of_somebody_else(tmp_path: Path) -> None:
    prefix = pretend(tmp_path, A)
    (tmp_path / "current").mkdir()
    with pytest.raises(ReleaseError, match="not a link made by this collection"):
        release.flip(prefix, A)


def test_prune_spares_the_wanted_and_the_newest_others(tmp_path: Path) -> None:
    prefix = pretend(tmp_path, A, B, C)
    (tmp_path / "releases" / "0.9.0-dddddddddddd").mkdir()
    (tmp_path / "releases" / "not-a-release").mkdir()
    release.flip(prefix, A)
    half = "0.9.0-dddddddddddd"
    assert release.prunable(prefix, 9, A) == [half]
    assert release.prunable(prefix, 2, A) == [B, half]
    assert release.prunable(prefix, 2, A, spared=B) == [C, half]
    assert release.prunable(prefix, 3, "1.3.0-eeeeeeeeeeee") == [A, half], (
        "one that check mode has not installed counts"
    )
    for name in release.prunable(prefix, 2, A):
        release.remove(prefix, name)
    assert release.installed(prefix) == [A, C]
    assert sorted(os.listdir(tmp_path / "releases")) == [A, C, "not-a-release"]


def test_remove_all_takes_its_own_and_nothing_else(tmp_path: Path) -> None:
    prefix = pretend(tmp_path / "opt", A)
    release.flip(prefix, A)
    (tmp_path / "opt" / "kept").touch()
    release.remove_all(prefix)
    assert os.listdir(prefix) == ["kept"]
    (tmp_path / "opt" / "kept").unlink()
    release.remove_all(prefix)
    assert not os.path.exists(prefix)


def test_one_deployment_at_a_time_and_the_other_is_told_who_is_at_it(tmp_path: Path) -> None:
    prefix = str(tmp_path / "opt")
    with (
        release.locked(prefix),
        pytest.raises(ReleaseError, match=f"it holds {prefix}/{release.LOCK} as pid {os.getpid()} since"),
        release.locked(prefix, patience_s=0),
    ):
        pass
    with release.locked(prefix, patience_s=0):
        pass


def test_who_waits_for_a_removal_gets_a_lock_that_others_see(tmp_path: Path) -> None:
    prefix = str(tmp_path / "opt")
    got, over = threading.Event(), threading.Event()

    def second() -> None:
        with release.locked(prefix, patience_s=60):
            got.set()
            over.wait(60)

    waiter = threading.Thread(target=second)
    with release.locked(prefix):
        waiter.start()
        release.remove_all(prefix)
    assert got.wait(60)
    try:
        with pytest.raises(release.ReleaseError, match="another deployment"), release.locked(prefix, patience_s=0):
            pass
    finally:
        over.set()
        waiter.join()


@pytest.mark.parametrize("name", ["1.0.0", "1.0.0-xyz", "../1.0.0-aaaaaaaaaaaa", "-aaaaaaaaaaaa"])
def test_what_is_no_release_name(name: str) -> None:
    with pytest.raises(ReleaseError, match="no release name"):
        release.version_of(name)
