# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this node's backups succeed, and how old the last good one is.

Source: /var/lib/esnode-backup/state.json, which `esnode-core backup --state-file` writes at its end.
"""

from __future__ import annotations

from esnode import catalogue
from esnode.backup import state
from esnode.collect import NotPresent, Settings
from esnode.snapshot import Reading


def create(settings: Settings) -> Backup:
    """Make the collector."""
    return Backup(settings)


class Backup:
    """Reads the file at each run."""

    name = "backup"

    def __init__(self, settings: Settings) -> None:
        self._path = settings.roots.root / state.PATH.relative_to("/")

    def collect(self) -> Reading:
        """Read once."""
        try:
            last = state.read(self._path)
        except FileNotFoundError:
            raise NotPresent(f"no backups are taken here: there is no {self._path}") from None
        reading = Reading()
        reading.samples[catalogue.BACKUP_LAST_RUN.series()] = last.ended
        reading.samples[catalogue.BACKUP_LAST_RUN_SUCCESS.series()] = float(last.success)
        if last.taken is not None:
            reading.samples[catalogue.BACKUP_LAST_SUCCESS.series()] = last.taken
        if last.size is not None:
            reading.samples[catalogue.BACKUP_BYTES.series()] = last.size
        return reading

    def close(self) -> None:
        """Nothing is held."""
