# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet costs the controller: esnode-deploy.yml over hosts that are simulated and have nothing to do.

The playbook is the real one; see simulated_host.py for what is not. `make bench ONLY_BENCH=scale` takes other
numbers of hosts from ESNODE_BENCH_HOSTS=50,200. The output of each run lies in build/scale/.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from controller import ROOT, Took, ansible, copy_collection, run
from row import Row

HERE = Path(__file__).parent
LOGS = ROOT / "build/scale"
HOSTS = [int(number) for number in os.environ.get("ESNODE_BENCH_HOSTS", "50,200,1000").split(",")]
# What the settings are compared with.
COMPARED = 50
RECOMMENDED = {"ANSIBLE_FORKS": "20", "ANSIBLE_PIPELINING": "true"}
SETTINGS: dict[str, dict[str, str]] = {
    "as Ansible comes (5 forks, no pipelining)": {},
    "5 forks, pipelining": {"ANSIBLE_FORKS": "5", "ANSIBLE_PIPELINING": "true"},
    "20 forks, pipelining": RECOMMENDED,
    "50 forks, pipelining": {"ANSIBLE_FORKS": "50", "ANSIBLE_PIPELINING": "true"},
}
# prometheus.prometheus.node_exporter: tasks in its files and in those of its common role.
PEER_TASKS = 48


def rows() -> Iterator[Row]:
    LOGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        fleet = Fleet(Path(name))
        fleet.play(1, RECOMMENDED, "remember what is copied")
        for label, settings in SETTINGS.items():
            took = fleet.play(COMPARED, settings, label)
            yield Row(f"{COMPARED} hosts, nothing to do: {label}", took.wall_s, "s", "", None)
        took = fleet.play(COMPARED, RECOMMENDED, "one batch", esnode_serial="100%")
        yield Row(f"{COMPARED} hosts, nothing to do: 20 forks, pipelining, one batch", took.wall_s, "s", "", None)
        for hosts in HOSTS:
            took = fleet.play(hosts, RECOMMENDED, "the curve")
            if hosts == HOSTS[0]:
                peer = "node_exporter role"
                yield Row("tasks a host, nothing to do", took.tasks(), "tasks", peer, PEER_TASKS)
            yield Row(f"{hosts} hosts, nothing to do", took.wall_s, "s", "", None)
            yield Row(f"{hosts} hosts, CPU of the controller", took.cpu_s, "s", "", None)
            yield Row(f"{hosts} hosts, CPU for a host's task", took.cpu_s / hosts / took.tasks() * 1000, "ms", "", None)
            yield Row(f"{hosts} hosts, memory of the controller", took.memory_mb, "MB", "", None)


@dataclass
class Fleet:
    """Simulated hosts that are deployed already."""

    folder: Path
    bin: Path = field(default_factory=ansible)

    def __post_init__(self) -> None:
        copy_collection(self.folder / "collections")
        plugins = self.folder / "connection_plugins"
        plugins.mkdir()
        (plugins / "simulated_host.py").write_bytes((HERE / "simulated_host.py").read_bytes())
        self._host = self.folder / "host"
        self._host.mkdir()
        for module, answer in self._answers().items():
            (self._host / f"{module}.json").write_text(json.dumps({"changed": False, **answer}))

    def _answers(self) -> dict[str, dict[str, object]]:
        """What the collection's own modules say on a host on which all is done."""
        sys.path.insert(0, str(ROOT / "collections"))
        from ansible_collections.esnode.core.plugins.plugin_utils.bundle import Source

        python, machine = "3.11", platform.machine()
        release = Source(ROOT / "roles/esnode_agent/files").name(python, machine)
        layout = {
            "scope": "system",
            "manager": "systemd",
            "prefix": "/opt/esnode",
            "config_dir": "/etc/esnode",
            "data_dir": "/var/lib/esnode",
            "log_dir": "/var/log/esnode",
            "service_log_dir": "/var/log/esnode-core",
            "run_dir": "/run/esnode",
            "unit": "/etc/systemd/system/esnode-core.service",
            "socket": "/etc/systemd/system/esnode-core.socket",
        }
        collectors = dict.fromkeys(("cpu", "memory", "disk", "network", "gpu", "gpu_events", "power"), "ok")
        installed = {"layout": layout, "installed": [release], "current": release, "machine": machine}
        offers = {"python": "/usr/bin/python3", "python_version": python, "kernel_log": True}
        return {
            "esnode_release": {**installed, **offers, "listen_streams": ["0.0.0.0:9100"]},
            "esnode_service": {
                "action": "none",
                "reason": "the agent runs as wanted",
                "url": "http://127.0.0.1:9100",
                "listen_address": "0.0.0.0:9100",
                "manager": "systemd",
                "agent": {"version": "1.0.0", "gpus": ["NVIDIA H100 80GB HBM3"] * 8, "collectors": collectors},
                "layout": layout,
                "pruned": [],
            },
        }

    def play(self, hosts: int, settings: dict[str, str], label: str, **variables: str) -> Took:
        inventory = self.folder / f"{hosts}.yml"
        inventory.write_text(json.dumps(_inventory(hosts)))
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "HOME": str(self.folder),
            "ANSIBLE_HOME": str(self.folder / ".ansible"),
            "ANSIBLE_REMOTE_TMP": str(self.folder / ".ansible/remote"),
            "ANSIBLE_COLLECTIONS_PATH": f"{self.folder / 'collections'}",
            "ANSIBLE_CONNECTION_PLUGINS": str(self.folder / "connection_plugins"),
            "ANSIBLE_NOCOLOR": "1",
            "SIMULATED_HOST": str(self._host),
            **{name: value for name, value in os.environ.items() if name == "ANSIBLE_CALLBACKS_ENABLED"},
            **settings,
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        command = [str(self.bin / "ansible-playbook"), "-i", str(inventory), "-e", json.dumps(variables)]
        log = LOGS / f"{hosts} {label}.log".replace(" ", "-").replace("(", "").replace(")", "").replace(",", "")
        took = run([*command, "esnode.core.deploy"], environment, log)
        if took.code or len(took.recap()) < hosts:
            raise SystemExit(f"the playbook ended with {took.code}, see {log}:\n{took.output[-2000:]}")
        if hosts > 1 and took.changed():
            raise SystemExit(f"{took.changed()} tasks have changed something where nothing was to do, see {log}")
        print(
            f"   {hosts} hosts, {label}: {took.wall_s:.0f} s, {took.cpu_s:.0f} s of CPU, {took.memory_mb:.0f} MB, "
            f"{took.tasks():.1f} tasks a host",
            file=sys.stderr,
            flush=True,
        )
        return took


def _inventory(hosts: int) -> dict[str, object]:
    common = {
        "ansible_connection": "simulated_host",
        "ansible_python_interpreter": "/usr/bin/python3",
        "esnode_agent_scope": "system",
    }
    width = len(str(hosts))
    return {"all": {"vars": common, "children": {"gpu_nodes": {"hosts": {f"gpu-[{1:0{width}}:{hosts}]": {}}}}}}
