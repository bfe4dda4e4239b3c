# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small file systems that are really mounted, for what happens when a disk is full or has become read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest


def not_tried(why: str) -> NoReturn:
    """Skip, where it can't be overlooked."""
    why = f"NOT TRIED: a disk that is full or read-only; {why}"
    warnings.warn(why, stacklevel=2)
    pytest.skip(why)


@contextlib.contextmanager
def mounted(point: Path, *what: str | Path) -> Iterator[Path]:
    """Mount `what` for the length of a with block, in which it may be unmounted and mounted again. It takes root."""
    if os.geteuid() != 0:
        not_tried("it takes root to mount")
    point.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *what, point], capture_output=True, text=True, check=False)
    if done.returncode:
        not_tried(f"can't mount: {done.stderr.strip()}")
    try:
        yield point
    finally:
        while point.is_mount():
            subprocess.run(["umount", "--lazy", point], check=True)


def tmpfs(point: Path, size: str) -> contextlib.AbstractContextManager[Path]:
    """Mount an empty file system in memory, of a size such as 4m."""
    return mounted(point, "-t", "tmpfs", "-o", f"size={size}", "none")


def ext4_image(path: Path, size: int) -> Path:
    """Make a file of so many bytes with an ext4 in it; `mounted` takes it with `-o loop`."""
    with path.open("wb") as file:
        file.truncate(size)
    try:
        subprocess.run(["mkfs.ext4", "-q", path], check=True)
    except FileNotFoundError:
        not_tried("there is no mkfs.ext4")
    return path


def fill_up(point: Path) -> Path:
    """Fill the disk to the last byte; deleting the file that is returned gives room again."""
    ballast = point / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
    return ballast
