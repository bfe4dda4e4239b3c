# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The log: one line an event, readable by machine or man, without secrets."""

from __future__ import annotations

import json
import logging

from esnode.log import JsonFormatter, TextFormatter


def record(message: str, **fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "esnode.x", "levelname": "WARNING", "levelno": 30, "msg": message, "created": 0.0, **fields}
    )


def test_json_is_one_line_with_its_fields() -> None:
    line = JsonFormatter().format(record('two\nlines and "quotes"', gpu="GPU-1", xid=79))
    assert "\n" not in line
    assert json.loads(line) == {
        "timestamp": "1970-01-01T00:00:00.000Z",
        "level": "WARNING",
        "logger": "esnode.x",
        "message": 'two\nlines and "quotes"',
        "gpu": "GPU-1",
        "xid": 79,
    }


def test_text_shows_the_fields_too() -> None:
    assert (
        TextFormatter().format(record("lost", gpu="GPU-1"))
        == "1970-01-01T00:00:00.000Z WARNING esnode.x: lost gpu=GPU-1"
    )


def test_a_secret_is_nowhere_in_a_line_not_even_in_a_traceback() -> None:
    formatter = JsonFormatter()
    formatter.secrets = frozenset({"hunter2"})
    try:
        raise ValueError("bad token hunter2")
    except ValueError as error:
        caught = (ValueError, error, error.__traceback__)
    line = formatter.format(record("got hunter2", exc_info=caught, header="Bearer hunter2"))
    assert "hunter2" not in line
    assert "ValueError" in json.loads(line)["exception"]
