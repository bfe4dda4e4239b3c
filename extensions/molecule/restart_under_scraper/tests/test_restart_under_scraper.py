# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever scraped meanwhile got an answer each time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import page

testinfra_hosts = ["ansible://lab"]
SCRAPES = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "build/molecule/scrapes.json"


def test_no_scrape_was_missed(host: Any) -> None:
    seen = json.loads(SCRAPES.read_text())[host.backend.hostname]
    print(f"{seen['answered']} scrapes, the slowest took {seen['slowest_s']:.2f} s")
    assert seen["missed"] == []
    assert seen["versions"] == ["1.0.0", "1.0.1"]


def test_it_runs_on(host: Any) -> None:
    assert page.service(host)["NRestarts"] == "0"
    assert page.status(host)["version"] == "1.0.1"
