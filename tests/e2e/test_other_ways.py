# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example fleet, and a host whose user is not root."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import host
from deployment import ROOT, Deployment

TEXTS = ("--extra-vars", "esnode_version=1.0.0", "--extra-vars", "enable_tls=true")


def test_the_example_fleet_deploys_by_the_documented_command(deployment: Deployment) -> None:
    # Its hosts do not exist: one of them stands for this machine, with an agent of a user.
    deployment.inventory = ROOT / "inventory/production"
    here = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": "/usr/bin/python3"}
    node = "gpu-h100-01.example.com"
    run = deployment.run(*TEXTS, "--limit", node, **here)
    assert run.code == 0, run.output
    assert run.recap("changed", node) > 0
    assert f"https://127.0.0.1:{deployment.port}/metrics" in run.output
    second = deployment.run(*TEXTS, "--limit", node, **here)
    assert second.recap("changed", node) == 0, second.output
    assert deployment.run("--limit", node, playbook="remove", **here).code == 0


@pytest.fixture
def person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pwd.struct_passwd]:
    """A user of this machine who is not root, for the time of a test."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a user")
    name = "esnode-e2e"
    base = Path("/home") / name
    subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)  # of a killed run
    subprocess.run(["useradd", "--create-home", "--home-dir", base, name], check=True)
    try:
        yield pwd.getpwnam(name)
    finally:
        for pid in host.agents(f"{base}/.local/share/esnode"):
            os.kill(pid, 9)
        subprocess.run(["pkill", "-KILL", "-u", name], check=False)
        until = time.monotonic() + 10  # as long as one of the killed is still there, userdel refuses
        command = ["userdel", "--remove", name]
        while subprocess.run(command, capture_output=True).returncode and time.monotonic() < until:
            time.sleep(0.1)
        with pytest.raises(KeyError):
            pwd.getpwnam(name)


def test_without_root_it_is_an_agent_of_the_user(deployment: Deployment, person: pwd.struct_passwd) -> None:
    deployment.inventory = ROOT / "inventory/local.yml"
    them = {
        "ansible_become": True,
        "ansible_become_method": "su",
        "ansible_become_user": person.pw_name,
        "ansible_python_interpreter": "/usr/bin/python3",
        "esnode_agent_scope": "auto",
    }
    run = deployment.run(**them)
    assert run.action == "start"
    status = deployment.status()
    assert os.stat(f"/proc/{status['pid']}").st_uid == person.pw_uid
    assert status["config"]["path"] == f"{person.pw_dir}/.config/esnode/esnode.toml"
    assert deployment.run(**them).changed == 0
    assert deployment.run(playbook="remove", **them).code == 0
    assert not Path(person.pw_dir, ".local/share/esnode").exists()
    assert not Path(person.pw_dir, ".config/esnode").exists()
