# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of an agent that a user has deployed: each test goes on where the one before has left it."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from pathlib import Path

from deployment import AGENT, HOST_ONLY, Deployment

FIVE_SECONDS = {"agent": {"scrape_interval_seconds": 5}, "collectors": HOST_ONLY}


def files(folder: Path) -> set[str]:
    """Everything below the folder but what the controller's own tools leave: Ansible, and rustc, which pip asks."""
    paths = (str(p.relative_to(folder)) for p in folder.rglob("*"))
    return {p for p in paths if not p.startswith((".ansible", "ca", ".rustup"))}


def test_check_mode_on_a_fresh_host_tells_and_touches_nothing(deployment: Deployment) -> None:
    run = deployment.run("--check", "--diff")
    assert run.action == "start"
    assert run.changed == 2, run.output  # the release, and the agent with all its files
    assert f'+listen_address = "127.0.0.1:{deployment.port}"' in run.output
    assert "would be started" in run.output
    assert files(deployment.home) == set()


def test_a_taken_port_is_refused_before_anything_is_installed(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.port)):
        run = deployment.run()
    assert run.code != 0
    assert f"port {deployment.port} is taken by" in run.output and f"(pid {os.getpid()})" in run.output
    assert files(deployment.home) == set()


def test_first_run_serves(deployment: Deployment) -> None:
    run = deployment.run()
    assert run.action == "start"
    assert "esnode_build_info" in deployment.get("/metrics")
    assert deployment.get("/healthz") == "ok\n"
    assert f"http://127.0.0.1:{deployment.port}/metrics" in run.output
    assert f"http://127.0.0.1:{deployment.port}/status" in run.output
    assert "Undo: " in run.output
    assert deployment.status()["config"]["path"] == str(deployment.config)
    assert deployment.config.stat().st_mode & 0o777 == 0o640
    assert len(deployment.pids) == len(deployment.supervisors) == 1


def test_second_run_changes_nothing_in_few_tasks(deployment: Deployment) -> None:
    pids = deployment.pids
    run = deployment.run()
    assert run.changed == 0 and run.action == "none", run.output
    assert deployment.pids == pids
    assert deployment.run("--check", "--diff").changed == 0
    role = re.findall(r"^TASK \[(?!Summar|Write the summary)", run.output, re.MULTILINE)
    assert len(role) <= 8, "each costs the controller some 20 ms a host"


def test_changed_configuration_is_reloaded_without_restart(deployment: Deployment) -> None:
    pids = deployment.pids
    check = deployment.run("--check", "--diff", esnode_agent_config=FIVE_SECONDS)
    assert check.action == "reload" and "+scrape_interval_seconds = 5" in check.output
    assert deployment.status()["interval_seconds"] == 15, "check mode has changed nothing"
    run = deployment.run(esnode_agent_config=FIVE_SECONDS)
    assert run.action == "reload" and run.changed == 1
    deployment.variables["esnode_agent_config"] = FIVE_SECONDS
    until = time.monotonic() + 60  # the ticker takes it up at its next tick
    while deployment.status()["interval_seconds"] != 5 and time.monotonic() < until:
        time.sleep(0.1)
    assert deployment.status()["interval_seconds"] == 5
    assert deployment.pids == pids


def test_a_key_that_needs_a_restart_gets_one(deployment: Deployment) -> None:
    pids = deployment.pids
    old, deployment.port = deployment.port, deployment.port + 1
    while True:  # the next free one
        try:
            socket.create_server(("127.0.0.1", deployment.port)).close()
            break
        except OSError:
            deployment.port += 1
    deployment.variables["esnode_agent_listen_address"] = f"127.0.0.1:{deployment.port}"
    assert deployment.run().action == "restart"
    assert deployment.status()["ready"] and deployment.pids != pids
    socket.create_server(("127.0.0.1", old)).close()


def test_a_play_that_was_cut_off_before_the_reload_is_completed_by_the_next(deployment: Deployment) -> None:
    deployment.config.write_text(deployment.config.read_text().replace("= 5", "= 7"))
    run = deployment.run()
    assert run.action == "reload", "the file was put back, and what the agent has read is older"
    assert deployment.run().action == "none"


def test_a_changed_environment_restarts(deployment: Deployment) -> None:
    value = "a b \"c\" $HOME `id` \\ 100% 'd'"
    run = deployment.run("--diff", esnode_agent_environment={"ESNODE_TEST": value})
    assert run.action == "restart"
    [pid] = deployment.pids
    assert f"ESNODE_TEST={value}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert value[:6] not in run.output, "an environment may hold secrets"
    assert deployment.run().action == "restart"


def test_a_bad_configuration_leaves_the_running_one(deployment: Deployment) -> None:
    before, pids = deployment.config.read_text(), deployment.pids
    unknown = deployment.run(esnode_agent_config={"agent": {"scrape_intervall": 5}})
    assert unknown.code != 0 and "scrape_intervall" in unknown.output
    impossible = {"agent": {"scrape_interval_seconds": 0}, "collectors": HOST_ONLY}
    for option in ((), ("--check",)):
        run = deployment.run(*option, esnode_agent_config=impossible)
        assert run.code != 0
        assert "agent.scrape_interval_seconds = 0: expected a number of seconds from 0.1 to 3600" in run.output
    assert deployment.config.read_text() == before
    assert deployment.pids == pids and deployment.status()["interval_seconds"] == 5


def test_a_version_that_is_not_shipped_is_refused(deployment: Deployment) -> None:
    run = deployment.run(esnode_version="9.9.9")
    assert run.code != 0 and "ansible-galaxy collection install esnode.core:==9.9.9" in run.output
    assert deployment.run("-e", "esnode_version=1.0.0").changed == 0


def test_an_agent_that_died_is_started_again(deployment: Deployment) -> None:
    [pid] = deployment.pids
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 20
    while (deployment.pids == [pid] or not deployment.pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert deployment.pids and deployment.pids != [pid]


def test_an_agent_whose_supervisor_died_is_taken_over(deployment: Deployment) -> None:
    for pid in deployment.supervisors:
        os.kill(pid, signal.SIGKILL)
    orphans = deployment.pids
    assert deployment.run().action == "start"
    assert len(deployment.pids) == 1 and deployment.pids != orphans
    assert deployment.status()["ready"]


def test_a_half_installed_release_is_done_again(deployment: Deployment) -> None:
    [name] = os.listdir(deployment.prefix / "releases")
    (deployment.prefix / "releases" / name / "release.json").unlink()
    assert deployment.run().changed >= 1
    assert (deployment.prefix / "releases" / name / "release.json").exists()
    assert deployment.run().changed == 0


def test_upgrade_keeps_the_old_release_beside_the_new(deployment: Deployment, snapshot: Path, altered: Path) -> None:
    [old] = os.listdir(deployment.prefix / "releases")
    init = altered / AGENT / "__init__.py"
    init.write_text(init.read_text().replace('__version__ = "1.0.0"', '__version__ = "1.0.1"'))
    deployment.collections = altered
    run = deployment.run()
    assert run.action == "restart" and f"release {old} runs" in run.output
    assert deployment.status()["version"] == "1.0.1"
    new = os.path.basename(os.readlink(deployment.prefix / "current"))
    assert sorted(os.listdir(deployment.prefix / "releases")) == [old, new]
    deployment.collections = snapshot
    assert deployment.run().action == "restart"
    assert deployment.status()["version"] == "1.0.0"


def test_a_release_that_is_not_healthy_fails_with_its_log_and_goes_back(
    deployment: Deployment, snapshot: Path, altered: Path
) -> None:
    agent = altered / AGENT / "agent.py"
    agent.write_text(agent.read_text().replace("def main(loaded", "raise SystemExit('no luck')\n\n\ndef main(loaded"))
    deployment.collections = altered
    run = deployment.run(esnode_agent_health_timeout=12)
    deployment.collections = snapshot
    assert run.code != 0
    assert "is not healthy after 12 s" in run.output and "esnode-core.log: no luck" in run.output
    assert re.search(r"went back to release 1\.0\.0-\w+[^,]*, and is healthy with it", run.output)
    assert deployment.status()["ready"]
    assert deployment.run().changed == 0


def test_absent_leaves_nothing(deployment: Deployment) -> None:
    check = deployment.run("--check", playbook="remove")
    assert check.changed == 3 and deployment.pids
    assert deployment.run(playbook="remove").changed == 3
    assert not deployment.pids and not deployment.supervisors
    left = {p for p in files(deployment.home) if not (deployment.home / p).is_dir()}
    assert left == set()
    assert not deployment.prefix.exists() and not deployment.config.parent.exists()
    assert deployment.run(playbook="remove").changed == 0
