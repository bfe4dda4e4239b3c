# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of four hosts under a scraper: installed, run again, upgraded, crashed, and given a bad release.

The hosts are the lab's (docs/lab.md), so this needs what it needs. `make bench ONLY_BENCH=deploy`
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import controller
from row import Row

sys.path[:0] = [str(controller.ROOT / "tests/lab"), str(controller.ROOT / "collections")]
import lab  # noqa: E402
import lab_collection  # noqa: E402

SCRAPER = Path(__file__).with_name("each_second.py")
HOSTS = 4
# prometheus.prometheus.node_exporter: tasks in its files and in those of its common role.
PEER, PEER_TASKS = "node_exporter role", 48


def rows() -> Iterator[Row]:
    if reason := lab.unavailable():
        sys.exit(f"the benchmark of deployments needs hosts that can be booted here: {reason}")
    with (
        tempfile.TemporaryDirectory() as name,
        lab.Lab("bench", [lab.Spec(f"node{n}", gpus="h100:8" if n == 1 else None) for n in range(1, HOSTS + 1)]) as one,
    ):
        good, better, blind = (
            lab_collection.copy(Path(name) / version, version, changes)
            for version, changes in (("1.0.0", None), ("1.0.1", None), ("1.0.2", lab_collection.BLIND))
        )
        for collections in (good, better, blind):
            build(one, collections)
        for what, collections in (("first install", good), ("second run", good)):
            yield from figures(what, deploy(one, collections))
        with scraped(one) as missed:
            yield from figures("upgrade", deploy(one, better))
        yield Row("scrapes missed in an upgrade, 1 a second a host", missed(), "scrapes", "", None)
        with scraped(one) as missed:
            for host in one:
                host.run(["systemctl", "kill", "--signal=SIGKILL", "esnode-core"])
                time.sleep(3)
        yield Row("scrapes missed when each agent is killed", missed(), "scrapes", "", None)
        with scraped(one) as missed:
            bad = deploy(one, blind, fails=True)
            served = {version(host) for host in one}
        if served != {"1.0.1"}:
            raise SystemExit(f"after the bad release the hosts serve {served}, not 1.0.1:\n{bad.output[-3000:]}")
        yield Row("scrapes missed when a release is bad", missed(), "scrapes", "", None)
        yield Row("bad release started until every host is back", bad.wall_s, "s", "", None)


def build(one: lab.Lab, collections: Path) -> None:
    """Have the release in the controller's cache: it is built once for a fleet of any size."""
    from ansible_collections.esnode.core.plugins.plugin_utils import bundle

    host = next(iter(one))
    asked = "import platform; print(*platform.python_version_tuple()[:2], sep='.')"
    python = host.run(["python3", "-c", asked]).stdout.strip()
    machine = host.run(["uname", "-m"]).stdout.strip()
    source = bundle.Source(collections / lab_collection.CORE / "roles/esnode_agent/files")
    bundle.ensure(source, python, machine, controller.ROOT / "build/releases", "", lambda step: None)


def deploy(one: lab.Lab, collections: Path, fails: bool = False) -> controller.Took:
    one.collections = collections
    began = time.monotonic()
    run = one.playbook("esnode-deploy.yml", esnode_canary_soak_seconds=0)  # a pause that is chosen is no cost
    took = controller.Took(run.code, run.output, time.monotonic() - began, 0.0, 0.0)
    print(f"   esnode-deploy.yml: {took.wall_s:.1f} s, ended with {run.code}", file=sys.stderr, flush=True)
    if bool(run.code) != fails:
        raise SystemExit(f"esnode-deploy.yml ended with {run.code}:\n{run.output[-3000:]}")
    return took


def figures(what: str, took: controller.Took) -> Iterator[Row]:
    yield Row(f"{what} on {HOSTS} hosts", took.wall_s, "s", "", None)
    yield Row(f"{what}, tasks a host", took.tasks(), "tasks", PEER, PEER_TASKS)


def version(host: lab.Host) -> str:
    return host.run(["readlink", "/opt/esnode/current"]).stdout.strip().rpartition("/")[2].partition("-")[0]


@contextmanager
def scraped(one: lab.Lab) -> Iterator[Callable[[], int]]:
    """Scrape each host once a second; what it hands out counts the missed ones once the `with` has ended."""
    command = [*one.controller, sys.executable, str(SCRAPER), *(host.address for host in one)]
    scraper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert scraper.stdout
    result: dict[str, Any] = {}

    def missed() -> int:
        for line in result["missed"]:
            print(f"   missed: {line}", file=sys.stderr)
        print(f"   {result['scrapes']} scrapes, {len(result['missed'])} missed", file=sys.stderr)
        return len(result["missed"])

    try:
        if scraper.stdout.readline() != "scraping\n":
            raise SystemExit("the scraper has not begun")
        yield missed
    finally:
        said, _ = scraper.communicate()  # closes its stdin
    result.update(json.loads(said))
