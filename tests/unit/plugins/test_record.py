# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release ran well with: kept, chosen, put back; on a real file system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils import files, record, release

A, B, C = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb", "1.2.0-cccccccccccc"
STATUS: dict[str, Any] = {
    "gpus": [{"name": "NVIDIA L4", "temperature": 31}],
    "collectors": {"cpu": {"state": "ok", "errors": [], "series": 7}},
}


@pytest.fixture
def prefix(tmp_path: Path) -> str:
    for name in (A, B, C):
        marker = tmp_path / "opt/releases" / name / release.MARKER
        marker.parent.mkdir(parents=True)
        marker.touch()
    return str(tmp_path / "opt")


def keep(prefix: str, name: str, *paths: Path, fresh: bool = True) -> None:
    agent = record.Agent(name, "/etc/esnode/esnode.toml", "0.0.0.0:9100", "")
    record.keep(prefix, agent, [str(p) for p in paths], STATUS, fresh)


def test_secrets_are_for_the_owner_alone_and_nothing_half_is_left(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "environment").write_text("TOKEN=secret\n")
    keep(prefix, A, tmp_path / "environment")
    folder = Path(release.release_dir(prefix, A))
    assert (folder / "deployed.json").stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(folder)) == ["deployed.json", release.MARKER]


def test_files_are_put_back_as_they_were(prefix: str, tmp_path: Path) -> None:
    changed, gone, new, same = (tmp_path / n for n in ("changed", "gone", "new", "same"))
    for path in (changed, gone, same):
        path.write_text(f"{path.name}\n")
        path.chmod(0o640)
    keep(prefix, A, changed, gone, new, same)
    changed.write_text("other\n")
    changed.chmod(0o600)
    gone.unlink()
    new.write_text("of the next release\n")
    before = same.stat().st_mtime_ns, same.stat().st_ino
    kept = record.of(prefix, A)
    assert kept and files.differing(kept.files) == [str(changed), str(gone), str(new)]
    files.put(kept.files)
    assert files.differing(kept.files) == []
    assert changed.read_text() == "changed\n" and changed.stat().st_mode & 0o777 == 0o640
    assert gone.read_text() == "gone\n" and not new.exists()
    assert (same.stat().st_mtime_ns, same.stat().st_ino) == before, "a file that is right is not touched"


def test_the_one_before_is_the_last_that_ran_well(prefix: str) -> None:
    assert record.previous(prefix, A) is None, "none has run"
    for name in (A, B, C):
        keep(prefix, name)
    assert record.previous(prefix, C).agent.release == B  # type: ignore[union-attr]
    keep(prefix, A)  # deployed once more
    assert record.previous(prefix, C).agent.release == A  # type: ignore[union-attr]
    keep(prefix, B, fresh=False)  # found as it was
    assert record.previous(prefix, C).agent.release == A  # type: ignore[union-attr]


def test_nothing_goes_back_to_one_that_was_left_until_it_ran_well_again(prefix: str) -> None:
    for name in (A, B, C):
        keep(prefix, name)
    record.leave(prefix, B, A, "not healthy")
    assert record.left(prefix, B)["reason"] == "not healthy"  # type: ignore[index]
    assert record.previous(prefix, C).agent.release == A  # type: ignore[union-attr]
    keep(prefix, B)
    assert record.left(prefix, B) is None
    assert record.previous(prefix, C).agent.release == B  # type: ignore[union-attr]


def test_a_half_installed_or_damaged_one_is_no_choice(prefix: str) -> None:
    keep(prefix, A)
    keep(prefix, B)
    Path(release.release_dir(prefix, B), release.MARKER).unlink()
    assert record.previous(prefix, C).agent.release == A  # type: ignore[union-attr]
    Path(release.release_dir(prefix, A), "deployed.json").write_text("{")
    assert record.previous(prefix, C) is None
