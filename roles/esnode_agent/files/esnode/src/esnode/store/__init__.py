# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An embedded store for time series: knows nothing of what the samples mean, where they come from or who asks.

    with store.open(path, Options(retention_s=86400)) as store:
        store.append(time_ms, {series: value, ...})
        store.select([Matcher("__name__", "=", "up")], from_ms, to_ms)

What it needs (numpy, zstandard, pcodec, and cryptography for a store that is encrypted) is imported by `open`.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from esnode.store.errors import BadMatcher, NotWritten, StoreBusy, StoreError, TooMany, WrongKey
from esnode.store.model import FOREVER_MS, Lost, Matcher, Options, SeriesData, SeriesId, SeriesLike, Stats

# numpy's linear algebra would start a thread for each of a node's 256 CPUs, and none of it is used here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from esnode.store.readonly import ReadOnlyStore
    from esnode.store.store import Store

__all__ = [
    "FOREVER_MS",
    "BadMatcher",
    "Lost",
    "Matcher",
    "NotWritten",
    "Options",
    "SeriesData",
    "SeriesId",
    "SeriesLike",
    "Stats",
    "StoreBusy",
    "StoreError",
    "TooMany",
    "WrongKey",
    "open",
    "open_for_reading",
]


def open(path: Path, options: Options | None = None) -> Store:
    """Open the store in this folder for appending and reading, make it if there is none.

    StoreBusy: another process has it. WrongKey: the key file does not fit, nothing was touched. StoreError: the rest.
    """
    _load()
    from esnode.store.store import Store

    return Store(path, options or Options())


def open_for_reading(path: Path, key_file: Path | None = None, *, still: bool = False) -> ReadOnlyStore:
    """Open a store for reading only, whether or not another process writes it.

    `still`: what comes after the first selection is not seen; for a reader that makes many and ends.
    """
    _load()
    from esnode.store.readonly import ReadOnlyStore

    return ReadOnlyStore(path, key_file, still=still)


def _load() -> None:
    """Import what the store needs; StoreError with the one line that counts when a library of the system is missing."""
    try:
        importlib.import_module("esnode.store.store")
    except ImportError as error:
        first: BaseException = error
        while first.__context__ is not None:  # numpy wraps the reason into a page of advice
            first = first.__context__
        raise StoreError(f"the store's libraries can't be loaded: {first}") from error
