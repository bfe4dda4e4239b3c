# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as a healthy agent, asked of a real HTTP server that answers as an agent would."""

from __future__ import annotations

import copy
import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils.health import Client, base_url, failing, trouble
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

WELL: dict[str, Any] = {
    "version": "1.0.0",
    "gpus": [{"name": "NVIDIA H100 80GB HBM3"}] * 8,
    "collectors": {"cpu": {"state": "ok", "errors": []}, "gpu": {"state": "ok", "errors": []}},
}


class Agent:
    def __init__(self) -> None:
        self.status = copy.deepcopy(WELL)
        self.codes = {"/healthz": 200, "/readyz": 200, "/status": 200}


@pytest.fixture
def agent() -> Iterator[tuple[Agent, Client]]:
    one = Agent()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(one.codes[self.path])
            self.end_headers()
            body = json.dumps(one.status) if self.path == "/status" else "no collection has finished yet\n"
            self.wfile.write(body.encode())

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield one, Client(f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()


def test_well(agent: tuple[Agent, Client]) -> None:
    assert trouble(agent[1], "1.0.0", None) == [] == trouble(agent[1], "1.0.0", WELL)


def test_a_store_that_fails_is_trouble_unless_it_had_failed_before(agent: tuple[Agent, Client]) -> None:
    agent[0].status["tsdb"] = {"state": "failed", "error": "/var/lib/esnode/tsdb: the disk is full"}
    line = "the store can't be used: /var/lib/esnode/tsdb: the disk is full"
    assert trouble(agent[1], "1.0.0", None) == [line] == trouble(agent[1], "1.0.0", WELL)
    assert trouble(agent[1], "1.0.0", copy.deepcopy(agent[0].status)) == []
    assert failing(agent[0].status) == [line]
    agent[0].status["tsdb"] = {"state": "opening", "error": None}
    assert trouble(agent[1], "1.0.0", None) == ["the store is still being opened"]
    assert failing(agent[0].status) == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_not_ready_says_why(agent: tuple[Agent, Client], path: str) -> None:
    agent[0].codes[path] = 503
    assert trouble(agent[1], "1.0.0", None) == [f"{path} answers 503: no collection has finished yet"]


def test_nobody_listens() -> None:
    assert "refused" in trouble(Client("http://127.0.0.1:9"), "1.0.0", None)[0]


def test_another_version(agent: tuple[Agent, Client]) -> None:
    assert "version 1.0.0, expected 1.0.1" in trouble(agent[1], "1.0.1", None)[0]


def test_a_collector_that_has_not_read_yet_is_waited_for(agent: tuple[Agent, Client]) -> None:
    agent[0].status["collectors"]["gpu"]["state"] = "starting"
    assert trouble(agent[1], "1.0.0", None) == ["collector gpu has not read anything yet"]


def test_a_collector_that_is_down_from_the_start_is_no_reason_to_refuse_unless_all_are(
    agent: tuple[Agent, Client],
) -> None:
    agent[0].status["collectors"]["gpu"] = {"state": "failed", "errors": ["driver not loaded"]}
    assert trouble(agent[1], "1.0.0", None) == []
    agent[0].status["collectors"]["cpu"] = {"state": "failed", "errors": ["no /proc"]}
    assert len(trouble(agent[1], "1.0.0", None)) == 2


def test_what_was_well_before_must_be_well_now(agent: tuple[Agent, Client]) -> None:
    agent[0].status["collectors"]["gpu"] = {"state": "failed", "errors": ["driver not loaded"]}
    agent[0].status["gpus"] = WELL["gpus"][:7]
    lines = trouble(agent[1], "1.0.0", WELL)
    assert lines[0] == "collector gpu was ok before and is failed now: driver not loaded"
    assert lines[1].startswith("8 GPUs were well before, 7 are now; ")
    assert trouble(agent[1], "1.0.0", WELL, allow_fewer_gpus=True) == lines[:1]


@pytest.mark.parametrize(
    ("listen", "url"),
    [("0.0.0.0:9100", "https://127.0.0.1:9100"), (":9100", "https://127.0.0.1:9100"), ("[::]:1", "https://[::1]:1"),
     ("10.0.0.1:9100", "https://10.0.0.1:9100")],
)  # fmt: skip
def test_where_an_agent_answers(listen: str, url: str) -> None:
    assert base_url(listen, tls=True) == url


def certificate(folder: Path, name: str, days: int) -> Path:
    """A file with a key and a certificate that ends (or has ended) so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    today = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=100))
        .not_valid_after(today + datetime.timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem))
    return path


@pytest.mark.parametrize("days", [10, -10])
def test_the_very_certificate_counts_and_not_its_age(tmp_path: Path, days: int) -> None:
    served, other = certificate(tmp_path, "served", days), certificate(tmp_path, "other", 10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(served)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"well")

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"https://127.0.0.1:{server.server_address[1]}"
        assert Client(url, str(served)).get("/healthz") == (200, "well")
        assert Client(url).get("/healthz") == (200, "well")
        assert Client(url, str(other)).get("/healthz") == (
            0,
            f"another certificate is served than the one in {other}",
        )
        server.shutdown()


def test_a_lost_gpu_is_listed_and_not_well(agent: tuple[Agent, Client]) -> None:
    lost = {"name": "NVIDIA H100 80GB HBM3", "index": 3, "state": "lost"}
    agent[0].status["gpus"] = [*WELL["gpus"][:7], lost]
    (line,) = trouble(agent[1], "1.0.0", WELL)
    assert line.startswith("8 GPUs were well before, 7 are now (GPU 3 (NVIDIA H100 80GB HBM3) is lost); ")
    assert trouble(agent[1], "1.0.0", agent[0].status) == [], "it was lost before"
    assert trouble(agent[1], "1.0.0", WELL, allow_fewer_gpus=True) == []
