# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The generated pages are those that the code says, and the metric names follow Prometheus' rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from esnode import catalogue

ROOT = Path(__file__).parents[3]


def test_the_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/references.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_names_follow_the_rules() -> None:
    for family in catalogue.FAMILIES.values():
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert family.help.endswith("."), family.name
        for unit, word in (("bytes", "bytes"), ("s", "seconds"), ("W", "watts"), ("J", "joules"), ("Hz", "hertz")):
            if family.unit == unit:
                assert word in family.name, f"{family.name} is in {unit}"
