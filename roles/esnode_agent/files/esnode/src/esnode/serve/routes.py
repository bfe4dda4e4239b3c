# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each path answers: /metrics, /healthz, /readyz, /status and the page that links them."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from esnode.expose import CONTENT_TYPES
from esnode.serve import negotiate
from esnode.serve.page import Page
from esnode.serve.server import MAX_BODY_BYTES

_FIRST_SNAPSHOT_S = 8.0

_INDEX = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>esnode on {host}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #1b1f24 }}
h1 {{ font-size: 1.4rem }} table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #d8dee4; vertical-align: top }}
table {{ margin-bottom: 1.5rem }} td:nth-child(2) {{ white-space: nowrap }}
.bad {{ color: #b3261e }} .good {{ color: #1a7f37 }} .none {{ color: #6e7781 }}
</style></head>
<body>
<h1>esnode-core {version} on {host}</h1>
<ul>
<li><a href="/metrics">/metrics</a>: Prometheus text, OpenMetrics by negotiation</li>
<li><a href="/status">/status</a>: collectors, GPUs and last errors as JSON</li>
<li><a href="/healthz">/healthz</a>: 200 while the agent lives</li>
<li><a href="/readyz">/readyz</a>: 200 while the numbers are fresh</li>
<li><a href="/tsdb/export?from=-5m&amp;step=1m">/tsdb/export</a>: the node's history, here the last five minutes</li>
<li>/api/v1/read: the same for Prometheus' <code>remote_read</code></li>
<li><a href="/api/v1/labels">/api/v1/labels</a>, /api/v1/series, /api/v1/label/NAME/values, /api/v1/query,
/api/v1/query_range: names and plain selectors, as in Prometheus' API</li>
</ul>
<table><tr><th>collector</th><th>state</th><th>series</th><th>last error</th></tr>
{collectors}
</table>
<table><tr><th>GPU</th><th>state</th><th>UUID</th><th></th></tr>
{gpus}
</table>
<table><tr><th>store</th><th>state</th><th>size</th><th></th></tr>
{store}
</table>
</body></html>
"""


class Routes:
    """The handlers. `status` makes the answer of /status, `not_ready` says why the numbers are not fresh."""

    def __init__(self, page: Page, status: Callable[[], dict[str, Any]], not_ready: Callable[[], str | None]) -> None:
        self._page = page
        self._status = status
        self._not_ready = not_ready

    def application(self) -> web.Application:
        """The application with every route."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_get("/", self.index)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/status", self.status)
        return app

    async def metrics(self, request: web.Request) -> web.Response:
        """The newest snapshot; waits for the first one, so that a restart behind a socket misses no scrape."""
        text_format = negotiate.text_format(request.headers.get("Accept"))
        encoding = negotiate.encoding(request.headers.get("Accept-Encoding"))
        body = self._page.body(text_format, encoding)
        until = asyncio.get_running_loop().time() + _FIRST_SNAPSHOT_S
        while body is None and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)
            body = self._page.body(text_format, encoding)
        if body is None:
            return web.Response(status=503, text="no collection has finished yet; see /status\n")
        headers = {"Content-Type": CONTENT_TYPES[text_format], "Vary": "Accept, Accept-Encoding"}
        if encoding == "gzip":
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def healthz(self, _request: web.Request) -> web.Response:
        """200 while the agent lives: what is broken on the node is no reason to restart it."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        """200 while collections come in, else 503 with the reason."""
        reason = self._not_ready()
        return web.Response(status=503, text=f"{reason}\n") if reason else web.Response(text="ready\n")

    async def status(self, _request: web.Request) -> web.Response:
        """The whole state as JSON."""
        return web.Response(text=json.dumps(self._status(), indent=2) + "\n", content_type="application/json")

    async def index(self, _request: web.Request) -> web.Response:
        """A plain page for a person."""
        status = self._status()
        collectors = [
            _row(name, one["state"], one["series"] or "", "; ".join(one["errors"]))
            for name, one in status["collectors"].items()
        ]
        gpus = [
            _row(f"{one['index']} {one['name']}", one["state"], one["uuid"], one.get("error") or "")
            for one in status["gpus"]
        ]
        tsdb = status["tsdb"]
        size = f"{tsdb['bytes'] / 1e6:.1f} MB" if "bytes" in tsdb else ""
        page = _INDEX.format(
            host=html.escape(status["host"]),
            version=html.escape(status["version"]),
            collectors="\n".join(collectors),
            store=_row(tsdb["path"], tsdb["state"], size, tsdb["error"] or ""),
            gpus="\n".join(gpus or ['<tr><td colspan="4" class="none">none</td></tr>']),
        )
        return web.Response(text=page, content_type="text/html")


def _row(name: str, state: str, *cells: object) -> str:
    """A row of a table: a name, a state with its colour, and what else there is to say."""
    look = {"ok": "good", "not_present": "none", "starting": "none", "opening": "none", "disabled": "none"}.get(
        state, "bad"
    )
    rest = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
    shown = html.escape(state.replace("_", " "))
    return f'<tr><td>{html.escape(name)}</td><td class="{look}">{shown}</td>{rest}</tr>'
