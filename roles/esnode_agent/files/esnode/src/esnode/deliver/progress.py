# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What remote write has done so far, for metrics and /status."""

from __future__ import annotations

from typing import Any, Literal

from esnode import catalogue
from esnode.snapshot import Samples
from esnode.telemetry import Histogram

REASONS = ("too_old", "out_of_order", "refused", "retention")
_SINK = "remote_write"
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Progress:
    """Written by the sender, read by everybody. Goes on over a change of the configuration.

    `sent`, `dropped`, `pending`: samples. `failed`: requests that are sent again. Times in ms since 1970: of the newest
    row in the store and of the newest that was delivered.
    """

    def __init__(self) -> None:
        self.state: Literal["disabled", "waiting", "ok", "failing"] = "disabled"
        self.error: str | None = None
        self.sent = self.failed = self.pending = 0
        self.dropped = dict.fromkeys(REASONS, 0)
        self.newest_ms: int | None = None
        self.sent_ms: int | None = None
        self.durations = Histogram(catalogue.REMOTE_WRITE_DURATION, _BUCKETS_S)

    @property
    def lag_s(self) -> float | None:
        """Seconds between the newest row in the store and the newest delivered; None before anything is known."""
        if self.newest_ms is None or self.sent_ms is None:
            return None
        return max(0.0, (self.newest_ms - self.sent_ms) / 1000)

    def samples(self) -> Samples:
        """The series of it."""
        samples: Samples = {
            catalogue.DELIVERY_SENT.series(_SINK): self.sent,
            catalogue.DELIVERY_FAILED.series(_SINK): self.failed,
            catalogue.DELIVERY_DROPPED.series(_SINK): sum(self.dropped.values()),
            catalogue.DELIVERY_QUEUE.series(_SINK): self.pending,
            **{catalogue.REMOTE_WRITE_DROPPED.series(reason): count for reason, count in self.dropped.items()},
            **self.durations.samples(),
        }
        if self.sent_ms is not None:
            samples[catalogue.REMOTE_WRITE_HIGHEST_SENT.series()] = self.sent_ms / 1000
        if self.lag_s is not None:
            samples[catalogue.REMOTE_WRITE_LAG.series()] = self.lag_s
        return samples

    def status(self) -> dict[str, Any]:
        """JSON types only."""
        return {
            "state": self.state,
            "error": self.error,
            "samples_sent": self.sent,
            "samples_pending": self.pending,
            "samples_dropped": dict(self.dropped),
            "requests_failed": self.failed,
            "newest_sent": None if self.sent_ms is None else self.sent_ms / 1000,
            "lag_seconds": self.lag_s,
        }
