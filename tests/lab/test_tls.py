# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate is renewed under a scraper that must not miss one scrape, also one that has expired."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import lab
import pytest
from ansible_collections.esnode.core.plugins.plugin_utils.authority import Authority
from cryptography.hazmat.primitives import serialization

pytestmark = pytest.mark.skipif(lab.unavailable() is not None, reason=str(lab.unavailable()))
WANTED = {"esnode_agent_scope": "system", "enable_tls": True}


def served(one: lab.Lab, host: lab.Host) -> str:
    command = [*one.controller, "openssl", "s_client", "-connect", f"{host.address}:9100"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20).stdout


def pid(host: lab.Host) -> str:
    return host.run(["systemctl", "show", "-P", "MainPID", "esnode-core"]).stdout


def test_renewed_without_a_restart_and_without_a_missed_scrape() -> None:
    with lab.Lab("tls", [lab.Spec("node1")]) as one:
        host = one["node1"]
        run = one.playbook("esnode-deploy.yml", **WANTED)
        assert run.code == 0, run.output
        folder = one.slot.path / "ca"
        before, first = pid(host), served(one, host)
        missed: list[str] = []
        scrapes, stop = [0], threading.Event()
        command = [*one.controller, "curl", "-sS", "--fail", "--max-time", "10", "-o", "/dev/null"]
        command += ["--cacert", str(folder / "ca.crt"), f"https://{host.address}:9100/metrics"]

        def scrape() -> None:
            while not stop.wait(0.2):
                done = subprocess.run(command, capture_output=True, text=True)
                scrapes[0] += 1
                missed.extend([done.stderr] if done.returncode else [])

        scraper = threading.Thread(target=scrape)
        scraper.start()
        try:
            longer = {"esnode_tls_renew_days": 398, "esnode_tls_days": 400}
            run = one.playbook("esnode-certificates.yml", **WANTED, **longer)
        finally:
            stop.set()
            scraper.join()
        assert run.changed == 2, run.output
        assert (missed, pid(host)) == ([], before) and scrapes[0] > 0
        assert served(one, host).split("-----")[2] != first.split("-----")[2]

        # It has expired: the next run mends it, of the very agent that serves it.
        certs = host.root / "etc/esnode/certs"
        key = serialization.load_pem_private_key((certs / "server.key").read_bytes(), None).public_key()
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        ended = Authority(folder, "esnode CA", 3650, "", Path.read_bytes).sign(pem, "node1", ["DNS:node1"], 0)
        (certs / "server.crt").write_bytes(ended)
        host.run(["systemctl", "restart", "esnode-core"])
        assert subprocess.run(command, capture_output=True).returncode != 0
        run = one.playbook("esnode-certificates.yml", **WANTED)
        assert run.changed == 2, run.output
        assert subprocess.run(command, capture_output=True).returncode == 0
        assert one.playbook("esnode-certificates.yml", **WANTED).changed == 0

        # What root can read and the agent can't is refused by the reload alone; the configuration before is put back.
        host.run(["cp", "-r", "/etc/esnode/certs", "/srv/given"])
        host.run(["chown", "-R", "root:", "/srv/given"])
        paths = {"tls_cert_path": "/srv/given/server.crt", "tls_key_path": "/srv/given/server.key"}
        run = one.playbook("esnode-deploy.yml", **WANTED, esnode_agent_config={"security": paths})
        assert run.code != 0 and "refused the new configuration and keeps the old one" in run.output, run.output
        assert "/etc/esnode/esnode.toml, and is healthy with it" in run.output, run.output
        assert subprocess.run(command, capture_output=True).returncode == 0
        assert one.playbook("esnode-deploy.yml", **WANTED).changed == 0
