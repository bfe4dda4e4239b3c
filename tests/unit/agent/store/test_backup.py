# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a store that is open: what they share, what they leave out, and that a restored one is the same."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from esnode import store
from esnode.backup import BackupError, configuration, recover
from esnode.backup.acting import acting_in
from esnode.backup.keep import DAY_MS, doomed, prune
from esnode.backup.manifest import File, Manifest, newest_first, read, taken_ms
from esnode.backup.manifest import named as manifest_named
from esnode.backup.places import Folder
from esnode.backup.recover import Owner, choose, restore, verify
from esnode.backup.take import Taken, mirror, take
from esnode.backup.tarball import TarWriter, unpack
from esnode.commands import CommandError
from esnode.commands import backup as backup_command
from esnode.config import SECRETS, Config, Orchestrator, Security
from esnode.config_file import ConfigError, load
from esnode.store.backup import Source
from esnode.store.envelope import Envelope
from esnode.store.identity import Identity, read_identity, write_identity
from esnode.store.keys import read_keys
from esnode.store.store import Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import STALE, START_MS, bits, fill, named, row

Opener = Callable[..., Store]
Dump = list[tuple[store.SeriesId, bytes, list[int]]]


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    """An empty folder for backups."""
    one = Folder(tmp_path / "backups")
    one.path.mkdir()
    return one


def backup(place: Folder | TarWriter, path: Path, now_ms: int = START_MS, key_file: Path | None = None) -> Taken:
    source = Source(path, read_keys(key_file) if key_file else ())
    try:
        return take(place, source, [], [], now_ms, "node01")
    finally:
        source.close()


def restored(place: Folder, path: Path, at_ms: int | None = None) -> Path:
    restore(place, choose(place, at_ms)[1], path, None, Owner())
    return path


def dump(path: Path, key_file: Path | None = None) -> Dump:
    with store.open_for_reading(path, key_file) as one:
        return [(data.series, data.times.tobytes(), bits(data.values)) for data in one.select()]


def damage(path: Path, table: str, number: int) -> None:
    """Flip a bit in the middle of a blob."""
    with sqlite3.connect(path / "store.db") as connection:
        blob = bytearray(connection.execute(f"SELECT body FROM {table} WHERE id = ?", (number,)).fetchone()[0])
        blob[len(blob) // 2] ^= 1
        connection.execute(f"UPDATE {table} SET body = ? WHERE id = ?", (bytes(blob), number))
    connection.close()


def taken_block(path: Path) -> int:
    with sqlite3.connect(path / "store.db") as connection:
        number = connection.execute("SELECT min(id) FROM block").fetchone()[0]
    connection.close()
    return int(number)


def test_a_restored_store_is_the_same_and_goes_on(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    fill(one, 300)
    one.append(START_MS + 300 * 15_000, {named(0): STALE, named(1): -0.0})
    one.seal()
    expected = fill(one, 40, series=9, first=400)
    one.flush()
    taken = backup(place, one.path)
    assert (len(taken.manifest.blocks), len(taken.manifest.head), taken.manifest.damaged) == (1, 1, 0)
    assert taken.manifest.first_ms == START_MS
    assert taken.manifest.last_ms == START_MS + 439 * 15_000
    again = restored(place, tmp_path / "again")
    assert dump(again) == dump(one.path)
    damage(again, "block", taken_block(again))  # of what much hangs on there are two copies again
    assert dump(again) == dump(one.path)
    with store.open(again, store.Options(wall=lambda: START_MS / 1000)) as other:
        assert set(other.stats().damaged) <= {"block"}
        assert other.stats().hot_rows == 40
        more = fill(other, 5, series=9, first=500)
        other.seal()
        got = {data.series: data for data in other.select(from_ms=START_MS + 400 * 15_000)}
        for series, samples in expected.samples.items():
            assert bits(got[series].values) == bits([*samples.values(), *more.samples[series].values()])


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.sampled_from(["append", "other series", "flush", "seal", "backup", "restart"]), min_size=1, max_size=14
    )
)
def test_whatever_happens_between_backups_each_is_the_store_of_its_moment(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("steps")
    place = Folder(folder / "backups")
    place.path.mkdir()
    options = store.Options(wall=lambda: START_MS / 1000)
    one = store.open(folder / "store", options)
    tick = 0
    wanted: list[Dump] = []
    for step in [*steps, "append", "backup"]:
        if step in ("append", "other series"):
            fill(one, 7, series=5 if step == "append" else 90, first=tick)
            tick += 7
        elif step == "restart":
            one.close()
            one = store.open(folder / "store", options)
        elif step == "seal":
            one.seal()
        else:
            one.flush()
        if step == "backup":
            backup(place, one.path, START_MS + 1000 * len(wanted))
            wanted.append(dump(one.path))
    one.close()
    assert verify(place, print) == (len(wanted), 0)
    for number, expected in enumerate(wanted):
        assert dump(restored(place, folder / f"restored{number}", START_MS + 1000 * number)) == expected


def test_only_what_is_new_is_written(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    fill(one, 200)
    one.seal()
    fill(one, 20, first=200)
    one.flush()
    backup(place, one.path)
    before = place.sizes()
    nothing_new = backup(place, one.path, START_MS + 1000)
    assert nothing_new.files == 1  # the manifest
    fill(one, 20, first=220)
    one.flush()
    more_rows = backup(place, one.path, START_MS + 2000)
    assert more_rows.files == 2
    assert len(more_rows.manifest.head) == 2
    one.seal()
    a_block = backup(place, one.path, START_MS + 3000)
    new = set(place.sizes()) - set(before)
    assert sorted(name.split("/")[0] for name in new) == ["blocks", "head", "manifests", "manifests", "manifests"]
    assert a_block.manifest.head == []
    assert dump(restored(place, tmp_path / "again")) == dump(one.path)


def test_after_an_older_backup_was_restored_the_same_numbers_mean_something_else(
    opened: Opener, tmp_path: Path, place: Folder
) -> None:
    one = opened()
    fill(one, 20)
    one.flush()
    backup(place, one.path)
    fill(one, 20, first=20)
    one.flush()
    backup(place, one.path, START_MS + 1000)
    again = opened(restored(place, tmp_path / "again", START_MS))
    fill(again, 20, first=500)
    again.flush()
    taken = backup(place, again.path, START_MS + 2000)
    assert len(taken.manifest.head) == 2
    assert dump(restored(place, tmp_path / "third")) == dump(again.path)
    assert dump(restored(place, tmp_path / "fourth", START_MS + 1000)) == dump(one.path)


def test_a_file_that_is_gone_or_cut_is_made_anew(opened: Opener, place: Folder) -> None:
    one = opened()
    fill(one, 200)
    one.seal()
    first = backup(place, one.path)
    os.truncate(place.path / first.manifest.blocks[0].name, 10)
    assert verify(place, print) == (0, 1)
    backup(place, one.path, START_MS + 1000)
    assert verify(place, print) == (2, 0)  # the file has the name of its content


def test_encrypted_blobs_stay_so_and_need_no_key(opened: Opener, tmp_path: Path, place: Folder, key_file: Path) -> None:
    one = opened(key_file=key_file)
    fill(one, 100)
    one.seal()
    fill(one, 10, first=100)
    one.flush()
    taken = backup(place, one.path)
    assert taken.manifest.encrypted
    assert taken.manifest.first_ms is None
    for name in place.sizes():
        assert b"esnode_test_celsius" not in place.read(name)
    again = restored(place, tmp_path / "again")
    with pytest.raises(store.WrongKey, match="is encrypted with key"):
        store.open(again)
    assert dump(again, key_file) == dump(one.path, key_file)
    with_key = backup(place, one.path, START_MS + 1000, key_file)
    assert with_key.files == 1
    assert with_key.manifest.first_ms == START_MS


def test_a_rotated_key_makes_blocks_anew_and_old_backups_keep_theirs(
    opened: Opener, tmp_path: Path, place: Folder, key_file: Path
) -> None:
    one = opened(key_file=key_file)
    fill(one, 100)
    one.seal()
    one.close()
    old = backup(place, one.path)
    both = tmp_path / "both"
    both.write_text("22" * 32 + "\n" + key_file.read_text())
    both.chmod(0o600)
    one = opened(key_file=both)
    one.settle()
    one.close()
    new = backup(place, one.path, START_MS + 1000)
    assert not {file.name for file in new.manifest.blocks} & {file.name for file in old.manifest.blocks}
    only_new = tmp_path / "new"
    only_new.write_text("22" * 32)
    only_new.chmod(0o600)
    assert dump(restored(place, tmp_path / "now"), only_new) == dump(one.path, only_new)
    assert dump(restored(place, tmp_path / "before", START_MS), key_file) == dump(one.path, only_new)


def test_a_backup_in_the_midst_of_a_rotation_is_shared_with_none_after_it(
    opened: Opener, tmp_path: Path, place: Folder, key_file: Path
) -> None:
    one = opened(key_file=key_file)
    fill(one, 100)
    one.seal()
    one.close()
    both, only_new = tmp_path / "both", tmp_path / "new"
    both.write_text("22" * 32 + "\n" + key_file.read_text())
    only_new.write_text("22" * 32)
    for path in (both, only_new):
        path.chmod(0o600)
    # As far as a rotation may have come: the list has the new key, the samples have the old one.
    keys = read_keys(both)
    identity = read_identity(one.path)
    assert identity is not None
    rotating = Identity(identity.store, tuple(key.name for key in keys), identity.first_page)
    write_identity(one.path, rotating)
    envelope = Envelope(identity.store, keys)
    with sqlite3.connect(one.path / "store.db") as connection:
        connection.execute("UPDATE identity SET body = ?", (rotating.encode(),))
        for table in ("block", "spare_block"):
            (number, blob) = connection.execute(f"SELECT id, body FROM {table}").fetchone()
            again = envelope.wrap(b"block", number, envelope.unwrap(b"block", number, blob))
            connection.execute(f"UPDATE {table} SET body = ?", (again,))
    connection.close()
    backup(place, one.path)
    one = opened(key_file=both)
    one.settle()
    one.close()
    backup(place, one.path, START_MS + 1000)
    assert dump(restored(place, tmp_path / "after"), only_new) == dump(one.path, only_new)
    assert dump(restored(place, tmp_path / "midst", START_MS), both) == dump(one.path, only_new)


def test_damage_is_said_and_the_rest_is_there(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    fill(one, 100, series=200)  # four groups
    one.seal()
    one.close()
    with sqlite3.connect(one.path / "store.db") as connection:
        numbers = [number for (number,) in connection.execute("SELECT id FROM chunk ORDER BY id")]
    connection.close()
    damage(one.path, "chunk", numbers[1])
    damage(one.path, "grp", numbers[0] & 0xFFFFFFF)  # there is a second copy of it
    taken = backup(place, one.path)
    assert taken.manifest.damaged == 1
    assert backup(place, one.path, START_MS + 1000).manifest.damaged == 1  # not read again, but still so
    again = restored(place, tmp_path / "again")
    assert dump(again) == dump(one.path)
    assert len(dump(again)) == 200 - 64


def test_a_flipped_byte_is_found_and_nothing_is_restored_of_it(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    fill(one, 100)
    one.seal()
    fill(one, 100, first=100)
    one.flush()
    backup(place, one.path)
    dice = random.Random(7)
    for name in place.sizes():
        whole = place.read(name)
        spoilt = bytearray(whole)
        spoilt[dice.randrange(len(spoilt))] ^= 1 << dice.randrange(8)
        (place.path / name).write_bytes(spoilt)
        said: list[str] = []
        assert verify(place, said.append) == (0, 1), name
        assert name in said[0]
        with pytest.raises(BackupError):
            restored(place, tmp_path / "again")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "store"]
        (place.path / name).write_bytes(whole)
    assert verify(place, print) == (1, 0)


def test_a_file_that_goes_while_a_folder_is_listed_hides_no_other(opened: Opener, place: Folder) -> None:
    one = opened()
    for turn in range(5):
        fill(one, 10, first=10 * turn)
        one.flush()
        backup(place, one.path, START_MS + turn)
    there = place.sizes()
    for number in range(9):  # a link to nothing is listed, and has no size
        (place.path / f"manifests/2026010{number}T000000.000Z-0123456789abcdef.json").symlink_to("nothing")
    assert place.sizes() == there


@pytest.mark.parametrize(("look", "at"), [("list", "manifests"), ("verify", "manifests"), ("verify", "blocks")])
def test_a_backup_that_is_let_go_meanwhile_is_not_called_damaged(
    opened: Opener, tmp_path: Path, place: Folder, capsys: pytest.CaptureFixture[str], look: str, at: str
) -> None:
    one = opened()
    fill(one, 10)
    one.seal()
    older = backup(place, one.path)
    with store.open(tmp_path / "another") as another:
        fill(another, 10)
        another.flush()
        backup(place, another.path, START_MS + 1000)

    class Busy(Folder):
        """Where another process lets the older one go just before this one reads of it."""

        def read(self, name: str) -> bytes:
            if name in going and name.startswith(at):
                self.delete(going)
            return super().read(name)

    going = [older.name, *(file.name for file in older.manifest.files)]
    busy = Busy(place.path)
    if look == "verify":
        assert verify(busy, print) == (1, 0)
        assert capsys.readouterr().out == ""
    else:
        assert backup_command._list(busy) == 0
        assert "1 backups" in capsys.readouterr().out
    assert set(going).isdisjoint(place.sizes())


@pytest.mark.parametrize("look", [backup_command._list, backup_command._verify])
def test_when_all_backups_are_others_meanwhile_that_is_said(
    opened: Opener, place: Folder, look: Callable[[Folder], int]
) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    older = backup(place, one.path).name

    class Busy(Folder):
        def read(self, name: str) -> bytes:
            if name == older:
                self.delete([older])
                backup(place, one.path, START_MS + 1000)
            return super().read(name)

    with pytest.raises(CommandError, match="have changed meanwhile: try again"):
        look(Busy(place.path))
    place.delete(place.sizes())
    with pytest.raises(CommandError, match="there is no backup in"):
        look(place)


def test_what_is_there_is_not_overwritten(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    backup(place, one.path)
    before = dump(one.path)
    with pytest.raises(BackupError, match=r"store is there already, with .* in it: stop the agent and move it away"):
        restored(place, one.path)
    assert dump(one.path) == before
    (tmp_path / "empty").mkdir()
    assert dump(restored(place, tmp_path / "empty")) == before


def test_a_backup_without_its_manifest_is_none(opened: Opener, place: Folder) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    taken = backup(place, one.path)
    place.delete([taken.name])
    with pytest.raises(BackupError, match="there is no whole backup"):
        choose(place, None)
    assert backup(place, one.path).files == 2


def test_a_tar_holds_the_same(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    fill(one, 100)
    one.seal()
    fill(one, 10, first=100)
    one.flush()
    stream = io.BytesIO()
    tar = TarWriter(stream)
    backup(tar, one.path)
    tar.close()
    whole = stream.getvalue()
    place = unpack(io.BytesIO(whole), tmp_path / "unpacked", "stdin")
    assert dump(restored(place, tmp_path / "again")) == dump(one.path)
    with pytest.raises(BackupError, match="stdin"):
        choose(unpack(io.BytesIO(whole[: whole.index(b"manifests/") - 1]), tmp_path / "half", "stdin"), None)


def test_two_at_a_time_and_another_hosts_folder_are_refused(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    place = Folder(tmp_path / "backups")
    with place.locked(), pytest.raises(BackupError, match="is running"), place.locked():
        pass
    backup(place, one.path)
    source = Source(one.path)
    with pytest.raises(BackupError, match="holds backups of node01, and this is node02"):
        take(place, source, [], [], START_MS, "node02")
    source.close()


def test_what_stays_of_90_days_of_backups_each_five_minutes() -> None:
    every = 300_000
    names = [f"manifests/{_stamp(START_MS - ago * every)}-0123456789abcdef.json" for ago in range(100 * 288)]
    assert taken_ms(names[1]) == START_MS - every
    kept = set(names) - set(doomed(names, START_MS, 90))
    ages = sorted(START_MS - (taken_ms(name) or 0) for name in kept)
    assert [age for age in ages if age <= 2 * DAY_MS] == [ago * every for ago in range(577)]
    older = [age for age in ages if age > 2 * DAY_MS]
    assert len(older) in (87, 88, 89)
    assert 88 * DAY_MS < max(older) <= 91 * DAY_MS
    assert {after - before for before, after in pairwise(older)} == {DAY_MS}
    # Long after the last one, or by a clock that is wrong, the last of 90 days are still there.
    assert len(set(names) - set(doomed(names, START_MS + 1000 * DAY_MS, 90))) == 90
    assert names[0] not in doomed(names, START_MS + 1000 * DAY_MS, 90)


def _stamp(time_ms: int) -> str:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(time_ms / 1000, timezone.utc).strftime("%Y%m%dT%H%M%S.%f")[:-3] + "Z"


def test_files_go_with_the_last_backup_that_needs_them(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    for day in range(5):
        fill(one, 10, first=10 * day)
        one.seal()
        for hour in range(3):
            fill(one, 1, first=10 * day + 1000 + hour)
            one.flush()
            backup(place, one.path, START_MS + day * DAY_MS + hour * 3_600_000)
    place.write("blocks/left-by-a-cut-off-backup", b"x")
    assert prune(place, START_MS + 5 * DAY_MS, 90, {}) == 0  # too little to begin
    assert prune(place, START_MS + 5 * DAY_MS, 90, {}, at_least=1) > 4
    left = newest_first(place.sizes())
    assert len(left) == 3 + 6
    assert verify(place, print) == (9, 0)
    assert set(place.sizes()) == {*left, *(file.name for name in left for file in read(place, name).files)}
    assert prune(place, START_MS + 400 * DAY_MS, 90, {}, at_least=1) > 0
    last = newest_first({(taken_ms(name) or 0) // DAY_MS: name for name in reversed(left)}.values())
    assert newest_first(place.sizes()) == last, "that of each day"
    assert prune(place, START_MS + 400 * DAY_MS, 2, {}) > 0
    assert newest_first(place.sizes()) == last[:2]
    assert dump(restored(place, tmp_path / "again")) == dump(one.path)


def test_the_newest_whole_backup_stays_when_newer_ones_are_broken(opened: Opener, place: Folder) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    whole = backup(place, one.path)
    fill(one, 10, first=10)
    one.flush()
    broken = backup(place, one.path, START_MS + 50 * DAY_MS)
    place.delete([broken.manifest.head[-1].name])
    prune(place, START_MS + 400 * DAY_MS, 90, {})
    assert set(newest_first(place.sizes())) == {whole.name, broken.name}
    assert verify(place, print) == (1, 1)


def test_a_second_place_gets_what_it_lacks(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    fill(one, 50)
    one.seal()
    place, second = Folder(tmp_path / "backups"), Folder(tmp_path / "second")
    place.path.mkdir()
    second.path.mkdir()
    backup(place, one.path)
    assert mirror(place, second, START_MS, 90)[0] == 2
    fill(one, 5, first=50)
    one.flush()
    backup(place, one.path, START_MS + 1000)
    assert mirror(place, second, START_MS + 1000, 90)[0] == 2
    assert mirror(place, second, START_MS + 1000, 90) == (0, 0, [])
    assert second.sizes() == place.sizes()
    (place.path / "blocks").joinpath(next(iter((place.path / "blocks").iterdir())).name).write_bytes(b"")
    assert dump(restored(second, tmp_path / "again")) == dump(one.path)


def apart(opened: Opener, folder: Path, place: Folder, count: int) -> list[Taken]:
    """Backups that have no file in common: each of another store."""
    taken = []
    for number in range(count):
        one = opened(folder / f"store{number}")
        fill(one, 10, first=100 * number)
        one.flush()
        taken.append(backup(place, one.path, START_MS + 1000 * number))
    return taken


def test_what_is_damaged_here_keeps_nothing_else_from_the_second_place(opened: Opener, tmp_path: Path) -> None:
    place, second = Folder(tmp_path / "backups"), Folder(tmp_path / "second")
    for folder in (place, second):
        folder.path.mkdir()
    taken = apart(opened, tmp_path, place, 4)
    manifest, piece = taken[0].name, taken[1].manifest.head[0].name
    for name in (manifest, piece):
        (place.path / name).write_bytes(b"x" + place.read(name)[1:])
    gone = taken[3].manifest.head[0].name
    (place.path / gone).unlink()
    brought = mirror(place, second, START_MS + 5000, 90)
    assert newest_first(second.sizes()) == [taken[2].name]
    assert [sentence.partition(";")[0] for sentence in brought.damaged] == [
        f"{place}/{manifest} is damaged",
        f"{place}/{piece} is damaged",
    ]
    assert all("delete it" in sentence for sentence in brought.damaged)
    assert verify(second, print) == (1, 0)
    # It is said each time, and brought once it was made anew.
    assert mirror(place, second, START_MS + 5000, 90) == (0, 0, brought.damaged)
    (place.path / manifest).unlink()
    (place.path / piece).unlink()
    backup(place, tmp_path / "store1", START_MS + 6000)
    assert mirror(place, second, START_MS + 6000, 90).damaged == []
    assert len(newest_first(second.sizes())) == 3
    assert verify(second, print) == (3, 0)


def test_what_may_not_be_read_keeps_nothing_else_from_the_second_place(
    opened: Opener, tmp_path: Path, shared: Path
) -> None:
    place, second = Folder(shared / "theirs/backups"), Folder(tmp_path / "second")
    place.path.mkdir()
    second.path.mkdir()
    os.chown(place.path, NOBODY, NOBODY)
    taken = apart(opened, tmp_path, place, 2)
    piece = place.path / taken[0].manifest.head[0].name
    os.chown(piece, 0, 0)  # as after root has copied it back
    piece.chmod(0o600)
    brought = mirror(place, second, START_MS + 5000, 90)
    assert newest_first(second.sizes()) == [taken[1].name]
    (sentence,) = brought.damaged
    assert "nobody may not, as whom root works in a folder of nobody; delete it" in sentence


def test_no_secret_and_no_private_key_is_taken(tmp_path: Path) -> None:
    config = tmp_path / "esnode.toml"
    config.write_text(
        '[orchestrator]\nenabled = true\ntoken = "hush-hush"\n[alerts]\nalert_manager_url = "http://me:hush@am/"\n'
    )
    chain = tmp_path / "server.crt"
    certificate = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    chain.write_text(f"{certificate}-----BEGIN PRIVATE KEY-----\nhush\n-----END PRIVATE KEY-----\n{certificate}")
    (tmp_path / "gpu-state.json").write_text("{}")
    security = Security(tls_cert_path=str(chain), tls_key_path=str(chain), tls_ca_path=str(tmp_path / "gone"))  # type: ignore[arg-type]
    kept, notes = configuration.collect(config, Config(security=security, orchestrator=Orchestrator()))
    assert [one.path.name for one in kept] == ["esnode.toml", "gpu-state.json", "server.crt"]
    assert notes == [f"{tmp_path}/gone is not there"]
    assert b"hush" not in b"".join(one.data for one in kept)
    assert b'token = "${ESNODE_TOKEN}"' in kept[0].data
    assert kept[2].data.decode() == 2 * certificate
    config.write_text('[orchestrator]\ntoken = "\\u0068ush"\n')
    kept, notes = configuration.collect(config, None)
    assert kept[0].data == b'[orchestrator]\ntoken = "${ESNODE_TOKEN}"\n'
    config.write_text(
        '# token = "hush-1"\n[alerts]\nalert_manager_url = "https://hush@am/"\n[orchestrator]\ntoken = "${A}hush"\n'
    )
    kept, notes = configuration.collect(config, None)
    assert b"hush" not in kept[0].data and b"https://${ESNODE_URL_CREDENTIALS}@am/" in kept[0].data
    config.write_text('[orchestrator]\ntoken = """\nhush"""\n')
    kept, notes = configuration.collect(config, None)
    assert [one.path.name for one in kept] == ["gpu-state.json"]
    assert "holds a secret" in notes[0]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://am/x?token=hush&v=${V}&hush", "https://am/x?token=${ESNODE_URL_TOKEN}&v=${V}&${ESNODE_URL_QUERY}"),
        ("https://me:hu?sh@am/x", "https://${ESNODE_URL_CREDENTIALS}@am/x"),
        ("https://${USER}:${PASSWORD}@am/x?a=${B}", "https://${USER}:${PASSWORD}@am/x?a=${B}"),
        ("https://am/alertmanager/", "https://am/alertmanager/"),
    ],
)
def test_secrets_of_a_url_are_not_taken(tmp_path: Path, given: str, kept: str) -> None:
    config = tmp_path / "esnode.toml"
    config.write_text(f'# alert_manager_url = "{given}"\n[alerts]\nalert_manager_url = "{given}"  # the new one\n')
    (taken,), _notes = configuration.collect(config, None)
    assert taken.data.decode() == config.read_text().replace(given, kept)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('headers = { Api-Key = "hush", X-A = "a" }', 'headers = { Api-Key = "${ESNODE_API_KEY}", X-A = "a" }'),
        ("headers = { \"X-Auth-Token\" = 'hush' }", 'headers = { "X-Auth-Token" = "${ESNODE_X_AUTH_TOKEN}" }'),
        ("[remote_write.headers]\nCookie = 'hush'", '[remote_write.headers]\nCookie = "${ESNODE_COOKIE}"'),
        ('password = "hu\\"sh"  # none of its keys', 'password = "${ESNODE_PASSWORD}"  # none of its keys'),
        ('headers = { Authorization = "Bearer hush" }', 'headers = { Authorization = "${ESNODE_AUTHORIZATION}" }'),
        ('url = "http://x/#y" # password = hush', 'url = "http://x/#y" '),
        ("a = 'it is \"#' # token hush", "a = 'it is \"#' "),
        ("  # password: hush\na = 1", "a = 1"),
        ('password = { value = "hush" }', None),
        ('password.value = "hush"', None),
        ('[password]\nvalue = "hush"', None),
        ('password_path = "/etc/x"\nbearer_token_path = "/y"', 'password_path = "/etc/x"\nbearer_token_path = "/y"'),
        ('password = ""', 'password = ""'),
        ('password = "hush"  # or was it hush-hush', None),
        ("password = 4711", None),
        ('password = ["hush"]', None),
        ("password = \'\'\'\nhush\'\'\'", None),
        ('url = "https://me:hu\'sh@am/x"', None),
        ('url = "https://am/x\\u003Ftoken=hush"', None),
    ],
)  # fmt: skip
def test_secrets_of_any_key_are_not_taken(tmp_path: Path, given: str, kept: str | None) -> None:
    config = tmp_path / "esnode.toml"
    config.write_text(f"[remote_write]\n{given}\n")
    taken, notes = configuration.collect(config, None)
    assert [one.data.decode() for one in taken] == ([] if kept is None else [f"[remote_write]\n{kept}\n"])
    assert [note.endswith("holds a secret that can't be told from the rest") for note in notes] == [True] * (not kept)


@given(st.text(st.sampled_from("sh\"'\\@/?#=&:$ {}\n"), max_size=12))
def test_no_spelling_of_a_secret_is_taken(tmp_path_factory: pytest.TempPathFactory, odd: str) -> None:
    config = tmp_path_factory.getbasetemp() / "odd.toml"
    secret = json.dumps(f"hush{odd}hush")
    address = json.dumps("http://u:hush" + re.sub(r"[/\s]", "", odd) + "hush@h/")
    config.write_text(f"[x]\ntoken = {secret}\nmore = {{ a-token = {secret}, b = 1 }}\nurl = {address}\n")
    for one in configuration.collect(config, None)[0]:
        assert b"hush" not in one.data


def test_every_secret_of_the_configuration_is_known_by_its_name(tmp_path: Path) -> None:
    config = tmp_path / "esnode.toml"
    for secret in SECRETS:
        section, _unused, key = secret.partition(".")
        config.write_text(f'[{section}]\n{key} = "hush"\n')
        assert b"hush" not in configuration.collect(config, None)[0][0].data


def test_a_restored_configuration_says_what_it_lacks(tmp_path: Path) -> None:
    config = tmp_path / "esnode.toml"
    config.write_text('[alerts]\nalert_manager_url = "https://am/x?token=hush"\n')
    config.write_bytes(configuration.collect(config, None)[0][0].data)
    with pytest.raises(ConfigError, match="alert_manager_url: environment variable ESNODE_URL_TOKEN is not set"):
        load(config, {})


def test_a_manifest_that_names_other_files_is_refused(tmp_path: Path) -> None:
    place = Folder(tmp_path)
    file = File("/etc/cron.d/evil", "0" * 64, 1)
    odd = Manifest("", "host", START_MS, "", [], None, None, 0, [], [file], [], [])
    name, data = manifest_named(odd)
    place.write(name, data)
    with pytest.raises(BackupError, match="can't be one of a backup"):
        read(place, name)


def test_links_of_the_folder_lead_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    place = Folder(tmp_path / "backups")
    (place.path / "blocks").mkdir(parents=True)
    (place.path / "blocks/a.new").symlink_to(victim)
    with pytest.raises(FileExistsError):
        place.write("blocks/a", b"x")
    (place.path / "lock").symlink_to(victim)
    with pytest.raises(BackupError, match="can't write to"), place.locked():
        pass
    (place.path / "head").symlink_to(tmp_path)
    with pytest.raises(BackupError, match="is a link"):
        place.write("head/a", b"x")
    (place.path / "other").mkdir()
    (place.path / "other/important.new").write_bytes(b"mine")
    (place.path / "lock").unlink()
    with place.locked():
        pass
    assert victim.read_bytes() == b"mine" == (place.path / "other/important.new").read_bytes()


NOBODY = 65534


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of root's that everybody gets through, with a folder `theirs` of another user and `secret` of root's."""
    if os.geteuid() != 0:
        pytest.skip("only root is led astray")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        for one in ("theirs", "secret"):
            (path / one).mkdir()
        os.chown(path / "theirs", NOBODY, NOBODY)
        yield path
        assert os.geteuid() == os.getegid() == 0


def test_root_is_not_led_out_of_a_folder_of_another_user(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Folder(shared / "theirs/backups")
    with place.locked():
        place.write("blocks/a", b"x")
    assert place.read("blocks/a") == b"x"
    assert {path.stat().st_uid for path in (shared / "theirs").rglob("*")} == {NOBODY}
    # What looked like a folder of the backup's a moment ago is a link now.
    monkeypatch.setattr(Path, "is_symlink", lambda _self: False)
    (shared / "secret/b").write_bytes(b"mine")
    (place.path / "head").symlink_to(shared / "secret")
    (shared / "secret").chmod(0o700)
    for attempt in (
        lambda: place.write("head/a", b"x"),
        lambda: place.delete(["head/b"]),
        lambda: place.read("head/b"),
        place.sizes,
    ):
        with pytest.raises(BackupError, match="nobody may not, as whom root works in a folder of nobody"):
            attempt()
    assert [path.name for path in (shared / "secret").iterdir()] == ["b"]


@pytest.mark.parametrize("kept_by_root", [False, True])
def test_root_restores_into_a_folder_of_another_user_as_that_user(
    opened: Opener, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, kept_by_root: bool
) -> None:
    one = opened()
    fill(one, 50)
    one.close()
    place = Folder(tmp_path / "backups" if kept_by_root else shared / "theirs/backups")
    with place.locked():
        backup(place, one.path)
    manifest = choose(place, None)[1]
    store_path, owner = shared / "theirs/tsdb", Owner(NOBODY, NOBODY)
    restore(place, manifest, store_path, None, owner)
    assert dump(store_path) == dump(one.path)
    assert {path.stat().st_uid for path in (store_path, *store_path.iterdir())} == {NOBODY}

    def exchange(draft: Path, *rest: object) -> None:
        draft.parent.rename(shared / "theirs/elsewhere")
        draft.parent.symlink_to(shared / "secret")
        recover_build(draft, *rest)

    recover_build = recover.build
    monkeypatch.setattr(recover, "build", exchange)
    with pytest.raises(BackupError, match="nobody may not"):
        restore(place, manifest, shared / "theirs/second", None, owner)
    assert not list((shared / "secret").iterdir())
    with pytest.raises(BackupError, match="theirs is a folder of nobody, where no files for user 12345 can be made"):
        restore(place, manifest, shared / "theirs/second", None, Owner(12345, 12345))


def test_root_restores_a_configuration_into_a_folder_of_another_user_as_that_user(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Folder(tmp_path / "backups")
    with place.locked():
        kept = [configuration.Kept(Path(f"/etc/esnode/{name}"), 0o640, name.encode()) for name in ("a", "b/c")]
        manifest = take(place, None, kept, [], START_MS).manifest
    restore(place, manifest, None, shared / "theirs/etc", Owner())
    found = list((shared / "theirs/etc").rglob("*"))
    assert {(path.stat().st_uid, path.name) for path in found} == {(NOBODY, name) for name in "abc"}
    (shared / "secret/a").write_bytes(b"mine")
    (shared / "secret/a").chmod(0o600)
    draft = tempfile.NamedTemporaryFile

    def exchange(*, dir: Path, delete: bool) -> object:
        made = draft(dir=dir, delete=delete)
        os.unlink(made.name)
        os.symlink(shared / "secret/a", made.name)
        return made

    monkeypatch.setattr(recover.tempfile, "NamedTemporaryFile", exchange)
    with contextlib.suppress(BackupError):
        restore(place, manifest, None, shared / "theirs/other", Owner())
    assert (shared / "secret/a").stat().st_mode & 0o777 == 0o600


def test_root_writes_nowhere_where_anybody_may_exchange_files(shared: Path) -> None:
    (shared / "theirs").chmod(0o777)  # whom that harms has chosen it
    (shared / "secret").chmod(0o777)
    Folder(shared / "theirs").write("head/a", b"x")
    for name in ("secret", "secret/deep"):
        with pytest.raises(BackupError, match=f"write to {shared}/secret, where root .* chmod go-w {shared}/secret"):
            Folder(shared / name).write("head/a", b"x")
    (shared / "secret").chmod(0o1777)
    Folder(shared / "secret").write("head/a", b"x")
    (shared / "theirs/two").mkdir()
    os.chown(shared / "theirs/two", 12345, 12345)
    with pytest.raises(BackupError, match="lies in folders of nobody and user 12345"):
        Folder(shared / "theirs/two").write("head/a", b"x")


def test_root_is_root_in_what_nobody_else_gets_to(shared: Path) -> None:
    for name in ("theirs", "open"):
        (shared / "secret" / name).mkdir()
    os.chown(shared / "secret/theirs", NOBODY, NOBODY)
    (shared / "secret/open").chmod(0o777)
    (shared / "secret").chmod(0o700)
    (shared / "theirs/link").symlink_to(shared / "secret/theirs")
    for name in ("theirs", "open"):
        Folder(shared / "secret" / name).write("head/a", b"x")
        assert (shared / "secret" / name / "head/a").stat().st_uid == 0
    with pytest.raises(BackupError, match="nobody may not"):
        Folder(shared / "theirs/link").write("head/b", b"x")


def test_a_link_in_the_middle_of_the_way_leads_root_nowhere(shared: Path) -> None:
    (shared / "secret").chmod(0o700)
    (shared / "theirs/current").symlink_to(shared / "secret")
    os.chown(shared / "theirs/current", NOBODY, NOBODY, follow_symlinks=False)
    (shared / "way").symlink_to("theirs/../theirs/current")
    for name in ("way", "way/deep"):
        with pytest.raises(BackupError, match="nobody may not"):
            Folder(shared / name).write("blocks/a", b"x")
    assert not list((shared / "secret").iterdir())
    (shared / "round").symlink_to("round")
    with pytest.raises(BackupError, match="round: too many links"):
        Folder(shared / "round").write("blocks/a", b"x")


def test_a_folders_group_is_no_present_to_its_user(shared: Path) -> None:
    (shared / "secret/a").write_bytes(b"mine")
    (shared / "secret/a").chmod(0o640)
    for uid in (NOBODY, 12345):  # whom the system knows, and whom not
        os.chown(shared / "theirs", uid, 0)
        with acting_in(shared / "theirs"):
            assert os.geteuid() == uid and 0 not in (os.getegid(), *os.getgroups())
            with pytest.raises(PermissionError):
                (shared / "secret/a").read_bytes()
            with acting_in(shared / "secret"):  # root's own again, with nothing of the other
                assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, [0])
            assert os.geteuid() == uid


def test_two_hosts_do_not_share_a_place(opened: Opener, tmp_path: Path) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    target = Folder(tmp_path / "target")
    target.path.mkdir()
    for host in ("a", "b"):
        place = Folder(tmp_path / host)
        place.path.mkdir()
        source = Source(one.path)
        take(place, source, [], [], START_MS, host)
        source.close()
        if host == "a":
            mirror(place, target, START_MS, 90)
        else:
            with pytest.raises(BackupError, match="holds backups of a, and these are of b"):
                mirror(place, target, START_MS, 90)


def test_a_backup_dated_ahead_by_a_wrong_clock_is_not_the_newest(opened: Opener, place: Folder) -> None:
    one = opened()
    fill(one, 10)
    one.flush()
    ahead = backup(place, one.path, int(time.time() * 1000) + 400 * DAY_MS)
    assert choose(place, None)[0] == ahead.name, "better than none"
    right = backup(place, one.path, int(time.time() * 1000))
    assert choose(place, None)[0] == right.name


def test_configuration_comes_back_where_it_is_wanted(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    one.append(START_MS, row(2, 0))
    one.flush()
    etc = tmp_path / "etc"
    (etc / "certs").mkdir(parents=True)
    files = {"esnode.toml": b"[agent]\n", "certs/ca.crt": b"certificate\n"}
    kept = [configuration.Kept(etc / name, 0o640, data) for name, data in files.items()]
    source = Source(one.path)
    taken = take(place, source, kept, [], START_MS)
    source.close()
    restore(place, taken.manifest, tmp_path / "again", tmp_path / "new", Owner())
    assert {name: (tmp_path / "new" / name).read_bytes() for name in files} == files
    assert (tmp_path / "new/esnode.toml").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new/esnode.toml").write_text("[agent]\n# by hand\n")
    with pytest.raises(BackupError, match=r"new/esnode\.toml exists and differs"):
        restore(place, taken.manifest, tmp_path / "third", tmp_path / "new", Owner())
    assert not (tmp_path / "third").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")
def test_what_root_restores_can_be_read_by_whom_it_is_for(opened: Opener, tmp_path: Path, place: Folder) -> None:
    one = opened()
    one.append(START_MS, row(2, 0))
    one.flush()
    etc = tmp_path / "etc"
    (etc / "certs").mkdir(parents=True)
    modes = {"esnode.toml": 0o640, "certs/ca.crt": 0o644, "own.crt": 0o600, "shared.crt": 0o664}
    kept = [configuration.Kept(etc / name, mode, name.encode()) for name, mode in modes.items()]
    source = Source(one.path)
    taken = take(place, source, kept, [], START_MS)
    source.close()
    agent = Owner(12345, 23456)
    mask = os.umask(0o077)
    try:
        restore(place, taken.manifest, tmp_path / "data/tsdb", tmp_path / "new", agent)
    finally:
        os.umask(mask)
    for folder in ("data", "new", "new/certs"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o755
    for path in (tmp_path / "data/tsdb", *(tmp_path / "data/tsdb").iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (agent.uid, agent.gid)
    for name, mode in {**modes, "own.crt": 0o640, "shared.crt": 0o644}.items():
        status = (tmp_path / "new" / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 23456, mode), name
    # In a folder that is somebody's own they are that one's.
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", 12345, 1)
    restore(place, taken.manifest, tmp_path / "data/other", tmp_path / "home", agent)
    assert {(tmp_path / "home" / name).stat().st_uid for name in modes} == {12345}
