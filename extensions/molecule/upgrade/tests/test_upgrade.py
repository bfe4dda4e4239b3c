# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The newer release serves, and the one before is beside it."""

from __future__ import annotations

from typing import Any

import page

testinfra_hosts = ["ansible://lab"]


def test_newer_release_serves(host: Any) -> None:
    assert page.status(host)["version"] == "1.0.1"
    assert page.service(host)["NRestarts"] == "0"


def test_release_before_is_kept(host: Any) -> None:
    versions = sorted(name.split("-")[0] for name in host.file("/opt/esnode/releases").listdir())
    assert versions == ["1.0.0", "1.0.1"]
    assert "/1.0.1-" in host.file("/opt/esnode/current").linked_to
