# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent of a user without root, kept by the user's own systemd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lab
import lab_slot
import pytest

SCRAPER = Path(__file__).with_name("held_port.py")
AGENT = "/home/ops/.local/share/esnode"
THEIRS = {"ansible_user": "ops"}


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("user", [lab.Spec("node1", "trixie")]) as booted:
        setup = "useradd -m -p '*' -s /bin/sh ops; cp -r /root/.ssh ~ops/; chown -R ops: ~ops/.ssh"
        booted["node1"].run(["sh", "-ec", setup])
        # Of a process of the host: logind knows none that came from outside.
        booted["node1"].run(["systemd-run", "--quiet", "--wait", "loginctl", "enable-linger", "ops"])
        lab_slot.wait_for(lambda: active(booted["node1"], "default.target"), "ops has no service manager")
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["node1"]


def as_user(host: lab.Host, command: str, check: bool = True) -> str:
    manager = "XDG_RUNTIME_DIR=/run/user/$(id -u)"
    return host.run(["su", "ops", "-c", f"export {manager}; {command}"], check=check).stdout.strip()


def active(host: lab.Host, unit: str) -> bool:
    return as_user(host, f"systemctl --user is-active {unit}", False) == "active"


def pid(host: lab.Host) -> str:
    return as_user(host, "systemctl --user show -P MainPID esnode-core")


def test_it_is_a_service_of_the_user_and_the_second_run_changes_nothing(one: lab.Lab, host: lab.Host) -> None:
    assert one.playbook("esnode-deploy.yml", **THEIRS).changed > 0
    assert active(host, "esnode-core") and active(host, "esnode-core.socket")
    assert host.run(["stat", "-c", "%U", f"/proc/{pid(host)}"]).stdout == "ops\n"
    assert one.playbook("esnode-deploy.yml", **THEIRS).changed == 0


def test_its_socket_holds_the_port(one: lab.Lab, host: lab.Host) -> None:
    command = [*one.controller, sys.executable, str(SCRAPER), f"http://{host.address}:9100/metrics"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as scraper:
        assert scraper.stdin and scraper.stdout
        try:
            assert scraper.stdout.readline() == "scraping\n"
            as_user(host, "systemctl --user restart esnode-core")
            # Between two scrapes: what the killed process was just writing is lost with it.
            scraper.stdin.write("pause\n")
            scraper.stdin.flush()
            assert scraper.stdout.readline() == "paused\n"
            before = pid(host)
            host.run(["kill", "-KILL", before])
            scraper.stdin.write("go\n")
            scraper.stdin.flush()
            lab_slot.wait_for(lambda: pid(host) not in (before, "0"), "the agent is not restarted")
            said, _nothing = scraper.communicate("end\n", timeout=60)
        finally:
            scraper.kill()
    count, _colon, missed = said.strip().partition(" answered, missed: ")
    assert int(count) > 2 and missed == "[]", said


def test_it_is_there_after_a_reboot_and_leaves_nothing(one: lab.Lab, host: lab.Host) -> None:
    host.reboot()
    lab_slot.wait_for(lambda: active(host, "esnode-core"), "the agent does not start at boot")
    assert one.playbook("esnode-remove.yml", **THEIRS).changed > 0
    assert as_user(host, "find ~ -name '*esnode*'; systemctl --user list-units --all --no-legend 'esnode*'") == ""
    assert ":9100" not in host.run(["ss", "-Hltn"]).stdout
