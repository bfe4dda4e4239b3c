# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core run` and `check-config`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from esnode import tls
from esnode.certificate import Served
from esnode.config import Config
from esnode.config_file import ConfigError, Loaded, load
from esnode.deliver import receiver

if TYPE_CHECKING:
    from esnode.commands import Subparsers


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the commands of this file."""
    run = commands.add_parser("run", parents=[common], help="run the agent in the foreground")
    run.add_argument("--path.procfs", dest="proc", type=Path, default=Path("/proc"), help="default /proc")
    run.add_argument("--path.sysfs", dest="sys", type=Path, default=Path("/sys"), help="default /sys")
    run.add_argument("--path.rootfs", dest="root", type=Path, default=Path("/"), help="default /")
    run.set_defaults(command=_run)

    check = commands.add_parser("check-config", parents=[common], help="check the configuration and exit")
    check.set_defaults(command=_check_config)


def _tried_out(config: Config) -> list[str]:
    """What is wrong with the files that the configuration names."""
    from esnode import history  # it uses OpenSSL, which has to know its suites before

    return [*tls.check(config.security), *history.check(config.tsdb), *receiver.check(config.remote_write)]


def _checked(path: Path) -> Loaded:
    """The configuration, with its certificates tried out and OpenSSL restricted as it says."""
    try:
        loaded = load(path)
    except ConfigError as error:
        further = _tried_out(error.config) if error.config else []
        raise ConfigError([*error.mistakes, *(f"{path}: {m}" for m in further)]) from None
    tls.restrict_handshake(loaded.config.security)
    mistakes = _tried_out(loaded.config)
    if mistakes:
        raise ConfigError([f"{path}: {m}" for m in mistakes])
    return loaded


def _check_config(options: argparse.Namespace) -> int:
    loaded = _checked(options.config)
    from esnode import history

    # Not at a start: an agent whose store does not open still serves its metrics.
    if mistakes := history.misfits(loaded.config.tsdb):
        raise ConfigError([f"{options.config}: {m}" for m in mistakes])
    security = loaded.config.security
    served = Served(tls.server_context(security), str(security.tls_cert_path)) if security.enable_tls else None
    for notice in (*loaded.notices, *filter(None, [served and served.warning()])):
        print(f"{options.config}: note: {notice}")
    print(f"{options.config}: OK")
    return 0


def _run(options: argparse.Namespace) -> int:
    loaded = _checked(options.config)
    # Only now: these import ssl, which must come after `restrict_handshake`.
    from esnode import agent
    from esnode.collect import Roots

    return agent.main(loaded, Roots(options.proc, options.sys, options.root, options.root / "dev"))
