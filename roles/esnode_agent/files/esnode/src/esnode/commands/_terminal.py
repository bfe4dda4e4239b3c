# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The terminal that is written to: its size, whether it takes colours, and the libraries that draw on it."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import shutil
import sys
from types import ModuleType

from esnode.commands import CommandError

NARROWEST = 40


def drawing(library: str) -> ModuleType:
    """Import rich or plotext, or a module of theirs; CommandError says what to install."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        package = library.partition(".")[0]
        raise CommandError(
            f"this draws with {package}, which {sys.executable} can't import ({error}): a release of the agent has it; "
            f"elsewhere: {sys.executable} -m pip install 'esnode-core[terminal]'"
        ) from None


def is_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def colours() -> bool:
    """Whether to colour what goes to standard output: a terminal that can, and no NO_COLOR in the environment."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def size() -> tuple[int, int]:
    """Columns and lines; 80 x 24 where there is no terminal and neither COLUMNS nor LINES says otherwise."""
    columns, lines = shutil.get_terminal_size((80, 24))
    return max(columns, NARROWEST), max(lines, 10)


def take_any_text() -> None:
    """Let a terminal whose encoding lacks a character show a question mark in its place."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(io.UnsupportedOperation):
            sys.stdout.reconfigure(errors="replace")
