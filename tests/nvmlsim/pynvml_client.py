# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The process behind conftest's Client: evaluates what comes in on its standard input with pynvml at hand."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
import time
import traceback
from typing import Any

import pynvml as n  # type: ignore[import-untyped]


def plain(x: Any) -> Any:
    """What pynvml returned, as JSON can say it."""
    if isinstance(x, ctypes._SimpleCData):
        return plain(x.value)
    if isinstance(x, bytes):
        return x.decode()
    if isinstance(x, (list, tuple, ctypes.Array)):
        return [plain(y) for y in x]
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, ctypes.Structure):
        return {f[0]: plain(getattr(x, f[0])) for f in x._fields_ if not hasattr(f[1], "contents")}
    if type(x).__name__ == "nvmlFriendlyObject":
        return {k: plain(v) for k, v in vars(x).items()}
    return x if isinstance(x, (int, float, str, type(None))) else repr(x)


def h(index: int = 0) -> Any:
    """The handle of a GPU."""
    return n.nvmlDeviceGetHandleByIndex(index)


def fields(wanted: list[Any], index: int = 0) -> list[tuple[int, Any]]:
    """Field values, each with its own return code."""
    member = {0: "dVal", 1: "uiVal", 3: "ullVal", 5: "siVal"}
    return [
        (f.nvmlReturn, None if f.nvmlReturn else getattr(f.value, member[f.valueType]))
        for f in n.nvmlDeviceGetFieldValues(h(index), wanted)
    ]


def call(function: str, *args: Any) -> int:
    """Call an NVML function by its symbol and return its code, for those that pynvml wraps without looking at it."""
    return int(n._nvmlGetFunctionPointer(function)(*args))


def main() -> None:
    names = {"n": n, "ctypes": ctypes, "h": h, "fields": fields, "call": call, "time": time, "threading": threading}
    for line in sys.stdin:
        reply: dict[str, Any]
        try:
            code = json.loads(line)
            try:
                reply = {"value": plain(eval(compile(code, "client", "eval"), names))}
            except SyntaxError:
                exec(code, names)
                reply = {"value": None}
        except n.NVMLError as e:
            reply = {"nvml": e.value}
        except BaseException:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
