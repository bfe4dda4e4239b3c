# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `esnode-core`: its arguments and what runs for them. The commands themselves are in `commands/`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from esnode import __version__
from esnode.commands import CommandError, backup, history, restore, run, status, top
from esnode.config_file import ConfigError

GROUPS = (run, status, history, top, backup, restore)
"""Each adds its commands, in this order."""

DEFAULT_CONFIG = "/etc/esnode/esnode.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed, 2 wrong usage."""
    options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        code = int(options.command(options))
        sys.stdout.flush()  # here, where a pipe that broke is known
        return code
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"esnode-core: {mistake}", file=sys.stderr)
        return 1
    except CommandError as error:
        for line in str(error).splitlines():
            print(f"esnode-core: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with `--from -1h` as `--from=-1h`, since argparse would take -1h for an option."""
    joined: list[str] = []
    for one in arguments:
        if joined and joined[-1] in ("--from", "--to") and one.startswith("-") and not one.startswith("--"):
            joined[-1] += f"={one}"
        else:
            joined.append(one)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="esnode-core", description="Node agent: host and GPU telemetry for Prometheus."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # The option is understood before and after the command.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=Path(DEFAULT_CONFIG), help=f"default {DEFAULT_CONFIG}")

    for group in GROUPS:
        group.register(commands, common)
    version = commands.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(command=lambda _options: print(f"esnode-core {__version__}") or 0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
