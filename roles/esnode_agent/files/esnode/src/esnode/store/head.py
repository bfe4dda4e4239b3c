# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hot part: what was appended and is not in a block yet. In memory to be read, in a log on the disk to be kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from esnode.store.epoch import Epoch
from esnode.store.headlog import Record, unwritten
from esnode.store.model import Key, Lost, Options
from esnode.store.reading import HotView

_MOST_NEW_SERIES = 4096  # beside twice those of the newest row: more of them come and go than belong into one block
_BYTES = 8


class Head:
    """Epochs, the last of them growing, the others waiting to be sealed. Usable from all threads."""

    def __init__(
        self,
        options: Options,
        monotonic: Callable[[], float],
        epochs: Sequence[Epoch],
        next_number: int,
        log_bytes: int,
    ) -> None:
        """`epochs`: those from the log, the last one can be continued. `log_bytes`: how long an epoch's log may get."""
        self.lock = threading.RLock()
        self.lost = Lost()
        self.version = 0  # changes with the blocks on the disk
        self._options, self._monotonic, self._log_bytes = options, monotonic, log_bytes
        self._seal_s = min(options.seal_s, options.retention_s / 4)
        self._epochs = list(epochs) or [Epoch(next_number, monotonic())]
        self._unwritten = 0  # samples
        self._waiting_since: float | None = None

    def append(self, time_ms: int, samples: Mapping[Key, float]) -> bool:
        """Add a row; True if that closed an epoch."""
        if not samples:
            return False
        with self.lock:
            if self._unwritten * _BYTES > 2 * self._options.unwritten_bytes:
                # The writer is stuck in the disk and can't give up older rows instead.
                self.lost.add(1, len(samples), time_ms, time_ms)
                return False
            closed = self._full()
            if closed:
                self.rotate()
            self._unwritten += self._epochs[-1].append(time_ms, samples)
            if self._waiting_since is None:
                self._waiting_since = self._monotonic()
            return closed

    def _full(self) -> bool:
        epoch, options = self._epochs[-1], self._options
        if not epoch.rows:
            return False
        width = max(1, epoch.width())
        return (
            (epoch.values >= options.seal_values and epoch.values // width >= min(240, options.seal_rows))
            or epoch.rows >= options.seal_rows
            or len(epoch.series) > 2 * width + _MOST_NEW_SERIES
            or epoch.written_bytes > self._log_bytes
            or self._monotonic() - epoch.started >= self._seal_s
        )

    def rotate(self) -> None:
        """Close the growing epoch."""
        with self.lock:
            if self._epochs[-1].rows:
                self._epochs.append(Epoch(self._epochs[-1].number + 1, self._monotonic()))

    def closed(self) -> Epoch | None:
        """The oldest epoch that waits to be sealed."""
        with self.lock:
            return self._epochs[0] if len(self._epochs) > 1 else None

    def sealed(self, epoch: Epoch) -> None:
        """Forget an epoch whose block is on the disk."""
        with self.lock:
            self._remove(epoch)

    def give_up(self, epoch: Epoch) -> None:
        """Forget an epoch for which there is no room."""
        with self.lock:
            parts = [part for part in epoch.segments if part.rows]
            first, last = min(part.first_ms for part in parts), max(part.last_ms for part in parts)
            self.lost.add(epoch.rows, epoch.values, first, last)
            self._remove(epoch)

    def _remove(self, epoch: Epoch) -> None:
        self._epochs.remove(epoch)
        # What was sealed before it came into the log is durable, too.
        self._unwritten -= sum((part.rows - part.written) * len(part.layout.ids) for part in epoch.segments)
        self.version += 1

    def holds(self, epoch: Epoch) -> bool:
        """Whether this epoch is neither sealed nor given up."""
        with self.lock:
            return epoch in self._epochs

    def blocks_changed(self) -> None:
        """Say that blocks have gone."""
        with self.lock:
            self.version += 1

    def due(self) -> float | None:
        """Monotonic time by which what was appended must be on the disk; None: it all is."""
        with self.lock:
            return None if self._waiting_since is None else self._waiting_since + self._options.flush_s

    def unwritten(self, slice_bytes: int) -> Iterator[Record]:
        """Records for all that was appended up to now."""
        with self.lock:
            self._waiting_since = None
            cuts = [
                (epoch, {part: part.rows for part in epoch.segments if part.rows > part.written})
                for epoch in self._epochs
            ]
        for epoch, cut in cuts:
            if cut:
                yield from unwritten(epoch, cut, slice_bytes)

    def written(self, records: Sequence[Record]) -> None:
        """Mark records as durable."""
        with self.lock:
            for record in records:
                record.written()
                if record.segment is not None:
                    self._unwritten -= record.rows * len(record.segment.layout.ids)

    def not_written(self) -> None:
        """What `unwritten` gave is still waiting; give up the oldest if too much is."""
        with self.lock:
            if self._waiting_since is None and self._unwritten:
                self._waiting_since = self._monotonic()
            for epoch in self._epochs:
                while self._unwritten * _BYTES > self._options.unwritten_bytes:
                    given_up = epoch.give_up_oldest()
                    if given_up is None:
                        break
                    self._unwritten -= given_up[1]
                    self.lost.add(*given_up)

    def write_again(self) -> None:
        """The log is gone: all that is hot is to be written once more."""
        with self.lock:
            for epoch in self._epochs:
                epoch.written_series = epoch.written_layouts = epoch.written_bytes = epoch.next_record = 0
                for segment in epoch.segments:
                    self._unwritten += segment.written * len(segment.layout.ids)
                    segment.written = 0
            self._waiting_since = self._monotonic()
            self.version += 1

    def views(self) -> tuple[int, list[HotView]]:
        """All epochs as they are now, and the version of the blocks that go with them."""
        with self.lock:
            return self.version, [
                HotView(epoch.number, epoch.series, epoch.by_name, epoch.parts())
                for epoch in self._epochs
                if epoch.rows
            ]

    def durable(self) -> tuple[int, list[tuple[HotView, bool]]]:
        """The growing epoch's number, and of all epochs what is on the disk; with each whether that is all of it."""
        with self.lock:
            growing = self._epochs[-1]
            return growing.number, [
                (
                    HotView(epoch.number, epoch.series, epoch.by_name, epoch.written_parts()),
                    epoch is not growing and all(part.written == part.rows for part in epoch.segments),
                )
                for epoch in self._epochs
            ]

    def figures(self) -> tuple[int, int, int, int | None, int | None]:
        """Series in the newest row, rows, unwritten rows, first and last time."""
        with self.lock:
            parts = [part for epoch in self._epochs for part in epoch.segments if part.rows]
            waiting = sum(part.rows - part.written for part in parts)
            first = min((part.first_ms for part in parts), default=None)
            last = max((part.last_ms for part in parts), default=None)
            width = len(parts[-1].layout.ids) if parts else 0
            return width, sum(part.rows for part in parts), waiting, first, last
