# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """Our value beside the peer's, both measured in this run. `peer_value` None: there was no peer to measure.

    `bar`: the most that the ratio, without a peer the value, is meant to be.
    """

    name: str
    value: float
    unit: str
    peer: str
    peer_value: float | None
    bar: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if not self.peer_value else self.value / self.peer_value

    @property
    def missed(self) -> bool:
        """Whether there is a bar and it was missed."""
        reached = self.value if self.ratio is None else self.ratio
        return self.bar is not None and reached > self.bar

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "peer": self.peer,
            "peer_value": self.peer_value,
            "ratio": self.ratio,
            "bar": self.bar,
        }
