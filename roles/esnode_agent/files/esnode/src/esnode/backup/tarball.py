# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup as a tar: written to a pipe in one go, unpacked into a folder to be read."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from esnode.backup import BackupError
from esnode.backup.places import KNOWN, Folder


class TarWriter:
    """A place that can only be written; `close` ends the archive."""

    def __init__(self, stream: BinaryIO) -> None:
        self._archive = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - see close

    def __str__(self) -> str:
        return "the tar"

    def sizes(self) -> dict[str, int]:
        return {}

    def read(self, name: str) -> bytes:
        raise OSError("a tar that is being written can't be read")

    def write(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
        self._archive.addfile(member, io.BytesIO(data))

    def delete(self, names: Iterable[str]) -> None:
        raise OSError("nothing can be deleted from a tar")

    def close(self) -> None:
        self._archive.close()


def unpack(stream: BinaryIO, folder: Path, what: str) -> Folder:
    """The backup in a tar (compressed or not), brought into a new folder; BackupError when it is cut off or none."""
    place = Folder(folder, what)
    try:
        with tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() and KNOWN.fullmatch(member.name) else None
                if content is not None:
                    place.write(member.name, content.read())
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"{what} is no whole tar: {error}") from error
    return place
