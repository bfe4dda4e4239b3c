# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store that is open for reading only."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType

from esnode.store.blocks import Block
from esnode.store.damage import Damage
from esnode.store.database import FILE, open_readers
from esnode.store.envelope import PLAIN, Envelope
from esnode.store.epoch import Epoch
from esnode.store.errors import StoreError
from esnode.store.identity import check_keys, read_identity
from esnode.store.keys import Key, read_keys
from esnode.store.loading import load_epochs
from esnode.store.opening import identity_within
from esnode.store.reading import Catalog, HotView
from esnode.store.selecting import Selecting


class ReadOnlyStore(Selecting):
    """A store that another process may be writing, as it is on the disk. Writes nothing. Usable from all threads.

    `still`: all selections see what was there at the first one; many small ones cost far less so.
    """

    def __init__(self, path: Path, key_file: Path | None = None, *, still: bool = False) -> None:
        self.path = path
        self._still = still
        self._seen: tuple[list[Block], list[HotView]] | None = None
        if not (path / FILE).exists():
            raise StoreError(f"there is no store in {path}")
        keys: list[Key] = read_keys(key_file) if key_file else []
        identity = read_identity(path) or identity_within(path / FILE)
        check_keys(identity, keys, key_file, path)
        self._envelope = Envelope(identity.store, keys, plain=PLAIN in identity.keys)
        self.damage = Damage()
        self._file = self._which()  # before it is opened: if it is exchanged in between, that is seen
        self._readers = open_readers(path)
        self._catalog = Catalog(self._readers, self._envelope, self.damage)

    def _which(self) -> tuple[int, int] | None:
        try:
            found = (self.path / FILE).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _follow(self) -> None:
        """The writer makes a new file when the old one is damaged."""
        file = self._which()
        if file != self._file:
            self._readers.close()
            self._catalog.forget()
            self._file = file

    def _now(self) -> tuple[list[Block], list[HotView]]:
        if self._seen is not None:
            return self._seen
        self._follow()
        blocks: list[Block] = []
        epochs: list[Epoch] = []
        try:
            # The log first: an epoch that is sealed meanwhile is then in both, never in none.
            with self._readers.connection() as connection:
                epochs, _unused = load_epochs(connection, self._envelope, self.damage, set(), 0.0)
        except sqlite3.Error as error:
            self._unreadable(error)
        try:
            blocks = self._catalog.blocks()
        except sqlite3.Error as error:
            self._unreadable(error)
        sealed = {block.number for block in blocks}
        views = [HotView(epoch.number, epoch.series, epoch.by_name, epoch.parts()) for epoch in epochs]
        found = blocks, [view for view in views if view.number not in sealed]
        if self._still:
            self._seen = found
        return found

    def close(self) -> None:
        """Close."""
        self._readers.close()

    def __enter__(self) -> ReadOnlyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
