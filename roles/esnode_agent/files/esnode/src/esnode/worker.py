# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A thread that runs one call at a time and can be given up on.

The standard executors join their threads at exit and queue behind a hung call; here a call that
hangs (NVML on a dying GPU, statvfs on a dead NFS mount) costs its caller only the deadline, and the process
can still end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Late(Exception):
    """The call has not answered by its deadline, or an earlier call of this worker still hangs."""


class Call(Generic[T]):
    """One call under way."""

    __slots__ = ("_done", "_error", "_result", "started")

    def __init__(self) -> None:
        self._done = threading.Event()
        self._result: T | None = None
        self._error: BaseException | None = None
        self.started = time.monotonic()

    def run(self, function: Callable[[], T]) -> None:
        """Run the function and keep what came of it."""
        try:
            self._result = function()
        except BaseException as error:
            self._error = error
        self._done.set()

    @property
    def done(self) -> bool:
        """Whether the call has answered, with a result or an exception."""
        return self._done.is_set()

    def wait(self, until: float) -> T:
        """Return the call's result or raise its exception; `Late` when `until` (monotonic seconds) passes first."""
        if not self._done.wait(max(0.0, until - time.monotonic())):
            raise Late(f"no answer for {time.monotonic() - self.started:.1f} s")
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class Worker:
    """A daemon thread with a name. `submit` while an earlier call still hangs raises `Late` at once."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Call[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._current: Call[Any] | None = None
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            call, function = item
            call.run(function)
            del item, call, function  # a result must not live until the next call

    @property
    def hung_since(self) -> float | None:
        """Monotonic start of the call that has not answered yet, None when idle."""
        return self._current.started if self._current is not None and not self._current.done else None

    def submit(self, function: Callable[[], T]) -> Call[T]:
        """Start a call on the thread; refuse with `Late` while the one before still runs."""
        if (since := self.hung_since) is not None:
            raise Late(f"no answer for {time.monotonic() - since:.1f} s")
        call: Call[T] = Call()
        self._current = call
        self._queue.put((call, function))
        return call

    def close(self) -> None:
        """Let the thread end once it is idle; never waits."""
        self._queue.put(None)
