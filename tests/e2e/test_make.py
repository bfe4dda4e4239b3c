# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`make deploy` on this machine, with simulated GPUs and without, and `make undeploy`."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils import host
from deployment import ROOT, free_port

SYSTEM = ("/etc/esnode", "/opt/esnode", "/var/lib/esnode", "/var/log/esnode", "/var/log/esnode-core", "/run/esnode",
          "/etc/systemd/system/esnode-core.service")  # fmt: skip

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it deploys system-wide"),
    pytest.mark.skipif(os.path.isdir("/run/systemd/system"), reason="is for a machine without systemd"),
]


def make(*words: str) -> str:
    done = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def traces() -> list[str]:
    left = [p for p in SYSTEM if os.path.lexists(p)]
    left += [u.pw_name for u in pwd.getpwall() if u.pw_name == "esnode"]
    left += [g.gr_name for g in grp.getgrall() if g.gr_name == "esnode"]
    return left + [f"pid {p}" for p in host.agents("/opt/esnode")]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if there := traces():
        pytest.skip(f"esnode is deployed on this machine: {', '.join(there)}")
    home = Path.home() / ".ansible"
    had_home = home.exists()
    try:
        yield f"127.0.0.1:{free_port()}"
    finally:
        subprocess.run(["make", "undeploy"], cwd=ROOT, capture_output=True)
        assert had_home or not home.exists(), "Ansible's own files stay in build/"


def status(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{address}/status", timeout=30) as answer:
        return dict(json.loads(answer.read()))


def test_eight_simulated_gpus(address: str) -> None:
    said = make("deploy", "SIMULATE=h100:8", f"LISTEN={address}")
    last = said.rstrip().splitlines()[-7:]
    assert any("8 GPUs: NVIDIA H100 80GB HBM3" in line for line in last), said
    assert f"    metrics  http://{address}/metrics" in last and f"    status   http://{address}/status" in last
    assert "Undo: make undeploy" in last
    now = status(address)
    assert [g["name"] for g in now["gpus"]] == ["NVIDIA H100 80GB HBM3"] * 8
    assert {p: os.stat(f"/proc/{p}").st_uid for p in host.agents("/opt/esnode")} == {
        now["pid"]: pwd.getpwnam("esnode").pw_uid
    }
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        page = answer.read().decode()
    assert len(re.findall(r"^esnode_gpu_power_watts\{", page, re.MULTILINE)) == 8


def test_again_changes_nothing(address: str) -> None:
    said = make("deploy", "SIMULATE=h100:8", f"LISTEN={address}")
    assert re.search(r"^localhost\s.*changed=0 ", said, re.MULTILINE), said


def test_without_simulate_they_are_gone(address: str) -> None:
    said = make("deploy", f"LISTEN={address}")
    assert "no GPU: host metrics only" in said
    assert status(address)["gpus"] == []
    assert not os.path.exists("/var/lib/esnode/nvmlsim")


def test_a_service_that_belongs_to_root_is_out_of_reach_of_its_user(address: str) -> None:
    user = pwd.getpwnam("esnode")
    for path in ("/opt/esnode", "/etc/esnode", "/etc/esnode/esnode.toml", "/run/esnode", "/var/log/esnode-core"):
        assert os.stat(path).st_uid == 0, path
        assert os.stat(path).st_mode & 0o022 == 0, path
    assert os.stat("/etc/esnode/esnode.toml").st_gid == user.pw_gid
    assert os.stat("/var/lib/esnode").st_uid == user.pw_uid


def test_undeploy_leaves_nothing(address: str) -> None:
    make("undeploy")
    assert traces() == []
    assert re.search(r"changed=0 ", make("undeploy"))


def test_simulate_is_for_this_machine_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "deploy", "SIMULATE=t4:1", f"INVENTORY={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0 and "SIMULATE is for this machine alone" in done.stderr
