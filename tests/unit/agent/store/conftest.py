# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the store share: clocks that can be set, and stores that are closed at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from esnode import store
from esnode.store.store import Store
from samples import START_MS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Open stores that are closed at the end, whatever happens."""

    def close(one: Store) -> None:
        with contextlib.suppress(store.NotWritten):
            one.close()

    with contextlib.ExitStack() as stack:

        def opener(path: Path | None = None, **options: object) -> Store:
            settings = store.Options(**{"wall": lambda: START_MS / 1000, **options})
            one = store.open(path or tmp_path / "store", settings)
            stack.callback(close, one)
            return one

        yield opener


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("11" * 32 + "\n")
    path.chmod(0o600)
    return path
