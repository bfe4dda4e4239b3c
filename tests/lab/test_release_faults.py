# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments of a real systemd host that can't go well, or that meet another one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import pytest


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("faults", [lab.Spec("node1")]) as booted:
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["node1"]


Deploy = Callable[..., lab.Run]


def version(host: lab.Host) -> str:
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/status', timeout=10).read().decode())"
    return str(json.loads(host.run(["python3", "-c", asked]).stdout)["version"])


def test_a_host_without_a_suitable_python_is_refused(host: lab.Host, good: Path, deploy: Deploy) -> None:
    host.run(["mv", "/usr/bin/python3.11", "/root/python-of-ansible"])
    try:
        run = deploy(good, ansible_python_interpreter="/root/python-of-ansible")
    finally:
        host.run(["mv", "/root/python-of-ansible", "/usr/bin/python3.11"])
    assert run.code != 0 and "no Python for the agent: it needs 3.10 to 3.13" in run.output
    assert not (host.root / "opt/esnode").exists() and not (host.root / "etc/esnode").exists()


def test_a_first_installation_that_fails_is_stopped(host: lab.Host, good: Path, deploy: Deploy) -> None:
    run = deploy(good, esnode_agent_memory_max="6M", esnode_agent_health_timeout=5)
    assert run.code != 0 and "No release was healthy on this host before, so the agent was stopped." in run.output
    for unit in ("esnode-core.service", "esnode-core.socket"):
        assert host.run(["systemctl", "is-active", unit], check=False).stdout.strip() in ("inactive", "failed")
        assert host.run(["systemctl", "is-enabled", unit], check=False).stdout.strip() == "disabled"
    assert deploy(good).changed > 0
    assert version(host) == "1.0.0"


def test_two_controllers_at_once_leave_one_release(
    host: lab.Host, one: lab.Lab, good: Path, better: Path, deploy: Deploy
) -> None:
    first = host.run(["readlink", "/opt/esnode/current"]).stdout
    one.collections = better
    runs: list[lab.Run] = []
    both = [threading.Thread(target=lambda: runs.append(one.playbook("esnode-deploy.yml"))) for _turn in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [run.code for run in runs] == [0, 0], "\n".join(run.output for run in runs)
    assert version(host) == "1.0.1" and host.run(["readlink", "/opt/esnode/current"]).stdout != first
    assert deploy(better).changed == 0
