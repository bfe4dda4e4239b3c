# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus' HTTP API answers, as far as plain selectors go: names, labels, and values at given moments."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache

import msgspec
import numpy as np
from multidict import MultiMapping

from esnode.serve import selectors, times
from esnode.serve.batches import Watched
from esnode.serve.numbers import texts, with_texts
from esnode.serve.thinning import TooManyPoints, at_each_moment
from esnode.store import FOREVER_MS, Matcher, SeriesData, SeriesId
from esnode.store.codec import Floats, Ints
from esnode.store.matching import NAME, Selector
from esnode.store.selecting import Selecting

LOOKBACK_MS = 300_000
MOST_POINTS = 11_000
"""Of one series, as in Prometheus."""
MOST_POINTS_IN_ALL = 1_000_000

_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Matchers = tuple[Matcher, ...]
Parameters = MultiMapping[str]


class ApiError(Exception):
    """What can't be answered: HTTP status, Prometheus' errorType, and a sentence."""

    def __init__(self, status: int, kind: str, text: str) -> None:
        super().__init__(text)
        self.status, self.kind = status, kind


def _bad(name: str, error: object) -> ApiError:
    return ApiError(400, "bad_data", f"invalid parameter {name!r}: {error}")


def match_parameters(parameters: Parameters) -> list[Matchers]:
    """The selectors in `match[]`. ApiError for one that is none."""
    found = []
    for text in parameters.getall("match[]", []):
        try:
            found.append(selectors.parse(text))
        except selectors.SelectorError as error:
            raise _bad("match[]", f"{text!r}: {error}") from error
    return found


def union(store: Selecting, wanted: Sequence[Matchers], from_ms: int, to_ms: int) -> Iterator[SeriesData]:
    """Samples of the series that any of the selectors matches, each series once; no selector is every series."""
    before: list[Selector] = []
    for matchers in wanted or [()]:
        for piece in store.export(matchers, from_ms, to_ms):
            if not any(one.name(piece.series.name) and one.labels(piece.series) for one in before):
                yield piece
        before.append(Selector(matchers))


def matching_series(store: Selecting, wanted: Sequence[Matchers], from_ms: int, to_ms: int) -> list[SeriesId]:
    """The series that any of the selectors matches, in order; no selector is every series."""
    return sorted({one for matchers in wanted or [()] for one in store.series(matchers, from_ms, to_ms)})


def series(store: Selecting, parameters: Parameters) -> bytes:
    """/api/v1/series."""
    wanted = match_parameters(parameters)
    if not wanted:
        raise ApiError(400, "bad_data", "no match[] parameter provided")
    for matchers, text in zip(wanted, parameters.getall("match[]"), strict=True):
        _must_select(matchers, "match[]", text)
    found = _limited([_metric(one) for one in _found(store, wanted, parameters)], parameters)
    return msgspec.json.encode(found)


def labels(store: Selecting, parameters: Parameters) -> bytes:
    """/api/v1/labels."""
    found = _found(store, match_parameters(parameters), parameters)
    names = {label for one in found for label, _unused in one.pairs} | ({NAME} if found else set())
    return msgspec.json.encode(_limited(sorted(names), parameters))


def label_values(store: Selecting, label: str, parameters: Parameters) -> bytes:
    """/api/v1/label/NAME/values."""
    if not _LABEL.fullmatch(label):
        raise ApiError(400, "bad_data", f"invalid label name: {label!r}")
    found = _found(store, match_parameters(parameters), parameters)
    values = {one.name if label == NAME else one.labels.get(label, "") for one in found} - {""}
    return msgspec.json.encode(_limited(sorted(values), parameters))


def query(store: Selecting, parameters: Parameters, watched: Watched) -> bytes:
    """/api/v1/query for a plain selector: what each series is at one moment."""
    matchers = _selector(parameters)
    at = _moment(parameters, "time", round(time.time() * 1000))
    found = _at(store, matchers, np.array([at], np.int64), watched)
    (when,) = texts([np.array([at / 1000])])
    result = b",".join(
        b'{"metric":%s,"value":[%s,"%s"]}' % (_metric_json(one.series), when, *_spelled(one.values, text))
        for one, text in with_texts(found)
    )
    return b'{"resultType":"vector","result":[%s]}' % result


def query_range(store: Selecting, parameters: Parameters, watched: Watched) -> bytes:
    """/api/v1/query_range for a plain selector: what each series is at each step."""
    matchers = _selector(parameters)
    start, end = _moment(parameters, "start"), _moment(parameters, "end")
    if end < start:
        raise _bad("end", "end timestamp must not be before start time")
    try:
        step = times.duration_ms(_given(parameters, "step"))
    except times.TimeError as error:
        raise _bad("step", error) from error
    if (end - start) // step >= MOST_POINTS:
        raise ApiError(
            400,
            "bad_data",
            f"more than {MOST_POINTS} points a series: take a longer step or a shorter range, or /tsdb/export",
        )
    moments = np.arange(start, end + 1, step, dtype=np.int64)
    result: list[bytes] = []
    openings: tuple[Ints | None, list[bytes]] = None, []
    for one, text in with_texts(_at(store, matchers, moments, watched)):
        if one.times is not openings[0]:  # series in a row mostly have points at the same moments
            whole = one.times is moments
            openings = one.times, _openings_of_all(start, end, step) if whole else _openings(one.times)
        points = [b""] * (2 * len(one.times))
        points[::2], points[1::2] = openings[1], _spelled(one.values, text)
        result += (b',{"metric":' if result else b'{"metric":', _metric_json(one.series), b',"values":[')
        result += (b"".join(points), b'"]]}')
    return b"".join((b'{"resultType":"matrix","result":[', *result, b"]}"))


@lru_cache(maxsize=2)  # the panels of a dashboard ask for the same moments
def _openings_of_all(start: int, end: int, step: int) -> list[bytes]:
    return _openings(np.arange(start, end + 1, step, dtype=np.int64))


def _openings(moments: Ints) -> list[bytes]:
    """What stands before the value of each point: its time, and the end of the point before."""
    (text,) = texts([moments / 1000])
    found = [b'"],[%s,"' % time for time in text.split(b",")]
    found[0] = found[0].removeprefix(b'"],')
    return found


def _spelled(values: Floats, text: bytes) -> list[bytes]:
    """The text of each value, also of those for which JSON has none."""
    found = text.split(b",")
    if b"null" in text:
        for place in np.flatnonzero(~np.isfinite(values)).tolist():
            value = values[place]
            found[place] = b"NaN" if np.isnan(value) else b"+Inf" if value > 0 else b"-Inf"
    return found


def _found(store: Selecting, wanted: Sequence[Matchers], parameters: Parameters) -> list[SeriesId]:
    start, end = _moment(parameters, "start", -FOREVER_MS), _moment(parameters, "end", FOREVER_MS)
    if end < start:
        raise _bad("end", "end timestamp must not be before start time")
    return matching_series(store, wanted, start, end)


def _at(store: Selecting, matchers: Matchers, moments: Ints, watched: Watched) -> list[SeriesData]:
    pieces = store.export(matchers, int(moments[0]) - LOOKBACK_MS + 1, int(moments[-1]))
    try:
        return at_each_moment(watched(pieces), moments, LOOKBACK_MS, MOST_POINTS_IN_ALL)
    except TooManyPoints as error:
        raise ApiError(
            422,
            "execution",
            f"more than {MOST_POINTS_IN_ALL} points in all: take fewer series, a longer step, or /tsdb/export",
        ) from error


def _selector(parameters: Parameters) -> Matchers:
    text = _given(parameters, "query")
    try:
        matchers = selectors.parse(text)
    except selectors.SelectorError as error:
        raise ApiError(
            422,
            "execution",
            f'{text[:100]!r} is no plain selector ({error}). A node answers NAME{{label="value"}}; for PromQL '
            "give a Prometheus this node's /api/v1/read as remote_read, and ask that",
        ) from error
    _must_select(matchers, "query", text)
    return matchers


def _must_select(matchers: Matchers, name: str, text: str) -> None:
    if not selectors.selects_something(matchers):
        raise _bad(name, f"{text!r}: a selector needs a matcher that does not match the empty value")


def _given(parameters: Parameters, name: str) -> str:
    text = parameters.get(name, "")
    if not text:
        raise _bad(name, "it is missing")
    return text


def _moment(parameters: Parameters, name: str, default: int | None = None) -> int:
    if default is not None and not parameters.get(name):
        return default
    try:
        return times.prometheus_ms(_given(parameters, name))
    except times.TimeError as error:
        raise _bad(name, error) from error


def _limited(found: list[object] | list[str] | list[dict[str, str]], parameters: Parameters) -> Sequence[object]:
    text = parameters.get("limit", "0")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _bad("limit", f"{text!r} is no number")
    return found[: int(text)] if int(text) else found


def _metric(one: SeriesId) -> dict[str, str]:
    return {NAME: one.name, **one.labels}


def _metric_json(one: SeriesId) -> bytes:
    return msgspec.json.encode(_metric(one))
