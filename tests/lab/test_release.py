# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on a real systemd host: upgraded, put back when they are bad, rolled back, interrupted, refused."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lab
import lab_collection
import pytest


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("release", [lab.Spec("node1", gpus="h100:2")]) as booted:
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["node1"]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_collection.copy(tmp_path_factory.mktemp("blind"), "1.0.2", lab_collection.BLIND)


Deploy = Callable[..., lab.Run]


def status(host: lab.Host) -> dict[str, Any]:
    asked = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/status', timeout=10).read().decode())"
    return dict(json.loads(host.run(["python3", "-c", asked]).stdout))


def current(host: lab.Host) -> str:
    return host.run(["readlink", "/opt/esnode/current"]).stdout.strip().removeprefix("releases/")


def releases(host: lab.Host) -> list[str]:
    """Versions of the releases that are there."""
    return sorted(n.partition("-")[0] for n in host.run(["ls", "/opt/esnode/releases"]).stdout.split())


def wait_until(what: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it has not become so"
        time.sleep(0.1)


def test_a_taken_port_is_refused_and_its_holder_named(host: lab.Host, good: Path, deploy: Deploy) -> None:
    program = shutil.which("prometheus-node-exporter")
    assert program, "apt-get install prometheus-node-exporter"
    shutil.copy(program, host.root / "usr/local/bin/prometheus-node-exporter")
    host.run(["systemd-run", "--unit=exporter", "/usr/local/bin/prometheus-node-exporter"])
    wait_until(lambda: ":9100" in host.run(["ss", "-ltn"]).stdout)
    run = deploy(good)
    host.run(["systemctl", "stop", "exporter"])
    assert run.code != 0 and "port 9100 is taken by" in run.output and "prometheus-node-exporter" in run.output
    assert not (host.root / "opt/esnode").exists() and not (host.root / "etc/esnode").exists()


def test_another_architecture_is_refused(host: lab.Host, good: Path, deploy: Deploy) -> None:
    python = host.root / "usr/local/bin/python-i686"
    python.write_text('#!/bin/sh\nexec setarch i686 /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    run = deploy(good, ansible_python_interpreter="/usr/local/bin/python-i686")
    assert run.code != 0 and "no release for i686; there is one for x86_64 and aarch64" in run.output
    assert not (host.root / "opt/esnode").exists()


def test_a_host_without_the_cpp_library_is_refused_and_told_what_to_install(
    host: lab.Host, good: Path, deploy: Deploy
) -> None:
    (library,) = host.root.glob("usr/lib/*/libstdc++.so.6")
    away = library.with_name("away")
    library.rename(away)
    run = deploy(good)
    away.rename(library)
    assert run.code != 0 and "apt-get install libstdc++6" in run.output
    assert not (host.root / "opt/esnode").exists()


def test_a_full_disk_is_refused_or_leaves_nothing_half(host: lab.Host, good: Path, deploy: Deploy) -> None:
    host.run(["mount", "-t", "tmpfs", "-o", "size=150m,mode=755", "tmpfs", "/opt"])
    run = deploy(good)
    assert run.code != 0 and "MB free" in run.output
    assert host.run(["ls", "-A", "/opt"]).stdout == ""
    # Full in the middle: something else takes the room once the installation has begun.
    host.run(["mount", "-o", "remount,size=340m", "/opt"])
    filler = "while ! ls -d /opt/esnode/releases/1* ; do sleep 0.05; done; head -c 330M /dev/zero >/opt/fill"
    host.run(["systemd-run", "--unit=filler", "sh", "-c", filler])
    run = deploy(good)
    assert run.code != 0 and "can't be installed" in run.output and "No space left on device" in run.output
    assert (
        host.run(["ls", "/opt/esnode/releases"]).stdout == ""
        and not (host.root / "etc/systemd/system/esnode-core.service").exists()
    )
    host.run(["umount", "/opt"])


def test_a_host_without_venv_gets_it(host: lab.Host, good: Path, deploy: Deploy) -> None:
    assert host.run(["python3", "-c", "import ensurepip"], check=False).returncode, "the host has python3-venv"
    assert deploy(good).changed > 0
    now = status(host)
    assert now["version"] == "1.0.0" and len(now["gpus"]) == 2
    assert {name: c["errors"] for name, c in now["collectors"].items() if c["state"] in ("failed", "late")} == {}
    record = host.root / "opt/esnode/releases" / current(host) / "deployed.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert deploy(good).changed == 0


def test_a_release_whose_collectors_are_down_goes_back(host: lab.Host, blind: Path, deploy: Deploy) -> None:
    before = status(host)
    run = deploy(blind, esnode_agent_health_timeout=12)
    assert run.code != 0 and "before and is failed now: OSError: cannot read" in run.output
    assert "went back to release 1.0.0-" in run.output and "and is healthy with it" in run.output
    now = status(host)
    assert now["version"] == "1.0.0" and now["pid"] != before["pid"] and now["collectors"]["cpu"]["state"] != "failed"
    assert current(host).startswith("1.0.0-") and releases(host) == ["1.0.0", "1.0.2"]


def test_the_good_one_again_changes_nothing(host: lab.Host, good: Path, deploy: Deploy) -> None:
    assert deploy(good).changed == 0


def test_a_configuration_that_loses_gpus_goes_back(host: lab.Host, good: Path, deploy: Deploy) -> None:
    run = deploy(good, esnode_agent_environment={"NVMLSIM_STATE": "/dev/null"}, esnode_agent_health_timeout=12)
    assert run.code != 0 and "/etc/esnode/environment, and is healthy with it" in run.output
    assert len(status(host)["gpus"]) == 2
    assert deploy(good).changed == 0


def test_killed_in_the_middle_and_run_again(host: lab.Host, blind: Path, good: Path, deploy: Deploy) -> None:
    """The module is killed after the flip, before it has seen whether the release is healthy."""
    thread = threading.Thread(target=deploy, args=(blind,), kwargs={"esnode_agent_health_timeout": 60})
    thread.start()
    wait_until(lambda: current(host).startswith("1.0.2-"))
    holder = (host.root / "opt/esnode/.lock").read_text().split()[1]
    host.run(["kill", "-KILL", holder])
    thread.join()
    assert current(host).startswith("1.0.2-")
    run = deploy(blind, esnode_agent_health_timeout=12)
    assert run.code != 0 and "went back to release 1.0.0-" in run.output
    assert status(host)["version"] == "1.0.0"


def test_rebooted_in_the_middle_and_run_again(host: lab.Host, blind: Path, good: Path, deploy: Deploy) -> None:
    thread = threading.Thread(target=deploy, args=(blind,), kwargs={"esnode_agent_health_timeout": 60})
    thread.start()
    wait_until(lambda: current(host).startswith("1.0.2-"))
    host.kill()
    thread.join()
    host.start()
    assert current(host).startswith("1.0.2-")
    run = deploy(blind, esnode_agent_health_timeout=12)
    assert run.code != 0 and "went back to release 1.0.0-" in run.output
    assert status(host)["version"] == "1.0.0" and deploy(good).changed == 0


def test_upgrade_and_rollback(host: lab.Host, better: Path, deploy: Deploy) -> None:
    assert deploy(better).changed > 0
    assert status(host)["version"] == "1.0.1"
    check = deploy(better, "--check", "--diff", playbook="esnode-rollback.yml")
    assert check.changed == 1 and "+release: 1.0.0-" in check.output and status(host)["version"] == "1.0.1"
    assert deploy(better, playbook="esnode-rollback.yml").changed == 1
    assert status(host)["version"] == "1.0.0" and status(host)["ready"]
    assert deploy(better, playbook="esnode-rollback.yml").changed == 0
    assert status(host)["version"] == "1.0.0"


def test_half_installed_and_old_releases_are_cleared_away(host: lab.Host, better: Path, deploy: Deploy) -> None:
    (name,) = [n for n in host.run(["ls", "/opt/esnode/releases"]).stdout.split() if n.startswith("1.0.1-")]
    (host.root / "opt/esnode/releases" / name / "release.json").unlink()  # it was interrupted
    assert deploy(better, esnode_agent_keep_releases=2).changed > 0
    assert status(host)["version"] == "1.0.1" and releases(host) == ["1.0.0", "1.0.1"]


def test_after_a_reboot_the_right_release_runs(host: lab.Host, better: Path, deploy: Deploy) -> None:
    host.reboot()
    wait_until(lambda: host.run(["systemctl", "is-active", "esnode-core"], check=False).stdout.strip() == "active")
    assert status(host)["version"] == "1.0.1"
    assert deploy(better).changed == 0


def test_absent_leaves_nothing(host: lab.Host, better: Path, deploy: Deploy) -> None:
    kept = host.root / "etc/esnode/gpu-state.json"  # of another part of the collection
    kept.write_text("{}\n")
    assert deploy(better, playbook="esnode-remove.yml").changed > 0
    assert [p.name for p in (host.root / "etc/esnode").iterdir()] == ["gpu-state.json"]
    kept.unlink()
    assert deploy(better, playbook="esnode-remove.yml").changed > 0
    gone = ("etc/esnode", "opt/esnode", "var/lib/esnode", "var/log/esnode", "etc/systemd/system/esnode-core.service")
    assert [p for p in gone if (host.root / p).exists()] == []
    assert "esnode" not in (host.root / "etc/passwd").read_text()
    assert deploy(better, playbook="esnode-remove.yml").changed == 0
