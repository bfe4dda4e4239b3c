# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent sends its history on: outages, kills, refusals, credentials; to real receivers and to a small one."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import platform
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from agent_process import AgentProcess, configuration, free_port
from aiohttp import web
from cramjam import snappy
from esnode import store, wire
from esnode.store import SeriesId
from tsdb_peers import Held, Labels, NewestPrometheus, NewestVictoriaMetrics, Peer, Prometheus, VictoriaMetrics

PEERS = [
    pytest.param(kind, marks=pytest.mark.skipif(not kind.program, reason=f"needs {kind.__name__}"))
    for kind in (Prometheus, VictoriaMetrics, NewestPrometheus, NewestVictoriaMetrics)
]
STALE_BITS = 0x7FF0000000000002


def settings(folder: Path, port: int, url: str, more: str = "", enable: tuple[str, ...] = ("cpu",)) -> str:
    section = f'[tsdb]\nlocal_tsdb_path = "{folder}/tsdb"\n[remote_write]\nurl = "{url}"\n{more}\n'
    return configuration(port, enable=enable, more=section)


def eventually(what: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.2)


def remote(agent: AgentProcess) -> dict[str, object]:
    found: dict[str, object] = agent.status()["remote_write"]
    return found


def sent_up_to(agent: AgentProcess) -> float:
    return float(remote(agent)["newest_sent"] or 0.0)  # type: ignore[arg-type]


def in_store(folder: Path, until_s: float) -> Held:
    """What the agent's store has up to a time, with the labels that a receiver sees."""
    held: Held = {}
    with store.open_for_reading(folder / "tsdb") as reader:
        for data in reader.select((), to_ms=round(until_s * 1000)):
            labels = {"job": "esnode", "instance": platform.node(), **data.series.labels, "__name__": data.series.name}
            held[tuple(sorted(labels.items()))] = dict(zip(data.times.tolist(), data.values.tolist(), strict=True))
    return held


def missing(wanted: Held, held: Held) -> list[tuple[Labels, int]]:
    return [
        (labels, when)
        for labels, samples in wanted.items()
        for when, value in samples.items()
        # VictoriaMetrics keeps decimals, so the last bits of a float may differ.
        if not math.isclose(held.get(labels, {}).get(when, math.nan), value, rel_tol=1e-9)
    ]


@pytest.mark.parametrize("kind", PEERS)
def test_an_outage_and_a_kill_lose_nothing(tmp_path: Path, kind: type[Peer]) -> None:
    port, peer = free_port(), kind(tmp_path / "peer", free_port())
    agent = AgentProcess(tmp_path, settings(tmp_path, port, peer.url + peer.path), port)
    with agent:
        agent.until_logged("does not take samples")
        eventually(lambda: int(str(remote(agent)["samples_pending"])) > 100)
        agent.process.kill()
        agent.process.wait()
    with agent, peer:
        begun = time.time()
        eventually(lambda: sent_up_to(agent) > begun + 2)
        agent.process.kill()  # in the middle of it
        agent.process.wait()
        with agent:
            begun = time.time()
            eventually(lambda: sent_up_to(agent) > begun + 1)
            until = sent_up_to(agent)
            wanted = in_store(tmp_path, until)
            assert sum(map(len, wanted.values())) > 1000
            eventually(lambda: not missing(wanted, peer.held()), 20)
            assert remote(agent)["state"] == "ok"
            # A series that goes is gone at once, not after five minutes.
            assert peer.query("esnode_cpu_seconds_total")
            agent.config.write_text(settings(tmp_path, port, peer.url + peer.path, enable=()))
            agent.process.send_signal(signal.SIGHUP)
            eventually(lambda: not peer.query("esnode_cpu_seconds_total"))
            assert peer.query("esnode_build_info")


@pytest.mark.skipif(not Prometheus.program, reason="needs Prometheus")
def test_samples_that_are_too_old_are_dropped_and_counted_and_the_rest_arrives(tmp_path: Path) -> None:
    now_ms = round(time.time() * 1000)
    with store.open(tmp_path / "tsdb") as old:
        begin = old.follow(None, 1).start
        for row in range(40):  # the first half too old for a head that has newer ones
            age_ms = (3 * 3600 if row < 20 else 60) * 1000
            old.append(now_ms - age_ms + row, {SeriesId.of("esnode_test", {"n": str(n)}): row + n for n in range(90)})
    (tmp_path / "tsdb/remote_write.json").write_text(json.dumps(begin.encode()))
    port, peer = free_port(), Prometheus(tmp_path / "peer", free_port())
    with peer:
        push(peer, "esnode_other", now_ms)
        with AgentProcess(tmp_path, settings(tmp_path, port, peer.url + peer.path), port) as agent:
            eventually(lambda: sent_up_to(agent) * 1000 > now_ms)
            held = peer.held()
            assert sum(len(held.get(labels, {})) for labels in held if ("__name__", "esnode_test") in labels) == 20 * 90
            dropped = remote(agent)["samples_dropped"]
            assert dropped == {"too_old": 20 * 90, "out_of_order": 0, "refused": 0, "retention": 0}
            assert 'esnode_remote_write_samples_dropped_total{reason="too_old"} 1800' in agent.metrics()
            assert sum("refuses samples" in entry["message"] for entry in agent.log) == 1


def push(peer: Peer, name: str, when_ms: int) -> None:
    import urllib.request

    import numpy as np

    series = wire.labels(1, [("__name__", name)]) + wire.samples(2, np.array([when_ms]), np.array([1.0]))
    request = urllib.request.Request(peer.url + peer.path, bytes(snappy.compress_raw(wire.payload(1, series))))
    request.add_header("Content-Encoding", "snappy")
    request.add_header("Content-Type", "application/x-protobuf")
    assert urllib.request.urlopen(request, timeout=10).status == 204


class Receiver:
    """A server of this test's own: `answer` decides on each request; `rows` holds what was accepted."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.answer: Callable[[web.Request], web.Response] = lambda _: web.Response(status=204)
        self.requests: list[Mapping[str, str]] = []
        self.rows: Held = {}
        self.stale: set[str] = set()
        self.port = free_port()
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}/write"
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        application = web.Application()
        application.router.add_post("/write", self._take)
        application.router.add_route("*", "/elsewhere", self._take)
        runner = web.AppRunner(application)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=self._context)
        self._loop.run_until_complete(site.start())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append({"path": request.path, **request.headers})
        answer = self.answer(request)
        if answer.status < 300:
            for labels, when, bits in samples(body):
                if bits == STALE_BITS:
                    self.stale.add(dict(labels)["__name__"])
                else:
                    self.rows.setdefault(labels, {})[when] = bits
        return answer

    def ticks(self) -> set[int]:
        """Times at which there is a sample of what each row has."""
        return {
            when for labels, row in self.rows.items() if ("__name__", "esnode_build_info") in labels for when in row
        }


def samples(body: bytes) -> Iterator[tuple[Labels, int, int]]:
    for _, series in wire.fields(bytes(snappy.decompress_raw(body))):
        labels: list[tuple[str, str]] = []
        for number, part in wire.fields(series):  # type: ignore[arg-type]
            found = dict(wire.fields(part))  # type: ignore[arg-type]
            if number == 1:
                labels.append((found[1].decode(), found[2].decode()))  # type: ignore[union-attr]
            else:
                assert labels == sorted(labels)
                yield tuple(labels), found[2], found[1]  # type: ignore[misc]


def all_ticks(folder: Path, until_s: float) -> set[int]:
    found = in_store(folder, until_s)
    return {when for labels in found if ("__name__", "esnode_build_info") in labels for when in found[labels]}


def test_troubles_of_the_receiver_are_waited_out_and_credentials_are_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    token.chmod(0o600)
    port = free_port()
    troubles = iter(
        [
            web.Response(status=503),
            web.Response(status=429, headers={"Retry-After": "1"}),
            web.Response(status=307, headers={"Location": "/elsewhere"}),
        ]
    )
    accepts = ["first-secret"]

    def answer(request: web.Request) -> web.Response:
        trouble = next(troubles, None)
        if trouble is not None:
            return trouble
        return web.Response(status=204 if request.headers.get("Authorization") == f"Bearer {accepts[0]}" else 401)

    more = (
        f'bearer_token_path = "{token}"\nheaders = {{ X-Scope-OrgID = "tenant" }}\n'
        'labels = { rack = "r7", job = "other", cpu = "never" }\n'
    )
    with Receiver() as receiver:
        receiver.answer = answer
        with AgentProcess(tmp_path, settings(tmp_path, port, receiver.url, more), port) as agent:
            eventually(lambda: len(receiver.rows) > 5)
            assert {one["path"] for one in receiver.requests} == {"/write"}, "a redirect was followed"
            first = receiver.requests[0]
            assert first["Content-Encoding"] == "snappy"
            assert first["Content-Type"] == "application/x-protobuf"
            assert first["X-Prometheus-Remote-Write-Version"] == "0.1.0"
            assert first["User-Agent"].startswith("esnode-core/")
            assert first["X-Scope-OrgID"] == "tenant"
            own = next(dict(labels) for labels in receiver.rows if ("cpu", "0") in labels)
            assert {name: own[name] for name in ("rack", "job", "instance", "cpu")} == {
                "rack": "r7",
                "job": "other",
                "instance": platform.node(),
                "cpu": "0",
            }
            accepts[0] = "second-secret"
            eventually(lambda: "401" in str(remote(agent)["error"]))
            token.write_text("second-secret\n")
            eventually(lambda: remote(agent)["state"] == "ok")
            # A reload goes on where it was.
            agent.config.write_text(settings(tmp_path, port, receiver.url, more.replace("tenant", "tenant2")))
            agent.process.send_signal(signal.SIGHUP)
            eventually(lambda: receiver.requests[-1]["X-Scope-OrgID"] == "tenant2")
            reloaded = time.time()
            eventually(lambda: sent_up_to(agent) > reloaded + 1)
            assert not all_ticks(tmp_path, sent_up_to(agent)) - receiver.ticks()
            assert sum(remote(agent)["samples_dropped"].values()) == 0  # type: ignore[attr-defined]
            status = json.dumps(agent.status())
            failed = int(str(remote(agent)["requests_failed"]))
            assert failed >= 4
            assert f'esnode_delivery_failed_total{{sink="remote_write"}} {failed}' in agent.metrics()
        assert "secret" not in agent.text + status


def certificates(folder: Path) -> None:
    """A CA, a server and a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ca")
    for name in ("server", "client"):
        extension = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key")
        openssl(
            "req", "-x509", *new, *signed, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}",
            *extension,
        )  # fmt: skip


def test_tls_with_a_client_certificate_and_basic_authentication(tmp_path: Path) -> None:
    certificates(tmp_path)
    (tmp_path / "password").write_text("pass-word\n")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    context.load_verify_locations(tmp_path / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    port = free_port()
    basic = f'username = "esnode"\npassword_path = "{tmp_path}/password"\n'
    client = f'tls_cert_path = "{tmp_path}/client.crt"\ntls_key_path = "{tmp_path}/client.key"\n'
    ca = f'tls_ca_path = "{tmp_path}/ca.crt"\n'
    with Receiver(context) as receiver:
        one = settings(tmp_path, port, receiver.url, basic + client)
        with AgentProcess(tmp_path, one, port) as agent:
            agent.until_logged("certificate verify failed")
            agent.config.write_text(settings(tmp_path, port, receiver.url, basic + ca))
            agent.process.send_signal(signal.SIGHUP)
            eventually(lambda: "verify failed" not in str(remote(agent)["error"]) and remote(agent)["error"])
            assert not receiver.requests
            agent.config.write_text(settings(tmp_path, port, receiver.url, basic + client + ca))
            agent.process.send_signal(signal.SIGHUP)
            eventually(lambda: receiver.rows)
            coded = base64.b64encode(b"esnode:pass-word").decode()
            assert receiver.requests[-1]["Authorization"] == f"Basic {coded}"
            assert remote(agent)["url"] == receiver.url
            # The password is renewed, then taken away: said, not sent without it.
            (tmp_path / "password").unlink()
            eventually(lambda: "password_path" in str(remote(agent)["error"]))
            (tmp_path / "password").write_text("new\n")
            coded = base64.b64encode(b"esnode:new").decode()
            eventually(lambda: receiver.requests[-1]["Authorization"] == f"Basic {coded}")
            assert {one.get("Authorization", "")[:5] for one in receiver.requests} == {"Basic"}


def test_only_what_a_receiver_refuses_is_lost(tmp_path: Path) -> None:
    port = free_port()
    refused = "esnode_load15"

    def answer(request: web.Request) -> web.Response:
        body = request._read_bytes or b""
        bad = any(dict(labels)["__name__"] == refused for labels, _, _ in samples(body))
        return web.Response(status=400, text="label value too long") if bad else web.Response()

    with Receiver() as receiver:
        receiver.answer = answer
        with AgentProcess(tmp_path, settings(tmp_path, port, receiver.url), port) as agent:
            begun = time.time()
            eventually(lambda: sent_up_to(agent) > begun + 2)
            assert int(remote(agent)["samples_dropped"]["refused"]) > 0  # type: ignore[index]
            until = sent_up_to(agent)
            wanted = in_store(tmp_path, until)
            lost = {dict(labels)["__name__"] for labels in wanted if labels not in receiver.rows}
            assert lost == {refused}
            for labels in set(wanted) & set(receiver.rows):
                assert set(wanted[labels]) <= set(receiver.rows[labels])
            assert sum("refuses samples" in entry["message"] for entry in agent.log) == 1


def test_the_figures_go_on_when_the_store_is_reopened_while_the_receiver_is_away(tmp_path: Path) -> None:
    port, away = free_port(), free_port()
    text = settings(tmp_path, port, f"http://127.0.0.1:{away}/write")
    with AgentProcess(tmp_path, text, port) as agent:
        eventually(lambda: int(str(remote(agent)["samples_pending"])) > 0)
        agent.config.write_text(text.replace("[remote_write]", "retention_hours = 1\n[remote_write]"))
        agent.process.send_signal(signal.SIGHUP)
        eventually(lambda: agent.status()["tsdb"]["retention_hours"] == 1)
        reopened = int(str(remote(agent)["samples_pending"]))
        eventually(lambda: int(str(remote(agent)["samples_pending"])) > 2 * reopened)
        assert remote(agent)["state"] == "failing"


def test_without_a_url_nothing_is_sent_and_without_a_store_it_is_refused(tmp_path: Path) -> None:
    port = free_port()
    text = configuration(port, more='[remote_write]\nlabels = { rack = "x" }\n')
    with AgentProcess(tmp_path, text, port) as agent:
        assert remote(agent) == {"state": "disabled"}
        assert "esnode_delivery" not in agent.metrics()
        agent.until_logged("remote_write: url is not set: nothing is sent")
        agent.config.write_text(text.replace("labels", 'url = "http://127.0.0.1:1/"\nlabels'))
        agent.process.send_signal(signal.SIGHUP)
        agent.until_logged("remote_write.url: needs the store")
