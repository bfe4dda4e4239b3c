# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A snapshot as text: the Prometheus text format 0.0.4 and OpenMetrics 1.0.0.

The order of the lines and everything but the values change only when series come or go, so that part is kept
between ticks and a tick costs one pass over the values.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from math import isfinite, isnan
from operator import add
from typing import Literal

from esnode.catalogue import Family, Series, escape_help
from esnode.snapshot import Snapshot

Format = Literal["prometheus", "openmetrics"]

CONTENT_TYPES: dict[Format, str] = {
    "prometheus": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}
# OpenMetrics wants a declared unit to be the end of the family's name.
_OPENMETRICS_UNITS = ("seconds", "bytes", "celsius", "hertz", "watts", "joules", "percent", "ratio")


class Renderer:
    """Renders one format. Not for several threads at once."""

    def __init__(self, text_format: Format) -> None:
        self._format = text_format
        self._series: list[Series] = []
        self._order: list[int] = []
        self._prefixes: list[str] = []

    def render(self, snapshot: Snapshot) -> bytes:
        """The whole page, UTF-8, ending in a line feed."""
        series = list(chain.from_iterable(snapshot.parts.values()))
        values = list(map(float, chain.from_iterable(part.values() for part in snapshot.parts.values())))
        if series != self._series:  # compares identities, at the speed of memcmp
            self._lay_out(series)
        ordered = [values[i] for i in self._order]
        texts: Iterable[str] = map(repr, ordered) if all(map(isfinite, ordered)) else map(format_value, ordered)
        end = "\n# EOF\n" if self._format == "openmetrics" else "\n"
        return ("\n".join(map(add, self._prefixes, texts)) + end).encode() if ordered else end.lstrip().encode()

    def _lay_out(self, series: list[Series]) -> None:
        """Bring the series of one family together and put the family's header before its first line."""
        families: dict[Family, list[int]] = {}
        for position, one in enumerate(series):
            families.setdefault(one.family, []).append(position)
        self._order = []
        self._prefixes = []
        for family in sorted(families, key=lambda f: f.name):
            positions = families[family]
            self._order += positions
            self._prefixes += [series[p].prefix for p in positions]
            self._prefixes[-len(positions)] = self._header(family) + series[positions[0]].prefix
        self._series = series

    def _header(self, family: Family) -> str:
        name, unit = family.name, ""
        if self._format == "openmetrics":
            name = name.removesuffix("_total") if family.kind == "counter" else name
            for word in _OPENMETRICS_UNITS:
                if name.endswith(f"_{word}"):
                    unit = f"# UNIT {name} {word}\n"
        return f"# HELP {name} {escape_help(family.help)}\n# TYPE {name} {family.kind}\n{unit}"


def format_value(value: float) -> str:
    """A value as both formats spell it: shortest exact decimal, +Inf, -Inf, NaN."""
    if isfinite(value):
        return repr(value)
    return "NaN" if isnan(value) else ("+Inf" if value > 0 else "-Inf")
