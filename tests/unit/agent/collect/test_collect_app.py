# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The inference server: pages as the servers write them, and servers that answer badly, over real sockets."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trees
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from esnode.catalogue import APP_TOKENS
from esnode.collect import Roots, Settings, _http, app
from esnode.config import App, Config, Security
from esnode.snapshot import Reading
from hypothesis import given
from hypothesis import strategies as st

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="meta-llama/Llama-3.1-8B"} 3.0
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="meta-llama/Llama-3.1-8B"} 1.000648e+06
vllm:generation_tokens_total{engine="1",model_name="meta-llama/Llama-3.1-8B"} 352.0
# HELP vllm:generation_tokens_created Number of generation tokens processed.
# TYPE vllm:generation_tokens_created gauge
vllm:generation_tokens_created{engine="0",model_name="meta-llama/Llama-3.1-8B"} 1.76e+09
vllm:iteration_tokens_total_sum{model_name="meta-llama/Llama-3.1-8B"} 99.0
"""
SGLANG = """\
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{model_name="Qwen/Qwen3-8B"} 7.557572e+06
"""
TGI = """\
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{le="10"} 4
tgi_request_generated_tokens_sum 50000
tgi_request_generated_tokens_count 12
"""
TRITON = """\
# TYPE nv_llm_output_token_len histogram
nv_llm_output_token_len_count{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 8
nv_llm_output_token_len_sum{model="tensorrt_llm",response_metric_type="total_output_tokens",version="1"} 504
nv_llm_input_token_len_sum{model="tensorrt_llm",response_metric_type="total_input_tokens",version="1"} 77
"""
TRITON_VLLM = """\
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model="vllm_model",version="1"} 16
"""
TRTLLM = 'trtllm_generation_tokens_total{engine_type="trtllm",model_name="m \\"x\\" \\\\ y"} 9\n'


@pytest.mark.parametrize(
    ("page", "tokens"),
    [
        (VLLM, {"meta-llama/Llama-3.1-8B": 1001000.0}),  # both engines
        (SGLANG, {"Qwen/Qwen3-8B": 7557572.0}),
        (TGI, {"": 50000.0}),
        (TRITON, {"tensorrt_llm": 504.0}),
        (TRITON_VLLM, {"vllm_model": 16.0}),
        (TRTLLM, {'m "x" \\ y': 9.0}),
        (VLLM + TRITON, {"meta-llama/Llama-3.1-8B": 1001000.0, "tensorrt_llm": 504.0}),
        (VLLM.replace("\n", "\r\n"), {"meta-llama/Llama-3.1-8B": 1001000.0}),
        ("# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n", {}),
    ],
)
def test_pages_of_the_known_servers(page: str, tokens: dict[str, float]) -> None:
    assert app.tokens(page.encode()) == {APP_TOKENS.series(model): value for model, value in tokens.items()}


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "many", ""])
def test_a_value_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"generation_tokens_total|float|unpack"):
        app.tokens(f'vllm:generation_tokens_total{{model_name="m"}} {value}\n'.encode())


@given(st.one_of(st.binary(max_size=300), st.integers(0, len(VLLM)).map(lambda n: VLLM.encode()[:n])))
def test_any_page_is_read_or_refused(page: bytes) -> None:
    try:
        found = app.tokens(page)
    except ValueError:
        return
    # A page that was cut short must not give a number that was cut short.
    assert set(found.values()) <= {1000648.0, 1001000.0} or not VLLM.encode().startswith(page)


class StillThere(Exception):
    """The client listens to what never ends."""


class Server:
    """Answers each connection with what `behave` does on its socket."""

    def __init__(self, behave: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.gave_up = True
        self._behave, self._context = behave, context
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._context is not None:
                    connection = self._context.wrap_socket(connection, server_side=True)
                connection.settimeout(10)
                self.requests.append(connection.recv(65536))
                self._behave(connection)
            except OSError:
                pass
            except StillThere:
                self.gave_up = False
            finally:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)
        assert not self._thread.is_alive() and self.gave_up, "the client never gave up"


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(behave: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(behave, context))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


def answer(body: str, status: str = "200 OK", headers: str = "") -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        content = body.encode()
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n{headers}\r\n".encode() + content)

    return behave


def collect(port: int, timeout_s: float = 5.0, scheme: str = "http", ca: str | None = None) -> Reading:
    url = f"{scheme}://localhost:{port}/metrics?x=1"
    config = Config(app=App(enable_app=True, app_metrics_url=url), security=Security(tls_ca_path=ca))
    collector = app.create(Settings(config, Roots()))
    collector._timeout_s = timeout_s
    return collector.collect()


def test_a_page_over_http(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # the environment's proxies are none of ours
    server = serve(answer(VLLM))
    reading = collect(server.port)
    assert reading.errors == []
    assert reading.samples == {APP_TOKENS.series("meta-llama/Llama-3.1-8B"): 1001000.0}
    assert server.requests[0].startswith(b"GET /metrics?x=1 HTTP/1.1\r\n")


def test_a_page_over_https_with_a_private_authority(serve: Callable[..., Server], tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    server = serve(answer(SGLANG), context)
    assert collect(server.port, scheme="https", ca=str(tmp_path / "crt")).errors == []
    reading = collect(server.port, scheme="https")  # nobody vouches for it
    assert reading.samples == {} and "CERTIFICATE_VERIFY_FAILED" in reading.errors[0]


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (answer("", "503 Service Unavailable"), "answers 503"),
        (answer("", "302 Found", "Location: http://169.254.169.254/\r\n"), "redirects to http://169.254.169.254/"),
        (answer("<html>hello</html>\n"), "no metric of vLLM"),
        (answer("node_cpu_seconds_total 5\n"), "no metric of vLLM"),
        (answer('vllm:generation_tokens_total{model_name="m"} x\n'), "no page of Prometheus metrics"),
        (lambda c: c.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"), "cannot read"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nvllm:x 1\n"), "cannot read"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\n\r\nvllm:generation_tokens_total 12"), "cut short"),
        (lambda c: c.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n"), "cannot read"),
        (lambda c: None, "cannot read"),
    ],
)
def test_a_bad_answer_is_an_error_that_says_what(
    serve: Callable[..., Server], behave: Callable[[socket.socket], None], error: str
) -> None:
    reading = collect(serve(behave).port)
    assert reading.samples == {}
    assert len(reading.errors) == 1 and error in reading.errors[0]


def drip(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        end = time.monotonic() + 15
        while time.monotonic() < end:
            connection.sendall(piece)
            time.sleep(0.02)
        raise StillThere

    return behave


@pytest.mark.parametrize(
    "behave",
    [
        lambda c: c.recv(1),  # never answers
        drip(b"HTTP/1.1 200 OK\r\n", b"X"),  # a header that never ends
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b"vllm:x 1\n"),  # a page that never ends
    ],
)
def test_a_slow_answer_is_given_up_on(serve: Callable[..., Server], behave: Callable[[socket.socket], None]) -> None:
    reading = collect(serve(behave).port, timeout_s=0.4)
    assert reading.samples == {}
    assert len(reading.errors) == 1 and "did not answer in 0.4 s" in reading.errors[0]


def test_a_page_without_bound_is_cut_off(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "_MOST_BYTES", 1 << 20)

    def behave(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"vllm:x 1\n" * 10000)

    reading = collect(serve(behave).port)
    assert len(reading.errors) == 1 and "sends more than 1 MiB" in reading.errors[0]


def test_a_dead_url_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    reading = collect(port)
    assert reading.samples == {} and "refused" in reading.errors[0]


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    settings = trees.settings(Roots(), url="http://joe:secret@127.0.0.1:1/metrics")
    reading = app.create(settings).collect()
    assert "not supported" in reading.errors[0] and "secret" not in reading.errors[0]
