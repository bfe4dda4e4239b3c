# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a backup consists of."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime, timezone

import msgspec
from msgspec import Struct

from esnode.backup import BackupError
from esnode.backup.places import KNOWN, Place

FORMAT = 1
AHEAD_MS = 3_600_000  # what is dated later than this from now was dated by a wrong clock
FOLDER = "manifests"
_NAME = re.compile(FOLDER + r"/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)\.(\d{3})Z-[0-9a-f]{16}\.json")
_STAMP = "%Y%m%dT%H%M%S.%f"


class File(Struct, frozen=True, omit_defaults=True):
    """A file of a backup.

    `mark`: which block. `first`, `last`: which records of the log. `path`, `mode`: of a file of the configuration.
    `damaged`: rows in it that were damaged when it was made.
    """

    name: str
    sha256: str
    size: int
    mark: str = ""
    first: int = 0
    last: int = 0
    damaged: int = 0
    path: str = ""
    mode: int = 0


class Manifest(Struct, frozen=True):
    """`store`: its number in hex, empty: there was none; `keys`: names of the keys that its blobs need, zeros for none.

    Times in ms since 1970; `first_ms`, `last_ms`: of the oldest and newest sample, None when the key was not at hand.
    `damaged`: parts that could not be taken or were damaged. `notes`: what is not in it, and why.
    """

    made_by: str
    host: str
    taken_ms: int
    store: str
    keys: list[str]
    first_ms: int | None
    last_ms: int | None
    damaged: int
    notes: list[str]
    blocks: list[File]
    head: list[File]
    config: list[File]
    format: int = FORMAT

    @property
    def files(self) -> list[File]:
        """All of them."""
        return [*self.blocks, *self.head, *self.config]

    @property
    def encrypted(self) -> bool:
        """Whether any of the store's blobs is."""
        return any(key.strip("0") for key in self.keys)


def named(manifest: Manifest) -> tuple[str, bytes]:
    """Name and content of its file."""
    data = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    moment = datetime.fromtimestamp(manifest.taken_ms / 1000, timezone.utc)
    return f"{FOLDER}/{moment.strftime(_STAMP)[:-3]}Z-{hashlib.sha256(data).hexdigest()[:16]}.json", data


def taken_ms(name: str) -> int | None:
    """When the backup of this manifest was taken; None: this is no name of one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        *moment, ms = map(int, found.groups())
        return round(datetime(*moment, tzinfo=timezone.utc).timestamp()) * 1000 + ms  # type: ignore[arg-type, misc]
    except ValueError:
        return None


def newest_first(names: Iterable[str]) -> list[str]:
    """The manifests among these names."""
    return sorted((name for name in names if taken_ms(name) is not None), reverse=True)


def read(place: Place, name: str) -> Manifest:
    """The manifest of this name; BackupError when it is not as it was written."""
    data = place.read(name)
    if hashlib.sha256(data).hexdigest()[:16] != name[-21:-5]:
        raise BackupError(f"{place}/{name} is damaged")
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BackupError(f"{place}/{name} is of another version: {error}; use the one that wrote it") from error
    strange = next((file.name for file in found.files if not KNOWN.fullmatch(file.name)), None)
    if strange is not None:
        raise BackupError(f"{place}/{name} names a file {strange!r}, which can't be one of a backup: don't trust it")
    if found.format != FORMAT:
        raise BackupError(f"{place}/{name} has format {found.format}, this version reads {FORMAT}")
    return found


def believable(names: Iterable[str], now_ms: int) -> list[str]:
    """The manifests among these names, the newest first; those that a wrong clock has dated ahead come last."""
    ahead = [name for name in newest_first(names) if (taken_ms(name) or 0) > now_ms + AHEAD_MS]
    return [*(name for name in newest_first(names) if name not in ahead), *ahead]


def newest_whole(place: Place, sizes: dict[str, int], now_ms: int) -> tuple[str, Manifest] | None:
    """The newest backup of which every file is there in its size. `sizes`: of all files at the place."""
    for name in believable(sizes, now_ms):
        try:
            manifest = read(place, name)
        except (BackupError, OSError):
            continue
        if not missing(manifest, sizes):
            return name, manifest
    return None


def missing(manifest: Manifest, sizes: dict[str, int]) -> list[str]:
    """Names of its files that are not there, or not in their size."""
    return [file.name for file in manifest.files if sizes.get(file.name) != file.size]
