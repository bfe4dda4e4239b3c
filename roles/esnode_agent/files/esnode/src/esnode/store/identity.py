# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a store needs before its database can be read: its number, the keys it is written with, how its file begins.

It lies in a small file beside the database, so that a wrong key is noticed before anything is touched, and once more in
the database. The first page of the database is in it because without that page SQLite can't read any other.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esnode.store.envelope import PLAIN
from esnode.store.errors import Damaged, StoreError, WrongKey
from esnode.store.keys import Key

FILE = "identity"


@dataclass(frozen=True, slots=True)
class Identity:
    """`store`: 16 random bytes. `keys`: names of the keys that blobs may be written with, the newest first."""

    store: bytes
    keys: tuple[bytes, ...]
    first_page: bytes = b""

    def encode(self) -> bytes:
        """As bytes."""
        text = json.dumps(
            {
                "store": self.store.hex(),
                "keys": [name.hex() for name in self.keys],
                "first_page": base64.b64encode(self.first_page).decode("ascii"),
            }
        ).encode()
        return text + b"\n%08x\n" % zlib.crc32(text)

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """From bytes."""
        try:
            text, check = data.split(b"\n")[:2]
            if int(check, 16) != zlib.crc32(text):
                raise Damaged("wrong checksum")
            found = json.loads(text)
            keys = tuple(bytes.fromhex(name) for name in found["keys"])
            return cls(bytes.fromhex(found["store"]), keys, base64.b64decode(found["first_page"]))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Damaged(f"not an identity: {error}") from error


def read_identity(folder: Path) -> Identity | None:
    """The identity in the folder, None if there is none that can be read."""
    try:
        return Identity.decode((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except Damaged:
        return None
    except OSError as error:
        raise StoreError(f"can't read {folder / FILE}: {error.strerror}") from error


def write_identity(folder: Path, identity: Identity) -> None:
    """Put the identity there, whole or not at all, durable."""
    draft = folder / f"{FILE}.new"
    with draft.open("wb") as file:
        os.chmod(draft, 0o600)
        file.write(identity.encode())
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / FILE)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make names in the folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_keys(identity: Identity, keys: Sequence[Key], key_file: Path | None, folder: Path) -> None:
    """Raise WrongKey unless `keys` can read all of this store."""
    held = {key.name for key in keys}
    missing = [name.hex() for name in identity.keys if name != PLAIN and name not in held]
    if not missing:
        return
    needed = f"the store {folder} is encrypted with key {' and '.join(missing)}"
    if key_file is None:
        raise WrongKey(f"{needed}, and no key file is configured: name the one that holds it")
    raise WrongKey(
        f"{needed}, {key_file} holds {' and '.join(sorted(name.hex() for name in held))}: bring the right file, or to"
        " rotate put the new key into the first line and leave the old one below it until the store is rewritten"
    )
