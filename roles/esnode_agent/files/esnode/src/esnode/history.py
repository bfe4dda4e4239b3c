# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's own history: every snapshot goes into the store, on a thread whose troubles with the disk are its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esnode import catalogue, store
from esnode.config import Tsdb
from esnode.snapshot import Samples, Snapshot
from esnode.store import NotWritten, Options, Stats, StoreError, WrongKey
from esnode.store.identity import check_keys, read_identity
from esnode.store.keys import read_keys
from esnode.telemetry import Histogram

if TYPE_CHECKING:
    from esnode.store.store import Store

log = logging.getLogger("esnode.history")

MB = 1_000_000
_REOPEN_S = 15.0
_REPEAT_LOG_S = 3600.0
_LOOK_S = 10.0  # between two looks at the figures: they walk the store's folder
_MOST_WAITING = 30  # snapshots that wait for a store that is being opened
_APPEND_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)


def options(settings: Tsdb) -> Options:
    """The store's options for this configuration."""
    return Options(
        retention_s=settings.retention_hours * 3600.0,
        max_bytes=settings.max_disk_mb * MB,
        key_file=_key_file(settings),
    )


def _key_file(settings: Tsdb) -> Path | None:
    return None if settings.encryption_key_path is None else Path(settings.encryption_key_path)


def check(settings: Tsdb) -> list[str]:
    """What keeps the store from being opened with this configuration, as far as can be told without touching it."""
    key_file = _key_file(settings)
    if not settings.enable_local_tsdb or key_file is None:
        return []
    try:
        read_keys(key_file)
    except StoreError as error:
        return [f"tsdb.encryption_key_path: {error}"]
    return []


def misfits(settings: Tsdb) -> list[str]:
    """Why the store that is there can't be opened with this configuration's keys; reads its identity, no more."""
    if not settings.enable_local_tsdb:
        return []
    folder, key_file = Path(settings.local_tsdb_path), _key_file(settings)
    try:
        keys = read_keys(key_file) if key_file else []
        identity = read_identity(folder)
        if identity is not None:
            check_keys(identity, keys, key_file, folder)
    except WrongKey as error:
        return [f"tsdb.encryption_key_path: {error}"]
    except StoreError:  # `check` or the store itself says what
        return []
    return []


def _key_names(settings: Tsdb) -> list[bytes]:
    key_file = _key_file(settings)
    with contextlib.suppress(StoreError):
        return [key.name for key in read_keys(key_file)] if key_file else []
    return []


class History:
    """Feeds the store. `append`, `samples`, `status` and `store` never wait for the disk; usable from all threads."""

    def __init__(self, settings: Tsdb) -> None:
        self._settings, self._key_names = settings, _key_names(settings)
        self._condition = threading.Condition()
        self._waiting: deque[Snapshot] = deque()
        self._stopping = False
        self._reopen = False
        self._store: Store | None = None
        self._stats: Stats | None = None
        self._trouble: str | None = None  # why there is no store
        self._logged: tuple[str | None, float] = (None, 0.0)
        self._try_at = self._look_at = 0.0
        self._appended = 0
        self._never_taken = 0  # samples that no store was there for
        self._failures = {"open": 0, "append": 0}
        self._before: dict[str, int] = {"lost": 0, "write": 0, "read": 0}  # of stores that are closed again
        self._durations = Histogram(catalogue.TSDB_APPEND_DURATION, _APPEND_BUCKETS_S)
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)

    def start(self) -> None:
        """Open the store in the background: what it imports must not keep the first scrape waiting."""
        self._thread.start()

    def append(self, snapshot: Snapshot) -> None:
        """Hand over a snapshot; it is in the store soon and durable some 5 s later."""
        with self._condition:
            if not self._settings.enable_local_tsdb:
                return
            self._waiting.append(snapshot)
            if len(self._waiting) > _MOST_WAITING:
                self._never_taken += sum(map(len, self._waiting.popleft().parts.values()))
            self._condition.notify_all()

    def change(self, settings: Tsdb) -> None:
        """Go on with another configuration; the store is closed and opened anew where that or a key differs."""
        names = _key_names(settings)
        with self._condition:
            if settings != self._settings or names != self._key_names:
                self._settings, self._key_names, self._reopen = settings, names, True
                self._condition.notify_all()

    def close(self, timeout_s: float) -> None:
        """Write what is left and close; gives up waiting for the disk after `timeout_s`."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def store(self) -> Store | None:
        """The store to read from, None while there is none; `trouble` says why."""
        return self._store

    @property
    def trouble(self) -> str | None:
        """Why there is no store, or why it can't be written; None when all is well."""
        if not self._settings.enable_local_tsdb:
            return "tsdb.enable_local_tsdb is false in the configuration"
        if self._store is None:
            return self._trouble or "the store is being opened"
        return self._stats.problem if self._stats else None

    def samples(self) -> Samples:
        """The store's own series; none when it is switched off."""
        if not self._settings.enable_local_tsdb:
            return {}
        stats, counts = self._stats, self._counts()
        samples: Samples = {
            catalogue.TSDB_SAMPLES_APPENDED.series(): self._appended,
            catalogue.TSDB_SAMPLES_LOST.series(): counts["lost"],
            **{catalogue.TSDB_ERRORS.series(name): counts[name] for name in ("open", "append", "write", "read")},
            **self._durations.samples(),
        }
        if stats is not None:
            samples[catalogue.TSDB_SERIES.series()] = stats.series
            samples[catalogue.TSDB_BYTES.series()] = stats.bytes
            if stats.oldest_ms is not None:
                samples[catalogue.TSDB_OLDEST.series()] = stats.oldest_ms / 1000
        return samples

    def status(self) -> dict[str, Any]:
        """What /status shows of the store; JSON types only."""
        settings, stats, counts = self._settings, self._stats, self._counts()
        if not settings.enable_local_tsdb:
            state = "disabled"
        elif self._store is None:
            state = "failed" if self._trouble else "opening"
        else:
            state = "failed" if self.trouble else "ok"
        shown: dict[str, Any] = {
            "state": state,
            "path": settings.local_tsdb_path,
            "error": self.trouble if state == "failed" else None,
            "retention_hours": settings.retention_hours,
            "encrypted": settings.encryption_key_path is not None,
            "samples_appended": self._appended,
            "samples_lost": counts["lost"],
        }
        if stats is not None:
            shown |= {
                "series": stats.series,
                "blocks": stats.blocks,
                "bytes": stats.bytes,
                "oldest": None if stats.oldest_ms is None else stats.oldest_ms / 1000,
                "newest": None if stats.newest_ms is None else stats.newest_ms / 1000,
                "damaged": dict(stats.damaged),
                "old_keys": list(stats.old_keys),
            }
        return shown

    def _counts(self) -> dict[str, int]:
        """Everything counted since the agent started, over all stores that it has opened."""
        stats, before = self._stats, self._before
        return {
            **self._failures,
            "lost": before["lost"] + self._never_taken + (stats.lost.samples if stats else 0),
            "write": before["write"] + (stats.write_errors if stats else 0),
            "read": before["read"] + (sum(stats.damaged.values()) if stats else 0),
        }

    # The thread

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(self._called, _LOOK_S if self._store else 1.0)
                stopping, reopen, settings = self._stopping, self._reopen, self._settings
                self._reopen = False
            try:
                if reopen:
                    self._leave()
                    self._try_at = 0.0
                if self._store is None and settings.enable_local_tsdb and time.monotonic() >= self._try_at:
                    self._open(settings)
                if self._store is not None:
                    self._feed(self._store)
                    self._look(self._store)
                if stopping:
                    self._leave()
            except Exception:  # whatever it was, the next snapshot gets its chance
                log.exception("the store %s", settings.local_tsdb_path)
            if stopping:
                return

    def _called(self) -> bool:
        return self._stopping or self._reopen or bool(self._waiting and self._store)

    def _open(self, settings: Tsdb) -> None:
        try:
            self._store = store.open(Path(settings.local_tsdb_path), options(settings))
        except Exception as error:  # the node's metrics are served, whatever is wrong with its history
            self._try_at = time.monotonic() + _REOPEN_S
            self._failures["open"] += 1
            known = isinstance(error, StoreError)
            self._trouble = str(error) if known else f"{type(error).__name__}: {error}"
            if self._trouble != self._logged[0] or time.monotonic() - self._logged[1] > _REPEAT_LOG_S:
                self._logged = (self._trouble, time.monotonic())
                log.error("no history is kept: %s; tried every %.0f s", self._trouble, _REOPEN_S, exc_info=not known)
            return
        if self._logged[0] is not None:
            log.info("history is kept again in %s", settings.local_tsdb_path)
        self._trouble, self._logged, self._look_at = None, (None, 0.0), 0.0

    def _feed(self, into: Store) -> None:
        while True:
            with self._condition:
                if not self._waiting:
                    return
                snapshot = self._waiting.popleft()
            row: dict[store.SeriesLike, float] = dict(chain.from_iterable(p.items() for p in snapshot.parts.values()))
            began = time.perf_counter()
            try:
                into.append(round(snapshot.timestamp * 1000), row)
            except Exception:
                self._failures["append"] += 1
                self._never_taken += len(row)
                log.exception("a snapshot of %d samples is not kept", len(row))
            else:
                self._appended += len(row)
                self._durations.observe(time.perf_counter() - began)

    def _look(self, at: Store) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_S
            try:
                self._stats = at.stats()
            except (StoreError, OSError) as error:  # it could not be read just now; the figures stay
                log.warning("%s: no figures of the store: %s", self._settings.local_tsdb_path, error)

    def _leave(self) -> None:
        leaving, self._store = self._store, None
        if leaving is None:
            return
        self._feed(leaving)
        self._look_at = 0.0
        self._look(leaving)
        stats, self._stats = self._stats, None
        if stats is not None:
            self._before["lost"] += stats.lost.samples
            self._before["write"] += stats.write_errors
            self._before["read"] += sum(stats.damaged.values())
        try:
            leaving.close()
        except NotWritten as error:
            self._before["lost"] += stats.unwritten_rows * stats.series if stats else 0
            log.error("%s", error)
