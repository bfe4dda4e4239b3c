# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core restore`: bring a store back from a backup, and the configuration if it is asked for."""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import re
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from esnode.commands import CommandError
from esnode.commands.backup import add_environment, known_keys, place_of, read_environment, shown
from esnode.config_file import ConfigError, load

if TYPE_CHECKING:
    from esnode.backup.manifest import Manifest
    from esnode.backup.places import Place
    from esnode.backup.recover import Owner
    from esnode.commands import Subparsers

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "restore",
        parents=[common],
        help="restore the store from a backup",
        description="Everything is checked before anything is written, and nothing that exists is overwritten.",
    )
    parser.add_argument("source", metavar="SOURCE", help="folder or URL of backups, or a tar of one; - for stdin")
    parser.add_argument(
        "--at",
        type=_time_ms,
        metavar="TIME",
        help="the newest backup taken by then, such as 2026-11-27T21:00:00Z (UTC) or =-2h (default: the newest)",
    )
    parser.add_argument("--store", type=Path, metavar="PATH", help="where to (default: from the configuration)")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="restore the configuration into it, too")
    parser.add_argument(
        "--user",
        help="the agent's user, who gets the store and may read the configuration (default: the owner of the folder"
        " above the store or, where that is root, whom the group of the configuration file is of)",
    )
    add_environment(parser)
    parser.set_defaults(command=_restore)


def _time_ms(text: str) -> int:
    relative = re.fullmatch(r"-(\d+)([smhd])", text)
    if relative:
        return int((time.time() - int(relative[1]) * _UNITS[relative[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{text}" is no time such as 2026-11-27T21:00:00Z or -2h') from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp() * 1000 + 999)


def _restore(options: argparse.Namespace) -> int:
    from esnode.backup import BackupError
    from esnode.backup.recover import choose, restore

    read_environment(options)
    store = options.store or _configured(options)
    began = time.monotonic()
    try:
        with contextlib.ExitStack() as undo:
            place = _source(options.source, store, undo)
            _unused, manifest = choose(place, options.at)
            owner = _owner(options, store)
            restore(place, manifest, store, options.config_dir, owner)
    except BackupError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"{error.filename or options.source}: {error.strerror or error}") from error
    size = sum(file.size for file in manifest.files) / 1e6
    print(
        f"restored {store} from the backup of {shown(manifest.taken_ms)} of {manifest.host}: {len(manifest.blocks)}"
        f" blocks, {size:.2f} MB, samples from {shown(manifest.first_ms)} to {shown(manifest.last_ms)},"
        f" in {time.monotonic() - began:.1f} s"
    )
    if owner.uid == 0 and options.user is None:
        print(
            f"esnode-core: note: {store} belongs to root now, as the folder above it: where the agent runs as another"
            " user, give it to that one with chown -R; --user NAME does so at once",
            file=sys.stderr,
        )
    _remarks(options, manifest)
    return 0


def _configured(options: argparse.Namespace) -> Path:
    try:
        return Path(load(options.config).config.tsdb.local_tsdb_path)
    except ConfigError as error:
        raise ConfigError([*error.mistakes, "say where the store is to be restored instead: --store PATH"]) from None


def _source(text: str, store: Path, undo: contextlib.ExitStack) -> Place:
    """The place to restore from; a tar is unpacked beside the store first."""
    if text != "-" and ("://" in text or not Path(text).is_file()):
        return place_of(text)
    import shutil
    import tempfile

    from esnode.backup.acting import acting_in
    from esnode.backup.recover import make_folder
    from esnode.backup.tarball import unpack

    with acting_in(store.parent):
        make_folder(store.parent)
        scratch = Path(tempfile.mkdtemp(prefix=".restore-", dir=store.parent))
    undo.callback(shutil.rmtree, scratch, ignore_errors=True)
    if text == "-":
        return unpack(sys.stdin.buffer, scratch, "stdin")
    return unpack(undo.enter_context(Path(text).open("rb")), scratch, text)


def _owner(options: argparse.Namespace, store: Path) -> Owner:
    from esnode.backup.recover import Owner

    if options.user is not None:
        try:
            user = pwd.getpwnam(options.user)
        except KeyError:
            raise CommandError(f"--user: there is no user {options.user} on this host") from None
        return Owner(user.pw_uid, user.pw_gid)
    near = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.exists())
    status = os.stat(near)
    # Above a store with a disk of its own all folders are root's.
    return (_reader(options.config) if status.st_uid == 0 else None) or Owner(status.st_uid, status.st_gid)


def _reader(config_file: Path) -> Owner | None:
    """The user that a deployment lets read the configuration, by its group; None when that does not tell."""
    from esnode.backup.recover import Owner

    try:
        gid = config_file.stat().st_gid
    except OSError:
        return None
    users = [user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid]
    return Owner(users[0], gid) if gid and len(users) == 1 else None


def _remarks(options: argparse.Namespace, manifest: Manifest) -> None:
    for note in manifest.notes:
        print(f"esnode-core: note: not in this backup: {note}", file=sys.stderr)
    if options.config_dir is not None:
        print(
            "esnode-core: note: secrets and private keys are in no backup: bring those that the configuration names",
            file=sys.stderr,
        )
    needed = {key for key in manifest.keys if key.strip("0")}
    if not needed:
        return
    config = None
    with contextlib.suppress(ConfigError):
        config = load(options.config).config
    held = {key.name.hex() for key in known_keys(config)}
    if needed <= held:
        return
    has = f"holds {' and '.join(sorted(held))}" if held else "is not at hand"
    print(
        f"esnode-core: the store is encrypted with key {' and '.join(sorted(needed))} and stays so: the agent opens it"
        f" only with that key, and the key file of {options.config} (tsdb.encryption_key_path) {has}",
        file=sys.stderr,
    )
