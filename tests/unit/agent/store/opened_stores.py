# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for whoever tests the store: stores that are closed at the end, and a key. A conftest.py imports them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from esnode import store
from esnode.store.store import Store
from samples import START_MS

Opener = Callable[..., Store]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Open stores that are closed at the end, whatever happens."""

    def close(one: Store) -> None:
        with contextlib.suppress(store.NotWritten):
            one.close()

    with contextlib.ExitStack() as stack:

        def opener(path: Path | None = None, **options: Any) -> Store:
            settings = store.Options(**{"wall": lambda: START_MS / 1000, **options})
            one = store.open(path or tmp_path / "store", settings)
            stack.callback(close, one)
            return one

        yield opener


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / "key"
    path.write_text("11" * 32 + "\n")
    path.chmod(0o600)
    return path
