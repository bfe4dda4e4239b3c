# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the agent of this host how it is, over its own HTTP face on this host."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import typing as t
import urllib.parse

if t.TYPE_CHECKING:
    Status = dict[str, t.Any]  # the JSON of /status


def base_url(listen_address: str, tls: bool) -> str:
    """Where the agent answers on this host, for a listen address "host:port"."""
    host, _colon, port = listen_address.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    return f"{'https' if tls else 'http'}://{host}:{port}"


def _first(path: str) -> bytes:
    """The first certificate of a PEM file, in DER: the server's own."""
    with open(path, encoding="ascii", errors="replace") as stream:
        text = stream.read()
    end = "-----END CERTIFICATE-----"
    start = text.find("-----BEGIN CERTIFICATE-----")
    if start < 0 or end not in text:
        raise ValueError(f"{path} holds no PEM certificate")
    return ssl.PEM_cert_to_DER_cert(text[start : text.index(end, start) + len(end)])


class Client:
    """HTTP to the agent, on this host. With TLS what counts is that it serves the very `certificate` that it shall.

    Its names and its age do not: an expired one must not keep a deployment from mending it. Without `certificate`
    whatever is served is taken: good for looking at what runs before a change, no more.
    """

    def __init__(self, url: str, certificate: str = "") -> None:
        self._url = urllib.parse.urlsplit(url)
        self._certificate = certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    def get(self, path: str) -> tuple[int, str]:
        """(status code, body); code 0 and the reason when there is no answer."""
        host, port = self._url.hostname or "", self._url.port
        connection = (
            http.client.HTTPSConnection(host, port, timeout=5, context=self._context)
            if self._url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=5)
        )
        try:
            connection.connect()
            if self._certificate and isinstance(connection.sock, ssl.SSLSocket):
                served = connection.sock.getpeercert(binary_form=True)
                if served != _first(self._certificate):
                    return 0, f"another certificate is served than the one in {self._certificate}"
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, ValueError, http.client.HTTPException) as error:
            return 0, str(error) or type(error).__name__
        finally:
            connection.close()

    def status(self) -> Status | None:
        """The JSON of /status, None when there is none."""
        code, body = self.get("/status")
        try:
            return json.loads(body) if code == 200 else None
        except ValueError:
            return None


def trouble(client: Client, version: str, before: Status | None, allow_fewer_gpus: bool = False) -> list[str]:
    """What is not yet well: one line each, nothing when the agent is healthy.

    `version`: the one that must be served. `before`: the JSON of /status before the change, or None; what was well
    then must be well now.
    """
    for path in ("/healthz", "/readyz"):
        code, body = client.get(path)
        if code != 200:
            return [f"{path} answers {code or 'nothing'}: {body.strip()[:200]}"]
    status = client.status()
    if status is None:
        return ["/status answers no JSON"]
    if status["version"] != version:
        return [f"/status says version {status['version']}, expected {version}; does another agent use the address?"]
    lines = [f"collector {n} has not read anything yet" for n, c in _in(status, "starting")]
    well = {n for n, _c in _in(status, "ok", "partial")}
    if not lines and not well:
        lines += [f"collector {n} is {c['state']}: {'; '.join(c['errors'])}" for n, c in status["collectors"].items()]
    for name, then in _in(before, "ok", "partial"):
        now = status["collectors"].get(name)
        if now and now["state"] in ("failed", "late"):
            errors = "; ".join(now["errors"])
            lines.append(f"collector {name} was {then['state']} before and is {now['state']} now: {errors}")
    store, was = status.get("tsdb", {}), (before or {}).get("tsdb", {}).get("state")
    if store.get("state") == "opening":
        lines.append("the store is still being opened")
    if store.get("state") == "failed" and was != "failed":
        lines.append(f"the store can't be used: {store['error']}")
    if before and "gpu" in status["collectors"] and not allow_fewer_gpus:
        were, are = len(working(before)), len(working(status))
        if are < were:
            why = f" ({', '.join(broken(status))})" if broken(status) else ""
            lines.append(
                f"{were} GPUs were well before, {are} are now{why}; if they were taken out: "
                "esnode_agent_allow_fewer_gpus=true"
            )
    return lines


def working(status: Status) -> list[dict[str, t.Any]]:
    """The GPUs that can be read; one that is lost is still listed by the agent."""
    return [gpu for gpu in status["gpus"] if gpu.get("state", "ok") in ("ok", "no_permission", "starting")]


def broken(status: Status) -> list[str]:
    """A line for each GPU that can't be read."""
    bad = [gpu for gpu in status["gpus"] if gpu not in working(status)]
    return [f"GPU {gpu.get('index', '?')} ({gpu['name'] or 'unknown'}) is {gpu['state']}" for gpu in bad]


def _in(status: Status | None, *states: str) -> list[tuple[str, Status]]:
    return [(n, c) for n, c in status["collectors"].items() if c["state"] in states] if status else []


def failing(status: Status) -> list[str]:
    """A line for each collector that does not read what it should, and for a store that can't be used."""
    bad = _in(status, "failed", "late")
    lines = [f"collector {name} is {c['state']}: {'; '.join(c['errors'])}" for name, c in bad]
    store = status.get("tsdb", {})
    return lines + ([f"the store can't be used: {store['error']}"] if store.get("state") == "failed" else [])


def summary(status: Status) -> dict[str, t.Any]:
    """What of /status a deployment reports: {version, gpus: [names], collectors: {name: state}}."""
    return {
        "version": status["version"],
        "gpus": [g["name"] or "unknown" for g in status["gpus"]],
        "collectors": {n: c["state"] for n, c in status["collectors"].items()},
    }


def unread(status: Status, paths: t.Iterable[str | None]) -> str | None:
    """The first of the files that was written after the agent has read its configuration, else None."""
    for path in paths:
        if path and os.path.exists(path) and os.stat(path).st_mtime > status["config"]["loaded"]:
            return path
    return None
