# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which series a selector means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import re2  # type: ignore[import-untyped, unused-ignore]

from esnode.store.errors import BadMatcher
from esnode.store.model import Matcher, SeriesId, writable

NAME = "__name__"
MOST_CHARACTERS = 8192
Test = Callable[[str], bool]

# Prometheus' own engine: linear in time, where Python's tries the alternatives of `(a+)+b` for ever, and whoever may
# ask may send one. A full stop matches a line feed, as there.
_OPTIONS = re2.Options()
_OPTIONS.dot_nl, _OPTIONS.log_errors = True, False
_OPTIONS.max_mem = 1 << 20  # of each, and the wrapper keeps a hundred


class Selector:
    """Compiled matchers; all must hold. A label that a series does not have counts as empty.

    `bulk`: so much is read that remembering it would push out what is asked for again.
    """

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        self._on_name: list[Test] = []
        self._on_labels: list[tuple[str, Test]] = []
        self._pairs: list[tuple[str, str]] = []  # labels that must have just this value, which is seen at once
        for matcher in matchers:
            test = _test(matcher)
            if matcher.label == NAME:
                self._on_name.append(test)
            elif matcher.op == "=" and matcher.value:
                self._pairs.append((matcher.label, matcher.value))
            else:
                self._on_labels.append((matcher.label, test))
        self.bulk = not (self._on_name or self._on_labels or self._pairs)

    def name(self, name: str) -> bool:
        """Whether a series of this name can match."""
        return all(test(name) for test in self._on_name)

    def labels(self, series: SeriesId) -> bool:
        """Whether the labels match; the name is not looked at."""
        for pair in self._pairs:
            if pair not in series.pairs:
                return False
        if not self._on_labels:
            return True
        labels = dict(series.pairs)
        return all(test(labels.get(label, "")) for label, test in self._on_labels)

    def columns(self, group: Sequence[SeriesId]) -> list[int]:
        """Numbers of the series in `group` that match."""
        good = {name for name in {series.name for series in group} if self.name(name)}
        if not good:
            return []
        return [number for number, series in enumerate(group) if series.name in good and self.labels(series)]


class Among(Selector):
    """Exactly these series."""

    def __init__(self, series: Iterable[SeriesId], *, bulk: bool = False) -> None:
        super().__init__(())
        self.bulk = bulk
        self._series = frozenset(series)
        self._names = {one.name for one in self._series}

    def name(self, name: str) -> bool:
        """Whether one of them has this name."""
        return name in self._names

    def labels(self, series: SeriesId) -> bool:
        """Whether it is one of them."""
        return series in self._series


def _test(matcher: Matcher) -> Test:
    value = matcher.value
    if not writable(value):
        raise BadMatcher(f"the value for label {matcher.label} is no UTF-8: {value[:40]!r}")
    if matcher.op == "=":
        return lambda text: text == value
    if matcher.op == "!=":
        return lambda text: text != value
    if matcher.op not in ("=~", "!~"):
        raise BadMatcher(f"{matcher.op!r} is no matcher: =, !=, =~ and !~ are")
    found = _expression(value, matcher.label)
    if matcher.op == "=~":
        return found
    return lambda text: not found(text)


def _expression(pattern: str, label: str) -> Test:
    if len(pattern) > MOST_CHARACTERS:
        raise BadMatcher(f"the regular expression of label {label} is longer than {MOST_CHARACTERS} characters")
    try:
        match = re2.compile(pattern, _OPTIONS).fullmatch
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error
        raise BadMatcher(f"the regular expression of label {label} is not valid: {why}") from error
    return lambda text: match(text) is not None
