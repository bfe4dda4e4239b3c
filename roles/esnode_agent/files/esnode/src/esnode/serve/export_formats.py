# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of the store as JSON lines and as OpenMetrics, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from esnode import catalogue
from esnode.catalogue import escape_help, escape_label
from esnode.expose import format_value
from esnode.serve.batches import Watched, batches
from esnode.serve.numbers import whole_texts, with_texts
from esnode.serve.thinning import is_stale, thinned
from esnode.store import SeriesData, SeriesId
from esnode.store.codec import Floats, Ints
from esnode.store.matching import NAME
from esnode.store.selecting import Selecting

_SLICE = 10_000  # samples on a line, or at a time
_LINE = b'{"metric":%s,"values":[%s],"timestamps":[%s]}\n'
_INFINITE: dict[float, float | str] = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


def json_lines(pieces: Iterable[SeriesData]) -> Iterator[bytes]:
    """One object a line as VictoriaMetrics' /api/v1/import takes it.

    Values that JSON has no number for are on lines of their own, NaN as null and the infinities as strings: versions of
    VictoriaMetrics that do not take them skip a whole line.
    """
    times: tuple[Ints | None, bytes] = None, b""
    for piece, text in with_texts(_cut(pieces)):
        metric = msgspec.json.encode({NAME: piece.series.name, **piece.series.labels})
        if b"null" in text:
            yield from _lines_apart(metric, piece)
            continue
        if piece.times is not times[0]:  # series in a row mostly have the same times
            times = piece.times, whole_texts(piece.times)
        yield _LINE % (metric, text, times[1])


def _cut(pieces: Iterable[SeriesData]) -> Iterator[SeriesData]:
    for piece in pieces:
        if len(piece.times) <= _SLICE:
            yield piece
            continue
        for at in range(0, len(piece.times), _SLICE):
            yield SeriesData(piece.series, piece.times[at : at + _SLICE], piece.values[at : at + _SLICE])


def _lines_apart(metric: bytes, piece: SeriesData) -> Iterator[bytes]:
    finite = np.isfinite(piece.values)
    for mask in (finite, ~finite):
        if mask.any():
            values = [_INFINITE.get(value, value) for value in piece.values[mask].tolist()]
            yield _LINE % (metric, msgspec.json.encode(values)[1:-1], whole_texts(piece.times[mask]))


def open_metrics(
    store: Selecting,
    series: Sequence[SeriesId],
    from_ms: int,
    to_ms: int,
    step_ms: int | None,
    watched: Watched = iter,
) -> Iterator[bytes]:
    """OpenMetrics with timestamps: families together, samples of a series in order, `# EOF`.

    Staleness markers are left out, since the text has no spelling for them, and of samples of a series with the same
    time the last one counts. Memory is that of some series.
    """
    family, spell = None, _Times()
    for one in (one for batch in watched(batches(store, series, from_ms, to_ms)) for one in batch):
        data = thinned(one, step_ms) if step_ms else one
        for at in range(0, len(data.times), _SLICE):
            lines = _text(data.series, data.times[at : at + _SLICE], data.values[at : at + _SLICE], spell)
            if lines and data.series.name != family:
                family = data.series.name
                yield _header(family)
            yield lines
    yield b"# EOF\n"


def _header(name: str) -> bytes:
    known = catalogue.FAMILIES.get(name)
    # The parts of a histogram are families of their own here: each is written by itself.
    kind = known.kind if known is not None and known.kind in ("gauge", "counter") else "unknown"
    if kind == "counter":
        # A counter's samples end in _total, its family does not.
        kind, shown = ("counter", name.removesuffix("_total")) if name.endswith("_total") else ("unknown", name)
    else:
        shown = name
    text = f"# HELP {shown} {escape_help(known.help)}\n" if known is not None else ""
    return f"{text}# TYPE {shown} {kind}\n".encode()


def _text(series: SeriesId, times: Ints, values: Floats, spell: _Times) -> bytes:
    kept = ~is_stale(values)
    if not kept.all():
        times, values = times[kept], values[kept]
    pairs = ",".join(f'{label}="{escape_label(value)}"' for label, value in series.pairs)
    head = f"{series.name}{{{pairs}}} " if pairs else f"{series.name} "
    texts = map(repr, values.tolist()) if np.isfinite(values).all() else map(format_value, values.tolist())
    return "".join([f"{head}{text}{time}" for text, time in zip(texts, spell(times), strict=True)]).encode()


class _Times:
    """Times as OpenMetrics spells them, up to the end of the line; series in a row mostly have the same."""

    def __init__(self) -> None:
        self._times = np.empty(0, np.int64)
        self._texts: list[str] = []

    def __call__(self, times: Ints) -> list[str]:
        if not np.array_equal(times, self._times):
            # Readers multiply seconds by 1000 and cut: a half microsecond more keeps those whole that would lose one.
            cut = np.trunc(times / 1000 * 1000).astype(np.int64) != times
            self._times = times
            self._texts = [
                f" {_seconds(time)}{'0005' if short else ''}\n"
                for time, short in zip(times.tolist(), cut.tolist(), strict=True)
            ]
        return self._texts


def _seconds(time_ms: int) -> str:
    sign, whole = ("-", -time_ms) if time_ms < 0 else ("", time_ms)
    return f"{sign}{whole // 1000}.{whole % 1000:03d}"
