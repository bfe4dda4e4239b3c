# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the store share: clocks that can be set, series, and a comparison to the last bit."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from esnode import store

sys.path.insert(0, str(Path(__file__).parent))  # samples.py, the tests' own module

from samples import START_MS, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., store.Store]]:
    """Open stores that are closed at the end, whatever happens."""
    stores = []

    def opener(path: Path | None = None, **options: object) -> store.Store:
        one = store.open(path or tmp_path / "store", store.Options(**{"wall": lambda: START_MS / 1000, **options}))
        stores.append(one)
        return one

    yield opener
    for one in stores:
        with contextlib.suppress(store.NotWritten):
            one.close()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("11" * 32 + "\n")
    path.chmod(0o600)
    return path
