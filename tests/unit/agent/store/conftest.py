# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the store share: clocks that can be set, stores that are closed at the end, a key."""

from __future__ import annotations

import pytest
from opened_stores import key_file, opened
from samples import Clock

__all__ = ["clock", "key_file", "opened"]


@pytest.fixture
def clock() -> Clock:
    return Clock()
