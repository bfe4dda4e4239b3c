# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts serve what they served before."""

from __future__ import annotations

from typing import Any

import page

testinfra_hosts = ["ansible://lab"]


def test_release_before_serves(host: Any) -> None:
    assert page.status(host)["version"] == "1.0.0"
    states = {name: found["state"] for name, found in page.status(host)["collectors"].items()}
    assert states["memory"] == "ok"
    assert host.check_output("systemctl is-active esnode-core") == "active"
