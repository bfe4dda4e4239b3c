# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP server: sockets, limits against slow and greedy clients, and what is counted of each request."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from esnode.telemetry import Telemetry

MAX_CONNECTIONS = 512
"""Beyond it the connection that has been idle longest is closed: a flood can't shut Prometheus out."""
REQUEST_TIMEOUT_S = 10.0
"""A new connection has this long to send its first request, and to finish a TLS handshake."""
IDLE_TIMEOUT_S = 75.0
"""A connection between two requests is kept this long; more than Prometheus' longest usual interval."""
WRITE_TIMEOUT_S = 30.0
"""A client has this long to take an answer; streaming.py has the limit of one that comes in parts."""
DRAIN_S = 0.3
"""At the stop a connection that was just accepted has this long to send its request, a TLS handshake included."""
MAX_HEADER_BYTES = 8190
MAX_BODY_BYTES = 64 * 1024

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Follows the connections of an aiohttp server and closes what is silent, slow or too much."""

    def __init__(self, server: web.Server) -> None:
        # In the order of their last request, the longest unused first; the value is the time of that request.
        self._open: dict[asyncio.Transport, float | None] = {}
        self._busy: set[asyncio.Transport] = set()
        made, lost = server.connection_made, server.connection_lost

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            self._add(transport)

        def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
            transport = handler.transport
            if isinstance(transport, asyncio.Transport):
                self._open.pop(transport, None)
                self._busy.discard(transport)
            lost(handler, exc)

        server.connection_made = connection_made  # type: ignore[method-assign]
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    def _add(self, transport: asyncio.Transport) -> None:
        self._open[transport] = None
        asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self._close_if_silent, transport)
        if len(self._open) > MAX_CONNECTIONS:
            idle = next((t for t in self._open if t not in self._busy), transport)
            del self._open[idle]
            idle.abort()

    def begin(self, transport: asyncio.Transport) -> None:
        """A request of this connection has arrived."""
        if transport in self._open:
            del self._open[transport]
            self._open[transport] = time.monotonic()
            self._busy.add(transport)

    def end(self, transport: asyncio.Transport) -> None:
        """Its answer is written."""
        self._busy.discard(transport)

    def _close_if_silent(self, transport: asyncio.Transport) -> None:
        if transport in self._open and self._open[transport] is None:
            transport.abort()


class Server:
    """Serves an application on sockets until it is stopped."""

    def __init__(self, app: web.Application, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._connections: Connections | None = None
        app.middlewares.append(self._around_each_request)
        app.on_response_prepare.append(self._name_server)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=IDLE_TIMEOUT_S,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            shutdown_timeout=1.0,
        )
        self._servers: list[asyncio.Server] = []

    async def start(self, sockets: list[socket.socket], context: ssl.SSLContext | None) -> None:
        """Listen on sockets that are bound already."""
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server)
        loop = asyncio.get_running_loop()
        for one in sockets:
            one.setblocking(False)
            timeout_s = REQUEST_TIMEOUT_S if context else None
            self._servers.append(
                await loop.create_server(
                    self._runner.server, sock=one, ssl=context, backlog=1024, ssl_handshake_timeout=timeout_s
                )
            )

    async def stop(self) -> None:
        """Take no more connections and give those under way a second.

        Who connects from now on waits in the queue of the socket, if systemd holds that, for the next agent.
        """
        for server in self._servers:
            server.close()
        await asyncio.sleep(DRAIN_S)
        await self._runner.cleanup()

    @web.middleware
    async def _around_each_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        method = request.method if request.method in _METHODS else "other"
        transport = request.transport
        assert self._connections is not None
        if transport is None:  # gone before we came to it
            return web.Response(status=499)
        self._connections.begin(transport)
        code = 500
        response: web.StreamResponse = web.Response(status=499)
        try:
            response = await handler(request)
            # Written here and not after the handler, so that a client that does not read is given up on
            # and the time counted is the time to the last byte.
            await asyncio.wait_for(self._write(request, response), WRITE_TIMEOUT_S)
            code = response.status
            return response
        except web.HTTPException as error:
            code = error.status
            raise
        except (asyncio.TimeoutError, ConnectionError):
            code = 499  # as nginx logs a client that went away
            transport.abort()
            return response
        finally:
            self._connections.end(transport)
            self._telemetry.request(route, method, code)
            if route == "/metrics" and code == 200:
                self._telemetry.scrapes.observe(time.monotonic() - started)

    @staticmethod
    async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "esnode-core"  # the versions of what we are built from are nobody's business

    @staticmethod
    async def _write(request: web.Request, response: web.StreamResponse) -> None:
        await response.prepare(request)
        await response.write_eof()


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the listening sockets of an address; an empty host means every address, IPv4 and IPv6."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_UNSPEC
        infos = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
        addresses = {(info[0], info[4]) for info in infos}
        return [socket.create_server(address[:2], family=kind, backlog=1024) for kind, address in sorted(addresses)]
    if socket.has_dualstack_ipv6():
        return [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)]
    return [socket.create_server(("", port), backlog=1024)]
