# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments of a real systemd host that can't go well, or that meet another one."""

from __future__ import annotations

import json
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lab
import lab_collection
import psutil
import pytest


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("faults", [lab.Spec("node1")]) as booted:
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["node1"]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_collection.copy(tmp_path_factory.mktemp("blind"), "1.0.2", lab_collection.BLIND)


Deploy = Callable[..., lab.Run]


def version(host: lab.Host) -> str:
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/status', timeout=10).read().decode())"
    return str(json.loads(host.run(["python3", "-c", asked]).stdout)["version"])


def current(host: lab.Host) -> str:
    return host.run(["readlink", "/opt/esnode/current"]).stdout.strip().removeprefix("releases/")


def listening(host: lab.Host) -> set[str]:
    """Where a TCP port of the agent is open, as `ss` writes it."""
    rows = [line.split() for line in host.run(["ss", "-Hltn"]).stdout.splitlines()]
    return {row[3] for row in rows if row[3].endswith((":9100", ":9200"))}


def answers(host: lab.Host, url: str) -> bool:
    code = "import sys, urllib.request as u; u.urlopen(sys.argv[1] + '/readyz', timeout=10)"
    return host.run(["python3", "-c", code, url], check=False).returncode == 0


def wait_until(what: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it has not become so"
        time.sleep(0.1)


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


def test_two_controllers_with_different_releases_leave_one_of_them_whole(
    host: lab.Host, one: lab.Lab, good: Path, better: Path, deploy: Deploy
) -> None:
    wanted: dict[str, tuple[Path, dict[str, Any]]] = {
        "1.0.0": (good, {"esnode_agent_config": {"agent": {"scrape_interval_seconds": 5}}}),
        "1.0.1": (better, {"esnode_agent_memory_max": "400M"}),
    }
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(one.playbook_of, copy, "esnode-deploy.yml", variables) for copy, variables in wanted.values()
        ]
    assert [run.result().code for run in runs] == [0, 0], "\n".join(run.result().output for run in runs)
    copy, variables = wanted[version(host)]
    assert deploy(copy, **variables).changed == 0


def test_a_host_goes_back_though_its_controller_was_killed(
    host: lab.Host, one: lab.Lab, good: Path, blind: Path, deploy: Deploy
) -> None:
    assert deploy(good).code == 0
    controller: queue.Queue[psutil.Process] = queue.Queue()
    with ThreadPoolExecutor() as pool:
        run = pool.submit(
            one.playbook_of,
            blind,
            "esnode-deploy.yml",
            {"esnode_agent_health_timeout": 12},
            started=lambda process: controller.put(psutil.Process(process.pid)),
        )
        top = controller.get()
        wait_until(lambda: current(host).startswith("1.0.2-"), 300)
        for process in [top, *top.children(recursive=True)]:  # a worker is in a session of its own
            process.kill()
        assert run.result().code == -signal.SIGKILL
    wait_until(lambda: current(host).startswith("1.0.0-"))
    # The next run waits until the one that is left on the host has seen that the release before is healthy.
    assert deploy(good).changed == 0 and version(host) == "1.0.0"


def test_an_address_moves_to_others_and_to_another_family(host: lab.Host, good: Path, deploy: Deploy) -> None:
    assert deploy(good, esnode_agent_listen_address=":9200").changed == 1
    assert listening(host) == {"*:9200"}
    assert [answers(host, f"http://{name}:9200") for name in (host.address, "127.0.0.1", "[::1]")] == [True] * 3
    at_home = {"esnode_agent_listen_address": "localhost:9100"}
    assert deploy(good, **at_home).changed == 1
    assert listening(host) <= {"127.0.0.1:9100", "[::1]:9100"} and answers(host, "http://localhost:9100")
    assert deploy(good, **at_home).changed == 0
    run = deploy(good, esnode_agent_listen_address="[::]:9100")
    assert run.changed == 1 and "http://node1:9100/metrics" in run.output, "an IPv4 address does not lead there"
    assert listening(host) == {"[::]:9100"} and not answers(host, "http://127.0.0.1:9100")
    run = deploy(good, esnode_agent_listen_address="192.0.2.7:9100")
    assert run.code != 0 and "this host has no address 192.0.2.7" in run.output
    assert listening(host) == {"[::]:9100"}
