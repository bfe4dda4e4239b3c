# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One GET of a page, bounded in time and size. No proxy of the environment, no redirect, no credentials."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

_MOST_BYTES = 16 * 1024 * 1024
_CHUNK = 65536


class FetchError(Exception):
    """There is no page; the text says what went wrong and where."""


def fetch(url: str, timeout_s: float, ca_path: str | None = None) -> bytes:
    """Return the page's body. `ca_path`: trusted for https in addition to the system's authorities."""
    deadline = time.monotonic() + timeout_s
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise FetchError(f"the URL for {parts.hostname} holds a user name or password, which is not supported")
    try:
        connection = _connection(parts.scheme, parts.hostname or "", parts.port, timeout_s, ca_path)
    except (OSError, ValueError) as error:
        raise FetchError(f"cannot use {url}: {error}") from None
    ender: threading.Timer | None = None
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        # Each receive has a time limit of its own; a server that sends a byte now and then is ended by this.
        ender = threading.Timer(deadline - time.monotonic(), _end, (connection.sock,))
        ender.daemon = True
        ender.start()
        connection.request("GET", target, headers={"Accept": "text/plain; version=0.0.4", "Connection": "close"})
        with connection.getresponse() as response:
            body = _page(response, url)
        if time.monotonic() >= deadline:  # an end of our making looks like that of a page of unannounced length
            raise TimeoutError
        return body
    except (OSError, http.client.HTTPException, ValueError) as error:
        if time.monotonic() >= deadline:
            raise FetchError(f"{url} did not answer in {timeout_s:g} s") from None
        raise FetchError(f"cannot read {url}: {str(error) or type(error).__name__}") from None
    finally:
        if ender is not None:
            ender.cancel()
        connection.close()


def _connection(
    scheme: str, host: str, port: int | None, timeout_s: float, ca_path: str | None
) -> http.client.HTTPConnection:
    if scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.create_default_context()
    if ca_path is not None:
        context.load_verify_locations(ca_path)
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _page(response: http.client.HTTPResponse, url: str) -> bytes:
    if 300 <= response.status < 400:
        raise FetchError(f"{url} redirects to {response.headers.get('Location', 'nowhere')}, which is not followed")
    if response.status != 200:
        raise FetchError(f"{url} answers {response.status} {response.reason}")
    parts: list[bytes] = []
    size = 0
    while chunk := response.read1(_CHUNK):
        parts.append(chunk)
        size += len(chunk)
        if size > _MOST_BYTES:
            raise FetchError(f"{url} sends more than {_MOST_BYTES >> 20} MiB")
    if response.length:  # announced but not sent
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        sock.shutdown(socket.SHUT_RDWR)
