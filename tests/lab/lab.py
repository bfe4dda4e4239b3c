# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throw-away systemd hosts that Ansible reaches by ssh, for tests and trials; docs/lab.md tells more.

with lab.Lab("units", [lab.Spec("node1"), lab.Spec("node2", "trixie", gpus="h100:8")]) as one:
    assert one.playbook("esnode-deploy.yml").code == 0
    one["node2"].run(["systemctl", "is-active", "esnode-core"])
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import lab_slot
import nvmlsim
from lab_host import Host, Spec, ip, make_namespace
from lab_playbook import Run, run_playbook
from lab_rootfs import RELEASES, rootfs

__all__ = ["Host", "Lab", "Run", "Spec", "unavailable"]

ROOT = Path(__file__).parents[2]
PROXY = Path(__file__).with_name("ssh_proxy.py")
NEEDED = {  # a command and the Debian package that brings it
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "ssh": "openssh-client",
    "cc": "gcc",
    "make": "make",
}


@functools.cache
def unavailable() -> str | None:
    """Why no host can be booted here, with what to do; None when they can."""
    if os.geteuid():
        return "hosts are booted by root alone: run it as root"
    if missing := sorted(package for command, package in NEEDED.items() if not shutil.which(command)):
        return f"these Debian packages are missing: apt-get install {' '.join(missing)}"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlayfs (/proc/filesystems): modprobe overlay"
    if not lab_slot.hierarchies():
        return f"there are no cgroups below {lab_slot.CGROUPS}"
    # What a container without the capability is refused.
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True)
    if tried.returncode:
        return f"no namespaces can be made here, as in a container that may not: {tried.stderr.strip()}"
    return None


class Lab:
    """Hosts on a bridge in a network namespace. `name` is for people: labs of one name run side by side.

    It is taken down at the end of the `with`; one that `stays` is not, and belongs to whom the text names.
    """

    def __init__(self, name: str, specs: Iterable[Spec], *, stays: str = "") -> None:
        self.name = name
        self.specs = list(specs)
        self.collections = ROOT / "collections"  # another one deploys from a changed copy
        self._stays = stays
        self._hosts: dict[str, Host] = {}
        self._old_handler: Any = None
        names = [spec.name for spec in self.specs]
        if not names:
            raise ValueError("a lab with no host")
        if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name)]:
            raise ValueError(f"names of hosts have small letters, digits and hyphens: {wrong}")
        if len(set(names)) != len(names):
            raise ValueError(f"two hosts have one name: {names}")
        if unknown := {spec.release for spec in self.specs} - set(RELEASES):
            raise ValueError(f"there is no recipe for {unknown}, only for {RELEASES}")

    def __enter__(self) -> Lab:
        if reason := unavailable():
            raise RuntimeError(reason)
        self._handle_sigterm()
        try:
            # What is built once is there before anything is booted.
            with ThreadPoolExecutor() as pool:
                list(pool.map(rootfs, sorted({spec.release for spec in self.specs})))
            if any(spec.gpus for spec in self.specs):
                nvmlsim.build()
            description = {"name": self.name, "stays": self._stays, "hosts": [asdict(spec) for spec in self.specs]}
            self.slot = lab_slot.claim(description)
            try:
                self._boot()
            except BaseException:
                self.slot.release()
                raise
        except BaseException:
            self._forget_sigterm()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._stays or error:
                self.slot.release()
        finally:
            self._forget_sigterm()

    def _handle_sigterm(self) -> None:
        """Have SIGTERM do what Ctrl-C does, so that the hosts are taken down."""

        def interrupt(_number: int, _frame: FrameType | None) -> None:
            raise KeyboardInterrupt("SIGTERM")

        default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        if default and threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, interrupt)

    def _forget_sigterm(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    def _boot(self) -> None:
        path = self.slot.path
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", path / "key"], check=True)
        (path / "cp").mkdir()
        network = path / "net"
        make_namespace(network)
        ip(
            network,
            "link set lo up",
            "link add lab type bridge",
            f"addr add {self.slot.address(1)}/24 dev lab",
            "link set lab up",
        )
        hosts = self._know_hosts()
        key = (path / "key.pub").read_text()
        etc_hosts = "".join(
            f"{a} {n}\n" for a, n in [("127.0.0.1", "localhost"), *((h.address, h.name) for h in hosts)]
        )
        for host in hosts:
            host.create(key, etc_hosts)
            host.launch()
        with ThreadPoolExecutor(len(hosts)) as pool:
            list(pool.map(Host.wait_clean, hosts))
        self.inventory.write_text(self._inventory())

    def _know_hosts(self) -> list[Host]:
        hosts = [Host(self.slot, spec, number, self.slot.path / "net") for number, spec in enumerate(self.specs, 1)]
        self._hosts = {host.name: host for host in hosts}
        return hosts

    @classmethod
    def of(cls, slot: lab_slot.Slot) -> Lab:
        """One that stays, as it was booted by another process."""
        found = slot.description
        lab = cls(found["name"], [Spec(**host) for host in found["hosts"]], stays=found["stays"])
        lab.slot = slot
        lab._know_hosts()
        return lab

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    @property
    def inventory(self) -> Path:
        """Its hosts are reached from everywhere on this machine: ssh finds its own way into the namespace."""
        return self.slot.path / "hosts.yml"

    @property
    def controller(self) -> list[str]:
        """Before a command: it runs where the hosts' addresses are reached, and nothing else is."""
        return ["nsenter", f"--net={self.slot.path / 'net'}"]

    def ssh_options(self) -> list[str]:
        proxy = [*self.controller, sys.executable, str(PROXY)]
        options = {
            # Who else reads the inventory, testinfra for one, shares Ansible's connections; they end with the lab.
            "ControlMaster": "auto",
            "ControlPersist": "60s",
            "ControlPath": f"{self.slot.path}/cp/%r-%h",
            "ProxyCommand": f"{shlex.join(proxy)} %h %p",
            "ProxyUseFdpass": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            # A host that was cut off is given up after some ten seconds.
            "ServerAliveInterval": "2",
            "ServerAliveCountMax": "3",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _inventory(self) -> str:
        def group(name: str, belongs: Callable[[Spec], bool]) -> dict[str, Any]:
            return {name: {"hosts": {spec.name: {} for spec in self.specs if belongs(spec)}}}

        variables = {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_private_key_file": str(self.slot.path / "key"),
            "ansible_ssh_pipelining": True,
            "ansible_ssh_args": "",
            "ansible_ssh_common_args": shlex.join(self.ssh_options()),
        }
        inventory = {
            "lab": {"hosts": {host.name: {"ansible_host": host.address} for host in self}, "vars": variables},
            **group("bookworm", lambda spec: spec.release == "bookworm"),
            **group("trixie", lambda spec: spec.release == "trixie"),
            **group("gpu_nodes", lambda spec: bool(spec.gpus)),
            **group("cpu_nodes", lambda spec: not spec.gpus),
        }
        return "\n".join(yaml(inventory, 0)) + "\n"

    def playbook(self, playbook: str, *options: str, **variables: Any) -> Run:
        """Run one of the collection's playbooks; `self.collections` tells whose."""
        return self.playbook_of(self.collections, playbook, variables, options)

    def playbook_of(
        self,
        collections: Path,
        playbook: str,
        variables: Mapping[str, Any],
        options: Sequence[str] = (),
        started: Callable[[subprocess.Popen[str]], None] = lambda _process: None,
    ) -> Run:
        """The same out of other `collections`; `started` is given the process, for who wants to end it."""
        mine = {"esnode_agent_cache_dir": str(ROOT / "build/releases"), "esnode_tls_ca_dir": str(self.slot.path / "ca")}
        return run_playbook(
            collections,
            playbook,
            self.inventory,
            {**mine, **variables},
            options,
            home=self.slot.path / "ansible",
            started=started,
        )


def yaml(tree: dict[str, Any], depth: int) -> Iterator[str]:
    """As much YAML as an inventory needs: this runs without any package, too."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{'  ' * depth}{name}:"
            yield from yaml(value, depth + 1)
        else:
            yield f"{'  ' * depth}{name}: {json.dumps(value)}"
