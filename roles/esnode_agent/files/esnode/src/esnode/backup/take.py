# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Take a backup of a running node, and bring it to a second place."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from esnode import __version__
from esnode.backup import BackupError
from esnode.backup.configuration import Kept
from esnode.backup.keep import doomed
from esnode.backup.manifest import File, Manifest, missing, named, newest_first, newest_whole, read
from esnode.backup.places import Folder, Place
from esnode.store.backup import Moment, Row, Source
from esnode.store.database import SHIFT

_encode = msgspec.msgpack.encode
decode_rows = msgspec.msgpack.Decoder(list[tuple[str, int, bytes]]).decode
"""Rows of the store from the content of a file in blocks/ or head/."""


@dataclass(slots=True)
class Taken:
    """A backup that is complete, and what was written for it."""

    name: str
    manifest: Manifest
    files: int
    size: int


@dataclass(slots=True)
class _Writing:
    place: Place
    sizes: dict[str, int]
    files: int = 0
    size: int = 0
    known: list[File] = field(default_factory=list)  # of the backup before, those that are there

    def there(self, file: File) -> bool:
        return self.sizes.get(file.name) == file.size

    def put(self, folder: str, label: str, data: bytes) -> tuple[str, str, int]:
        digest = hashlib.sha256(data).hexdigest()
        name = f"{folder}/{label}{digest[:16]}"
        self.write(name, data)
        return name, digest, len(data)

    def write(self, name: str, data: bytes) -> None:
        self.place.write(name, data)
        self.files += 1
        self.size += len(data)


def take(place: Place, source: Source | None, kept: list[Kept], notes: list[str], now_ms: int, host: str = "") -> Taken:
    """Bring into the place what it lacks, then the manifest. OSError when the place does not take it.

    `source` None: a node without a store. What an earlier backup has brought is not read from the store again.
    """
    host = host or socket.gethostname()
    writing = _Writing(place, place.sizes())
    before = newest_whole(place, writing.sizes, now_ms)
    if before is not None:
        if before[1].host != host:
            raise BackupError(
                f"{place} holds backups of {before[1].host}, and this is {host}: give each host a folder of its own"
            )
        writing.known = [file for file in before[1].files if writing.there(file)]
    moment = source.now() if source else None
    blocks: list[File] = []
    head: list[File] = []
    damaged = 0
    if source and moment:
        blocks = list(_blocks(writing, source, moment))
        head = list(_head(writing, moment.head))
        damaged = moment.damaged + sum(file.damaged for file in blocks)
    manifest = Manifest(
        made_by=f"esnode-core {__version__}",
        host=host,
        taken_ms=now_ms,
        store=moment.identity.store.hex() if moment else "",
        keys=[key.hex() for key in moment.identity.keys] if moment else [],
        first_ms=moment.first_ms if moment else None,
        last_ms=moment.last_ms if moment else None,
        damaged=damaged,
        notes=notes,
        blocks=blocks,
        head=head,
        config=list(_config(writing, kept)),
    )
    name, data = named(manifest)
    writing.write(name, data)
    return Taken(name, manifest, writing.files, writing.size)


def _blocks(writing: _Writing, source: Source, moment: Moment) -> Iterable[File]:
    # What was damaged is read again: a disk that had an error then may have none now.
    known = {file.mark: file for file in writing.known if file.mark and not file.damaged}
    for block in moment.blocks:
        file = known.get(block.mark)
        if file is None:
            found = source.block(moment, block.number)
            if found is None:
                continue
            rows, damaged = found
            name, digest, size = writing.put("blocks", f"{block.number:08d}-", _encode(rows))
            file = File(name, digest, size, mark=block.mark, damaged=damaged)
        yield file


def _head(writing: _Writing, rows: list[Row]) -> Iterable[File]:
    """The log in the pieces in which it was brought already, then what has come since."""
    epochs: dict[int, list[Row]] = {}
    for row in rows:
        epochs.setdefault(row[1] >> SHIFT, []).append(row)
    for epoch, left in epochs.items():
        for file in sorted((file for file in writing.known if file.name.startswith("head/")), key=lambda f: f.first):
            if file.first != left[0][1]:
                continue
            some = [row for row in left if row[1] <= file.last]
            if hashlib.sha256(_encode(some)).hexdigest() != file.sha256:
                break
            yield file
            left = left[len(some) :]
            if not left:
                break
        if left:
            name, digest, size = writing.put("head", f"{epoch:08d}-", _encode(left))
            yield File(name, digest, size, first=left[0][1], last=left[-1][1])


def _config(writing: _Writing, kept: list[Kept]) -> Iterable[File]:
    known = {file.sha256: file for file in writing.known if file.path}
    for one in kept:
        digest = hashlib.sha256(one.data).hexdigest()
        file = known.get(digest)
        name = file.name if file else writing.put("config", "", one.data)[0]
        yield File(name, digest, len(one.data), path=str(one.path), mode=one.mode)


class Brought(NamedTuple):
    """How many files and bytes were brought; `damaged`: what could not be, a sentence each with what to do."""

    files: int
    size: int
    damaged: list[str]


def mirror(folder: Folder, target: Place, now_ms: int, days: float) -> Brought:
    """Bring every backup to the target that is not there and need not go, but those that need a damaged file.

    OSError when the target does not take it; what was brought is not brought again.
    """
    own, there = folder.sizes(), target.sizes()
    files = size = 0
    damaged: dict[str, str] = {}

    def bring(name: str, data: bytes) -> None:
        nonlocal files, size
        target.write(name, data)
        there[name] = len(data)
        files, size = files + 1, size + len(data)

    mine, theirs = (newest_whole(place, sizes, now_ms) for place, sizes in ((folder, own), (target, there)))
    if mine is not None and theirs is not None and mine[1].host != theirs[1].host:
        raise BackupError(
            f"{target} holds backups of {theirs[1].host}, and these are of {mine[1].host}: give each host a place of"
            " its own"
        )
    going = set(doomed({*own, *there}, now_ms, days))
    for name in newest_first(own)[::-1]:
        if name in there or name in going:
            continue
        try:
            manifest, data = read(folder, name), folder.read(name)
        except (BackupError, OSError) as error:
            damaged[name] = f"{_said(folder, name, error)}; where it can't be mended delete it, it restores nothing"
            continue
        if missing(manifest, own):
            continue
        for file in manifest.files:
            if there.get(file.name) != file.size and file.name not in damaged:
                content = _good(folder, file, damaged)
                if content is not None:
                    bring(file.name, content)
        if not any(file.name in damaged for file in manifest.files):
            bring(name, data)
    return Brought(files, size, list(damaged.values()))


def _good(folder: Folder, file: File, damaged: dict[str, str]) -> bytes | None:
    """Its content; None when that is not what was written, which is noted."""
    try:
        content = folder.read(file.name)
        if hashlib.sha256(content).hexdigest() == file.sha256:
            return content
        said = f"{folder}/{file.name} is damaged"
    except (BackupError, OSError) as error:
        said = _said(folder, file.name, error)
    damaged[file.name] = f"{said}; delete it, and the next backup makes it anew if the store still holds that"
    return None


def _said(folder: Folder, name: str, error: Exception) -> str:
    return f"{folder}/{name} can't be read: {error.strerror}" if isinstance(error, OSError) else str(error)
