# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's own tests skip, with the reason, where no host can be booted."""

from __future__ import annotations

from pathlib import Path

import lab
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if ours and (reason := lab.unavailable()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"hosts can't be booted here: {reason}"))
