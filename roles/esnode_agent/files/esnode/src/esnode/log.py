# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log: one line an event on standard error, as JSON or as text, with no secret in it."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any

from esnode.config import Agent

# What a LogRecord has of its own; everything beyond came in by `extra=` and is shown as a field.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Redacting(logging.Formatter):
    """Replaces the known secrets wherever they turn up, also inside a traceback."""

    secrets: frozenset[str] = frozenset()

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record, {k: v for k, v in vars(record).items() if k not in _OWN})
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        raise NotImplementedError


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class JsonFormatter(_Redacting):
    """{"timestamp", "level", "logger", "message", fields..., "exception"}: one JSON object a line."""

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        entry: dict[str, Any] = {
            "timestamp": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **fields,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(_Redacting):
    """TIMESTAMP LEVEL logger: message key=value ..."""

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        tail = "".join(f" {k}={v}" for k, v in fields.items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}{tail}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(agent: Agent, secrets: frozenset[str] = frozenset()) -> None:
    """Log to standard error as [agent] says; may be called again after a reload."""
    formatter: _Redacting = JsonFormatter() if agent.log_format == "json" else TextFormatter()
    formatter.secrets = frozenset(s for s in secrets if s)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(agent.log_level.upper())
    # One line a request at info would be most of the log of a scraped agent.
    logging.getLogger("aiohttp").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
