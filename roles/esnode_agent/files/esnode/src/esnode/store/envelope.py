# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies around every blob on the disk: a checksum, or AES-256-GCM.

Either covers the bytes together with what they are (kind, number, store), so a blob that was flipped, torn, swapped
with another or taken from another store is noticed.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from esnode.store.errors import Damaged
from esnode.store.keys import Key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PLAIN = b"\0\0\0\0"  # stands where a key's name would
_NAME, _NONCE, _CRC = 4, 12, 4


class Envelope:
    """Wraps with the first key, unwraps with any; without keys, a checksum only. Usable from all threads.

    `plain`: also unwrap blobs that are not encrypted, as those of a store that is just being encrypted.
    """

    def __init__(self, store: bytes, keys: Iterable[Key] = (), *, plain: bool = True) -> None:
        self._store = store
        self._ciphers: dict[bytes, AESGCM] = {}
        self.writes = PLAIN
        for key in keys:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._ciphers[key.name] = AESGCM(key.secret)
            self.writes = self.writes if self.writes != PLAIN else key.name
        self.plain = plain or self.writes == PLAIN

    @property
    def overhead(self) -> int:
        """Bytes that wrapping adds."""
        return _NAME + (_CRC if self.writes == PLAIN else _NONCE + 16)

    def knows(self, blob: bytes) -> bool:
        """Whether the key that this blob names is at hand."""
        return blob[:_NAME] == PLAIN or blob[:_NAME] in self._ciphers

    def wrap(self, kind: bytes, number: int, payload: bytes) -> bytes:
        """Return the blob for this payload."""
        identity = self._identity(kind, number)
        if self.writes == PLAIN:
            return PLAIN + _checksum(identity, payload) + payload
        nonce = os.urandom(_NONCE)
        return self.writes + nonce + self._ciphers[self.writes].encrypt(nonce, payload, identity)

    def unwrap(self, kind: bytes, number: int, blob: bytes) -> bytes:
        """Return the payload of a blob; raise Damaged when it is not what was written."""
        if not isinstance(blob, bytes) or len(blob) < _NAME + _CRC:
            raise Damaged("too short")
        identity, name = self._identity(kind, number), blob[:_NAME]
        if name == PLAIN:
            if not self.plain:
                raise Damaged("not encrypted, in a store that is")
            payload = blob[_NAME + _CRC :]
            if _checksum(identity, payload) != blob[_NAME : _NAME + _CRC]:
                raise Damaged("wrong checksum")
            return payload
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise Damaged(f"encrypted with the unknown key {name.hex()}")
        from cryptography.exceptions import InvalidTag

        try:
            return cipher.decrypt(blob[_NAME : _NAME + _NONCE], blob[_NAME + _NONCE :], identity)
        except (InvalidTag, ValueError) as error:
            raise Damaged("wrong authentication tag") from error

    def _identity(self, kind: bytes, number: int) -> bytes:
        return b"%s %d %s" % (kind, number, self._store)


def _checksum(identity: bytes, payload: bytes) -> bytes:
    return zlib.crc32(payload, zlib.crc32(identity)).to_bytes(_CRC, "little")
