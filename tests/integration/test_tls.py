# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS as configured: proven with OpenSSL's own client."""

from __future__ import annotations

import datetime
import json
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from agent_process import AgentProcess, configuration, environment, free_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

OPENSSL = shutil.which("openssl")
pytestmark = pytest.mark.skipif(OPENSSL is None, reason="needs the openssl command")


def openssl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    assert OPENSSL
    return subprocess.run([OPENSSL, *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pair(tmp_path_factory.mktemp("certs"))


def make_pair(folder: Path) -> Path:
    made = openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "90",
        "-keyout", str(folder / "server.key"), "-out", str(folder / "server.crt"),
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


def security(folder: Path, more: str = "") -> str:
    return (
        f'[security]\nenable_tls = true\ntls_cert_path = "{folder}/server.crt"\ntls_key_path = "{folder}/server.key"\n'
        f"{more}\n"
    )


TWO_SUITES = 'min_tls_version = "1.3"\ncipher_suites = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]'


def handshake(port: int, *arguments: str) -> str | None:
    """The suite that was agreed on, None when the server refused."""
    done = openssl("s_client", "-connect", f"127.0.0.1:{port}", *arguments, stdin="Q\n")
    for line in done.stdout.splitlines():
        if line.startswith("New, TLS") and "Cipher is" in line:
            return line.rpartition(" ")[2]
    return None


def test_only_the_two_suites_of_the_template_are_offered(tmp_path: Path, pair: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, more=security(pair, TWO_SUITES)), port):
        assert handshake(port, "-tls1_3") == "TLS_AES_256_GCM_SHA384"
        assert (
            handshake(port, "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256")
            == "TLS_CHACHA20_POLY1305_SHA256"
        )
        assert handshake(port, "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256") is None
        assert handshake(port, "-tls1_2") is None


def test_without_a_list_openssl_decides(tmp_path: Path, pair: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, more=security(pair)), port):
        assert handshake(port, "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256") == "TLS_AES_128_GCM_SHA256"
        assert handshake(port, "-tls1_2") is None


def test_tls_1_2_with_one_suite_each(tmp_path: Path, pair: Path) -> None:
    suites = 'min_tls_version = "1.2"\ncipher_suites = ["TLS_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"]'
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, more=security(pair, suites)), port):
        assert handshake(port, "-tls1_2") == "ECDHE-ECDSA-AES256-GCM-SHA384"
        assert handshake(port, "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256") is None
        assert handshake(port, "-tls1_1") is None
        assert handshake(port, "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256") is None


@pytest.mark.parametrize("system", ["", "plain", "chained"])
def test_the_systems_own_openssl_configuration_stays_in_force(tmp_path: Path, pair: Path, system: str) -> None:
    """A configuration as distributions ship it, in three shapes: none, without TLS defaults, with them."""
    conf = tmp_path / "openssl.cnf"
    texts = {
        "": "",
        "plain": "openssl_conf = init\n[init]\nproviders = provs\n[provs]\ndefault = dflt\n[dflt]\nactivate = 1\n",
        "chained": "openssl_conf = init\n[init]\nssl_conf = ssl_sect\n[ssl_sect]\nsystem_default = sys\n"
        "[sys]\nGroups = P-384\n",
    }
    conf.write_text(texts[system])
    port = free_port()
    env = {"OPENSSL_CONF": str(conf)}
    with AgentProcess(tmp_path, configuration(port, more=security(pair, TWO_SUITES)), port, env=env):
        assert handshake(port, "-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256") is None
        if system == "chained":
            assert handshake(port, "-tls1_3", "-groups", "X25519") is None, "the system's Groups were lost"
            assert handshake(port, "-tls1_3", "-groups", "P-384") == "TLS_AES_256_GCM_SHA384"
        else:
            assert handshake(port, "-tls1_3") == "TLS_AES_256_GCM_SHA384"


def test_a_renewed_certificate_is_taken_by_a_reload_without_a_restart(tmp_path: Path) -> None:
    certs = make_pair(tmp_path)
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, more=security(certs)), port) as agent:
        old = ssl.get_server_certificate(("127.0.0.1", port))
        make_pair(certs)
        agent.process.send_signal(signal.SIGHUP)
        agent.until_logged("configuration reloaded")
        new = ssl.get_server_certificate(("127.0.0.1", port))
        assert old != new
        assert new.strip() == (certs / "server.crt").read_text().strip()
        (certs / "server.key").write_text("no key\n")
        agent.process.send_signal(signal.SIGHUP)
        agent.until_logged("reload refused")
        assert ssl.get_server_certificate(("127.0.0.1", port)) == new


def test_clients_that_never_finish_the_handshake_shut_nobody_out(tmp_path: Path, pair: Path) -> None:
    import socket

    port = free_port()
    context = ssl.create_default_context(cafile=str(pair / "server.crt"))
    with AgentProcess(tmp_path, configuration(port, more=security(pair)), port) as agent:
        held = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(300)]
        try:
            assert agent.get("/metrics", context=context)[0] == 200
        finally:
            for one in held:
                one.close()


def command_line(folder: Path, more: str, verb: str = "check-config") -> subprocess.CompletedProcess[str]:
    path = folder / "esnode.toml"
    path.write_text(more)
    command = [sys.executable, "-m", "esnode", verb, "--config", str(path)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)


def check(folder: Path, more: str) -> str:
    return command_line(folder, more).stderr


def let_end(folder: Path, days: float) -> int:
    """Sign the pair's certificate anew so that it ends in `days`; the Unix time of that."""
    key = load_pem_private_key((folder / "server.key").read_bytes(), None)
    old = x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    ends = now + datetime.timedelta(days=days)
    made = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), 7, now - datetime.timedelta(30), ends)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    (folder / "server.crt").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return int(ends.timestamp())


@pytest.mark.parametrize(("days", "said"), [(-3, "has expired on 20"), (10, "in 10 days"), (90, None)])
def test_a_certificate_that_ends_soon_is_told_everywhere(tmp_path: Path, days: int, said: str | None) -> None:
    certs = make_pair(tmp_path)
    ends = let_end(certs, days)
    port = free_port()
    text = configuration(port, more=security(certs, TWO_SUITES))
    checked = command_line(tmp_path, text)
    notes = [line for line in checked.stdout.splitlines() if "note: security.tls_cert_path" in line]
    assert checked.returncode == 0 and len(notes) == bool(said) and (not said or said in notes[0]), checked
    context = ssl._create_unverified_context()
    with AgentProcess(tmp_path, text, port) as agent:
        tls = json.loads(agent.get("/status", context=context)[2])["tls"]
        assert tls["not_after"] == ends
        assert said in tls["warning"] if said else tls["warning"] is None
        line = f"esnode_tls_certificate_not_after_timestamp_seconds {tls['not_after']}"
        page = agent.get("/metrics", context=context)[2].decode()
        assert line in page
        if said:
            assert said in agent.until_logged("the certificate ")["message"]
            # The reload takes the new one, and nobody is told of the old one any more.
            make_pair(certs)
            assert json.loads(agent.get("/status", context=context)[2])["tls"] == tls, "served is what counts"
            agent.process.send_signal(signal.SIGHUP)
            agent.until_logged("configuration reloaded")
            assert json.loads(agent.get("/status", context=context)[2])["tls"]["warning"] is None
        else:
            assert "the certificate " not in agent.text


def test_mistakes_in_certificates_are_named(tmp_path: Path, pair: Path) -> None:
    other = make_pair(tmp_path)
    text = f'[security]\nenable_tls = true\ntls_cert_path = "{pair}/server.crt"\ntls_key_path = "{other}/server.key"\n'
    assert "the key does not belong to the certificate" in check(tmp_path, text)
    (tmp_path / "junk").write_text("junk")
    text = f'[security]\nenable_tls = true\ntls_cert_path = "{tmp_path}/junk"\ntls_key_path = "{pair}/server.key"\n'
    assert "expected PEM files" in check(tmp_path, text)
    assert "holds no PEM certificate" in check(tmp_path, security(pair, f'tls_ca_path = "{tmp_path}/junk"'))
    assert "cannot be read" in check(tmp_path, security(pair, 'tls_ca_path = "/no/such/ca.crt"'))
    text = security(pair, 'min_tls_version = "1.2"\ncipher_suites = ["TLS_AES_256_GCM_SHA384", "NO-SUCH-SUITE"]')
    assert 'OpenSSL does not know "NO-SUCH-SUITE"' in check(tmp_path, text)
    encrypted = openssl(
        "ec", "-aes256", "-passout", "pass:x", "-in", f"{pair}/server.key", "-out", f"{tmp_path}/enc.key"
    )
    assert encrypted.returncode == 0
    text = f'[security]\nenable_tls = true\ntls_cert_path = "{pair}/server.crt"\ntls_key_path = "{tmp_path}/enc.key"\n'
    assert "the key is encrypted" in check(tmp_path, text)
    assert check(tmp_path, security(pair, TWO_SUITES)) == ""


def test_the_command_line_trusts_its_own_agents_certificate(tmp_path: Path, pair: Path) -> None:
    port = free_port()
    with AgentProcess(tmp_path, configuration(port, more=security(pair)), port) as agent:
        command = [sys.executable, "-m", "esnode", "status", "--config", str(agent.config)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert "ready" in done.stdout, done.stderr
