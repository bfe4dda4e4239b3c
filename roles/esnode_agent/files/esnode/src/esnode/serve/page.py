# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The /metrics page in memory: the newest snapshot in each format and encoding that somebody asks for."""

from __future__ import annotations

import threading
import zlib
from typing import Literal

from esnode.expose import Format, Renderer
from esnode.snapshot import Snapshot

Encoding = Literal["identity", "gzip"]
_Form = tuple[Format, Encoding]


class Page:
    """Holds the newest snapshot and its renditions.

    A form that was asked for since the last snapshot is rendered again together with the next one, so a regular
    scraper is always answered from memory; a form nobody asks for costs nothing.
    """

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self._lock = threading.Lock()
        self._renderers: dict[Format, Renderer] = {
            "prometheus": Renderer("prometheus"),
            "openmetrics": Renderer("openmetrics"),
        }
        self._rendered: dict[_Form, bytes] = {}
        self._asked: set[_Form] = set()

    def update(self, snapshot: Snapshot) -> None:
        """Take a new snapshot. Called by the ticker's thread."""
        asked, self._asked = self._asked, set()
        rendered: dict[_Form, bytes] = {}
        with self._lock:
            for form in asked:
                self._render(snapshot, form, rendered)
            self.snapshot, self._rendered = snapshot, rendered

    def body(self, text_format: Format, encoding: Encoding) -> bytes | None:
        """The page; None before the first snapshot."""
        form = (text_format, encoding)
        self._asked.add(form)
        body = self._rendered.get(form)
        if body is None and self.snapshot is not None:
            with self._lock:
                body = self._render(self.snapshot, form, self._rendered)
        return body

    def _render(self, snapshot: Snapshot, form: _Form, into: dict[_Form, bytes]) -> bytes:
        if form not in into:
            text_format, encoding = form
            if encoding == "gzip":
                # Level 1: a third of the time of the default for a tenth more bytes on a local network.
                packer = zlib.compressobj(1, zlib.DEFLATED, 31)
                plain = self._render(snapshot, (text_format, "identity"), into)
                into[form] = packer.compress(plain) + packer.flush()
            else:
                into[form] = self._renderers[text_format].render(snapshot)
        return into[form]
