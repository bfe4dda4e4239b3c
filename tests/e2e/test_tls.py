# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""enable_tls=true: certificates of an authority of one's own, and given ones."""

from __future__ import annotations

import os
import ssl
import subprocess
import urllib.request
from pathlib import Path

from deployment import Deployment

SUITES = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]


def handshake(port: int, *options: str) -> str:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-brief", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr


def fetch(port: int, authority: Path, name: str = "127.0.0.1") -> int:
    context = ssl.create_default_context(cafile=str(authority))
    with urllib.request.urlopen(f"https://{name}:{port}/healthz", context=context, timeout=30) as answer:
        return int(answer.status)


def test_check_mode_on_a_fresh_host(deployment: Deployment) -> None:
    run = deployment.run("--check", "--diff", "-e", "enable_tls=true")
    assert run.changed == 3, run.output  # the release, the certificate, the agent with all its files
    assert not deployment.config.exists() and not (deployment.home / "ca").exists()


def test_own_authority(deployment: Deployment) -> None:
    # As on the command line of the documentation: texts, which count as what they say.
    texts = ("--extra-vars", "esnode_version=1.0.0", "--extra-vars", "enable_tls=true")
    deployment.variables["esnode_agent_config"]["security"] = {"cipher_suites": SUITES}
    run = deployment.run(*texts)
    assert run.action == "start"
    authority = deployment.home / "ca/ca.crt"
    assert fetch(deployment.port, authority) == fetch(deployment.port, authority, "localhost") == 200
    certs = deployment.config.with_name("certs")
    modes = {name: (certs / name).stat().st_mode & 0o777 for name in os.listdir(certs)}
    assert modes == {"server.key": 0o600, "server.crt": 0o644, "ca.crt": 0o644}
    assert (deployment.home / "ca/ca.key").stat().st_mode & 0o777 == 0o600
    trusted = handshake(deployment.port, "-CAfile", str(authority), "-verify_return_error")
    assert "TLSv1.3" in trusted and "Verification: OK" in trusted
    assert "ESTABLISHED" not in handshake(deployment.port, "-tls1_2")
    for suite in SUITES:
        assert f"Ciphersuite: {suite}" in handshake(deployment.port, "-ciphersuites", suite)
    assert "ESTABLISHED" not in handshake(deployment.port, "-ciphersuites", "TLS_AES_128_GCM_SHA256")


def test_second_run_changes_nothing(deployment: Deployment) -> None:
    run = deployment.run("-e", "enable_tls=true")
    assert run.changed == 0, run.output
    assert deployment.run("--check", "--diff", "-e", "enable_tls=true").changed == 0


def test_another_name_means_another_certificate_without_restart(deployment: Deployment) -> None:
    pids = deployment.pids
    names = {"enable_tls": True, "esnode_tls_subject_alt_names": ["IP:127.0.0.1", "DNS:gpu-01.example.com"]}
    assert deployment.run(**names).action == "reload"
    assert deployment.pids == pids
    certificate = deployment.config.with_name("certs") / "server.crt"
    command = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", certificate]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "DNS:gpu-01.example.com" in shown.stdout
    assert fetch(deployment.port, deployment.home / "ca/ca.crt") == 200
    assert deployment.run(**names).changed == 0


def test_given_files(deployment: Deployment) -> None:
    given = deployment.home / "given"
    given.mkdir()
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=given"
    extra = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", given / "k.pem", "-out", given / "c.pem"]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True)
    files = {
        "enable_tls": True,
        "esnode_tls_cert_src": str(given / "c.pem"),
        "esnode_tls_key_src": str(given / "k.pem"),
    }
    run = deployment.run("--diff", **files)
    assert run.action == "reload"
    assert "PRIVATE KEY" not in run.output
    assert fetch(deployment.port, given / "c.pem") == 200
    assert deployment.run(**files).changed == 0


def test_back_to_plain(deployment: Deployment) -> None:
    del deployment.variables["esnode_agent_config"]["security"]
    assert deployment.run().action == "restart"
    assert deployment.get("/healthz") == "ok\n"
    assert deployment.run(playbook="remove").code == 0
    assert not deployment.config.parent.exists()
