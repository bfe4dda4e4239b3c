# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the sending has come, in a small file in the store's folder."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from esnode.store.following import Cursor
from esnode.store.identity import sync_folder

log = logging.getLogger("esnode.remote_write")

FILE = "remote_write.json"
_EVERY_S = 5.0


class Position:
    """The cursor behind what was delivered. Written whole or not at all; a crash repeats some seconds."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.cursor: Cursor | None = None
        self.damaged = False
        self._written: Cursor | None = None
        self._write_at = 0.0
        self._failed = False
        try:
            self.cursor = self._written = Cursor.decode(json.loads(self.path.read_text("utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.damaged = True
            log.error("%s can't be read: %s; all that the store has is sent again", self.path, error)

    def keep(self, cursor: Cursor) -> None:
        """Remember the cursor, and write it if the last time is some seconds ago."""
        self.cursor = cursor
        if time.monotonic() >= self._write_at:
            self.write()

    def write(self) -> None:
        """Write the cursor now, if it has changed. A disk that does not take it is said once."""
        if self.cursor is None or self.cursor == self._written:
            return
        self._write_at = time.monotonic() + _EVERY_S
        draft = self.path.with_suffix(".new")
        try:
            with open(draft, "w", encoding="utf-8") as file:
                os.chmod(draft, 0o600)
                json.dump(self.cursor.encode(), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            if not self._failed:
                log.error("%s: can't be written: %s; a restart will send some samples again", self.path, error.strerror)
            self._failed = True
        else:
            self._written, self._failed = self.cursor, False
