# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core status` and `metrics`: what the running agent says of itself and of the node."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from esnode.commands._agent_http import AgentHttp, add_url

if TYPE_CHECKING:
    from esnode.commands import Subparsers


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the commands of this file."""
    status = commands.add_parser("status", parents=[common], help="show the state of the running agent")
    add_url(status)
    status.add_argument("--json", action="store_true", help="print the JSON of /status")
    status.set_defaults(command=_status)

    metrics = commands.add_parser("metrics", parents=[common], help="print the metrics of the running agent")
    add_url(metrics)
    metrics.set_defaults(command=_metrics)


def _metrics(options: argparse.Namespace) -> int:
    sys.stdout.write(AgentHttp(options).get("/metrics").decode())
    return 0


def _status(options: argparse.Namespace) -> int:
    body = AgentHttp(options).get("/status")
    sys.stdout.write(body.decode() if options.json else describe(json.loads(body)))
    return 0


def describe(status: dict[str, Any]) -> str:
    """The state of an agent for a person, from the JSON of /status."""
    ready = "ready" if status["ready"] else "not ready"
    lines = [f"esnode-core {status['version']} on {status['host']}: {ready}, every {status['interval_seconds']:g} s"]
    for name, one in status["collectors"].items():
        series = f"{one['series']} series" if one["series"] else ""
        lines.append(f"  {name:<13}{one['state'].replace('_', ' '):<13}{series:<13}{'; '.join(one['errors'])}".rstrip())
    for gpu in status["gpus"]:
        lines.append(
            f"  GPU {gpu['index']} {gpu['name']} {gpu['uuid']} {gpu['state']} {gpu.get('error') or ''}".rstrip()
        )
    lines.append(_described_store(status["tsdb"]))
    if status["tls"] and status["tls"]["warning"]:
        lines.append(f"  {status['tls']['warning']}")
    if status["remote_write"]["state"] != "disabled":
        lines.append(_described_sending(status["remote_write"]))
    for key in status["config"]["restart_needed_for"]:
        lines.append(f"  {key} has changed in {status['config']['path']} and needs a restart")
    for error in status["config"]["reload_errors"]:
        lines.append(f"  last reload refused: {error}")
    return "\n".join(lines) + "\n"


def _described_store(tsdb: dict[str, Any]) -> str:
    parts = [f"  {'store':<13}{tsdb['state']:<13}"]
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


def _described_sending(remote: dict[str, Any]) -> str:
    dropped = sum(remote["samples_dropped"].values())
    parts = [f"  {'remote write':<13}{remote['state']:<13}{remote['samples_pending']} samples wait"]
    if dropped:
        parts.append(f"{dropped} dropped")
    if remote["error"]:
        parts.append(f"{remote['url']}: {remote['error']}")
    return "; ".join(parts)
