# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one thread that writes: it makes what was appended durable in time, and does everything else in between."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator

from esnode.store.database import SHIFT, Database, NoRoom
from esnode.store.envelope import Envelope
from esnode.store.errors import NotWritten
from esnode.store.head import Head
from esnode.store.headlog import Record
from esnode.store.rekey import Rekeying
from esnode.store.retention import Retention
from esnode.store.salvage import is_corrupt
from esnode.store.sealing import Sealing

_log = logging.getLogger("esnode.store")
_AGE_CHECK_S = 60.0
_PAUSE_S = 0.002  # between two slices
_LONGEST_BACKOFF_S = 10.0
Chore = Iterator[None]


class Writer:
    """Flushes on time; seals, drops and rewrites in slices; keeps on trying when the disk takes nothing."""

    def __init__(
        self,
        database: Database,
        head: Head,
        envelope: Envelope,
        sealing: Sealing,
        retention: Retention,
        rekeying: Rekeying,
        repair: Callable[[], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._database, self._head, self._envelope = database, head, envelope
        self._sealing, self._retention, self._rekeying = sealing, retention, rekeying
        self._monotonic, self._repair = monotonic, repair
        self.problem: str | None = None
        self.errors = 0
        self._condition = threading.Condition()
        self._asked = self._answered = 0  # tickets of flush()
        self._idle_asked = False
        self._idle = False
        self._stopping = False
        self._retry_at: float | None = None
        self._backoff = 1.0
        self._next_age_check = 0.0
        self._told_lost = 0
        self._broken = False
        self._chore: Chore | None = None
        self._untidy = True  # a process that was killed may have left something half done
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    # Called by other threads

    def wake(self) -> None:
        """There is something to seal."""
        with self._condition:
            self._condition.notify_all()

    def mend(self) -> None:
        """The database can't be read as a whole: make a new one of it, in the writer's thread."""
        with self._condition:
            self._broken = True
            self._condition.notify_all()

    def flush(self, timeout_s: float) -> None:
        """Wait until all that was appended is durable; NotWritten if it can't be."""
        with self._condition:
            self._asked += 1
            ticket = self._asked
            self._retry_at = None
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._answered >= ticket or not self._thread.is_alive(), timeout_s)
            if self._answered < ticket:
                raise NotWritten(self.problem or f"the disk has not answered within {timeout_s:g} s")
            if self.problem is not None and self._head.figures()[2]:
                raise NotWritten(self.problem)

    def settle(self, timeout_s: float) -> None:
        """Wait until nothing is left to seal, drop or rewrite; NotWritten if that can't be."""
        with self._condition:
            self._idle, self._idle_asked, self._next_age_check = False, True, 0.0
            self._retry_at = None
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._idle or not self._thread.is_alive(), timeout_s)
            if not self._idle or self.problem is not None:
                raise NotWritten(self.problem or f"the store is still busy after {timeout_s:g} s")

    def stop(self, timeout_s: float) -> bool:
        """Flush once more and end; True if the thread has ended."""
        with self._condition:
            self._stopping = True
            self._retry_at = None
            self._condition.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The thread

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._stopping and not self._work():
                    self._condition.wait(self._wait_s())
                stopping, asked = self._stopping, self._asked
            try:
                if self._broken:
                    self._drop_chore()
                    self._repair()
                    self._broken = False
                if stopping or asked > self._answered or self._flush_due() or self.problem is not None:
                    self._flush()
                    if self.problem is not None:
                        self._probe()
                        self._recovered()
                    self._answer(asked)
                # However often there is something to flush: the log must become blocks, too.
                if not stopping and self.problem is None:
                    self._slice()
            except Exception as error:  # whatever it was, what is appended next must still get its chance
                self._failed(error)
                self._answer(asked)
            if stopping:
                return

    def _answer(self, ticket: int) -> None:
        with self._condition:
            self._answered = max(self._answered, ticket)
            self._condition.notify_all()

    def _work(self) -> bool:
        """Whether there is something to do now; said under the condition."""
        if self._asked > self._answered:
            return True
        if self._retry_at is not None:
            return self._monotonic() >= self._retry_at
        if self._broken or self._flush_due() or self._chore is not None:
            return True
        self._chore = self._next_chore()
        if self._chore is None and self._idle_asked:
            self._idle, self._idle_asked = True, False
            self._condition.notify_all()
        return self._chore is not None

    def _wait_s(self) -> float:
        due = self._retry_at if self._retry_at is not None else self._head.due()
        now = self._monotonic()
        return max(0.0, min(self._next_age_check if due is None else due, now + 1.0) - now) or 0.001

    def _flush_due(self) -> bool:
        due = self._head.due()
        return due is not None and self._monotonic() >= due

    def _flush(self) -> None:
        together: list[Record] = []
        size = 0
        for record in self._head.unwritten(self._database.slice_bytes):
            together.append(record)
            size += len(record.payload) + 64
            if size >= self._database.slice_bytes:
                self._log(together, size)
                together, size = [], 0
        if together:
            self._log(together, size)

    def _log(self, records: list[Record], size: int) -> None:
        try:
            self._log_once(records, size)
        except NoRoom:
            self._drop_chore()
            for chore in (self._tidy_up(), self._retention.chore(2 * size)):
                for _unused in chore:
                    pass
            try:
                self._log_once(records, size)
            except NoRoom:
                self._shorten_log()
                self._log_once(records, size)

    def _shorten_log(self) -> None:
        """There are no blocks to drop, the log itself fills the file: make blocks of it."""
        if self._head.closed() is None:
            self._head.rotate()
        while self._head.closed() is not None:
            for _unused in self._seal():
                pass

    def _log_once(self, records: list[Record], size: int) -> None:
        records = [record for record in records if self._head.holds(record.epoch)]
        numbers: dict[int, int] = {}
        with self._database.write(size) as connection:
            for record in records:
                epoch = record.epoch
                place = numbers.get(epoch.number, epoch.next_record)
                numbers[epoch.number] = place + 1
                number = epoch.number << SHIFT | place
                blob = self._envelope.wrap(b"head", number, record.payload)
                connection.execute("INSERT OR REPLACE INTO head VALUES (?, ?)", (number, blob))
        self._head.written(records)

    def _slice(self) -> None:
        self._chore = self._chore or self._next_chore()
        if self._chore is None:
            return
        try:
            next(self._chore)
        except StopIteration:
            self._chore = None
        with self._condition:
            if not self._stopping:
                self._condition.wait(_PAUSE_S)

    def _tidy_up(self) -> Chore:
        hot = self._head.views()[1]
        yield from self._retention.leftovers({view.number for view in hot})
        self._untidy = False

    def _next_chore(self) -> Chore | None:
        if self._untidy:
            return self._tidy_up()
        if self._head.closed() is not None:
            return self._seal()
        if self._monotonic() >= self._next_age_check:
            self._next_age_check = self._monotonic() + _AGE_CHECK_S
            return self._retention.chore()
        if self._rekeying.needed:
            return self._rekeying.chore()
        return None

    def _seal(self) -> Chore:
        epoch = self._head.closed()
        if epoch is None:
            return
        while True:
            try:
                yield from self._sealing.seal(epoch)
                break
            except NoRoom:
                dropped = self._retention.dropped
                yield from self._retention.chore(self._database.slice_bytes)
                if self._retention.dropped == dropped:  # there is nothing older than this one
                    self._sealing.discard(epoch)
                    self._head.give_up(epoch)
                    self._tell_lost()
                    return
        self._head.sealed(epoch)
        self._database.checkpoint()
        yield
        yield from self._retention.chore()

    def _drop_chore(self) -> None:
        """Forget what is half done: it begins again later, and what is left of it is cleared away."""
        if self._chore is not None:
            self._chore, self._untidy = None, True

    def _failed(self, error: Exception) -> None:
        self._drop_chore()
        self.errors += 1
        known = isinstance(error, (sqlite3.Error, OSError, NotWritten))
        text = str(error) if known else f"{type(error).__name__}: {error}"
        self._head.not_written()
        if self.problem is None:
            _log.warning("%s: %s; samples wait in memory", self._database.path, text, exc_info=not known)
        self._tell_lost()
        try:
            if is_corrupt(error):
                self._broken = True  # until it has been repaired in full, however often that is begun
            elif not isinstance(error, NoRoom) and "full" not in text:
                self._database.reconnect()
        except Exception as further:  # the next try says whether it is still so
            _log.debug("%s: can't be opened again yet: %s", self._database.path, further)
        with self._condition:
            self.problem = f"{self._database.path}: {text}"
            self._retry_at = self._monotonic() + (0.0 if is_corrupt(error) and self._backoff == 1.0 else self._backoff)
            self._backoff = min(2 * self._backoff, _LONGEST_BACKOFF_S)
            if self._idle_asked:
                self._idle, self._idle_asked = True, False
            self._condition.notify_all()

    def _probe(self) -> None:
        """Find out whether the disk takes a write, however little there was to flush."""
        with self._database.write(0, freeing=True) as connection:
            connection.execute("UPDATE identity SET body = body")

    def _recovered(self) -> None:
        self._tell_lost()
        _log.warning("%s: writes again", self._database.path)
        with self._condition:
            self.problem, self._retry_at, self._backoff = None, None, 1.0
            self._condition.notify_all()

    def _tell_lost(self) -> None:
        lost = self._head.lost
        if lost.rows > self._told_lost:
            self._told_lost = lost.rows
            _log.error(
                "%s: %d samples of %d appends between %s and %s ms were given up: there was no room for them",
                self._database.path,
                lost.samples,
                lost.rows,
                lost.first_ms,
                lost.last_ms,
            )
