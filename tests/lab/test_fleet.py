# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout over real hosts: a bad release stops at the canary, a good one misses no scrape, a lost host stops it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lab
import lab_collection
import pytest

NAMES = ["n1", "n2", "n3", "n4"]
SPECS = [lab.Spec(name, "trixie" if name == "n2" else "bookworm", "h100:2" if name == "n1" else None) for name in NAMES]
SCRAPER = Path(__file__).with_name("held_port.py")
AT_ONCE: dict[str, Any] = {"esnode_serial": "100%"}  # where the order is not what is tried


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("fleet", SPECS) as booted:
        yield booted


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("releases")
    return {
        "good": lab_collection.copy(folder / "good", "1.0.0"),
        "better": lab_collection.copy(folder / "better", "1.0.1"),
        "bad": lab_collection.copy(folder / "bad", "1.0.2", lab_collection.BLIND),
        "short-lived": lab_collection.copy(folder / "short-lived", "1.0.3", lab_collection.SHORT_LIVED),
    }


Deploy = Callable[..., lab.Run]


@pytest.fixture
def deploy(one: lab.Lab, releases: dict[str, Path]) -> Deploy:
    def run(release: str, playbook: str = "esnode-deploy.yml", **variables: Any) -> lab.Run:
        one.collections = releases[release]
        short = {"esnode_agent_health_timeout": 20, "esnode_canary_soak_seconds": 1}
        return one.playbook(playbook, **{**short, **variables})

    return run


def versions(one: lab.Lab) -> dict[str, str]:
    return {host.name: version(host) for host in one}


def status(host: lab.Host) -> dict[str, Any]:
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/status', timeout=10).read().decode())"
    return dict(json.loads(host.run(["python3", "-c", code]).stdout))


def version(host: lab.Host) -> str:
    return str(status(host)["version"])


def test_a_good_release_reaches_every_host(one: lab.Lab, deploy: Deploy) -> None:
    assert deploy("good", **AT_ONCE).changed > 0
    assert versions(one) == dict.fromkeys(NAMES, "1.0.0")
    assert deploy("good", **AT_ONCE).changed == 0


def test_a_bad_release_stops_at_the_canary_which_goes_back(one: lab.Lab, deploy: Deploy) -> None:
    run = deploy("bad")
    assert run.code != 0 and "Not tried: 3" in run.output
    assert "went back to release 1.0.0-" in run.output and "and is healthy with it" in run.output
    assert versions(one) == dict.fromkeys(NAMES, "1.0.0")
    touched = [host.name for host in one if "1.0.2-" in host.run(["ls", "/opt/esnode/releases"]).stdout]
    assert touched == ["n1"]


def test_a_release_that_ends_after_a_while_stops_at_the_canary_too(one: lab.Lab, deploy: Deploy) -> None:
    run = deploy("short-lived", esnode_canary_soak_seconds=60)
    assert run.code != 0 and "Not tried: 3" in run.output
    assert "was healthy and ended within 60 s" in run.output and "and is healthy with it" in run.output
    assert versions(one) == dict.fromkeys(NAMES, "1.0.0")


def test_a_host_that_is_lost_stops_the_rollout_and_the_next_run_goes_on(one: lab.Lab, deploy: Deploy) -> None:
    with Cut(one["n2"], one["n1"]):
        run = deploy("better", esnode_serial=[1, 1, "100%"])
    assert run.code != 0
    # n2 was cut off before or while it got the release; either is right.
    assert {name: v for name, v in versions(one).items() if name != "n2"} == {
        "n1": "1.0.1",
        "n3": "1.0.0",
        "n4": "1.0.0",
    }


def test_the_rest_of_the_rollout_misses_no_scrape(one: lab.Lab, deploy: Deploy) -> None:
    scrapers = {
        host.name: subprocess.Popen(
            [*one.controller, sys.executable, str(SCRAPER), f"http://{host.address}:9100/metrics"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in one
    }
    try:
        assert deploy("better").changed > 0
        assert versions(one) == dict.fromkeys(NAMES, "1.0.1")
    finally:
        said = {name: scraper.communicate("end\n", timeout=60)[0] for name, scraper in scrapers.items()}
    for name, text in said.items():
        found = re.search(r"(\d+) answered, missed: \[\]", text)
        assert found and int(found[1]) > 10, (name, text)
    assert deploy("better", **AT_ONCE).changed == 0


def test_the_table_shows_trouble_first(one: lab.Lab, deploy: Deploy) -> None:
    simulator = one["n1"].simulator
    assert simulator
    simulator("lose", 1)
    one["n3"].run(["sh", "-c", "echo '# by hand' >>/etc/esnode/esnode.toml"])
    one["n4"].run(["systemctl", "stop", "esnode-core"])
    end = time.monotonic() + 60
    while status(one["n1"])["gpus"][1]["state"] != "lost":
        assert time.monotonic() < end, "the agent has not noticed"
        time.sleep(0.5)
    run = deploy("better", "esnode-status.yml")
    simulator("restore", 1)
    found = re.search(r'"HOST .*?(?=\n\s*\])', run.output, re.DOTALL)
    assert found, run.output
    rows = [line.strip().strip('",') for line in found[0].splitlines()]
    assert [row.split()[0] for row in rows[:5]] == ["HOST", "n1", "n3", "n4", "n2"], rows
    assert "GPU 1 (NVIDIA H100 80GB HBM3) is lost" in rows[1] and "/etc/esnode/esnode.toml" in rows[2]
    assert "the agent does not run" in rows[3] and " well " in rows[4]
    assert rows[5].startswith("1 of 4 hosts well, 3 in trouble, 2 GPUs")


class Cut:
    """One host loses its network once another one has been given a new release."""

    def __init__(self, victim: lab.Host, after: lab.Host) -> None:
        self._victim = victim
        self._after = after
        self._before = after.run(["readlink", "/opt/esnode/current"]).stdout

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        end = time.monotonic() + 600
        while self._after.run(["readlink", "/opt/esnode/current"]).stdout == self._before:
            if time.monotonic() > end:
                return
            time.sleep(0.1)
        self._victim.cut()

    def __exit__(self, *_error: object) -> None:
        self._thread.join()
        self._victim.join()
