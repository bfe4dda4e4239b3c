# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent serves HTTPS with a certificate of the authority on the controller."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import page

testinfra_hosts = ["ansible://lab"]
CA = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]) / "build/molecule/ca/ca.crt"


def test_certificate_is_trusted_for_the_address(host: Any) -> None:
    address = host.backend.hostname
    assert "esnode_build_info{" in page.get(host, f"https://{address}:9100/metrics", CA.read_text())


def test_plain_http_is_refused(host: Any) -> None:
    refused = host.run(
        "python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:9100/metrics\", timeout=20)'"
    )
    assert refused.rc != 0


def test_key_is_closed(host: Any) -> None:
    key, certificate = host.file("/etc/esnode/certs/server.key"), host.file("/etc/esnode/certs/server.crt")
    assert (key.user, key.mode) == ("esnode", 0o600)
    assert certificate.mode == 0o644
    assert not host.file("/etc/esnode/certs/ca.key").exists
