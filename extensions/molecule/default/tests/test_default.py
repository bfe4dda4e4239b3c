# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent runs as it was deployed, on a host with GPUs and on one without."""

from __future__ import annotations

from typing import Any

import page
import pytest

testinfra_hosts = ["ansible://lab"]


def test_service_runs_and_starts_at_boot(host: Any) -> None:
    assert host.service("esnode-core").is_running
    assert host.service("esnode-core").is_enabled
    assert host.check_output("systemctl is-system-running") == "running"
    assert page.service(host)["User"] == "esnode"
    assert page.service(host)["NRestarts"] == "0"


def test_everybody_can_scrape_it(host: Any) -> None:
    assert host.socket("tcp://0.0.0.0:9100").is_listening
    assert "esnode_build_info{" in page.get(host, "http://127.0.0.1:9100/metrics")
    assert page.get(host, "http://127.0.0.1:9100/healthz") == "ok\n"


@pytest.mark.parametrize(
    ("path", "owner", "mode"),
    [
        ("/opt/esnode/releases", "root", 0o755),
        ("/etc/esnode", "root", 0o755),
        ("/etc/esnode/esnode.toml", "root", 0o640),
        ("/etc/esnode/environment", "root", 0o640),
        ("/var/lib/esnode", "esnode", 0o750),
        ("/var/log/esnode", "esnode", 0o750),
    ],
)
def test_files_are_owned_and_closed(host: Any, path: str, owner: str, mode: int) -> None:
    assert (host.file(path).user, host.file(path).mode) == (owner, mode)


def test_release_is_the_one_that_is_current(host: Any) -> None:
    [release] = host.file("/opt/esnode/releases").listdir()
    assert release.startswith("1.0.0-")
    assert host.file("/opt/esnode/current").linked_to == f"/opt/esnode/releases/{release}"
    assert not host.user("esnode").shell.endswith("sh")


def test_gpus_are_served(host: Any) -> None:
    gpus = {"node1": 8, "node2": 0}[host.backend.get_hostname()]
    assert len(page.status(host)["gpus"]) == gpus
    metrics = page.get(host, "http://127.0.0.1:9100/metrics")
    assert metrics.count("\nesnode_gpu_info{") == gpus
