# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The key file: one AES-256 key a line, the first for writing, the further ones for reading what older keys wrote."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esnode.store.errors import StoreError

KEY_BYTES = 32
MAKE = "make one with: (umask 077; openssl rand -hex 32 > FILE)"


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its public name: the start of a digest, which gives nothing of the key away."""

    secret: bytes
    name: bytes

    def __repr__(self) -> str:
        return f"Key({self.name.hex()})"


def read_keys(path: Path) -> list[Key]:
    """Read a key file: 64 hexadecimal digits or 44 characters of base64 a line, # starts a comment."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read(65536).splitlines()
    except OSError as error:
        raise StoreError(f"can't read the key file {path}: {error.strerror}; {MAKE}") from error
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise StoreError(f"every user may read or write the key file {path}: chmod o= {path}, and rotate the key")
    keys = []
    for number, line in enumerate(lines, 1):
        text = line.split(b"#")[0].strip()
        if text:
            secret = _decode(text)
            if secret is None:
                raise StoreError(f"{path}, line {number}: not a key of 32 bytes in hex or base64; {MAKE}")
            keys.append(Key(secret, hashlib.sha256(b"esnode store key name" + secret).digest()[:4]))
    if not keys:
        raise StoreError(f"the key file {path} holds no key; {MAKE}")
    return keys


def _decode(text: bytes) -> bytes | None:
    for decode in (bytes.fromhex, partial(base64.b64decode, validate=True)):
        try:
            secret = decode(text.decode("ascii"))
        except (ValueError, binascii.Error):
            continue
        if len(secret) == KEY_BYTES:
            return secret
    return None
