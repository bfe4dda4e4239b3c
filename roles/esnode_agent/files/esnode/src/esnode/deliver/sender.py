# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sends what the store has on to the receiver: in order, at a bounded rate, again and again until it is taken."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from esnode.config import RemoteWrite
from esnode.deliver.pacing import Backoff, Pacer, Size
from esnode.deliver.position import Position
from esnode.deliver.progress import Progress
from esnode.deliver.receiver import Answer, Receiver, shown
from esnode.deliver.write_request import Encoder, Staleness, Table, units
from esnode.store.errors import StoreError
from esnode.store.following import Cursor
from esnode.store.model import SeriesId

if TYPE_CHECKING:
    from esnode.store.store import Store

log = logging.getLogger("esnode.remote_write")

_TOGETHER = 2000  # samples of one request
_READ = 20_000  # samples taken from the store at once
_LOOK_S = 1.0  # between two looks for new rows
_COUNT_S = 2.0  # between two counts of what waits
# How often the tables of one unit may be halved to find which samples are refused: between rows, and within a row. Rows
# too old for the receiver, or sent before a crash, come in great number: once a whole unit was refused, a row is not
# taken apart any more. Rows always are told apart, since the first good one may follow at any time.
_SPLITS, _SPLITS_AFTER_REFUSAL = (2000, 32), (2000, 0)
_MOST_SUSPECTS = 200
_REPEAT_LOG_S = 3600.0


class _Reopened(Exception):
    """The store was closed while a request waited to be sent again. The one that is open now has what it held."""


class Sender:
    """Runs until it is cancelled. `store`: the store as it is now, None while there is none. `since`: Unix time of the
    wish to send, as far as this process knows it."""

    def __init__(
        self, settings: RemoteWrite, host: str, store: Callable[[], Store | None], progress: Progress, since: float
    ) -> None:
        self._store_now, self._progress, self._since = store, progress, since
        self._receiver = Receiver(settings)
        self._encoder = Encoder({"job": "esnode", "instance": host, **settings.labels})
        self._pacer, self._backoff = Pacer(settings.max_samples_per_second), Backoff()
        self._name = shown(settings.url or "")
        self._size = Size(_TOGETHER)
        self._again_at = 0.0  # no request before this moment
        self._all_refused = False
        self._suspects: set[SeriesId] = set()  # of which single samples were refused
        self._store: Store | None = None
        self._position: Position | None = None
        self._staleness = Staleness()
        self._unreadable = False  # the store, when it was last looked at
        self._counted_at = 0.0
        self._told: dict[str, float] = {}  # when each kind of trouble was last logged

    async def run(self) -> None:
        """Follow the store."""
        try:
            while True:
                if not await self._round():
                    await asyncio.sleep(_LOOK_S)
        finally:
            if self._position is not None:
                self._position.write()
            await self._receiver.close()

    async def _round(self) -> bool:
        """Send what there is now; False if there was nothing."""
        store = self._store_now()
        if store is None:
            self._progress.state, self._progress.error = "waiting", "there is no store to send from"
            return False
        try:
            if store is not self._store or self._position is None:
                self._begin(store)
            position = self._position
            assert position is not None
            batch = store.follow(position.cursor, _READ)
        except StoreError as error:
            self._progress.state, self._progress.error = "failing", str(error)
            self._unreadable = True
            self._say("store", logging.ERROR, "%s", error)
            return False
        if batch.lost:
            self._drop("retention", batch.lost)
            position.keep(batch.start)  # or who begins anew here counts it again
            self._say(
                "retention",
                logging.ERROR,
                "%d samples that had not been sent yet were dropped by the store's retention; sending goes on at the"
                " oldest that is kept",
                batch.lost,
            )
        if self._unreadable or self._progress.state == "waiting":
            self._progress.state, self._progress.error = "ok", None
            self._unreadable = False
        if not len(batch.times):
            position.keep(batch.start)
            self._count()
            return False
        with contextlib.suppress(_Reopened):  # the next round begins at the place that is kept
            for rows, tables in units(self._staleness.mark(batch), self._size.samples):
                for table in tables:
                    await self._deliver(table)
                self._progress.sent_ms = int(batch.times[rows - 1])
                position.keep(batch.after(rows))
                self._count()
                if self._reopened():
                    break
        return True

    def _reopened(self) -> bool:
        """Whether there is another store than the one that is being sent."""
        now = self._store_now()
        return now is not None and now is not self._store

    def _begin(self, store: Store) -> None:
        """Find the place in a store that was opened."""
        if self._position is not None:
            self._position.write()
        position = Position(store.path)
        now = store.follow(position.cursor, 1).start
        if position.damaged:
            position.cursor = Cursor(now.store, 0)
        elif position.cursor is None or position.cursor.store != now.store:
            oldest_ms = store.stats().oldest_ms
            # All of a store that is no older than the wish to send it.
            new = oldest_ms is None or oldest_ms >= self._since * 1000
            position.cursor = Cursor(now.store, 0) if new else now
            log.info("sends to %s what is collected from now on", self._name)
        position.write()
        self._store, self._position, self._staleness = store, position, Staleness()

    async def _deliver(self, table: Table) -> None:
        """Send until each sample was either accepted or refused for good."""
        if not table.samples:  # rows of which nothing can be read any more
            return
        splits = _SPLITS_AFTER_REFUSAL if self._all_refused else _SPLITS
        refused: set[SeriesId] = set()
        accepted = False
        for part in table.apart(self._suspects):
            of_suspects = part.series[0] in self._suspects
            taken = await self._attempt(part, _SPLITS_AFTER_REFUSAL if of_suspects else splits, refused)
            accepted = accepted or taken
        self._all_refused = not accepted
        if accepted:
            self._suspects |= refused
            if len(self._suspects) > _MOST_SUSPECTS:
                self._suspects.clear()

    async def _attempt(self, table: Table, splits: tuple[int, int], refused: set[SeriesId]) -> bool:
        """The same for a part, with so many halvings; True if some of it was accepted. Adds to `refused`."""
        accepted = False
        between, within = splits
        waiting = [table]
        while waiting:
            one = waiting.pop()
            halves = one.halves()
            if one.samples > self._size.samples and halves is not None:
                waiting += reversed(halves)
                continue
            answer = await self._until_answered(one)
            if answer.outcome == "accepted":
                accepted = True
                self._size.taken(time.monotonic())
                self._progress.sent += one.samples
                self._suspects.difference_update(one.series)
                continue
            if answer.outcome == "too_large":
                self._size.too_large(one.samples, time.monotonic())
            elif len(one.times) > 1:
                halves = halves if between > 0 else None
                between -= 1
            else:
                halves = halves if within > 0 else None
                within -= 1
            if halves is not None:
                waiting += reversed(halves)  # the older first: some receivers take nothing older after it
                continue
            self._refused(one, answer.why)
            if one.samples == 1 and within > 0:  # it may be this series alone that is not wanted
                refused.add(one.series[0])
                parts = [part for other in waiting for part in reversed(other.apart({one.series[0]}))]
                within -= len(parts) - len(waiting)
                waiting = parts
        return accepted

    def _refused(self, table: Table, why: str) -> None:
        reason = _reason(why)
        self._drop(reason, table.samples)
        self._say(
            reason,
            logging.ERROR,
            "%s refuses samples, they are dropped and counted: %s (among them %s at %.3f)",
            self._name,
            why,
            table.series[0],
            table.times[0] / 1000,
        )

    async def _until_answered(self, table: Table) -> Answer:
        """Send one request until it is accepted or refused. _Reopened when that takes longer than the store is open."""
        body = self._encoder.body(table)
        progress = self._progress
        while True:
            await self._wait()
            await asyncio.sleep(self._pacer.delay_s(table.samples, time.monotonic()))
            began = time.monotonic()
            answer = await self._receiver.send(body)
            progress.durations.observe(time.monotonic() - began)
            if answer.outcome != "failed":
                if progress.state == "failing":
                    log.info("%s takes samples again", self._name)
                    self._told.pop("failed", None)
                progress.state, progress.error = "ok", None
                self._backoff.reset()
                return answer
            progress.failed += 1
            progress.state, progress.error = "failing", answer.why
            self._counted_at = 0.0
            self._count()
            self._say(
                "failed",
                logging.WARNING,
                "%s does not take samples: %s; they wait in the store, %d now, and are sent again and again",
                self._name,
                answer.why,
                progress.pending,
            )
            self._again_at = time.monotonic() + self._backoff.wait_s(answer.wait_s)

    async def _wait(self) -> None:
        """Sleep until it is time for the next try, and go on counting what waits."""
        while (left := self._again_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 2 * _COUNT_S))
            if self._reopened():
                raise _Reopened
            self._count()

    def _count(self) -> None:
        store, position = self._store, self._position
        if store is None or position is None or position.cursor is None or time.monotonic() < self._counted_at:
            return
        if store is not self._store_now():  # a closed one can't tell
            return
        self._counted_at = time.monotonic() + _COUNT_S
        try:
            ahead = store.ahead(position.cursor)
        except StoreError:  # the figures stay as they were until it can be read again
            return
        progress = self._progress
        progress.pending, progress.newest_ms = ahead.samples, ahead.newest_ms
        if not ahead.samples:
            progress.sent_ms = ahead.newest_ms
        elif progress.sent_ms is None and position.cursor.rows:
            progress.sent_ms = position.cursor.newest_ms

    def _drop(self, reason: str, samples: int) -> None:
        self._progress.dropped[reason] += samples

    def _say(self, kind: str, level: int, text: str, *values: object) -> None:
        """Log a trouble once an hour at most."""
        now = time.monotonic()
        if now >= self._told.get(kind, 0.0):
            self._told[kind] = now + _REPEAT_LOG_S
            log.log(level, text, *values)


def _reason(why: str) -> str:
    """What a refusal is counted as, by the words of those receivers that say more than a number."""
    text = why.lower()
    if "out of bounds" in text or "too old" in text or "too-old" in text:
        return "too_old"
    if "out of order" in text or "out-of-order" in text or "duplicate sample" in text:
        return "out_of_order"
    return "refused"
