# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as they are wanted: compared and written on a real file system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils import files


def content(text: str, mode: int = 0o640) -> dict[str, Any]:
    return {"text": text, "mode": mode, "uid": os.geteuid(), "gid": os.getegid()}


def test_what_is_put_is_as_wanted(tmp_path: Path) -> None:
    wanted = {str(tmp_path / "a"): content("one\n"), str(tmp_path / "b"): None}
    (tmp_path / "b").write_text("goes\n")
    assert files.differing(wanted) == files.rewritten(wanted) == list(wanted)
    files.put(wanted)
    assert files.differing(wanted) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"], "neither the other file nor a scratch one is left"


def test_other_rights_alone_leave_the_text_and_its_age(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one\n")
    path.chmod(0o600)
    age = path.stat().st_mtime_ns
    wanted = {str(path): content("one\n", 0o644)}
    assert files.differing(wanted) == [str(path)]
    assert files.rewritten(wanted) == []
    files.put(wanted)
    assert files.differing(wanted) == []
    assert path.stat().st_mtime_ns == age, "a service whose unit looks newer than its process would be restarted"


def test_bytes_that_are_no_utf_8_survive(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"caf\xe9\n")
    kept = {str(path): files.read(str(path))}
    path.write_text("other\n")
    files.put(kept)
    assert path.read_bytes() == b"caf\xe9\n"


def test_a_file_that_can_not_be_written_is_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("one\n")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.put({str(path): content("two\n")})
    assert path.read_text() == "one\n"
    assert list(tmp_path.iterdir()) == [path]
