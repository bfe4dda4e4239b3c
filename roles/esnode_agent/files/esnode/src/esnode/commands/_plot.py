# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`query --plot`: the series as lines in the terminal, drawn by plotext, with a legend below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from esnode.commands import _labels, _terminal
from esnode.commands._clock import Clock
from esnode.commands._digest import Digest, Span
from esnode.commands._units import Scale, number, scale_for, unit_of
from esnode.store.model import SeriesId

MOST_SERIES = 16
"""More lines than this can't be told apart."""

_COLOURS = (33, 208, 35, 160, 37, 133, 178, 99, 130, 70, 205, 245, 25, 167, 108, 61)
"""Of the 256 of a terminal; readable on light and dark."""
_LETTERS = "abcdefghijklmnop"
_DOTS_ACROSS = 2
_SHORTEST = 8


def buckets(columns: int) -> int:
    """How many buckets of time a plot of this width can show."""
    return columns * _DOTS_ACROSS


def draw(found: Mapping[SeriesId, Digest], span: Span, clock: Clock, *, columns: int, lines: int, colours: bool) -> str:
    """The picture, `columns` wide and at most `lines` high, as long as the legend leaves enough of it."""
    plotext = _terminal.drawing("plotext")
    shown = list(found)[:MOST_SERIES]
    units = {unit_of(series.name) for series in shown}
    unit = units.pop() if len(units) == 1 else ""
    values = [v for one in shown for v in (found[one].smallest, found[one].largest) if math.isfinite(v)]
    scale = scale_for(unit, values)
    legend = _legend(found, shown, scale, columns, colours=colours)
    if len(found) > len(shown):
        legend.append(f"{len(shown)} of {len(found)} series are drawn; name labels to choose others")
    height = max(lines - len(legend) - 3, _SHORTEST)

    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear.all()
    figure.theme("colorless")
    figure.plot_size(columns, height)
    many = len(shown) > 1
    for at, series in enumerate(shown):
        # Without colours letters tell the lines apart.
        marker = _LETTERS[at] if many and not colours else "braille"
        for times, points in found[series].lines():
            pixel = plotext.pixel(_COLOURS[at]) if colours else None
            line = figure.signal(
                [time / 1000 for time in times],
                [value / scale.factor for value in points],
                marker=plotext.marker(marker, pixel=pixel),
            )
            figure.draw(line.lines(True))
    _axes(figure, span, clock, [value / scale.factor for value in values], columns, height)
    picture = figure.build().string(colorless=not colours)
    title = _title(shown, scale)
    below = f"{clock.span(span.from_ms, span.to_ms)}, {clock.zone(span.to_ms)}"
    return (
        "\n".join(line.rstrip() for line in [title[:columns], *picture.splitlines(), below[:columns], *legend]) + "\n"
    )


def _axes(figure: Any, span: Span, clock: Clock, values: Sequence[float], columns: int, height: int) -> None:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 10, high + abs(high) / 10)
    elif 0 <= low < high / 2:
        low = 0.0  # so that a height is a proportion
    steps = _round_ticks(low, high, max(2, height // 4))
    low, high = min(low, steps[0]), max(high, steps[-1])
    vertical = figure.ruler("y", "left")
    vertical.lim(low, high)
    vertical.ticks(steps, [number(step) for step in steps])
    across = figure.ruler("x", "lower")
    across.lim(span.from_ms / 1000, span.to_ms / 1000)
    ticks = clock.ticks(span.from_ms, span.to_ms, max(2, columns // 14))
    across.ticks([at / 1000 for at, _unused in ticks], [text for _unused, text in ticks])


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from at most `low` to at least `high`, some `most` of them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * at, 12 - math.floor(math.log10(step))) for at in range(first, last + 1)]


def _title(shown: Sequence[SeriesId], scale: Scale) -> str:
    alike = _labels.common(shown)
    name = _labels.selector(alike) if _labels.NAME in alike else f"{len(shown)} metrics"
    return f"{name} in {scale.unit}" if scale.unit else name


def _legend(
    found: Mapping[SeriesId, Digest], shown: Sequence[SeriesId], scale: Scale, columns: int, *, colours: bool
) -> list[str]:
    """One entry a series with its figures, in as many columns as fit."""
    wanted = _labels.distinguishing(shown)
    names = [_labels.short(series, wanted) if len(shown) > 1 else "" for series in shown]
    figures = [[scale.text(v) for v in (one.last, one.smallest, one.largest)] for one in map(found.__getitem__, shown)]
    widths = [max(map(len, column)) for column in zip(*figures, strict=True)]
    entries = []
    for at, (name, texts) in enumerate(zip(names, figures, strict=True)):
        last, low, high = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
        sign = _LETTERS[at] if len(shown) > 1 and not colours else "━━"
        entries.append((at, sign, f" {name.ljust(max(map(len, names)))}  last {last}  min {low}  max {high}"))
    width = max(len(sign) + len(text) for _unused, sign, text in entries) + 3
    across = max(1, min(columns // width, len(entries)))
    down = -(-len(entries) // across)
    rows = []
    for row in range(down):
        cells = [entries[place] for place in range(row, len(entries), down)]
        rows.append(
            "".join(_cell(cell, width if cell is not cells[-1] else 0, columns, colours=colours) for cell in cells)
        )
    return rows


def _cell(entry: tuple[int, str, str], width: int, columns: int, *, colours: bool) -> str:
    at, sign, text = entry
    text = text[: columns - len(sign)]
    space = " " * max(0, width - len(sign) - len(text))
    if colours:
        return f"\x1b[38;5;{_COLOURS[at]}m{sign}\x1b[0m{text}{space}"
    return f"{sign}{text}{space}"
