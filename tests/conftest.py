# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of every test: what the tests generate stays in build/, and where their order counts it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import configuration, settings

ROOT = Path(__file__).parents[1]

configuration.set_hypothesis_home_dir(ROOT / "build/cache/hypothesis")
settings.register_profile("esnode", deadline=None)  # a busy machine is no failure
settings.load_profile("esnode")

IN_ORDER = {ROOT / "tests/e2e", ROOT / "tests/lab", ROOT / "tests/molecule"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist tells what was collected
def pytest_collection_finish(session: pytest.Session) -> None:
    """A deployment or a booted host lives through the tests of a file in their order; --failed-first keeps it."""
    places = [place for place, item in enumerate(session.items) if IN_ORDER & set(item.path.parents)]
    ours = sorted((session.items[p] for p in places), key=lambda item: (item.path, item.location[1] or 0, item.name))
    for place, item in zip(places, ours, strict=True):
        session.items[place] = item
