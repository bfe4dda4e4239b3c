# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tells the series of an answer apart: what all have in common is said once, the rest as short as it can be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import combinations

from esnode.store.model import SeriesId

NAME = "__name__"
_MOST_TRIED = 8


def labels_of(series: SeriesId) -> dict[str, str]:
    """All labels, the name as `__name__`."""
    return {NAME: series.name, **series.labels}


def common(series: Sequence[SeriesId]) -> dict[str, str]:
    """The labels, name included, that all the series have with the same value."""
    first, *rest = [labels_of(one) for one in series]
    return {label: value for label, value in first.items() if all(one.get(label) == value for one in rest)}


def varying(series: Sequence[SeriesId]) -> list[str]:
    """The labels that differ; the name first, then the ones with the shortest values."""
    alike = common(series)
    longest: dict[str, int] = {}
    for one in series:
        for label, value in labels_of(one).items():
            if label not in alike:
                longest[label] = max(longest.get(label, 0), len(value))
    return sorted(longest, key=lambda label: (label != NAME, longest[label], label))


def distinguishing(series: Sequence[SeriesId]) -> list[str]:
    """The fewest labels that tell each series from every other, the name among them where it differs."""
    differ = varying(series)
    rows = [labels_of(one) for one in series]
    fixed = [NAME] if NAME in differ else []
    others = [label for label in differ if label != NAME][:_MOST_TRIED]
    for count in range(len(others) + 1):
        for chosen in combinations(others, count):
            wanted = [*fixed, *chosen]
            if len({tuple(row.get(label, "") for label in wanted) for row in rows}) == len(rows):
                return wanted
    return differ


def short(series: SeriesId, wanted: Iterable[str]) -> str:
    """The series by these labels: `index=0 sensor=gpu`; its name when there is nothing to tell apart."""
    labels = labels_of(series)
    parts = [labels[NAME] if label == NAME else f"{label}={labels.get(label, '')}" for label in wanted]
    return " ".join(parts) or series.name


def selector(labels: dict[str, str]) -> str:
    """Labels as a selector: `name{label="value"}`."""
    pairs = ",".join(
        f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in labels.items() if label != NAME
    )
    return labels.get(NAME, "") + (f"{{{pairs}}}" if pairs or NAME not in labels else "")
