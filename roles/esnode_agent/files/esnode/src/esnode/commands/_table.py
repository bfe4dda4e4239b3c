# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `query` prints unless it draws: a row a series with its figures and, on a terminal, its course in small."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

from esnode.commands import _labels, _terminal
from esnode.commands._clock import Clock
from esnode.commands._digest import Digest, Span
from esnode.commands._units import Scale, scale_for, unit_of
from esnode.store.model import SeriesId

BARS = "▁▂▃▄▅▆▇█"
_FIGURES = ("last", "min", "max", "mean")
_SHORTEST_COURSE = 10


def bars(values: Sequence[float | None], low: float | None = None, high: float | None = None) -> str:
    """A sparkline, one character a value, blank for None; `low` and `high` are the ends of its scale."""
    there = [value for value in values if value is not None]
    if not there:
        return " " * len(values)
    low = min(there) if low is None else low
    high = max(there) if high is None else high
    if high <= low:
        return "".join(" " if value is None else BARS[0] for value in values)
    top = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[min(top, max(0, round((value - low) / (high - low) * top)))] for value in values
    )


def show(found: Mapping[SeriesId, Digest], span: Span, clock: Clock) -> None:
    """Print the table."""
    series = list(found)
    alike = _labels.common(series)
    scales = _scales(found)
    one_unit = len({scale.unit for scale in scales.values()}) == 1
    unit = next(iter(scales.values())).unit
    title = (_labels.selector(alike) if _labels.NAME in alike else f"{len(scales)} metrics") + (
        f" in {unit}" if one_unit and unit else ""
    )
    narrow = _terminal.is_terminal()
    labels = _labels.distinguishing(series) if narrow else _labels.varying(series)
    print(title)
    print(f"{clock.span(span.from_ms, span.to_ms)}, {clock.zone(span.to_ms)}\n")
    rows = [_row(one, found[one], labels, scales[one.name], clock, one_unit=one_unit) for one in series]
    heads = [*("metric" if label == _labels.NAME else label for label in labels), *_FIGURES]
    heads += [*(() if one_unit else ("unit",)), "samples", "last at"]
    _print(heads, rows, left=len(labels), found=found, narrow=narrow)


def _scales(found: Mapping[SeriesId, Digest]) -> dict[str, Scale]:
    """A scale a metric."""
    values: dict[str, list[float]] = {}
    for series, one in found.items():
        values.setdefault(series.name, []).extend((one.smallest, one.largest))
    return {name: scale_for(unit_of(name), them) for name, them in values.items()}


def _row(
    series: SeriesId, one: Digest, labels: Sequence[str], scale: Scale, clock: Clock, *, one_unit: bool
) -> list[str]:
    values = _labels.labels_of(series)
    at = "" if one.last_ms is None else clock.full(one.last_ms).partition(" ")[2]
    return [
        *(values.get(label, "") for label in labels),
        *(scale.text(value) for value in (one.last, one.smallest, one.largest, one.mean)),
        *(() if one_unit else (scale.unit,)),
        str(one.samples),
        at,
    ]


def _print(
    heads: list[str], rows: list[list[str]], *, left: int, found: Mapping[SeriesId, Digest], narrow: bool
) -> None:
    table_of = _terminal.drawing("rich.table")
    console_of = _terminal.drawing("rich.console")
    text_of = _terminal.drawing("rich.text")
    columns, _unused = _terminal.size()
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]
    needed = sum(widths) + 2 * len(widths)
    table = table_of.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, head in enumerate(heads):
        numeric = at >= left and head != "unit"
        table.add_column(head, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    course = min(columns - needed, 60) if narrow else 0
    if course >= _SHORTEST_COURSE:
        table.add_column("course", no_wrap=True)
    for row, one in zip(rows, found.values(), strict=True):
        cells = [text_of.Text(cell) for cell in row]
        if course >= _SHORTEST_COURSE:
            cells.append(text_of.Text(bars(_fewer(one.means(), course))))
        table.add_row(*cells)
    width = columns if narrow else max(needed, columns)
    colours = _terminal.colours()
    console = console_of.Console(
        file=sys.stdout, width=width, no_color=not colours, force_terminal=colours, highlight=False, emoji=False
    )
    console.print(table)


def _fewer(values: Sequence[float | None], most: int) -> list[float | None]:
    """The means of neighbours, so that at most so many are left; None where all are None."""
    size = math.ceil(len(values) / most)
    return [_mean(values[at : at + size]) for at in range(0, len(values), size)]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
