# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stops a rollout: plays of every common shape on local hosts, then the playbooks of this collection themselves.

The plays are there for what Ansible makes of each shape; that is why the playbooks have theirs. When a new Ansible
makes something else of one, a test here says so.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HOSTS = [f"h{number}" for number in range(1, 7)]


@dataclass
class Run:
    """What ansible-playbook said. The tasks of these tests say "<word> <host>"."""

    code: int
    output: str

    def said(self, word: str) -> list[str]:
        return sorted(re.findall(rf'"msg": "{word} (\w+)"', self.output))

    def batches(self, play: str) -> int:
        return self.output.count(f"PLAY [{play}]")

    def recap(self, host: str, name: str) -> int:
        found = re.search(rf"^{host}\s+:.*\b{name}=(\d+)", self.output, re.MULTILINE)
        assert found, self.output
        return int(found[1])


class Lane:
    """Runs all that is asked for, as many at a time as there are cores: a start of Ansible costs more than a second."""

    def __init__(self, folder: Path, closed_port: int) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(os.cpu_count())
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)
        self.collections = folder / "collections"
        self._environment = {
            **inherited,
            "ANSIBLE_HOME": str(folder / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_NOCOLOR": "1",
        }
        unreachable = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": closed_port}
        self.variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "away": unreachable,
        }
        self.started: dict[str, Future[Run]] = {}

    def start(self, name: str, playbook: str | Path, **variables: object) -> None:
        self.started[name] = self._pool.submit(self._run, name, str(playbook), variables)

    def _run(self, name: str, playbook: str, variables: dict[str, object]) -> Run:
        groups = {k: {"hosts": dict.fromkeys(v)} for k, v in dict(variables.pop("groups", {})).items()}  # type: ignore[call-overload]
        inventory = self._folder / f"{name}.inventory.yml"
        everything = {"vars": {**self.variables, **variables}, "hosts": dict.fromkeys(HOSTS), "children": groups}
        inventory.write_text(yaml.safe_dump({"all": everything}))
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), playbook]
        done = subprocess.run(command, env=self._environment, cwd=self._folder, capture_output=True, text=True)
        return Run(done.returncode, done.stdout + done.stderr)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


# Every shape: six hosts in batches of two, and the first host fails. A host is drained, worked on and put back.
DRAIN = "- debug: {msg: 'drained {{ inventory_hostname }}'}"
WORK = "- fail: {msg: broken}\n  when: inventory_hostname == 'h1'"
BACK = "- debug: {msg: 'back {{ inventory_hostname }}'}"
UNDONE = "- debug: {msg: 'undone {{ inventory_hostname }}'}"
AWAY = "- ping:\n  vars: {ansible_connection: \"{{ 'ssh' if inventory_hostname == 'h1' else 'local' }}\", \
ansible_host: \"{{ away.ansible_host }}\", ansible_port: \"{{ away.ansible_port }}\"}"
WAIT = AWAY.replace("ping:", "wait_for_connection: {timeout: 1, sleep: 1}")
LOST = "- fail: {msg: lost}\n  when: ansible_play_hosts_all | difference(ansible_play_hosts) | length > 0"


def block(*, rescue: str, always: str = "") -> str:
    parts = {"block": f"{DRAIN}\n{WORK}", "rescue": rescue, "always": always}
    lines = [f"{key}:\n{textwrap.indent(tasks, '  ')}" for key, tasks in parts.items() if tasks]
    return "- " + textwrap.indent("\n".join(lines), "  ").lstrip()


PLAIN = "\n".join((DRAIN, WORK, BACK))
FAIL = "- fail: {msg: it has failed}"
FACT = "- set_fact: {node_failed: true}"
GATE = "- fail: {msg: stop}\n  when: node_failed is defined"
MFP = "max_fail_percentage: 0"
AEF = "any_errors_fatal: true"
ALL, GOOD, FIRST_BATCH = HOSTS, HOSTS[1:], HOSTS[:2]

# name: (keywords of the play, tasks, exit code, batches run, hosts put back)
SHAPES: dict[str, tuple[str, str, int, int, list[str]]] = {
    "no threshold": ("", PLAIN, 2, 3, GOOD),
    "threshold": (MFP, PLAIN, 2, 1, []),
    "rescue that succeeds": (MFP, f"{block(rescue=UNDONE)}\n{BACK}", 0, 3, ALL),
    "rescue that fails": (MFP, f"{block(rescue=FAIL)}\n{BACK}", 2, 1, []),
    "rescue that fails, always": (MFP, block(rescue=FAIL, always=BACK), 2, 3, ALL),
    "any error is fatal, rescue that fails, always": (
        AEF,
        block(rescue=f"{UNDONE}\n{FAIL}", always=BACK),
        2,
        1,
        FIRST_BATCH,
    ),
    "any error is fatal and threshold": (f"{AEF}\n{MFP}", PLAIN, 2, 1, []),
    "rescue that remembers, always, gate": (MFP, f"{block(rescue=FACT, always=BACK)}\n{GATE}", 2, 1, FIRST_BATCH),
    "strategy free": (f"{MFP}\nstrategy: free", PLAIN, 2, 3, GOOD),
    "strategy host_pinned": (f"{MFP}\nstrategy: host_pinned", PLAIN, 2, 3, GOOD),
    "unreachable, threshold": (MFP, f"{AWAY}\n{BACK}", 4, 3, GOOD),
    "unreachable, any error is fatal": (AEF, f"{AWAY}\n{BACK}", 4, 3, HOSTS[2:]),
    "unreachable, wait_for_connection": (MFP, f"{WAIT}\n{BACK}", 2, 1, []),
    "unreachable, check at the end of the batch": (MFP, f"{AWAY}\n{BACK}\n{LOST}", 2, 1, ["h2"]),
    "growing batches": (f"{MFP}\nserial: [1, '50%', '100%']", PLAIN.replace("'h1'", "'h2'"), 2, 2, ["h1"]),
}


def play(keywords: str, tasks: str) -> str:
    lines = ["- name: shape", "hosts: all", "gather_facts: false"]
    lines += keywords.splitlines() + ([] if "serial:" in keywords else ["serial: 2"])
    return "\n  ".join([*lines, "tasks:"]) + "\n" + textwrap.indent(tasks, "    ") + "\n"


# The collection's own playbooks, with roles that only say what they do.
SAY = """
- name: Begin
  ansible.builtin.debug: {msg: "began {{ inventory_hostname }}"}
- name: Work
  ansible.builtin.debug:
  changed_when: inventory_hostname not in wanted_before | default([])
  register: esnode_agent__release
- name: Lose the host
  ansible.builtin.ping:
  vars: {ansible_connection: ssh, ansible_host: "{{ away.ansible_host }}", ansible_port: "{{ away.ansible_port }}"}
  when: inventory_hostname in lost | default([])
- name: See that it is healthy
  ansible.builtin.fail: {msg: "the agent has {{ 'no' }} luck"}
  when: inventory_hostname in failing | default([])
- name: End
  ansible.builtin.debug: {msg: "ended {{ inventory_hostname }}"}
"""
ASK = """
- name: Refuse
  ansible.builtin.fail: {msg: the port is taken}
  when: inventory_hostname in refused | default([])
- name: Ask
  ansible.builtin.ping:
  vars: {ansible_connection: ssh, ansible_host: "{{ away.ansible_host }}", ansible_port: "{{ away.ansible_port }}"}
  when: inventory_hostname in silent | default([])
  register: esnode_agent__release
"""
# A rollback asks and does with the same tasks.
BACK = """
- name: Ask or go back
  ansible.builtin.include_tasks: "{{ 'ask' if esnode_agent__asked | default(false) else 'say' }}.yml"
"""
BACKUP = """
- name: End its backups
  ansible.builtin.debug:
"""
PLAYS = {
    "deploy": "Deploy the esnode agent",
    "remove": "Remove the esnode agent",
    "rollback": "Go back to the release before",
}
ODD = {"esnode_serial": [1, 2, 3]}
# name: variables of the inventory
ROLLOUTS: dict[str, dict[str, object]] = {
    "good": {"groups": {"esnode_canary": ["h4", "h2"]}, "wanted_before": ["h1"]},
    "canary fails": {"failing": ["h1"]},
    "second batch fails": {"failing": ["h2"], **ODD},
    "whole batch fails": {"failing": ["h2", "h3"], **ODD},
    "lost in the second batch": {"lost": ["h2"], **ODD},
    "canary lost": {"lost": ["h1"]},
    "whole batch lost": {"lost": ["h2", "h3"], **ODD},
    "one fails, one is lost": {"failing": ["h3"], "lost": ["h2"], **ODD},
    "refused": {"refused": ["h5", "h6"]},
    "silent": {"silent": ["h1", "h6"]},
    "silent, left out": {"silent": ["h1", "h6"], "esnode_skip_unreachable": True},
    "bad batches": {"esnode_serial": [1, "half"]},
}


@pytest.fixture(scope="module")
def lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lane]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    # Bound and not listening: nobody else gets it, and who connects is refused.
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", closed))
        one = Lane(tmp_path_factory.mktemp("shapes"), closed)
        core = one.collections / "ansible_collections/esnode/core"
        shutil.copytree(ROOT / "playbooks", core / "playbooks")
        tasks = core / "roles/esnode_agent/tasks"
        tasks.mkdir(parents=True)
        ask, say = (text.replace("esnode_agent__release", "esnode_agent__service") for text in (ASK, SAY))
        stubs = {"preflight": ASK, "present": SAY, "main": SAY, "absent": SAY, "previous": BACK, "ask": ask, "say": say}
        for name, text in stubs.items():
            (tasks / f"{name}.yml").write_text(text)
        backup = core / "roles/esnode_backup/tasks"
        backup.mkdir(parents=True)
        (backup / "with_agent.yml").write_text(BACKUP)
        for name, (keywords, text, *_expected) in SHAPES.items():
            path = tasks.parents[4] / f"{name}.yml"
            path.write_text(play(keywords, text))
            one.start(name, path)
        for name, variables in ROLLOUTS.items():
            one.start(f"deploy {name}", "esnode.core.deploy", **variables)
        for name in ("good", "canary fails", "lost in the second batch"):
            one.start(f"remove {name}", "esnode.core.remove", **ROLLOUTS[name])
            one.start(f"rollback {name}", "esnode.core.rollback", **ROLLOUTS[name])
        one.start("rollback refused", "esnode.core.rollback", **ROLLOUTS["refused"])
        try:
            yield one
        finally:
            one.close()


@pytest.mark.parametrize("name", SHAPES)
def test_what_ansible_makes_of_a_play(lane: Lane, name: str) -> None:
    run = lane.started[name].result()
    _keywords, _tasks, code, batches, back = SHAPES[name]
    assert (run.code, run.batches("shape"), run.said("back")) == (code, batches, back), run.output


def test_a_rescue_that_succeeds_hides_the_failure(lane: Lane) -> None:
    run = lane.started["rescue that succeeds"].result()
    assert (run.recap("h1", "failed"), run.recap("h1", "rescued")) == (0, 1)


def test_a_fatal_error_undoes_the_good_neighbour_too(lane: Lane) -> None:
    run = lane.started["any error is fatal, rescue that fails, always"].result()
    assert run.said("undone") == FIRST_BATCH


Rollout = Callable[[str], tuple[Run, int]]


def of(lane: Lane, playbook: str) -> Rollout:
    def result(name: str) -> tuple[Run, int]:
        run = lane.started[f"{playbook} {name}"].result()
        return run, run.batches(PLAYS[playbook])

    return result


@pytest.fixture(params=PLAYS)
def rollout(request: pytest.FixtureRequest, lane: Lane) -> Rollout:
    """Of a deployment, of a removal and of a rollback."""
    return of(lane, request.param)


@pytest.fixture
def deployment(lane: Lane) -> Rollout:
    return of(lane, "deploy")


def test_a_good_rollout_reaches_every_host_the_canaries_first(rollout: Rollout) -> None:
    run, batches = rollout("good")
    assert run.code == 0, run.output
    assert run.said("ended") == HOSTS
    assert batches == 5, "two canaries, then a tenth and quarters, each of which is one of six"
    assert set(re.findall(r'"msg": "ended (\w+)"', run.output)[:2]) == {"h4", "h2"}
    assert "6 of 6 hosts, 5 changed and 1 as wanted before" in run.output


def test_a_canary_that_fails_is_all_that_was_touched(rollout: Rollout) -> None:
    run, batches = rollout("canary fails")
    assert (run.code, batches, run.said("began")) == (2, 1, ["h1"]), run.output
    assert run.recap("h1", "failed") == 1
    assert "h1: See that it is healthy: the agent has no luck" in run.output
    assert "Not tried: 5" in run.output


def test_a_failure_stops_the_rollout_once_its_neighbours_have_finished(deployment: Rollout) -> None:
    run, batches = deployment("second batch fails")
    assert (run.code, batches) == (2, 2), run.output
    assert run.said("began") == ["h1", "h2", "h3"] and run.said("ended") == ["h1", "h3"]
    assert "2 of 6 hosts" in run.output and "Failed: 1" in run.output and "Not tried: 3" in run.output
    assert [run.recap(h, "failed") for h in ("h1", "h2", "h3")] == [0, 1, 0]


def test_a_batch_that_fails_as_a_whole_stops_the_rollout(deployment: Rollout) -> None:
    run, batches = deployment("whole batch fails")
    assert (run.code, batches, run.said("ended")) == (2, 2, ["h1"]), run.output
    assert "h2, h3: See that it is healthy" in run.output


def test_a_host_that_gets_lost_stops_the_rollout_once_its_neighbours_have_finished(rollout: Rollout) -> None:
    run, batches = rollout("lost in the second batch")
    assert run.code != 0 and batches == 2, run.output
    assert run.said("ended") == ["h1", "h3"]
    assert "Lost on the way: 1" in run.output and "Not tried: 3" in run.output


@pytest.mark.parametrize(("name", "reached"), [("canary lost", []), ("whole batch lost", ["h1"])])
def test_a_batch_that_is_lost_as_a_whole_stops_the_rollout(deployment: Rollout, name: str, reached: list[str]) -> None:
    run, batches = deployment(name)
    assert run.code != 0 and batches == len(reached) + 1, run.output
    assert run.said("ended") == reached


def test_a_batch_in_which_one_fails_and_one_gets_lost_stops_the_rollout(deployment: Rollout) -> None:
    run, batches = deployment("one fails, one is lost")
    assert run.code != 0 and batches == 2, run.output
    assert run.said("ended") == ["h1"]
    assert "Lost on the way: 1" in run.output and "Failed: 1" in run.output


@pytest.mark.parametrize("playbook", ["deploy", "rollback"])
def test_hosts_that_can_not_take_part_are_all_named_before_any_changes(lane: Lane, playbook: str) -> None:
    run, batches = of(lane, playbook)("refused")
    assert (run.code, batches, run.said("began")) == (2, 0, []), run.output
    assert "2 of 6 hosts are refused. Nothing has been changed." in run.output
    assert "h5, h6: Refuse: the port is taken" in run.output


def test_hosts_that_are_unreachable_from_the_start_are_named_before_any_changes(deployment: Rollout) -> None:
    run, batches = deployment("silent")
    assert (run.code, batches, run.said("began")) == (2, 0, []), run.output
    assert "2 of 6 hosts are unreachable" in run.output and "esnode_skip_unreachable=true" in run.output


def test_hosts_that_are_unreachable_from_the_start_can_be_left_out(deployment: Rollout) -> None:
    run, batches = deployment("silent, left out")
    assert (run.code, batches, run.said("ended")) == (0, 4, ["h2", "h3", "h4", "h5"]), run.output
    assert "Left out, since unreachable: 2" in run.output and "    h1, h6" in run.output


def test_batches_that_are_no_numbers_are_refused(deployment: Rollout) -> None:
    run, batches = deployment("bad batches")
    assert (run.code, batches, run.said("began")) == (2, 0, []), run.output
    assert "esnode_serial must be numbers of hosts or percentages above 0" in run.output
