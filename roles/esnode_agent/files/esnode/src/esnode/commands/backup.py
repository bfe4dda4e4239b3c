# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core backup`: take, list and verify backups."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from esnode.commands import CommandError
from esnode.config import Config
from esnode.config_file import ConfigError, load

if TYPE_CHECKING:
    from esnode.backup.places import Folder, Place
    from esnode.backup.take import Taken
    from esnode.commands import Subparsers
    from esnode.store.keys import Key

DAMAGED = 3
"""The exit code of a backup that is complete, but of a store with damaged parts."""


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "backup",
        parents=[common],
        help="back the store and the configuration up, or list or verify backups",
        description="Bring into DIR what it lacks of the running node's store and configuration. Exit code 3: done, "
        "but parts of the store are damaged.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "target", nargs="?", metavar="DIR", help="folder of this host's backups; - writes a tar to stdout"
    )
    what.add_argument("--list", metavar="SOURCE", help="list the backups in a folder or at a URL")
    what.add_argument("--verify", metavar="SOURCE", help="read every backup in a folder or at a URL and check it")
    parser.add_argument("--store", type=Path, metavar="PATH", help="the store (default: from the configuration)")
    parser.add_argument(
        "--retention-days", type=_days, default=90.0, metavar="N", help="older backups are deleted (default 90)"
    )
    parser.add_argument(
        "--upload", metavar="URL", help="then bring DIR to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///PATH"
    )
    parser.add_argument(
        "--state-file",
        type=Path,
        metavar="FILE",
        help="note there how it went; the agent makes metrics of /var/lib/esnode-backup/state.json",
    )
    add_environment(parser)
    parser.set_defaults(command=_backup)


def add_environment(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a file with credentials."""
    parser.add_argument(
        "--environment-file", type=Path, metavar="FILE", help="NAME=VALUE lines, such as AWS_ACCESS_KEY_ID of a bucket"
    )


def read_environment(options: argparse.Namespace) -> None:
    """Bring the lines of the file into the environment, where a name is not set yet."""
    import os

    if options.environment_file is None:
        return
    try:
        lines = options.environment_file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{options.environment_file}: {getattr(error, 'strerror', None) or error}") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(("#", ";")):
            name, equals, value = text.partition("=")
            if not equals or not name.isidentifier():
                raise CommandError(f"{options.environment_file}, line {number}: not NAME=VALUE")
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            os.environ.setdefault(name, value[1:-1] if quoted else value)


def place_of(text: str) -> Place:
    """The folder or bucket that a command line names."""
    from esnode.backup import bucket
    from esnode.backup.places import Folder

    return bucket.at(text) if bucket.is_url(text) else Folder(Path(text))


def known_keys(config: Config | None) -> list[Key]:
    """The keys that the configuration names, none when they can't be read: a backup needs them for checking only."""
    from esnode.store.errors import StoreError
    from esnode.store.keys import read_keys

    if config is None or config.tsdb.encryption_key_path is None:
        return []
    try:
        return read_keys(Path(config.tsdb.encryption_key_path))
    except StoreError as error:
        print(f"esnode-core: note: the store's blobs are not checked: {error}", file=sys.stderr)
        return []


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0.0
    if not 1 <= days <= 36500:
        raise argparse.ArgumentTypeError(f'"{text}" is not a number of days from 1 up')
    return days


def shown(time_ms: int | None) -> str:
    """A time for a person, in UTC."""
    if time_ms is None:
        return "-"
    return datetime.fromtimestamp(time_ms / 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _backup(options: argparse.Namespace) -> int:
    from esnode.backup import BackupError
    from esnode.store.errors import StoreError

    read_environment(options)
    try:
        if options.list is not None:
            return _list(place_of(options.list))
        if options.verify is not None:
            return _verify(place_of(options.verify))
        taken = _take(options) if options.state_file is None else _take_noted(options)
        return DAMAGED if taken.manifest.damaged else 0
    except (BackupError, StoreError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(_trouble(options.list or options.verify or options.target, error)) from error


def _trouble(where: str, error: OSError) -> str:
    import errno

    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{where}: {reason}: this backup was not made; older ones are as they were. Make room, or keep fewer days"
        )
    return f"{error.filename or where}: {reason}"


def _take_noted(options: argparse.Namespace) -> Taken:
    """Take one, and note for the agent how that went, also when a service manager ends it."""
    import signal

    from esnode.backup import BackupError, state

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        taken = _take(options)
    except BaseException:
        try:
            state.failed(options.state_file, time.time())
        except OSError as error:
            print(f"esnode-core: can't write {options.state_file}: {error.strerror}", file=sys.stderr)
        raise
    size = sum(file.size for file in taken.manifest.files)
    try:
        state.write(options.state_file, state.State(time.time(), True, taken.manifest.taken_ms / 1000, size))
    except OSError as error:
        raise BackupError(f"the backup is complete, but can't write {options.state_file}: {error.strerror}") from error
    return taken


def _take(options: argparse.Namespace) -> Taken:
    from esnode.backup import configuration
    from esnode.backup.places import Folder
    from esnode.backup.take import take
    from esnode.backup.tarball import TarWriter
    from esnode.store.backup import Source

    if options.target != "-" and "://" in options.target:
        raise CommandError(f"a backup is made in a folder and brought to a bucket then: DIR --upload {options.target}")
    config, notes = _configuration(options)
    store = _store_path(options, config)
    kept, further = configuration.collect(options.config, config)
    notes = [*notes, *further]
    source = Source(store, known_keys(config)) if store else None
    now_ms = int(time.time() * 1000)
    try:
        if options.target != "-":
            folder = Folder(Path(options.target))
            with folder.locked():
                taken = take(folder, source, kept, notes, now_ms)
                _tell(taken, f"{folder}", sys.stdout)
                _housekeeping(folder, taken, options, now_ms)
        else:
            if options.upload:
                raise CommandError("--upload brings a folder somewhere else: name one in the place of -")
            if sys.stdout.isatty():
                raise CommandError("the tar of a backup is not for a terminal: write > FILE or | COMMAND behind it")
            with closing(TarWriter(sys.stdout.buffer)) as tar:
                taken = take(tar, source, kept, notes, now_ms)
            sys.stdout.buffer.flush()
            _tell(taken, "the tar", sys.stderr)
    finally:
        if source:
            source.close()
    return taken


def _configuration(options: argparse.Namespace) -> tuple[Config | None, list[str]]:
    try:
        return load(options.config).config, []
    except ConfigError as error:
        if error.config is None and options.store is None:
            raise ConfigError([*error.mistakes, "name the store, to back it up all the same: --store PATH"]) from None
        return error.config, [f"the configuration has mistakes: {error.mistakes[0]}"]


def _store_path(options: argparse.Namespace, config: Config | None) -> Path | None:
    if options.store is not None:
        return Path(options.store)
    if config is None or not config.tsdb.enable_local_tsdb:
        return None
    return Path(config.tsdb.local_tsdb_path)


def _tell(taken: Taken, where: str, stream: object) -> None:
    manifest = taken.manifest
    total = sum(file.size for file in manifest.files)
    parts = [f"{taken.files} files, {taken.size / 1e6:.2f} MB written", f"{len(manifest.blocks)} blocks"]
    parts.append(f"{total / 1e6:.2f} MB in all")
    if manifest.last_ms is not None:
        parts.append(f"samples from {shown(manifest.first_ms)} to {shown(manifest.last_ms)}")
    print(f"backup of {shown(manifest.taken_ms)} in {where}: {', '.join(parts)}", file=stream, flush=True)  # type: ignore[call-overload]
    for note in manifest.notes:
        print(f"esnode-core: note: {note}", file=sys.stderr)
    if manifest.damaged:
        print(
            f"esnode-core: {manifest.damaged} parts of the store are damaged; everything else is in the backup",
            file=sys.stderr,
        )


def _housekeeping(folder: Folder, taken: Taken, options: argparse.Namespace, now_ms: int) -> None:
    """Delete what need not stay, bring the folder to the second place, and there, too."""
    from esnode.backup import BackupError
    from esnode.backup.keep import prune
    from esnode.backup.manifest import Manifest
    from esnode.backup.take import mirror

    known: dict[str, Manifest] = {taken.name: taken.manifest}
    prune(folder, now_ms, options.retention_days, known)
    if not options.upload:
        return
    target = place_of(options.upload)
    try:
        brought = mirror(folder, target, now_ms, options.retention_days)
        prune(target, now_ms, options.retention_days, known)
    except (OSError, BackupError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BackupError(
            f"the backup is complete in {folder} but not in {target}: {reason}; the next one brings what is missing"
        ) from error
    print(f"brought to {target}: {brought.files} files, {brought.size / 1e6:.2f} MB", flush=True)
    if brought.damaged:
        for sentence in brought.damaged:
            print(f"esnode-core: {sentence}", file=sys.stderr)
        raise BackupError(
            f"{target} lacks the backups of {folder} that need what is damaged, see above; all others are there"
        )


def _list(place: Place) -> int:
    from esnode.backup import BackupError
    from esnode.backup.manifest import missing, newest_first, read

    count = 0
    sizes = place.sizes()
    names = newest_first(sizes)
    if not names:
        raise CommandError(f"there is no backup in {place}")
    print(f"{'TAKEN':<22}{'SAMPLES FROM':<22}{'TO':<22}{'BLOCKS':>6}{'MB':>10}  HOST")
    newest: int | None = None
    for name in reversed(names):
        try:
            one = read(place, name)
        except (BackupError, FileNotFoundError) as error:
            if name in place.sizes():  # else a backup that runs has let it go, since it is too old
                count += 1
                print(error)
            continue
        count += 1
        remarks = [one.host, "encrypted"] if one.encrypted else [one.host]
        lost = missing(one, sizes)
        if lost:
            remarks.append(f"NOT WHOLE: {len(lost)} files are missing, such as {lost[0]}")
        else:
            newest = one.taken_ms
        if one.damaged:
            remarks.append(f"{one.damaged} parts of the store were damaged")
        size = sum(file.size for file in one.files) / 1e6
        span = f"{shown(one.first_ms):<22}{shown(one.last_ms):<22}"
        print(f"{shown(one.taken_ms):<22}{span}{len(one.blocks):>6}{size:>10.2f}  {', '.join(remarks)}")
    if not count:
        raise CommandError(f"the backups in {place} have changed meanwhile: try again")
    if newest is None:
        raise CommandError(f"no backup in {place} is whole")
    age_min = max(0.0, time.time() - newest / 1000) / 60
    print(f"{count} backups, {sum(sizes.values()) / 1e6:.2f} MB; the newest is {age_min:.0f} min old")
    return 0


def _verify(place: Place) -> int:
    from esnode.backup.manifest import newest_first
    from esnode.backup.recover import verify

    whole, broken = verify(place, lambda line: print(line, flush=True))
    if not whole + broken:
        changed = newest_first(place.sizes())
        raise CommandError(
            f"the backups in {place} have changed meanwhile: try again" if changed else f"there is no backup in {place}"
        )
    if broken:
        raise CommandError(
            f"{broken} of {whole + broken} backups in {place} are damaged. Delete the files named above: the next"
            " backup makes those anew that the store still holds"
        )
    print(f"{whole} backups in {place}, every file as it was written")
    return 0
