# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing that was measured can be read off the disk without the key, and a wrong key touches nothing."""

from __future__ import annotations

import hashlib
import random
import stat
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from esnode import store
from esnode.store import SeriesId
from esnode.store.envelope import Envelope
from esnode.store.errors import Damaged
from esnode.store.identity import read_identity
from esnode.store.keys import Key, read_keys
from esnode.store.store import Store
from samples import START_MS, Expected, eventually

Opener = Callable[..., Store]
NAME, LABEL, VALUE = "esnode_secret_metric_watts", "secret_label_name", "GPU-4711-label-value"
SECRETS = (NAME.encode(), LABEL.encode(), VALUE.encode())
OTHER = "22" * 32


def secret(one: Store, first: int, ticks: int) -> Expected:
    expected = Expected()
    for tick in range(first, first + ticks):
        samples = {SeriesId.of(NAME, {LABEL: VALUE, "gpu": str(n)}): float(tick * n) for n in range(70)}
        expected.add(START_MS + tick, samples)
        one.append(START_MS + tick, samples)
    return expected


def files(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def found(folder: Path) -> list[str]:
    """Files in which a name, a label or its value can be read."""
    contents = [(path.name, path.read_bytes()) for path in folder.rglob("*") if path.is_file()]
    return [name for name, data in contents for text in SECRETS if text in data]


def test_neither_the_log_nor_blocks_show_names_labels_or_values(opened: Opener, key_file: Path, tmp_path: Path) -> None:
    one = opened(key_file=key_file)
    expected = secret(one, 0, 30)
    one.seal()
    expected.add_all(secret(one, 30, 10))
    one.flush()
    assert (tmp_path / "store/store.db-wal").stat().st_size > 0
    assert found(tmp_path / "store") == []
    one.close()
    assert found(tmp_path / "store") == []
    # Names are compressed, so that they can't be read is no proof yet: nor is any blob of the file without its key.
    one = opened(key_file=key_file)
    for table in ("block", "spare_block", "grp", "spare_grp", "chunk", "head"):
        for number, blob in one._database.all(f"SELECT id, body FROM {table}"):
            assert isinstance(blob, bytes)
            assert blob[:4] == read_keys(key_file)[0].name, (table, number)
            assert b"\x28\xb5\x2f\xfd" not in blob, "a frame of zstd"
    expected.check(one.select())


def test_a_blob_in_the_place_of_another_is_noticed() -> None:
    """Each is bound to what it is: kind, number and store."""
    key = Key(b"k" * 32, b"name")
    envelope = Envelope(b"s" * 16, [key])
    blob = envelope.wrap(b"chunk", 7, b"payload")
    assert envelope.unwrap(b"chunk", 7, blob) == b"payload"
    assert len(blob) - len(b"payload") == envelope.overhead == 32
    for kind, number, other in (
        (b"grp", 7, envelope),
        (b"chunk", 8, envelope),
        (b"chunk", 7, Envelope(b"t" * 16, [key])),
    ):
        with pytest.raises(Damaged):
            other.unwrap(kind, number, blob)
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1
        with pytest.raises(Damaged):
            envelope.unwrap(b"chunk", 7, bytes(changed))
    plain = Envelope(b"s" * 16)
    with pytest.raises(Damaged, match="not encrypted"):
        Envelope(b"s" * 16, [key], plain=False).unwrap(b"chunk", 7, plain.wrap(b"chunk", 7, b"payload"))


@pytest.mark.parametrize("has_identity", [True, False])
def test_a_wrong_or_missing_key_says_so_and_touches_nothing(
    opened: Opener, key_file: Path, tmp_path: Path, has_identity: bool
) -> None:
    one = opened(key_file=key_file)
    expected = secret(one, 0, 20)
    one.close()
    folder = tmp_path / "store"
    if not has_identity:
        (folder / "identity").unlink()
    (folder / "lock").unlink()
    before = files(folder)
    wrong = tmp_path / "wrong"
    wrong.write_text(OTHER)
    wrong.chmod(0o600)
    name = read_keys(key_file)[0].name.hex()
    for key, why in ((wrong, f"encrypted with key {name}, .*wrong holds"), (None, "no key file is configured")):
        with pytest.raises(store.WrongKey, match=why):
            store.open(folder, store.Options(key_file=key))
        with pytest.raises(store.WrongKey, match=why):
            store.open_for_reading(folder, key)
    after = {path: digest for path, digest in files(folder).items() if not path.endswith(("/lock", "-shm", "-wal"))}
    assert after == before
    expected.check(opened(key_file=key_file).select())


def test_a_rotation_rewrites_everything_and_then_needs_the_new_key_only(
    opened: Opener, key_file: Path, tmp_path: Path
) -> None:
    old = key_file.read_text()
    one = opened(key_file=key_file)
    expected = secret(one, 0, 30)
    one.seal()
    expected.add_all(secret(one, 30, 10))
    one.close()
    key_file.write_text(f"# the new one\n{OTHER}\n# the old one, until the store is rewritten\n{old}")
    one = opened(key_file=key_file)
    expected.check(one.select())  # while it goes on
    expected.add_all(secret(one, 40, 5))
    one.settle()
    eventually(lambda: one.stats().old_keys == ())
    one.close()
    key_file.write_text(OTHER)
    expected.check(opened(key_file=key_file).select())
    new_name = read_keys(key_file)[0].name
    identity = read_identity(tmp_path / "store")
    assert identity is not None
    assert identity.keys == (new_name,)


def test_the_old_key_alone_is_refused_from_the_start_of_a_rotation(
    opened: Opener, key_file: Path, tmp_path: Path
) -> None:
    old = key_file.read_text()
    one = opened(key_file=key_file)
    secret(one, 0, 5)
    one.close()
    key_file.write_text(f"{OTHER}\n{old}")
    opened(key_file=key_file).close()
    key_file.write_text(old)
    with pytest.raises(store.WrongKey):
        store.open(tmp_path / "store", store.Options(key_file=key_file))


def test_a_plain_store_that_becomes_encrypted_keeps_no_plain_text(
    opened: Opener, key_file: Path, tmp_path: Path
) -> None:
    one, rng = opened(seal_rows=60), random.Random(1)
    expected = Expected()
    for tick in range(400):
        # Blobs of several pages, which lie in the file when they are no longer needed.
        samples = {SeriesId.of(NAME, {LABEL: VALUE, "gpu": str(n)}): rng.random() for n in range(70)}
        expected.add(START_MS + tick, samples)
        one.append(START_MS + tick, samples)
        if tick % 60 == 59:
            one.settle()
    one.settle()
    one._database.checkpoint()
    plain = [one._database.all(f"SELECT body FROM {table}") for table in ("block", "grp", "chunk", "head")]
    one.close()
    one = opened(key_file=key_file)
    one.settle()
    assert one.stats().old_keys == ()
    expected.check(one.select())
    one.close()
    data = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    blobs = [blob for (blob,) in chain(*plain) if isinstance(blob, bytes)]
    pieces = [blob[at : at + 24] for blob in blobs for at in range(8, len(blob) - 24, 1000)]
    assert len(pieces) > 100
    assert [piece for piece in pieces if piece in data] == []
    expected.check(opened(key_file=key_file).select())


def test_an_encrypted_store_is_for_its_owner_alone(opened: Opener, key_file: Path, tmp_path: Path) -> None:
    one = opened(key_file=key_file)
    secret(one, 0, 5)
    one.flush()
    folder = tmp_path / "store"
    for path in (folder, *folder.iterdir()):
        assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        ("11" * 32, 0o604, "every user may read or write the key file .*chmod o="),
        ("", 0o600, r"holds no key; make one with: \(umask 077; openssl rand -hex 32 > FILE\)"),
        ("# only a comment\n", 0o600, "holds no key"),
        ("11" * 31, 0o600, "line 1: not a key of 32 bytes"),
        ("11" * 32 + "\nabc\n", 0o600, "line 2: not a key of 32 bytes"),
        ("1g" + "11" * 31, 0o600, "line 1: not a key of 32 bytes"),
        ("!" * 20 + "A" * 43 + "=", 0o600, "line 1: not a key of 32 bytes"),
        (None, 0o600, "can't read the key file .*No such file"),
    ],
)
def test_a_bad_key_file_is_explained_before_anything_is_made(
    tmp_path: Path, text: str | None, mode: int, why: str
) -> None:
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(store.StoreError, match=why):
        store.open(tmp_path / "store", store.Options(key_file=path))
    assert not (tmp_path / "store").exists()


def test_a_key_is_hex_or_base64_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("MTExMTExMTExMTExMTExMTExMTExMTExMTExMTExMTE= # comment\n" + "31" * 32 + "\n")
    path.chmod(0o640)
    one, two = read_keys(path)
    assert one.secret == two.secret == b"1" * 32
    assert "31" * 8 not in repr(one)
    assert repr(one) == f"Key({one.name.hex()})"
