# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remote write: the node's history goes on to Prometheus and its kin, on a thread of its own.

It is read from the store, so what was collected while the receiver was away is sent when it is there again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from esnode.config import RemoteWrite as Settings
from esnode.deliver.progress import Progress
from esnode.deliver.receiver import open_to_others, shown
from esnode.snapshot import Samples

if TYPE_CHECKING:
    from esnode.store.store import Store

log = logging.getLogger("esnode.remote_write")

_AGAIN_S = 15.0  # after an error that nobody has thought of


class RemoteWrite:
    """Switched off while no url is set. `samples` and `status` never wait; usable from all threads."""

    def __init__(self, settings: Settings, store: Callable[[], Store | None]) -> None:
        """`store`: the store to send from, as it is now, None while there is none."""
        self._settings, self._store = settings, store
        self._progress = Progress()
        self._since = time.time()  # when the url was set, at least as far as this process knows
        self._condition = threading.Condition()
        self._stopping = self._changed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send, if a url is set."""
        with self._condition:
            if self._settings.url is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="remote_write", daemon=True)
                self._thread.start()

    def change(self, settings: Settings) -> None:
        """Go on with another configuration, from the place that was reached."""
        with self._condition:
            if settings == self._settings:
                return
            if self._settings.url is None:
                self._since = time.time()
            self._settings, self._changed = settings, True
            self._interrupt()
        self.start()

    def close(self, timeout_s: float) -> None:
        """End; what is not delivered is sent after the next start."""
        with self._condition:
            self._stopping = True
            self._interrupt()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def samples(self) -> Samples:
        """Its own series; none while it is switched off."""
        return {} if self._settings.url is None else self._progress.samples()

    def status(self) -> dict[str, Any]:
        """What /status shows of it; JSON types only, no secret."""
        url = self._settings.url
        return {"state": "disabled"} if url is None else {"url": shown(url), **self._progress.status()}

    def _interrupt(self) -> None:
        self._condition.notify_all()
        if self._loop is not None and self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)

    # The thread

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._settings.url is not None)
                if self._stopping:
                    return
                settings, self._changed = self._settings, False
            try:
                with contextlib.suppress(asyncio.CancelledError):
                    asyncio.run(self._send(settings))
            except Exception as error:
                self._progress.state, self._progress.error = "failing", f"{type(error).__name__}: {error}"
                log.exception("remote write has failed; it goes on in %.0f s", _AGAIN_S)
                with self._condition:
                    self._condition.wait_for(lambda: self._stopping or self._changed, _AGAIN_S)

    async def _send(self, settings: Settings) -> None:
        # Only now: numpy and an HTTP client must not keep the first scrape waiting.
        from esnode.deliver.sender import Sender

        with self._condition:
            if self._stopping or self._changed:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        try:
            with contextlib.suppress(OSError):
                for path in open_to_others(settings):
                    log.warning("remote write: every user of this host can read %s: chmod o-r", path)
            self._progress.state = "waiting"
            log.info("remote write to %s", shown(settings.url or ""))
            await Sender(settings, platform.node(), self._store, self._progress, self._since).run()
        finally:
            with self._condition:
                self._loop = self._task = None
