# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an export goes: standard output, or a file that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from esnode.commands import CommandError
from esnode.commands._units import scaled

_TELL_S = 0.2


@contextlib.contextmanager
def written(output: str, *, force: bool) -> Iterator[Callable[[bytes], None]]:
    """`with written(...) as write`: the file gets its name when the block ends well, else nothing is left of it."""
    progress = _Progress(hidden=output == "-" and sys.stdout.isatty())
    if output == "-":
        yield lambda block: progress.add(sys.stdout.buffer.write(block))
        sys.stdout.buffer.flush()
        progress.end("")
        return
    path = Path(output)
    _refuse(path, force=force)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        with part.open("xb") as file:
            yield lambda block: progress.add(file.write(block))
            file.flush()
            os.fsync(file.fileno())
        _refuse(path, force=force)
        part.replace(path)
    except OSError as error:
        if error.filename not in (str(part), None):
            raise
        raise CommandError(f"can't write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
        signal.signal(signal.SIGTERM, before)
        progress.end("")
    progress.end(f"{path}: {scaled(progress.bytes, 'bytes')}")


def _refuse(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise CommandError(f"{path} is a folder: name a file in it")
    if path.exists() and not force:
        raise CommandError(f"{path} exists and stays as it is: choose another name, or --force to replace it")


def _leave(number: int, _frame: FrameType | None) -> None:
    """End by way of every `finally`, so that no part of a file is left."""
    sys.exit(128 + number)


class _Progress:
    """How much is through, on standard error if that is a terminal."""

    def __init__(self, *, hidden: bool) -> None:
        self.bytes = 0
        self._shown = sys.stderr.isatty() and not hidden
        self._told = time.monotonic()

    def add(self, count: int) -> None:
        """So many bytes more."""
        self.bytes += count
        if self._shown and time.monotonic() - self._told > _TELL_S:
            self._told = time.monotonic()
            sys.stderr.write(f"\r\x1b[K{scaled(self.bytes, 'bytes')}")
            sys.stderr.flush()

    def end(self, text: str) -> None:
        """Clear the line, and say this."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if text else ""))
            sys.stderr.flush()
