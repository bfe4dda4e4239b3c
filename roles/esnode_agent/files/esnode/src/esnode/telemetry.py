# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent counts about itself."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from esnode import catalogue
from esnode.catalogue import Family
from esnode.snapshot import Samples

_SCRAPE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """Observations of a histogram family without labels, counted by upper bound."""

    def __init__(self, family: Family, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._buckets = [family.part("_bucket", le) for le in (*map(repr, map(float, bounds)), "+Inf")]
        self._total = family.part("_sum")
        self._count = family.part("_count")

    def observe(self, value: float) -> None:
        """Count one observation."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def samples(self) -> Samples:
        """Cumulative buckets, sum and count."""
        cumulative = list(accumulate(self._counts))
        return {
            **dict(zip(self._buckets, cumulative, strict=True)),
            self._total: self._sum,
            self._count: cumulative[-1],
        }


class Telemetry:
    """The agent's own counters. Written by the event loop's thread, read by the ticker's."""

    def __init__(self) -> None:
        self.scrapes = Histogram(catalogue.SCRAPE_DURATION, _SCRAPE_BUCKETS_S)
        self._requests: Counter[tuple[str, str, str]] = Counter()
        # Both results stand there from the start, so that the first failure is an increase and not a new series.
        self._reloads: dict[str, int] = {"success": 0, "failure": 0}

    def request(self, route: str, method: str, code: int) -> None:
        """Count one answered request."""
        self._requests[route, method, str(code)] += 1

    def reload(self, result: str) -> None:
        """Count one reload of the configuration: success or failure."""
        self._reloads[result] += 1

    def samples(self) -> Samples:
        """Everything counted so far."""
        samples = self.scrapes.samples()
        for key, count in list(self._requests.items()):
            samples[catalogue.HTTP_REQUESTS.series(*key)] = count
        for result, count in self._reloads.items():
            samples[catalogue.CONFIG_RELOADS.series(result)] = count
        return samples
