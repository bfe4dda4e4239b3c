# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection plugin of bench_scale: a host that costs the controller what a host costs, and itself nearly nothing.

All that the controller does is real: templates, the module's archive, its transfer, a process for each round trip.
Only the module does not run; a small process answers in its place, as a host would on which all is done already. What a
module copied there is remembered for all hosts, so that the next run finds it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ansible.plugins.connection import local  # type: ignore[import-not-found,import-untyped,unused-ignore]

DOCUMENTATION = """
name: simulated_host
short_description: Answers in place of a host
description: See the file.
author: The esnode authors (@esnode)
extends_documentation_fragment: connection_pipelining
"""

_ARCHIVE = re.compile(r"\S*/AnsiballZ_\w+\.py")


class Connection(local.Connection):  # type: ignore[misc]
    transport = "simulated_host"
    has_pipelining = True

    def exec_command(self, cmd: str, in_data: bytes | None = None, sudoable: bool = True) -> tuple[int, bytes, bytes]:
        found = _ARCHIVE.search(cmd)
        if in_data is None and (not found or "chmod " in cmd):
            return tuple(super().exec_command(cmd, sudoable=sudoable))
        archive = in_data if in_data is not None else Path(found[0].strip("'\"")).read_bytes() if found else b""
        answer = json.dumps(_answer(*_call(archive.decode())))
        return tuple(super().exec_command("cat", in_data=answer.encode(), sudoable=sudoable))


def _call(archive: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the module in an archive as Ansible sends it."""
    given: dict[str, str] = {}
    for line in archive[archive.rindex("_ansiballz_main(") :].splitlines():
        name, separator, value = line.strip().rstrip(",").partition("=")
        if separator and name in ("ansible_module", "params"):
            given[name] = ast.literal_eval(value)
    return given["ansible_module"].rpartition(".")[2], json.loads(given["params"])["ANSIBLE_MODULE_ARGS"]


def _answer(module: str, arguments: dict[str, Any]) -> dict[str, Any]:
    folder = Path(os.environ["SIMULATED_HOST"])
    fixed = folder / f"{module}.json"
    if fixed.exists():
        return dict(json.loads(fixed.read_text()))
    if module == "stat":
        copied = folder / _key(arguments["path"])
        there = {"isdir": False, "islnk": False, "checksum": copied.read_text()} if copied.exists() else {}
        return {"changed": False, "stat": {"exists": bool(there), **there}}
    if module == "copy":
        checksum = hashlib.sha1(Path(arguments["src"]).read_bytes()).hexdigest()
        new = folder / f".{os.getpid()}"
        new.write_text(checksum)
        new.replace(folder / _key(arguments["dest"]))
        return {"changed": True, "checksum": checksum, "dest": arguments["dest"]}
    return {"changed": False, "rc": 0, "stdout": "", "stderr": ""}


def _key(path: str) -> str:
    return "copied-" + hashlib.sha1(path.encode()).hexdigest()
