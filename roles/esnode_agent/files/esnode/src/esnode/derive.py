# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples that follow from others: computed between two snapshots, by no collector alone."""

from __future__ import annotations

from esnode.catalogue import APP_TOKENS, APP_TOKENS_PER_JOULE, GPU_ENERGY, Family
from esnode.snapshot import Samples, Snapshot

_TOKENS_PER_JOULE = APP_TOKENS_PER_JOULE.series()


def tokens_per_joule(previous: Snapshot, current: Snapshot) -> Samples:
    """Tokens that all models generated per joule that all GPUs took between two snapshots.

    Empty while either side is unknown: a counter is missing, is new, has gone or was reset, or no energy was used.
    """
    tokens = _increase(APP_TOKENS, "app", previous, current)
    if tokens is None:
        return {}
    joules = _increase(GPU_ENERGY, "gpu", previous, current)
    if not joules:
        return {}
    return {_TOKENS_PER_JOULE: tokens / joules}


def _increase(family: Family, collector: str, previous: Snapshot, current: Snapshot) -> float | None:
    before, now = _of(family, collector, previous), _of(family, collector, current)
    if not now or before.keys() != now.keys() or any(now[series] < before[series] for series in now):
        return None
    return sum(now[series] - before[series] for series in now)


def _of(family: Family, collector: str, snapshot: Snapshot) -> Samples:
    return {s: v for s, v in snapshot.parts.get(collector, {}).items() if s.family is family}
