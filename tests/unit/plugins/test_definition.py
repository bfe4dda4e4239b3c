# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What defines the agent on a host: which files, which folders, and what the release says of the configuration."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import definition, host

PROGRAM = """#!/bin/sh
[ "$1 $2" = "check-config --config" ] || exit 9
grep -q good "$3" && [ "$TOKEN" = secret ] && exit 0
echo "$3: line 1: not good" >&2
exit 2
"""


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return host.layout("user")


def texts(layout: dict[str, str], **those: str) -> dict[str, str]:
    return {**dict.fromkeys(definition.paths(layout), ""), "environment": "TOKEN=secret\n", **those}


def checked(layout: dict[str, str], tmp_path: Path, config: str, environment: str = "TOKEN=secret\n") -> None:
    program = tmp_path / "esnode-core"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    these = texts(layout, **{"esnode.toml": config, "environment": environment})
    wanted = definition.wanted(layout, these, definition.owner("", ""))
    definition.check(run, layout, str(program), wanted, str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["esnode-core"], "copies of secrets are gone"


def test_a_configuration_is_tried_in_its_environment(layout: dict[str, str], tmp_path: Path) -> None:
    checked(layout, tmp_path, "good\n")


@pytest.mark.parametrize(("config", "environment"), [("bad\n", "TOKEN=secret\n"), ("good\n", "TOKEN=other\n")])
def test_a_refused_one_is_named_by_its_own_path(
    layout: dict[str, str], tmp_path: Path, config: str, environment: str
) -> None:
    with pytest.raises(definition.DefinitionError) as refused:
        checked(layout, tmp_path, config, environment)
    assert f"{layout['config_dir']}/esnode.toml: line 1: not good" in str(refused.value)
    assert [p.name for p in tmp_path.iterdir()] == ["esnode-core"], "copies of secrets are gone"
    assert not os.path.exists(layout["config_dir"])


def test_a_file_too_many_or_too_few_is_refused(layout: dict[str, str]) -> None:
    us = definition.owner("", "")
    assert list(definition.wanted(layout, texts(layout), us)) == list(definition.paths(layout).values())
    with pytest.raises(definition.DefinitionError, match=r"wrong or missing: other\.toml"):
        definition.wanted(layout, {**texts(layout), "other.toml": ""}, us)
    with pytest.raises(definition.DefinitionError, match="wrong or missing: environment"):
        definition.wanted(layout, {k: v for k, v in texts(layout).items() if k != "environment"}, us)


def test_folders_are_made_and_found_to_be_right(layout: dict[str, str]) -> None:
    us = definition.owner("", "")
    folders = definition.folders(layout, us)
    assert definition.wrong_folders(folders) == list(folders)
    mask = os.umask(0o077)
    try:
        definition.make_folders(folders)
    finally:
        os.umask(mask)
    assert definition.wrong_folders(folders) == []
    above = os.path.dirname(layout["config_dir"])
    assert os.stat(above).st_mode & 0o777 == 0o755, "with a strict umask, too, the service gets to its files"
    os.chmod(layout["data_dir"], 0o777)
    assert definition.wrong_folders(folders) == [layout["data_dir"]]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@needs_root
def test_what_a_user_before_has_left_is_given_to_the_one_of_now(layout: dict[str, str], tmp_path: Path) -> None:
    data, store, log = Path(layout["data_dir"]), tmp_path / "disk/tsdb", Path(layout["log_dir"])
    agent, before = definition.Owner(23456, 23457), 12345
    outside = tmp_path / "outside"
    outside.write_text("of another user")
    kept = [data / "tsdb", data / "tsdb/store.db", log / "audit.log", store / "store.db"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if path.name == "tsdb" else path.write_text("kept")
    left = [data / "link", data / "second-name", data / "pipe", data / "key"]
    left[0].symlink_to(outside)
    os.link(outside, left[1])
    os.mkfifo(left[2])
    left[3].write_text("root's, on purpose")
    for path in (*kept, *left[:-1], outside):
        os.chown(path, before, before, follow_symlinks=False)
    found = dict.fromkeys(map(str, kept), before)
    assert definition.strays(layout, agent, str(store)) == found
    assert definition.strays(layout, definition.Owner(None, None), str(store)) == found, "the user is still to be made"
    definition.give_strays(layout, agent, str(store))
    assert definition.strays(layout, agent, str(store)) == {}
    assert {(os.stat(path).st_uid, os.stat(path).st_gid) for path in kept} == {agent}
    assert {os.lstat(path).st_uid for path in (*left[:-1], outside)} == {before}
    assert os.stat(left[3]).st_uid == 0


@needs_root
@pytest.mark.parametrize("kind", [["-t", "tmpfs", "none"], ["--bind", "SOURCE"]])
def test_what_is_mounted_there_is_left_alone(layout: dict[str, str], tmp_path: Path, kind: list[str]) -> None:
    source, place = tmp_path / "source", Path(layout["data_dir"]) / "a disk"
    source.mkdir()
    place.mkdir(parents=True)
    options = [str(source) if option == "SOURCE" else option for option in kind]
    if subprocess.run(["mount", *options, place], capture_output=True, check=False).returncode:
        pytest.skip("can't mount here")
    try:
        (place / "file").write_text("")
        os.chown(place / "file", 12345, 12345)
        os.chown(place, 12345, 12345)
        # The folder itself as well: it is the root of what is mounted.
        assert definition.strays(layout, definition.Owner(23456, 23456)) == {}
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_file_in_place_of_a_folder_is_refused(layout: dict[str, str]) -> None:
    os.makedirs(os.path.dirname(layout["config_dir"]))
    Path(layout["config_dir"]).touch()
    with pytest.raises(definition.DefinitionError, match="is no folder"):
        definition.wrong_folders(definition.folders(layout, definition.owner("", "")))


def test_nobody_is_not_an_owner() -> None:
    assert definition.owner("no-such-user", "no-such-group") == (None, None)
    assert definition.owner("", "") == (os.geteuid(), os.getegid())


def test_the_store_takes_no_folder_that_others_use(tmp_path: Path) -> None:
    stranger = definition.Owner(os.geteuid() + 1, os.getegid())
    for wrong in ("/", "/data", f"{tmp_path}/a/../b", "${DATA}/tsdb"):
        with pytest.raises(definition.DefinitionError, match="can't be the store's folder: name one of its own"):
            definition.check_store_dir(wrong, stranger)
    definition.check_store_dir("", stranger)
    folder = tmp_path / "tsdb"
    definition.check_store_dir(str(folder), stranger)
    folder.mkdir()
    definition.check_store_dir(str(folder), stranger)
    (folder / "models").mkdir()
    with pytest.raises(definition.DefinitionError, match=r"models is in it.*tsdb/esnode-tsdb"):
        definition.check_store_dir(str(folder), stranger)
    definition.check_store_dir(str(folder), definition.Owner(os.geteuid(), os.getegid()))
    (folder / "store.db").touch()
    definition.check_store_dir(str(folder), stranger)
