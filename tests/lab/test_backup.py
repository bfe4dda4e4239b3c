# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that backs itself up by its timer, loses its history and gets it back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator

import lab
import lab_slot
import pytest

UNIT = "esnode-backup.service"
OFTEN = {"esnode_backup_calendar": "*:*:0/5", "esnode_backup_splay": "0"}
NEVER = {"esnode_backup_calendar": "2099-01-01"}
COMMAND = "/opt/esnode/current/bin/esnode-core"
DIR = "var/backups/esnode"


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("backup", [lab.Spec("keeper", "trixie")]) as booted:
        done = booted.playbook("esnode-deploy.yml")
        assert done.code == 0, done.output
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["keeper"]


def changed(run: lab.Run) -> int:
    assert run.code == 0, run.output
    found = re.search(r"^keeper\s.*changed=(\d+)", run.output, re.MULTILINE)
    assert found, run.output
    return int(found[1])


def shell(host: lab.Host, command: str, check: bool = True) -> str:
    return host.run(["sh", "-c", command], check=check).stdout.strip()


def manifests(host: lab.Host) -> list[str]:
    folder = host.root / DIR / "manifests"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def journal(host: lab.Host) -> str:
    return shell(host, f"journalctl --no-pager --output=cat --unit={UNIT}")


def oldest(host: lab.Host) -> float:
    """When the oldest sample that the agent has was taken, 0 while it has none or does not answer."""
    said = shell(host, f"{COMMAND} status --json", check=False)
    return float((json.loads(said)["tsdb"].get("oldest") if said.startswith("{") else 0) or 0)


def until(condition: Callable[[], bool], what: str) -> None:
    lab_slot.wait_for(condition, what, 60)


def test_a_host_is_backed_up_by_its_timer(one: lab.Lab, host: lab.Host) -> None:
    assert changed(one.playbook("esnode-backup.yml", "--check", "--diff", **OFTEN)) > 0
    assert not (host.root / "etc/systemd/system/esnode-backup.timer").exists()
    assert not (host.root / DIR).exists()
    assert changed(one.playbook("esnode-backup.yml", **OFTEN)) > 0
    # The first one is taken at once; Ansible does not wait for it where the timer was a moment faster.
    until(lambda: bool(manifests(host)), f"there is no first backup: {journal(host)}")
    assert changed(one.playbook("esnode-backup.yml", **OFTEN)) == 0
    before = len(manifests(host))
    until(lambda: len(manifests(host)) > before + 1, "the timer takes no backups")
    assert shell(host, f"stat -c '%U %a' /{DIR}") == "esnode 700"
    assert shell(host, "systemctl --failed --no-legend") == ""
    config = [path.read_text() for path in (host.root / DIR / "config").iterdir()]
    assert any("scrape_interval_seconds" in text or "listen_address" in text for text in config)


def test_it_is_confined(host: lab.Host) -> None:
    exposure = shell(host, f"systemd-analyze security --no-pager {UNIT} | tail -1")
    found = re.search(r": ([0-9.]+) [A-Z]+", exposure)
    assert found, exposure
    assert float(found[1]) < 1.0, exposure


def metrics(host: lab.Host) -> dict[str, float]:
    """What the agent tells of backups."""
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/metrics', timeout=20).read().decode())"
    lines = host.run(["python3", "-c", ask]).stdout.splitlines()
    pairs = [line.split() for line in lines if line.startswith("esnode_backup_")]
    return {name.removeprefix("esnode_backup_"): float(value) for name, value in pairs}


def test_prometheus_sees_how_they_go(host: lab.Host) -> None:
    until(lambda: metrics(host).get("last_run_success") == 1, "the agent does not know of the backups")
    told = metrics(host)
    assert told["size_bytes"] > 0
    assert abs(told["last_run_timestamp_seconds"] - told["last_success_timestamp_seconds"]) < 10
    until(lambda: metrics(host)["last_success_timestamp_seconds"] > told["last_success_timestamp_seconds"], "it stays")


def test_lost_history_comes_back(one: lab.Lab, host: lab.Host) -> None:
    began = oldest(host)
    assert began
    assert changed(one.playbook("esnode-backup.yml", esnode_backup_now=True, **NEVER)) > 0
    until(lambda: shell(host, f"systemctl is-active {UNIT}", check=False) == "inactive", "a backup does not end")
    shell(host, "systemctl stop esnode-core; rm -r /var/lib/esnode/tsdb; systemctl start esnode-core")
    until(lambda: oldest(host) > began, "the agent does not begin anew")
    assert changed(one.playbook("esnode-restore.yml", "--check")) > 0
    assert oldest(host) > began
    restored = one.playbook("esnode-restore.yml", esnode_restore_config_dir="/srv/restored")
    assert changed(restored) > 0
    assert "Restored: 1 of 1 host" in restored.output
    until(lambda: abs(oldest(host) - began) < 0.01, "the oldest sample is another one")
    assert len(list((host.root / "var/lib/esnode").glob("tsdb.before-*"))) == 1
    assert shell(host, "stat -c %U /var/lib/esnode/tsdb /var/lib/esnode/tsdb/store.db") == "esnode\nesnode"
    assert shell(host, "stat -c '%U %G %a' /srv/restored/esnode.toml") == "root esnode 640"
    # The next backup goes on from there.
    shell(host, f"systemctl start {UNIT}")
    assert "every file as it was written" in shell(host, f"{COMMAND} backup --verify /{DIR}")


def test_a_restore_that_fails_leaves_the_host_as_it_was(one: lab.Lab, host: lab.Host) -> None:
    began = oldest(host)
    assert began
    nothing = one.playbook("esnode-restore.yml", esnode_restore_from="/srv/nothing")
    assert nothing.code == 2
    assert "there is no backup in /srv/nothing" in " ".join(nothing.output.split())
    flip = "printf xyz | dd of=$file bs=1 seek=30 conv=notrunc status=none"
    shell(host, f"cp -r /{DIR} /srv/spoilt; for file in /srv/spoilt/head/*; do {flip}; done")
    failed = one.playbook("esnode-restore.yml", esnode_restore_from="/srv/spoilt")
    assert failed.code == 2
    assert "the agent runs with the store of before" in " ".join(failed.output.split())
    until(lambda: abs(oldest(host) - began) < 0.01, "the oldest sample is another one")
    assert len(list((host.root / "var/lib/esnode").glob("tsdb.before-*"))) == 1


def test_a_backup_that_fails_is_a_failed_unit(host: lab.Host) -> None:
    shell(host, f"mv /{DIR} /srv/away; touch /{DIR}")
    assert host.run(["systemctl", "start", UNIT], check=False).returncode
    assert UNIT in shell(host, "systemctl --failed --no-legend")
    until(lambda: metrics(host)["last_run_success"] == 0, "the agent does not tell that it failed")
    assert metrics(host)["last_success_timestamp_seconds"] > 0
    shell(host, f"rm /{DIR}; mv /srv/away /{DIR}; systemctl start {UNIT}")
    assert shell(host, "systemctl --failed --no-legend") == ""


def test_it_is_taken_away_and_the_backups_stay(one: lab.Lab, host: lab.Host) -> None:
    shell(host, f"systemctl stop esnode-backup.timer; mv /{DIR} /srv/away; touch /{DIR}")
    assert host.run(["systemctl", "start", UNIT], check=False).returncode
    shell(host, f"rm /{DIR}; mv /srv/away /{DIR}")
    there = manifests(host)
    assert changed(one.playbook("esnode-backup.yml", esnode_backup_state="absent")) > 0
    assert shell(host, "systemctl --failed --no-legend") == ""
    assert changed(one.playbook("esnode-backup.yml", esnode_backup_state="absent")) == 0
    assert [*(host.root / "etc").rglob("esnode-backup*"), *(host.root / "var/lib").glob("esnode-backup*")] == []
    until(lambda: metrics(host) == {}, "the metrics of backups stay")
    assert manifests(host) == there
    assert shell(host, "systemctl is-active esnode-core") == "active"


def test_they_end_with_the_agent_and_the_backups_stay(one: lab.Lab, host: lab.Host) -> None:
    assert changed(one.playbook("esnode-backup.yml", **OFTEN)) > 0
    until(lambda: bool(manifests(host)), "there is no backup")
    keep = {"esnode_agent_keep_data": True}
    assert changed(one.playbook("esnode-remove.yml", "--check", **keep)) > 0
    assert shell(host, "systemctl is-active esnode-backup.timer") == "active"
    assert changed(one.playbook("esnode-remove.yml", **keep)) > 0
    there = manifests(host)
    assert there
    assert [*(host.root / "etc").rglob("esnode-backup*"), *(host.root / "var/lib").glob("esnode-backup*")] == []
    assert shell(host, "systemctl list-units --all --no-legend 'esnode*'; systemctl --failed --no-legend") == ""
    assert "esnode" not in (host.root / "etc/passwd").read_text()
    assert (host.root / "var/lib/esnode/tsdb/store.db").exists()
    assert changed(one.playbook("esnode-remove.yml", **keep)) == 0
    assert manifests(host) == there


def test_a_new_user_gets_what_the_old_one_has_left(one: lab.Lab, host: lab.Host) -> None:
    there, began = manifests(host), time.time()
    # Somebody else has its numbers now.
    uid, gid = shell(host, "stat -c '%u %g' /var/lib/esnode").split()
    shell(host, f"groupadd -g {gid} other; useradd -M -u {uid} -g {gid} other")
    shell(host, f"echo > /srv/secret; chown other: /srv/secret; ln -s /srv/secret /{DIR}/link")
    assert one.playbook("esnode-deploy.yml").code == 0
    assert shell(host, "id -u esnode") != uid
    until(lambda: 0 < oldest(host) < began, "the agent does not go on with its store")
    assert changed(one.playbook("esnode-backup.yml", esnode_backup_now=True, **NEVER)) > 0
    assert set(there) < set(manifests(host))
    assert "every file as it was written" in shell(host, f"runuser -u esnode -- {COMMAND} backup --verify /{DIR}")
    assert shell(host, f"find /var/lib/esnode /var/log/esnode /{DIR} ! -user esnode") == f"/{DIR}/link"
    assert shell(host, f"stat -c %U /srv/secret; rm /{DIR}/link") == "other"
    for playbook, place, more in (
        ("esnode-deploy.yml", "/var/lib/esnode/tsdb/store.db", {}),
        ("esnode-backup.yml", f"/{DIR}/manifests", NEVER),
    ):
        assert changed(one.playbook(playbook, **more)) == 0
        shell(host, f"chown -R other {place}")
        assert changed(one.playbook(playbook, "--check", **more)) == 1
        assert shell(host, f"stat -c %U {place}") == "other"
        assert changed(one.playbook(playbook, **more)) == 1
        assert shell(host, f"stat -c %U {place}") == "esnode"


def test_they_go_only_when_that_is_asked_for(one: lab.Lab, host: lab.Host) -> None:
    foreign = host.root / DIR / "notes.txt"
    foreign.write_text("of somebody else\n")
    purge = {"esnode_backup_keep_data": "false"}  # as on a command line
    assert changed(one.playbook("esnode-remove.yml", "--check", **purge)) > 0
    assert manifests(host)
    assert changed(one.playbook("esnode-remove.yml", **purge)) > 0
    assert [path.name for path in (host.root / DIR).iterdir()] == ["notes.txt"]
    assert changed(one.playbook("esnode-remove.yml", **purge)) == 0
    foreign.unlink()
    assert changed(one.playbook("esnode-remove.yml", **purge)) == 1
    assert not (host.root / DIR).exists()
