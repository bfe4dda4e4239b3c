# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command `esnode-core`: run, check-config, status, metrics, version."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esnode import __version__, history, tls
from esnode.config import Config
from esnode.config_file import ConfigError, Loaded, load

DEFAULT_CONFIG = "/etc/esnode/esnode.toml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 1 failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except ConfigError as error:
        for mistake in error.mistakes:
            print(f"esnode-core: {mistake}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="esnode-core", description="Node agent: host and GPU telemetry for Prometheus."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    # The option is understood before and after the command.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, default=Path(DEFAULT_CONFIG), help=f"default {DEFAULT_CONFIG}")

    run = commands.add_parser("run", parents=[common], help="run the agent in the foreground")
    run.add_argument("--path.procfs", dest="proc", type=Path, default=Path("/proc"), help="default /proc")
    run.add_argument("--path.sysfs", dest="sys", type=Path, default=Path("/sys"), help="default /sys")
    run.add_argument("--path.rootfs", dest="root", type=Path, default=Path("/"), help="default /")
    run.set_defaults(command=_run)

    check = commands.add_parser("check-config", parents=[common], help="check the configuration and exit")
    check.set_defaults(command=_check_config)

    for name, command, text in (
        ("status", _status, "show the state of the running agent"),
        ("metrics", _metrics, "print the metrics of the running agent"),
    ):
        sub = commands.add_parser(name, parents=[common], help=text)
        sub.add_argument(
            "--url", help="address of the agent, such as http://node:9100 (default: from the configuration)"
        )
        if name == "status":
            sub.add_argument("--json", action="store_true", help="print the JSON of /status")
        sub.set_defaults(command=command)

    version = commands.add_parser("version", parents=[common], help="print the version")
    version.set_defaults(command=lambda _options: print(f"esnode-core {__version__}") or 0)
    return parser


def _tried_out(config: Config) -> list[str]:
    """What is wrong with the files that the configuration names."""
    return [*tls.check(config.security), *history.check(config.tsdb)]


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
    for notice in loaded.notices:
        print(f"{options.config}: note: {notice}")
    print(f"{options.config}: OK")
    return 0


def _run(options: argparse.Namespace) -> int:
    loaded = _checked(options.config)
    # Only now: these import ssl, which must come after `restrict_handshake`.
    from esnode import agent
    from esnode.collect import Roots

    return agent.main(loaded, Roots(options.proc, options.sys, options.root, options.root / "dev"))


def _fetch(options: argparse.Namespace, path: str) -> bytes:
    """GET a path of the running agent; SystemExit with what to do when it does not answer."""
    import ssl
    import urllib.error
    import urllib.request

    try:
        config = load(options.config).config if options.url is None else Config()
    except ConfigError as error:
        raise ConfigError(
            [*error.mistakes, "give the agent's address instead, such as --url http://127.0.0.1:9100"]
        ) from None
    url = (options.url or _own_url(config)).rstrip("/") + path
    context = ssl.create_default_context()
    if options.url is None and config.security.enable_tls:
        # Our own agent, over loopback: trusted by its very certificate, whatever name stands in it.
        context.check_hostname = False
        context.load_verify_locations(config.security.tls_ca_path or config.security.tls_cert_path)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=10) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        sys.exit(f"esnode-core: {url} answered {error.code}: {error.read(200).decode(errors='replace').strip()}")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        sys.exit(f"esnode-core: no answer from {url}: {reason}; does the agent run (systemctl status esnode-core)?")


def _own_url(config: Config) -> str:
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.agent.host, config.agent.host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if config.security.enable_tls else 'http'}://{shown}:{config.agent.port}"


def _metrics(options: argparse.Namespace) -> int:
    sys.stdout.write(_fetch(options, "/metrics").decode())
    return 0


def _status(options: argparse.Namespace) -> int:
    body = _fetch(options, "/status")
    sys.stdout.write(body.decode() if options.json else describe(json.loads(body)))
    return 0


def describe(status: dict[str, Any]) -> str:
    """The state of an agent for a person, from the JSON of /status."""
    ready = "ready" if status["ready"] else "not ready"
    lines = [f"esnode-core {status['version']} on {status['host']}: {ready}, every {status['interval_seconds']:g} s"]
    for name, one in status["collectors"].items():
        series = f"{one['series']} series" if one["series"] else ""
        lines.append(f"  {name:<14}{one['state'].replace('_', ' '):<13}{series:<13}{'; '.join(one['errors'])}".rstrip())
    for gpu in status["gpus"]:
        lines.append(
            f"  GPU {gpu['index']} {gpu['name']} {gpu['uuid']} {gpu['state']} {gpu.get('error') or ''}".rstrip()
        )
    lines.append(_described_store(status["tsdb"]))
    for key in status["config"]["restart_needed_for"]:
        lines.append(f"  {key} has changed in {status['config']['path']} and needs a restart")
    for error in status["config"]["reload_errors"]:
        lines.append(f"  last reload refused: {error}")
    return "\n".join(lines) + "\n"


def _described_store(tsdb: dict[str, Any]) -> str:
    parts = [f"  {'store':<14}{tsdb['state']:<13}"]
    if tsdb["error"]:
        parts.append(tsdb["error"])
    elif tsdb.get("oldest") is not None:
        hours = (tsdb["newest"] - tsdb["oldest"]) / 3600
        parts.append(f"{hours:.1f} of {tsdb['retention_hours']} h in {tsdb['bytes'] / 1e6:.1f} MB")
    if tsdb.get("damaged"):
        parts.append("damaged: " + ", ".join(f"{count} {kind}" for kind, count in tsdb["damaged"].items()))
    if tsdb["samples_lost"]:
        parts.append(f"{tsdb['samples_lost']} samples lost")
    return " ".join(parts).rstrip()


if __name__ == "__main__":
    sys.exit(main())
