# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of `esnode-core`: one file a group, with `register(commands, common)`; `cli.GROUPS` lists them.

All of them are imported whenever `esnode-core` starts, `run` too: what a command needs is imported where it is used,
and nothing here may import ssl on the way in (see `tls`).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


class CommandError(Exception):
    """A command can't do what it was asked; the text says what, where and what to do. Ends with exit code 1."""

    exit_code = 1


class UsageError(CommandError):
    """The arguments make no sense."""

    exit_code = 2
