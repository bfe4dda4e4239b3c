# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of an export is there whole or not at all, and none is overwritten unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
from esnode.commands import CommandError
from esnode.commands._output import written


def test_whole(tmp_path: Path) -> None:
    target = tmp_path / "history.jsonl"
    with written(str(target), force=False) as write:
        write(b"one\n")
        assert not target.exists()
        write(b"two\n")
    assert target.read_bytes() == b"one\ntwo\n"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error", [CommandError("broke off"), KeyboardInterrupt(), OSError(28, "No space left on device")]
)
def test_nothing_is_left_of_a_part(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "history.jsonl"
    target.write_text("before")

    def cut_off() -> None:
        with written(str(target), force=True) as write:
            write(b"one\n")
            raise error

    with pytest.raises((CommandError, KeyboardInterrupt)):
        cut_off()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_there_stays(tmp_path: Path) -> None:
    target = tmp_path / "history.jsonl"
    target.write_text("before")
    wanted = "exists and stays as it is: choose another name, or --force"
    with pytest.raises(CommandError, match=wanted), written(str(target), force=False):
        pass
    with pytest.raises(CommandError, match="is a folder"), written(str(tmp_path), force=True):
        pass
    with written(str(target), force=True) as write:
        write(b"after")
    assert target.read_text() == "after"


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    target = tmp_path / "none" / "history.jsonl"
    wanted = f"can't write {target}: No such file or directory"
    with pytest.raises(CommandError, match=wanted), written(str(target), force=False):
        pass
