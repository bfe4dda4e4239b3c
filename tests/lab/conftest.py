# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own tests skip, with the reason, where no host can be booted."""

from __future__ import annotations

from pathlib import Path

import lab
import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist tells what was collected
def pytest_collection_finish(session: pytest.Session) -> None:
    """A booted host lives through the tests of a file in their order; --failed-first must not turn it round."""
    places = [place for place, item in enumerate(session.items) if HERE in item.path.parents]
    ours = sorted((session.items[p] for p in places), key=lambda item: (item.path, item.location[1] or 0))
    for place, item in zip(places, ours, strict=True):
        session.items[place] = item


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if ours and (reason := lab.unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"hosts can't be booted here: {reason}"))
