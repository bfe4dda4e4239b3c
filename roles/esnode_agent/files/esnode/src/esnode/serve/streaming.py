# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long answers: made step by step on a thread of their own, as fast as the client takes them and no faster."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from aiohttp import web

from esnode.serve.negotiate import Coding

SILENCE_S = 30.0
"""A client that takes nothing for so long is given up on; a slow one may take as long as it likes."""
_CHUNK_BYTES = 256 * 1024
_TOGETHER_BYTES = 1024 * 1024
_TOGETHER_S = 0.1
_LOOK_S = 1.0  # between two looks whether the client is still there

T = TypeVar("T")
log = logging.getLogger("esnode.serve")


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes:
        """What can be given away by now, perhaps nothing."""

    def flush(self) -> bytes:
        """The rest."""


class Unwanted(Exception):
    """Nobody waits for the answer any more."""


class NoThread(Exception):
    """The system gives no thread; the text says why."""


class Threads:
    """Threads for requests; one that is done with its request waits for the next. Used on the event loop."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._idle: list[ThreadPoolExecutor] = []

    def aside(self) -> Aside:
        """A thread for a request."""
        return Aside(self._idle.pop() if self._idle else ThreadPoolExecutor(1, "history-request"), self._given_back)

    def _given_back(self, thread: ThreadPoolExecutor) -> None:
        if len(self._idle) < self._kept:
            self._idle.append(thread)
        else:
            thread.shutdown(wait=False)

    async def close(self, _app: web.Application) -> None:
        """End those that wait."""
        self._kept = 0
        while self._idle:
            self._idle.pop().shutdown(wait=False)


class Aside:
    """A thread for one request: calls run on it one after the other, off the event loop."""

    def __init__(self, thread: ThreadPoolExecutor, give_back: Callable[[ThreadPoolExecutor], object]) -> None:
        self._thread, self._give_back = thread, give_back
        self._left = self._ended = False
        self._at_end: list[Callable[[], object]] = []

    async def call(self, request: web.Request, function: Callable[..., T], *arguments: object) -> T:
        """Run a function there and wait for what it returns; ConnectionResetError when the client does not wait."""
        try:
            running = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        except RuntimeError as error:
            raise NoThread(str(error)) from error
        # Whatever comes of it after nobody waits any more is nobody's business.
        running.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not (await asyncio.wait((running,), timeout=_LOOK_S))[0]:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
        return running.result()

    def while_wanted(self, parts: Iterable[T]) -> Iterator[T]:
        """Give the parts, and end it with Unwanted once nobody waits for what is made of them."""
        try:
            for part in parts:
                if self._left:
                    raise Unwanted
                yield part
        finally:
            # Now, and not when the error is forgotten: it holds a connection to the database.
            getattr(parts, "close", _nothing)()

    def leave(self, last: Callable[[], object] | None) -> None:
        """Give the thread back: at once if it does nothing (None), else after `last` has run on it. Never waits."""
        self._left = True
        if last is None:
            self._end()
            return
        loop = asyncio.get_running_loop()

        def ending() -> None:
            try:
                last()
            finally:
                with contextlib.suppress(RuntimeError):  # the agent has stopped meanwhile
                    loop.call_soon_threadsafe(self._end)

        try:
            self._thread.submit(ending)
        except RuntimeError:  # it could not be started, so nothing runs on it, and nothing will
            self._give_back = _nothing
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._give_back(self._thread)
        for call in self._at_end:
            call()

    def at_end(self, call: Callable[[], object]) -> None:
        """Call this on the event loop once the thread works no more; now, if it never did."""
        if not self._left:
            self.leave(None)
        if self._ended:
            call()
        else:
            self._at_end.append(call)


def packed(parts: Iterable[bytes], coding: Coding) -> Iterator[bytes]:
    """Gather small parts into chunks and compress them."""
    if coding == "identity":
        yield from _gathered(parts)
        return
    if coding == "gzip":
        packer: _Packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    else:
        import zstandard

        packer = zstandard.ZstdCompressor(level=3).compressobj()
    yield from _gathered(chunk for part in _gathered(parts) if (chunk := packer.compress(part)))
    yield packer.flush()


def _gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= _CHUNK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def answer(
    request: web.Request, aside: Aside, begin: Callable[[Aside], Iterator[bytes]], headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer with what `begin` gives, chunk by chunk; what it raises before the first one is the caller's to answer.

    `headers` are looked at once it has begun.
    When it fails later or the client has gone or is silent, the connection is cut: a part must not look like the whole.
    """
    response = web.StreamResponse()
    begun: list[Iterator[bytes]] = []
    whole = last = False

    def opening() -> tuple[list[bytes], bool]:
        begun.append(begin(aside))
        return _some(begun[0])

    def end() -> None:
        for chunks in begun:
            getattr(chunks, "close", _nothing)()

    try:
        chunks, last = await aside.call(request, opening)
        size = sum(map(len, chunks))
        if last and size <= _CHUNK_BYTES:
            return web.Response(body=b"".join(chunks), headers=headers)
        response.headers.update(headers)
        if last:
            response.content_length = size
        await response.prepare(request)
        for chunk in chunks:
            await _write(response, chunk)
        while not last:
            chunks, last = await aside.call(request, _some, begun[0])
            for chunk in chunks:
                await _write(response, chunk)
        await asyncio.wait_for(response.write_eof(), SILENCE_S)
        whole = True
    except Exception as error:
        if not response.prepared or isinstance(error, (OSError, asyncio.TimeoutError)):
            raise
        log.warning("%s: the answer was cut off: %s: %s", request.path, type(error).__name__, error)
        raise ConnectionResetError from error
    finally:
        if response.prepared and not whole and request.transport is not None:
            request.transport.abort()
        aside.leave(None if last else end)
    return response


def _some(chunks: Iterator[bytes]) -> tuple[list[bytes], bool]:
    """The next chunks and whether they are the last: each call waits for a thread to wake up."""
    taken: list[bytes] = []
    size, until = 0, time.monotonic() + _TOGETHER_S
    for chunk in chunks:
        taken.append(chunk)
        size += len(chunk)
        if size >= _TOGETHER_BYTES or time.monotonic() > until:
            return taken, False
    return taken, True


def _nothing(*_unused: object) -> None:
    """Do nothing."""


async def _write(response: web.StreamResponse, chunk: bytes) -> None:
    for at in range(0, len(chunk), _CHUNK_BYTES):
        await asyncio.wait_for(response.write(chunk[at : at + _CHUNK_BYTES]), SILENCE_S)
