# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A part of a collector that may hang or is slow, on a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from esnode.worker import Call, Late, Worker

T = TypeVar("T")


class Aside(Generic[T]):
    """Runs `function` at most every `every_s` seconds and keeps its latest answer.

    `patience_s`: how long a run may take before it counts as hung; until then the answer before is served.
    """

    def __init__(self, name: str, function: Callable[[], T], *, every_s: float = 0.0, patience_s: float = 0.0) -> None:
        self._worker = Worker(name)
        self._function = function
        self._every_s = every_s
        self._patience_s = patience_s
        self._call: Call[T] | None = None
        self._answer: T | None = None
        self._error: Exception | None = None
        self._due = 0.0

    def start(self) -> None:
        """Begin a run if one is due and none is under way."""
        now = time.monotonic()
        if now < self._due or (self._call is not None and not self._call.done):
            return
        if self._call is not None:
            self._settle(self._call, now)
        self._call = self._worker.submit(self._function)
        self._due = now + self._every_s

    def get(self, until: float) -> T | None:
        """Return the latest answer, None before the first one; wait for a run under way until `until` (monotonic).

        Raises what the latest run raised, or `Late` while a run takes longer than its patience.
        """
        if (call := self._call) is not None:
            try:
                self._settle(call, until)
            except Late:
                if time.monotonic() - call.started >= self._patience_s:
                    raise
            else:
                self._call = None
        if self._error is not None:
            raise self._error
        return self._answer

    def _settle(self, call: Call[T], until: float) -> None:
        try:
            self._answer, self._error = call.wait(until), None
        except Late:
            raise
        except Exception as error:
            self._answer, self._error = None, error

    @property
    def hung_s(self) -> float | None:
        """Seconds for which the run under way has not answered, None when there is none."""
        since = self._worker.hung_since
        return None if since is None else time.monotonic() - since

    def close(self) -> None:
        """Let the thread end once it is idle; never waits."""
        self._worker.close()
