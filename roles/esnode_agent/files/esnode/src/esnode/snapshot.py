# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What collectors give (`Reading`) and what everything else takes (`Snapshot`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esnode.catalogue import Series

Samples = dict[Series, float]


@dataclass(slots=True)
class Reading:
    """What one run of a collector found.

    `samples`: value by series, in the family's unit; what could not be read is not in it.
    `errors`: one sentence for each thing that could not be read and should have been; any entry makes
    the run a partial one (`esnode_collector_up` 0) while the samples are still served.
    `detail`: extra facts for `/status`, JSON types only.
    """

    samples: Samples = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was known at one tick. Immutable by agreement: nobody writes into `parts`.

    `timestamp`: Unix time of the tick, seconds. `parts`: samples by collector name; a collector that failed
    or was late is not in it.
    """

    timestamp: float
    parts: Mapping[str, Samples]
