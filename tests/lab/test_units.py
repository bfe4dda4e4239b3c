# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The units on real hosts: the sandbox bites and takes no number away, the port is held, a hung agent comes back."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lab
import pytest

pytestmark = pytest.mark.skipif(lab.unavailable() is not None, reason=f"no hosts: {lab.unavailable()}")

RELEASES = ("bookworm", "trixie")
UNIT = "/etc/systemd/system/esnode-core.service"
PROBE = Path(__file__).with_name("sandbox_probe.py")
SCRAPER = Path(__file__).with_name("held_port.py")
# What the agent is not; the rest of its unit is the sandbox.
_NOT_SANDBOX = ("Type", "Exec", "Restart", "Timeout", "Watchdog", "StandardInput", "EnvironmentFile")


@pytest.fixture(scope="module")
def hosts() -> Iterator[lab.Lab]:
    with lab.Lab("units", [lab.Spec(release, release, gpus="h100:2") for release in RELEASES]) as one:
        done = one.playbook("esnode-deploy.yml")
        assert done.code == 0, done.output
        for host in one:
            # What the attempts need: a file of somebody else in /tmp, a device that everybody may open (FUSE).
            host.run(["sh", "-c", "echo theirs >/tmp/theirs; chmod 666 /tmp/theirs; mknod -m 666 /dev/other c 10 229"])
        yield one


def shell(host: lab.Host, command: str, check: bool = True) -> str:
    return host.run(["sh", "-c", command], check=check).stdout.strip()


def sandbox(host: lab.Host) -> list[str]:
    """The deployed unit's settings as options of systemd-run."""
    lines = shell(host, f"sed -n '/^\\[Service\\]/,/^\\[Install\\]/p' {UNIT}").splitlines()
    settings = [line for line in lines if re.match(r"\w+=", line) and not line.startswith(_NOT_SANDBOX)]
    assert len(settings) > 25, lines
    return [f"--property={line}" for line in settings]


def run_as(host: lab.Host, properties: list[str], code: str) -> dict[str, str]:
    command = ["systemd-run", "--quiet", "--wait", "--pipe", *properties, "/usr/bin/python3", "-c", code]
    said = host.run(command, check=False)
    found = dict(line.split(": ", 1) for line in said.stdout.splitlines())
    assert found, said.stderr
    return found


def scrape(host: lab.Host) -> str:
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/metrics', timeout=20).read().decode())"
    return host.run(["python3", "-c", ask]).stdout


def pid(host: lab.Host) -> str:
    return shell(host, "systemctl show --property MainPID --value esnode-core")


def until(condition: Callable[[], bool], what: str, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@pytest.mark.parametrize("name", RELEASES)
def test_each_attempt_fails_in_the_sandbox_and_succeeds_outside(hosts: lab.Lab, name: str) -> None:
    host, code = hosts[name], PROBE.read_text()
    outside = run_as(host, [], code)
    assert set(outside.values()) == {"done"}, "what is not possible outside proves nothing"
    inside = run_as(host, sandbox(host), code)
    assert inside.keys() == outside.keys()
    assert not [attempt for attempt, result in inside.items() if result == "done"]
    # The node of the driver, which is not loaded here, is not what is refused.
    driver = "try: open('/dev/nvidiactl', 'rb')\nexcept OSError as error: print('node:', error.strerror)"
    assert run_as(host, sandbox(host), driver) == {"node": "No such device or address"}


@pytest.mark.parametrize("name", RELEASES)
def test_exposure_is_low_and_the_units_are_free_of_warnings(hosts: lab.Lab, name: str) -> None:
    host = hosts[name]
    said = shell(host, "systemd-analyze security --no-pager esnode-core")
    found = re.search(r"Overall exposure level for esnode-core.service: ([\d.]+)", said)
    assert found and float(found[1]) <= 1.8, said
    verified = host.run(["systemd-analyze", "verify", "esnode-core.service", "esnode-core.socket"])
    assert verified.stdout + verified.stderr == ""
    # What systemd says of a setting that it does not know or can't follow starts with the file and its line.
    said = shell(host, "journalctl --boot --no-pager --output=cat _PID=1 --priority=warning")
    assert not re.search(r"esnode-core\.(service|socket):\d", said), said


@pytest.mark.parametrize("name", RELEASES)
def test_the_kernel_knows_the_ceilings(hosts: lab.Lab, name: str) -> None:
    group = shell(hosts[name], "systemctl show -P ControlGroup esnode-core")
    # Files of cgroup v2 and of v1, of which one is there.
    ceilings = {
        "536870912": (f"{group}/memory.max", f"memory{group}/memory.limit_in_bytes"),
        "256": (f"{group}/pids.max", f"pids{group}/pids.max"),
        "200000": (f"{group}/cpu.max", f"cpu{group}/cpu.cfs_quota_us"),
    }
    for limit, files in ceilings.items():
        said = shell(hosts[name], "cd /sys/fs/cgroup; cat " + " ".join(f"./{file}" for file in files), check=False)
        assert said.split()[:1] == [limit], (files, said)


@pytest.mark.parametrize("name", RELEASES)
def test_the_sandbox_takes_no_series_away(hosts: lab.Lab, name: str) -> None:
    host = hosts[name]

    def series() -> set[str]:
        lines = [line.rpartition(" ")[0] for line in scrape(host).splitlines() if line and not line.startswith("#")]
        return {line for line in lines if not line.startswith("esnode_http_requests_total")}

    free = "/run/free"  # the same command as the same user, with nothing else
    code = shell(host, f"sed -n 's/^ExecStart=//p' {UNIT}").replace("/etc/esnode/esnode.toml", f"{free}/esnode.toml")
    shell(
        host, f"mkdir -p {free}; sed s/:9100/:9300/ /etc/esnode/esnode.toml >{free}/esnode.toml; chmod -R a+rX {free}"
    )
    host.run(["systemd-run", "--unit=free", "--property=User=esnode", *shlex.split(code)])

    def unsandboxed() -> set[str]:
        ask = (
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9300/metrics', timeout=20).read().decode())"
        )
        text = host.run(["python3", "-c", ask], check=False).stdout
        lines = [line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")]
        return {line for line in lines if not line.startswith("esnode_http_requests_total")}

    try:
        until(lambda: len(unsandboxed()) > 300, "the agent outside the sandbox does not serve")
        wanted = unsandboxed()
        until(lambda: unsandboxed() - series() == set(), f"lost: {sorted(wanted - series())}", 60)
        assert "esnode_clock_synchronized" in series()
    finally:
        shell(host, f"systemctl stop free; rm -r {free}", False)


@pytest.mark.parametrize("name", RELEASES)
def test_a_hung_agent_is_ended_by_the_watchdog_and_comes_back(hosts: lab.Lab, name: str) -> None:
    host = hosts[name]
    folder = "/run/systemd/system/esnode-core.service.d"
    shell(host, f"mkdir -p {folder}; printf '[Service]\\nWatchdogSec=8\\n' >{folder}/short.conf")
    try:
        shell(host, "systemctl daemon-reload; systemctl restart esnode-core")
        before = pid(host)
        shell(host, f"kill -STOP {before}")
        until(lambda: pid(host) not in (before, "0"), "the agent is not restarted")
        assert "esnode_build_info" in scrape(host)
        assert "watchdog" in shell(host, "journalctl --no-pager -u esnode-core --boot -n 50 --output=cat").lower()
    finally:
        shell(host, f"rm -r {folder}; systemctl daemon-reload; systemctl reset-failed esnode-core")
        shell(host, "systemctl restart esnode-core")


@pytest.mark.parametrize("name", RELEASES)
def test_a_restart_and_a_crash_drop_no_scrape(hosts: lab.Lab, name: str) -> None:
    host = hosts[name]
    url = f"http://{host.address}:9100/metrics"
    command = [*hosts.controller, sys.executable, str(SCRAPER), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as scraper:
        assert scraper.stdin and scraper.stdout
        try:
            assert scraper.stdout.readline() == "scraping\n"
            for _unused in range(2):
                shell(host, "systemctl restart esnode-core")
            # Between two scrapes: what the killed process was just writing is lost with it.
            scraper.stdin.write("pause\n")
            scraper.stdin.flush()
            assert scraper.stdout.readline() == "paused\n"
            before = pid(host)
            shell(host, f"kill -KILL {before}")
            scraper.stdin.write("go\n")
            scraper.stdin.flush()
            until(lambda: pid(host) not in (before, "0"), "the agent is not restarted")
            assert "esnode_build_info" in scrape(host)
            said, _nothing = scraper.communicate("end\n", timeout=60)
        finally:
            scraper.kill()
    count, _colon, missed = said.strip().partition(" answered, missed: ")
    assert int(count) > 2 and missed == "[]", said


@pytest.mark.parametrize("name", RELEASES)
def test_stop_means_it_and_a_crash_loop_ends_until_a_deployment(hosts: lab.Lab, name: str) -> None:
    host = hosts[name]
    host.run(["systemctl", "stop", "esnode-core"])
    until(lambda: shell(host, "systemctl is-active esnode-core.socket", False) == "inactive", "the port is still held")
    with pytest.raises(RuntimeError, match="refused"):
        scrape(host)
    config = "/etc/esnode/esnode.toml"
    shell(host, f"cp -p {config} /root/kept; echo broken >>{config}")
    try:
        host.run(["systemctl", "start", "--no-block", "esnode-core"])
        until(lambda: shell(host, "systemctl is-failed esnode-core", False) == "failed", "the crash loop goes on")
        assert shell(host, "systemctl show -P NRestarts esnode-core") != "0"
    finally:
        shell(host, f"mv /root/kept {config}")
    # What the role does: esnode_service finds that the agent does not run.
    assert hosts.playbook("esnode-deploy.yml", "--limit", name).code == 0
    assert shell(host, "systemctl is-active esnode-core esnode-core.socket") == "active\nactive"
    assert hosts.playbook("esnode-deploy.yml", "--limit", name).changed == 0
