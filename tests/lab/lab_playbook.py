# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a playbook of the collection with the Ansible that `make deploy` uses."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass
class Run:
    """What ansible-playbook said."""

    code: int
    output: str

    def recap(self, name: str, host: str) -> int:
        """A number of the recap: ok, changed, unreachable, failed, skipped, rescued or ignored."""
        found = re.search(rf"^{re.escape(host)}\s+:.*\b{name}=(\d+)", self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1])

    @property
    def hosts(self) -> list[str]:
        """Those that the recap names."""
        return re.findall(r"^(\S+)\s+: ok=\d+", self.output, re.MULTILINE)

    @property
    def changed(self) -> int:
        """On all hosts."""
        assert self.code == 0, self.output
        return sum(self.recap("changed", host) for host in self.hosts)


@functools.cache
def ansible() -> Path:
    """The bin folder of the environment of `make deploy`."""
    made = subprocess.run(
        ["tools/py", "tools/env.py", "deploy"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(made.stdout.strip()) / "bin"


def run_playbook(
    collections: Path,
    playbook: str,
    inventory: Path,
    variables: Mapping[str, Any],
    options: Sequence[str],
    *,
    home: Path,
    started: Callable[[subprocess.Popen[str]], None] = lambda _process: None,
) -> Run:
    """`started` is given the process once it runs, for who wants to end it."""
    # Compiled modules are kept: PYTHONDONTWRITEBYTECODE would make each run of Ansible take twice as long.
    dropped = ("ANSIBLE_", "PYTHONDONTWRITEBYTECODE")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(dropped)},
        "ANSIBLE_HOME": str(home),
        "ANSIBLE_COLLECTIONS_PATH": str(collections),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [str(ansible() / "ansible-playbook"), "-v", "-i", str(inventory), "-e", json.dumps(variables), *options]
    command.append(str(collections / "ansible_collections/esnode/core/playbooks" / playbook))
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=inventory.parent, env=environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        started(process)
        out, errors = process.communicate()
    return Run(process.returncode, out + errors)
