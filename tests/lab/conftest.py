# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own tests skip, with the reason, where no host can be booted; what their deployments share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lab
import lab_collection
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if ours and (reason := lab.unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"hosts can't be booted here: {reason}"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_collection.copy(tmp_path_factory.mktemp("good"), "1.0.0")


@pytest.fixture(scope="module")
def better(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_collection.copy(tmp_path_factory.mktemp("better"), "1.0.1")


@pytest.fixture
def deploy(one: lab.Lab) -> Callable[..., lab.Run]:
    """Run a playbook of a copy of the collection on the lab of the file."""

    def run(collections: Path, *options: str, playbook: str = "esnode-deploy.yml", **variables: Any) -> lab.Run:
        one.collections = collections
        return one.playbook(playbook, *options, **variables)

    return run
