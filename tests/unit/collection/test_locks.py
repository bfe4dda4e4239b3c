# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests run with is what a release carries."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

LOCKS = Path(__file__).parents[3] / "roles/esnode_agent/files/requirements"


def test_the_versions_here_are_those_of_the_release() -> None:
    """Else `make lock` and `make release-lock` were not run together."""
    lock = LOCKS / "cp{}{}.txt".format(*sys.version_info)
    released = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", lock.read_text(), re.MULTILINE))
    here = {re.sub(r"[-_.]+", "-", dist.name).lower(): dist.version for dist in importlib.metadata.distributions()}
    # Some packages serve only the release, such as a supervisor.
    different = {
        name: (version, here[name]) for name, version in released.items() if here.get(name, version) != version
    }
    assert different == {}


def test_the_environment_has_every_dependency_of_the_agent() -> None:
    text = (LOCKS.parent / "esnode/pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    wanted = re.findall(r'^\s*"([A-Za-z0-9._-]+)[^";]*"', listed, re.MULTILINE)
    assert len(wanted) >= 5
    for name in wanted:
        importlib.metadata.version(name)  # raises when `make lock` was forgotten
