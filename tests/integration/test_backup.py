# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core backup` and `restore` as processes beside one that writes: kills, full disks, an S3 server."""

from __future__ import annotations

import json
import os
import pwd
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_process import environment, free_port
from esnode import store
from esnode.backup import bucket, state
from esnode.backup.keep import DAY_MS, prune
from esnode.backup.recover import verify
from esnode.backup.take import take
from esnode.store.backup import Source
from esnode.store.model import Matcher
from small_disks import fill_up, tmpfs

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="one Python is enough for processes")

WRITER = """
import sys, time
from pathlib import Path
from esnode import store
from esnode.store import SeriesId
series = [SeriesId.of("esnode_test_watts", {"gpu": str(number)}) for number in range(40)]
tick = int(sys.argv[2])
with store.open(Path(sys.argv[1]), store.Options(seal_rows=150, flush_s=0.05, retention_s=1e10)) as one:
    print("open", flush=True)
    while True:
        one.append(tick * 1000, {name: (tick * place) % 977 / 10 for place, name in enumerate(series)})
        if tick % 20 == 0:
            one.flush()
            print(tick, flush=True)
        tick += 1
        time.sleep(0.001)
"""
FIRST = 1_700_000_000


class Writer:
    """A process that appends a row a second of made-up time, some 500 of them a second."""

    def __init__(self, folder: Path, first: int = FIRST) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder, str(first)], stdout=subprocess.PIPE, env=environment(), text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "open\n"

    def durable(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    one = Writer(tmp_path / "store")
    yield one
    one.kill()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "esnode.toml"
    path.write_text(f'[tsdb]\nlocal_tsdb_path = "{tmp_path}/store"\n')
    return path


def esnode(*words: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "esnode.cli", *map(str, words)]
    extra: dict[str, str] = more.pop("env", {})  # type: ignore[assignment]
    return subprocess.run(command, env=environment(**extra), capture_output=True, text=True, timeout=120, check=False)


def done(*words: object, **more: object) -> str:
    result = esnode(*words, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def ticks(path: Path) -> list[int]:
    """Ticks of the store, after a look that each is whole and right."""
    with store.open_for_reading(path) as one:
        got = one.select()
        found = (got[0].times // 1000).tolist()
        for data in got:
            place = int(data.series.labels["gpu"])
            assert (data.times // 1000).tolist() == found
            assert data.values.tolist() == [tick * place % 977 / 10 for tick in found]
    return [int(tick) for tick in found]


def test_backups_beside_a_writer_lack_nothing_that_was_durable(tmp_path: Path, config: Path, writer: Writer) -> None:
    durable: list[int] = []
    for _ in range(4):
        durable.append(writer.durable())
        done("backup", tmp_path / "backups", "--config", config)
    writer.kill()
    listed = done("backup", "--list", tmp_path / "backups").splitlines()
    assert len(listed) == 6
    assert "4 backups in" in done("backup", "--verify", tmp_path / "backups")
    names = sorted((tmp_path / "backups/manifests").iterdir())
    for number, (at_least, name) in enumerate(zip(durable, names, strict=True)):
        taken_ms = json.loads(name.read_bytes())["taken_ms"]
        target = tmp_path / f"restored{number}"
        done("restore", tmp_path / "backups", "--store", target, "--at", taken_ms_text(taken_ms), "--config", config)
        got = ticks(target)
        assert got == list(range(FIRST, FIRST + len(got)))
        assert got[-1] >= at_least
    # The writer goes on where it was, on the restored store.
    (tmp_path / "store").rename(tmp_path / "lost")
    done("restore", tmp_path / "backups", "--config", config)
    last = ticks(tmp_path / "store")[-1]
    other = Writer(tmp_path / "store", last + 1)
    other.durable()
    done("backup", tmp_path / "backups", "--config", config)
    other.kill()
    assert len(ticks(tmp_path / "store")) > last - FIRST


def taken_ms_text(taken_ms: int) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(taken_ms / 1000))
    return f"{moment}.{taken_ms % 1000:03d}Z"


def test_a_backup_killed_anywhere_harms_none(tmp_path: Path, config: Path, writer: Writer) -> None:
    backups = tmp_path / "backups"
    dice = random.Random(5)
    while writer.durable() < FIRST + 1500:
        pass
    killed = tried = 0
    end = time.monotonic() + 60
    while tried < 5 or not killed:  # on a busy machine it has often ended before
        assert time.monotonic() < end
        tried += 1
        command = [sys.executable, "-m", "esnode.cli", "backup", str(backups), "--config", str(config)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # From when the folder is there on it is at work.
        deadline = time.monotonic() + 20
        while not (backups / "lock").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(dice.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        (backups / "lock").unlink()
    done("backup", backups, "--config", config)
    assert not list(backups.glob("*/*.new"))
    assert "every file as it was written" in done("backup", "--verify", backups)
    done("restore", backups, "--store", tmp_path / "again", "--config", config)
    assert len(ticks(tmp_path / "again")) >= 1500


def test_a_pipe_of_tar_and_what_keeps_a_restore_from_beginning(tmp_path: Path, config: Path, writer: Writer) -> None:
    writer.durable()
    command = f"'{sys.executable}' -m esnode.cli backup - --config {config} | cat > {tmp_path}/one.tar"
    subprocess.run(["bash", "-o", "pipefail", "-c", command], env=environment(), check=True)
    writer.kill()
    # What the killed one has left in its log is in a backup, too.
    done("backup", tmp_path / "backups", "--config", config)
    done("restore", tmp_path / "backups", "--store", tmp_path / "after")
    assert ticks(tmp_path / "after") == ticks(tmp_path / "store")
    there = esnode("restore", tmp_path / "one.tar", "--config", config)
    assert there.returncode == 1
    assert f"mv {tmp_path}/store {tmp_path}/store.before" in there.stderr
    done("restore", tmp_path / "one.tar", "--store", tmp_path / "again")
    assert set(ticks(tmp_path / "again")) <= set(ticks(tmp_path / "store"))
    early = esnode("restore", tmp_path / "one.tar", "--store", tmp_path / "third", "--at", "2020-01-01")
    assert "so old" in early.stderr
    assert not (tmp_path / "third").exists()
    nothing = esnode("restore", tmp_path, "--store", tmp_path / "third")
    assert (nothing.returncode, "no whole backup in" in nothing.stderr) == (1, True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_full_disk_leaves_the_older_backups_as_they_are(tmp_path: Path, config: Path, writer: Writer) -> None:
    with tmpfs(tmp_path / "disk", "1m") as disk:
        while writer.durable() < FIRST + 400:
            pass
        done("backup", disk / "backups", "--config", config)
        ballast = fill_up(disk)
        while writer.durable() < FIRST + 800:
            pass
        full = esnode("backup", disk / "backups", "--config", config)
        assert full.returncode == 1
        assert "No space left on device: this backup was not made; older ones are as they were" in full.stderr
        assert done("backup", "--verify", disk / "backups").startswith("1 backups")
        ballast.unlink()
        done("backup", disk / "backups", "--config", config)
        assert done("backup", "--verify", disk / "backups").startswith("2 backups")
        no_room = esnode("restore", disk / "backups", "--store", disk / "store")
        assert f"{disk} has " in no_room.stderr
        assert sorted(path.name for path in disk.iterdir()) == ["backups"]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server with the bucket `fleet`; the environment to reach it."""
    port = free_port()
    program = Path(sys.executable).with_name("moto_server")
    log = (tmp_path / "moto.log").open("wb")
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for attempt in range(600):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/fleet", method="PUT"), timeout=5).close()
                break
            except OSError:
                assert attempt < 599, (tmp_path / "moto.log").read_text()
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "hush",
            "AWS_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
        log.close()


def test_a_bucket_gets_what_it_lacks_and_gives_it_back(
    tmp_path: Path, config: Path, writer: Writer, s3: dict[str, str]
) -> None:
    url = "s3://fleet/nodes/node01"
    while writer.durable() < FIRST + 400:
        pass
    credentials = tmp_path / "environment"
    credentials.write_text("# of the fleet\n" + "".join(f"{name}='{value}'\n" for name, value in s3.items()))
    upload = ("backup", tmp_path / "backups", "--config", config, "--upload", url, "--environment-file", credentials)
    first = done(*upload).splitlines()[-1]
    assert first.startswith(f"brought to {url}: ")
    files = len([path for path in (tmp_path / "backups").rglob("*") if path.is_file() and path.name != "lock"])
    assert f"{files} files" in first
    writer.durable()
    assert "brought to" in done(*upload)
    # While the bucket is away backups go on, and the next one that reaches it brings all of them.
    away = esnode(*upload, env={**s3, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
    assert away.returncode == 1
    assert "the backup is complete in" in away.stderr
    assert "the next one brings what is missing" in away.stderr
    done(*upload)
    writer.kill()
    assert len(done("backup", "--list", url, env=s3).splitlines()) == 6
    assert "4 backups in" in done("backup", "--verify", url, env=s3)
    done("restore", url, "--store", tmp_path / "again", env=s3)
    done("restore", tmp_path / "backups", "--store", tmp_path / "same")
    assert ticks(tmp_path / "again") == ticks(tmp_path / "same")
    wrong = esnode("backup", "--list", "s3://nobody/x", env=s3)
    assert (wrong.returncode, "NoSuchBucket" in wrong.stderr) == (1, True)


def test_old_backups_go_from_a_bucket(tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    place = bucket.at("s3://fleet/nodes/node02/")
    now_ms = int(time.time() * 1000)
    for ago_days in (100, 50, 3, 2.99, 0):
        with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
            one.append(now_ms - int(ago_days * DAY_MS), {store.SeriesId.of("esnode_test_watts", {}): ago_days})
        source = Source(tmp_path / "store")
        take(place, source, [], [], now_ms - int(ago_days * DAY_MS))
        source.close()
    assert prune(place, now_ms, 2, {}) > 1
    assert verify(place, print) == (2, 0)
    done("restore", "s3://fleet/nodes/node02", "--store", tmp_path / "again")
    with store.open_for_reading(tmp_path / "again") as one:
        assert one.select()[0].values.tolist() == [100, 50, 3, 2.99, 0]


def test_damage_is_said_by_the_exit_code(tmp_path: Path, config: Path) -> None:
    with store.open(tmp_path / "store") as one:
        one.append(int(time.time() * 1000), {store.SeriesId.of("esnode_test_watts", {}): 1.5})
        one.seal()
    with sqlite3.connect(tmp_path / "store/store.db") as connection:
        connection.execute("UPDATE chunk SET body = substr(body, 1, length(body) - 1) || x'ff'")
    connection.close()
    result = esnode("backup", tmp_path / "backups", "--config", config)
    assert result.returncode == 3
    assert "1 parts of the store are damaged; everything else is in the backup" in result.stderr
    assert "1 parts of the store were damaged" in done("backup", "--list", tmp_path / "backups")


def test_the_agent_is_told_how_a_backup_went(tmp_path: Path, config: Path, writer: Writer) -> None:
    writer.durable()
    path = tmp_path / "state.json"
    command = ("backup", tmp_path / "backups", "--config", config, "--state-file", path)
    began = time.time()
    mask = os.umask(0o077)
    try:
        done(*command)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o644
    good = state.read(path)
    [manifest] = (tmp_path / "backups/manifests").iterdir()
    taken = json.loads(manifest.read_bytes())
    files = [file for part in ("blocks", "head", "config") for file in taken[part]]
    assert good == state.State(good.ended, True, taken["taken_ms"] / 1000, sum(file["size"] for file in files))
    assert began - 0.001 <= float(good.taken or 0) <= good.ended <= time.time()
    # Complete here, and not where it was to be brought.
    assert esnode(*command, "--upload", f"file://{tmp_path}/mnt/second").returncode == 1
    bad = state.read(path)
    assert bad == state.State(bad.ended, False, good.taken, good.size) and bad.ended > good.ended
    # One that takes longer than the service manager has patience.
    path.write_text("{")
    waiting = [sys.executable, "-m", "esnode.cli", *map(str, command)]
    config.rename(tmp_path / "away")
    os.mkfifo(config)  # it waits for whoever writes the configuration
    process = subprocess.Popen(waiting, env=environment(), stderr=subprocess.DEVNULL)
    with config.open("w"):
        time.sleep(0.2)
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM
    ended = state.read(path)
    assert ended == state.State(ended.ended, False, None, None), "of a damaged file nothing is known"
    config.unlink()
    (tmp_path / "away").rename(config)
    lost = esnode(*command[:-1], tmp_path / "nowhere/state.json")
    assert lost.returncode == 1
    assert f"the backup is complete, but can't write {tmp_path}/nowhere/state.json: No such file" in lost.stderr
    assert [found.name for found in tmp_path.glob(".state-*")] == []


def test_an_upload_to_a_path_and_urls_that_are_refused(tmp_path: Path, config: Path, writer: Writer) -> None:
    writer.durable()
    done("backup", tmp_path / "backups", "--config", config, "--upload", f"file://{tmp_path}/second")
    assert "1 backups" in done("backup", "--list", f"file://{tmp_path}/second")
    unmounted = esnode("backup", tmp_path / "mnt/backups", "--config", config)
    assert f"{tmp_path}/mnt is not there: make it, or mount what belongs there" in unmounted.stderr
    for url, why in {
        "ftp://host/x": "is none of s3://BUCKET/PREFIX",
        "s3://key:secret@bucket/x": "holds no credentials",
        "s3:///x": "is none of",
    }.items():
        refused = esnode("backup", tmp_path / "backups", "--config", config, "--upload", url)
        assert (refused.returncode, why in refused.stderr) == (1, True), refused.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_who_gets_a_store_above_which_all_is_roots(tmp_path: Path, config: Path, writer: Writer) -> None:
    writer.durable()
    done("backup", tmp_path / "backups", "--config", config)
    groups = [user.pw_gid for user in pwd.getpwall()]
    agent = next(user for user in pwd.getpwall() if user.pw_uid and user.pw_gid and groups.count(user.pw_gid) == 1)

    def owner_after(name: str, *more: object) -> tuple[int, int]:
        restored = esnode("restore", tmp_path / "backups", "--store", tmp_path / name, "--config", config, *more)
        assert restored.returncode == 0, restored.stderr
        status = (tmp_path / name).stat()
        assert (f"{tmp_path / name} belongs to root now" in restored.stderr) == (status.st_uid == 0 and not more)
        return status.st_uid, status.st_gid

    assert owner_after("unknown") == (0, 0)
    os.chown(config, 0, agent.pw_gid)
    assert owner_after("by-configuration") == (agent.pw_uid, agent.pw_gid)
    assert owner_after("by-name", "--user", "root") == (0, 0)
    (tmp_path / "made").mkdir()
    os.chown(tmp_path / "made", 12345, 23456)
    assert owner_after("made") == (12345, 23456)


def test_an_upload_of_a_folder_with_a_damaged_backup(tmp_path: Path, config: Path, writer: Writer) -> None:
    writer.durable()
    done("backup", tmp_path / "backups", "--config", config)
    [old] = (tmp_path / "backups/manifests").iterdir()
    old.write_bytes(old.read_bytes()[:-1])
    writer.durable()
    upload = ("backup", tmp_path / "backups", "--config", config, "--upload", f"file://{tmp_path}/second")
    some = esnode(*upload)
    assert some.returncode == 1
    assert f"esnode-core: {old} is damaged; where it can't be mended delete it" in some.stderr
    assert "all others are there" in some.stderr
    assert "1 backups" in done("backup", "--verify", f"file://{tmp_path}/second")
    old.unlink()
    done(*upload)
    assert "2 backups" in done("backup", "--verify", f"file://{tmp_path}/second")


def test_a_store_that_is_encrypted(tmp_path: Path, config: Path) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    with store.open(tmp_path / "store", store.Options(key_file=key)) as one:
        one.append(FIRST * 1000, {store.SeriesId.of("esnode_test_watts", {}): 1.5})
    config.write_text(config.read_text() + f'encryption_key_path = "{key}"\n')
    assert "samples from 2023-11-14T22:13:20Z" in done("backup", tmp_path / "backups", "--config", config)
    again = esnode("restore", tmp_path / "backups", "--config", config, "--store", tmp_path / "again")
    assert (again.returncode, "is encrypted with" in again.stderr) == (0, False)
    key.write_text("cd" * 32)
    other = esnode("restore", tmp_path / "backups", "--config", config, "--store", tmp_path / "third")
    assert other.returncode == 0
    assert "is encrypted with key" in other.stderr
    key.write_text("ab" * 32)
    with store.open_for_reading(tmp_path / "third", key) as one:
        assert one.select([Matcher("__name__", "=", "esnode_test_watts")])[0].values.tolist() == [1.5]
