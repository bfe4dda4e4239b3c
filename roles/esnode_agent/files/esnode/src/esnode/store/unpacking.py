# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking what zstd packed. To make a decompressor takes fifty times as long as to unpack a small chunk with it."""

from __future__ import annotations

import threading

import zstandard

UnpackError = zstandard.ZstdError
_local = threading.local()  # a decompressor is for one thread at a time


def unpack(data: bytes) -> bytes:
    """What these bytes were packed from; UnpackError when they are none."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor.decompress(data)
