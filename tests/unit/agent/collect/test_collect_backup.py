# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Backups: what the last run has left, absent where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.backup import BackupError, state
from esnode.collect import NotPresent, backup


def test_how_the_last_one_went(tmp_path: Path) -> None:
    roots = trees.lay(tmp_path, {})
    collector = backup.create(trees.settings(roots))
    with pytest.raises(NotPresent, match="no backups are taken here"):
        collector.collect()
    path = roots.root / "var/lib/esnode-backup/state.json"
    path.parent.mkdir(parents=True)
    state.failed(path, 900.0)
    never = {catalogue.BACKUP_LAST_RUN.series(): 900.0, catalogue.BACKUP_LAST_RUN_SUCCESS.series(): 0.0}
    assert collector.collect().samples == never
    state.write(path, state.State(ended=1010.0, success=True, taken=1000.0, size=4711))
    good = {
        catalogue.BACKUP_LAST_RUN.series(): 1010.0,
        catalogue.BACKUP_LAST_RUN_SUCCESS.series(): 1.0,
        catalogue.BACKUP_LAST_SUCCESS.series(): 1000.0,
        catalogue.BACKUP_BYTES.series(): 4711,
    }
    assert collector.collect().samples == good
    state.failed(path, 2000.0)
    changed = {catalogue.BACKUP_LAST_RUN.series(): 2000.0, catalogue.BACKUP_LAST_RUN_SUCCESS.series(): 0.0}
    assert collector.collect().samples == {**good, **changed}
    path.write_text("{")
    with pytest.raises(BackupError, match=r"state\.json is not what esnode-core backup writes"):
        collector.collect()
    path.unlink()
    with pytest.raises(NotPresent):
        collector.collect()
