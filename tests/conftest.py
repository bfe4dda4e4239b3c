# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of every test: what the tests generate stays in build/."""

from __future__ import annotations

from pathlib import Path

from hypothesis import configuration, settings

ROOT = Path(__file__).parents[1]

configuration.set_hypothesis_home_dir(ROOT / "build/cache/hypothesis")
settings.register_profile("esnode", deadline=None)  # a busy machine is no failure
settings.load_profile("esnode")
