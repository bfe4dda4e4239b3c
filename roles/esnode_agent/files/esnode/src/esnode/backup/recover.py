# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify backups, and restore one: everything is checked before anything is written, and nothing is overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from esnode.backup import BackupError
from esnode.backup.acting import acting_in, refuse_other
from esnode.backup.manifest import File, Manifest, believable, newest_first, read, taken_ms
from esnode.backup.places import Folder, Place
from esnode.backup.take import decode_rows
from esnode.store.backup import Row
from esnode.store.errors import StoreError
from esnode.store.identity import sync_folder
from esnode.store.restore import build


def verify(place: Place, tell: Callable[[str], None]) -> tuple[int, int]:
    """Read every file of every backup; return how many backups are whole and how many are not, and tell why.

    Those that a backup lets go meanwhile, since they are too old, are neither.
    """
    sizes = place.sizes()
    checked: dict[str, str | None] = {}
    told: set[str] = set()
    whole = broken = 0
    for name in newest_first(sizes):
        wrong: list[str] = []
        try:
            manifest = read(place, name)
        except (BackupError, OSError) as error:
            wrong.append(f"{error}")
        else:
            for file in manifest.files:
                if file.name not in checked:
                    checked[file.name] = _wrong(place, file, sizes)
                if (why := checked[file.name]) is not None:
                    wrong.append(f"{place}/{file.name}: {why}")
        if not wrong:
            whole += 1
        elif name in place.sizes():
            broken += 1
            for line in wrong:
                if line not in told:
                    tell(line)
            told.update(wrong)
    return whole, broken


def _wrong(place: Place, file: File, sizes: dict[str, int]) -> str | None:
    if file.name not in sizes:
        return "is not there"
    try:
        _content(place, file)
    except (BackupError, OSError) as error:
        return str(error)
    return None


def _content(place: Place, file: File) -> bytes:
    data = place.read(file.name)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise BackupError("is not what was written")
    return data


def choose(place: Place, at_ms: int | None) -> tuple[str, Manifest]:
    """The newest backup taken at or before `at_ms` (None: of all); BackupError when there is none, or it is damaged."""
    names = believable(place.sizes(), round(time.time() * 1000))
    if not names:
        raise BackupError(f"there is no whole backup in {place}")
    fitting = [name for name in names if at_ms is None or (taken_ms(name) or 0) <= at_ms]
    if not fitting:
        raise BackupError(f"no backup in {place} is so old: esnode-core backup --list {place} shows which there are")
    try:
        return fitting[0], read(place, fitting[0])
    except BackupError as error:
        raise BackupError(f"{error}; take the one before with --at and its time") from None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who restored files are to belong to; None: whoever restores them."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        if self.uid is not None and self.gid is not None and os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def restore(place: Place, manifest: Manifest, store: Path | None, config_dir: Path | None, owner: Owner) -> None:
    """Restore the store into this folder, the configuration into that one; None: not that part.

    The store is the owner's. The configuration belongs to whom its folder does, and the owner's group may read it: so a
    deployment has it, since who runs the agent must not change what it is told.

    BackupError when something is there already, when a file of the backup is damaged, when there is no room.
    """
    if store is not None:
        _refuse_existing(store)
    targets = _config_targets(manifest, config_dir) if config_dir is not None else {}
    rows = [*manifest.blocks, *manifest.head] if store is not None else []
    wanted = [*rows, *(file for file, _unused in targets.values())]
    with contextlib.ExitStack() as undo:
        near = (store or config_dir or Path()).parent
        if not isinstance(place, Folder):  # each file is brought here once
            place = _brought(place, wanted, near, undo)
        for file in wanted:
            problem = _wrong(place, file, {file.name: 0} if (place.path / file.name).exists() else {})
            if problem:
                raise BackupError(
                    f"{place}/{file.name} {problem}: nothing was restored; take the backup before with --at"
                )
        for path, (file, _unused) in targets.items():
            if path.exists() and path.read_bytes() != _content(place, file):
                raise BackupError(f"{path} exists and differs: move it away, or give another --config-dir")
        if store is not None:
            with acting_in(store.parent):
                refuse_other(store.parent, owner.uid)
                _store(place, manifest, rows, store, owner)
    for path, (file, mode) in targets.items():
        with acting_in(path.parent):
            if path.exists():
                continue
            make_folder(path.parent)
            above = os.stat(config_dir or path.parent)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
                draft.write(_content(place, file))
                if os.geteuid() == 0 and owner.gid is not None:
                    os.fchown(draft.fileno(), above.st_uid, owner.gid)
                os.fchmod(draft.fileno(), (mode | (mode & 0o400) >> 3) & 0o755)
            os.replace(draft.name, path)


def make_folder(path: Path) -> None:
    """Have this folder and those above it; in what is made here everybody gets to what is below, whatever the umask."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)


def _refuse_existing(store: Path) -> None:
    try:
        there = sorted(os.listdir(store)) if store.is_dir() else ([store.name] if store.exists() else [])
    except OSError as error:
        raise BackupError(f"can't look into {store}: {error.strerror}") from error
    if there:
        raise BackupError(
            f"{store} is there already, with {there[0]} in it: stop the agent and move it away first, such as with"
            f" mv {store} {store}.before"
        )


def _config_targets(manifest: Manifest, folder: Path) -> dict[Path, tuple[File, int]]:
    """Files of the first file's folder keep their place below it; those from elsewhere go beside."""
    targets: dict[Path, tuple[File, int]] = {}
    base = Path(manifest.config[0].path).parent if manifest.config else Path("/")
    for file in manifest.config:
        path = Path(file.path)
        inside = path.relative_to(base) if base in path.parents else Path(path.name)
        if ".." in inside.parts:
            raise BackupError(f"the backup names a file {file.path}, which is no path of a configuration")
        targets[folder / inside] = (file, file.mode & 0o777)
    return targets


def _brought(place: Place, wanted: list[File], near: Path, undo: contextlib.ExitStack) -> Folder:
    scratch = _scratch(near, undo)
    folder = Folder(scratch)
    for file in wanted:
        try:
            folder.write(file.name, place.read(file.name))
        except FileNotFoundError as error:
            raise BackupError(f"{place}/{file.name} is not there: take the backup before with --at") from error
    return folder


def _scratch(near: Path, undo: contextlib.ExitStack) -> Path:
    with acting_in(near):
        make_folder(near)
        scratch = Path(tempfile.mkdtemp(prefix=".restore-", dir=near))
    undo.callback(shutil.rmtree, scratch, ignore_errors=True)
    return scratch


def _store(place: Folder, manifest: Manifest, files: list[File], store: Path, owner: Owner) -> None:
    if not manifest.store:
        raise BackupError("this backup holds no store, the node had none then")
    some_bytes = sum(file.size for file in files)
    with contextlib.ExitStack() as undo:
        scratch = _scratch(store.parent, undo)
        room = os.statvfs(scratch)
        if room.f_bavail * room.f_frsize < some_bytes * 5 // 4 + (1 << 20):
            raise BackupError(
                f"{store.parent} has {room.f_bavail * room.f_frsize / 1e6:.0f} MB free, and the store needs"
                f" {some_bytes * 1.25e-6 + 1:.0f} MB"
            )
        draft = scratch / "store"
        keys = tuple(bytes.fromhex(key) for key in manifest.keys)
        try:
            build(draft, bytes.fromhex(manifest.store), keys, _rows(place, files), some_bytes)
        except StoreError as error:
            raise BackupError(str(error)) from error
        for path in (draft, *draft.iterdir()):
            owner.own(path)
        with contextlib.suppress(FileNotFoundError):
            store.rmdir()  # an empty one
        draft.rename(store)
        sync_folder(store.parent)


def _rows(place: Folder, files: list[File]) -> Iterator[list[Row]]:
    for file in files:
        try:
            yield decode_rows(_content(place, file))
        except msgspec.DecodeError as error:
            raise BackupError(f"{place}/{file.name} is of another version: {error}") from error
