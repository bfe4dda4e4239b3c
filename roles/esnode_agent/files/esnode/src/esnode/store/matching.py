# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which series a selector means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from esnode.store.errors import BadMatcher
from esnode.store.model import Matcher, SeriesId
from esnode.store.regex import Regex, RegexError

NAME = "__name__"
Test = Callable[[str], bool]


class Selector:
    """Compiled matchers; all must hold. A label that a series does not have counts as empty."""

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        self._on_name: list[Test] = []
        self._on_labels: list[tuple[str, Test]] = []
        for matcher in matchers:
            test = _test(matcher)
            if matcher.label == NAME:
                self._on_name.append(test)
            else:
                self._on_labels.append((matcher.label, test))

    def name(self, name: str) -> bool:
        """Whether a series of this name can match."""
        return all(test(name) for test in self._on_name)

    def labels(self, series: SeriesId) -> bool:
        """Whether the labels match; the name is not looked at."""
        if not self._on_labels:
            return True
        labels = dict(series.pairs)
        return all(test(labels.get(label, "")) for label, test in self._on_labels)

    def columns(self, group: Sequence[SeriesId], names: Iterable[str]) -> list[int]:
        """Numbers of the series in `group`, whose names are `names`, that match."""
        good = {name for name in names if self.name(name)}
        if not good:
            return []
        return [number for number, series in enumerate(group) if series.name in good and self.labels(series)]


class Among(Selector):
    """Exactly these series."""

    def __init__(self, series: Iterable[SeriesId]) -> None:
        super().__init__(())
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
    if matcher.op == "=":
        return lambda text: text == value
    if matcher.op == "!=":
        return lambda text: text != value
    if matcher.op not in ("=~", "!~"):
        raise BadMatcher(f"{matcher.op!r} is no matcher: =, !=, =~ and !~ are")
    try:
        found = Regex(value).fullmatch
    except RegexError as error:
        raise BadMatcher(f"the regular expression of label {matcher.label} is not valid: {error}") from error
    if matcher.op == "=~":
        return found
    return lambda text: not found(text)
