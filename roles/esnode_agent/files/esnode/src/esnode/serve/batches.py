# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many series in order, a few at a time: each whole, sorted and without doubles, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from esnode.store import SeriesData, SeriesId
from esnode.store.matching import Among
from esnode.store.selecting import Selecting

Part = TypeVar("Part")
_SAMPLES = 100_000
"""Aimed at in a batch; one series may have more."""
_FIRST, _MOST = 16, 512


class Watched(Protocol):
    """What is asked for parts, and ends it when nobody waits for what is made of them."""

    def __call__(self, parts: Iterable[Part], /) -> Iterator[Part]:
        """The parts."""


def batches(
    store: Selecting, series: Sequence[SeriesId], from_ms: int, to_ms: int, most_samples: int | None = None
) -> Iterator[list[SeriesData]]:
    """Give the samples of these series. TooMany when there are more than `most_samples` in all."""
    at, count, samples = 0, _FIRST, 0
    while at < len(series):
        together = series[at : at + count]
        left = None if most_samples is None else most_samples - samples
        found = store.select(Among(together, bulk=len(series) > _MOST), from_ms, to_ms, most_samples=left)
        got = sum(len(data.times) for data in found)
        samples += got
        at += len(together)
        count = max(1, min(_MOST, _SAMPLES * len(together) // max(1, got)))
        yield found
