# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real deployments on this machine, by the playbooks, with the Ansible that `make deploy` uses."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent_process import free_port as free_port
from ansible_collections.esnode.core.plugins.module_utils import host

ROOT = Path(__file__).parents[2]
AGENT = Path("ansible_collections/esnode/core/roles/esnode_agent/files/esnode/src/esnode")
# Fast to collect, and there on every machine; the whole set is deployed by the test of `make`.
HOST_ONLY = {"enable_gpu": False, "enable_gpu_events": False, "enable_power": False}


@dataclass
class Run:
    """What ansible-playbook said."""

    code: int
    output: str

    def recap(self, name: str, where: str = "localhost") -> int:
        found = re.search(rf"^{where}\s+:.*\b{name}=(\d+)", self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1])

    @property
    def changed(self) -> int:
        assert self.code == 0, self.output
        return self.recap("changed")

    @property
    def action(self) -> str:
        """What esnode_service did."""
        assert self.code == 0, self.output
        found = re.search(r'"action": "(\w+)"', self.output)
        assert found, self.output
        return found[1]


class Deployment:
    """An agent of a user of its own: everything lies below `home`."""

    def __init__(self, home: Path, ansible: Path, collections: Path) -> None:
        self.home = home
        self.prefix = home / ".local/share/esnode"
        self.config = home / ".config/esnode/esnode.toml"
        self.port = free_port()
        self.collections = collections
        self.inventory = ROOT / "inventory/local.yml"
        self._ansible = ansible
        self.variables: dict[str, Any] = {
            "esnode_agent_scope": "user",
            "esnode_agent_listen_address": f"127.0.0.1:{self.port}",
            "esnode_agent_config": {"collectors": HOST_ONLY},
            "esnode_agent_cache_dir": str(ROOT / "build/releases"),
            "esnode_tls_ca_dir": str(home / "ca"),
        }

    def run(self, *options: str, playbook: str = "deploy", cwd: Path | None = None, **variables: Any) -> Run:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")},
            "HOME": str(self.home),
            "ANSIBLE_HOME": str(self.home / ".ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
        }
        command = [str(self._ansible / "ansible-playbook"), "-v", "-i", str(self.inventory), *options]
        command += ["-e", json.dumps({**self.variables, **variables}), f"esnode.core.{playbook}"]
        done = subprocess.run(command, cwd=cwd or self.home, env=environment, capture_output=True, text=True)
        return Run(done.returncode, done.stdout + done.stderr)

    @property
    def pids(self) -> list[int]:
        return sorted(host.agents(str(self.prefix)))

    @property
    def supervisors(self) -> list[int]:
        mine = os.fsencode(self.config.with_name("supervisord.conf"))
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/status")))

    def clean(self) -> None:
        """End what still runs, whatever state a failed test has left."""
        for pid in self.supervisors + self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + 10
        while self.supervisors + self.pids and time.monotonic() < until:
            time.sleep(0.1)
        shutil.rmtree(self.home, ignore_errors=True)
