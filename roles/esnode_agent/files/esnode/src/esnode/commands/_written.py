# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`query --json` and `--csv`: samples for other programs."""

from __future__ import annotations

import csv as csv_writer
import json as json_writer
import sys
from collections.abc import Iterable
from datetime import datetime, timezone

from esnode.commands._labels import labels_of
from esnode.commands._units import unit_of
from esnode.expose import format_value
from esnode.store import SeriesData, SeriesId


def json(pieces: Iterable[SeriesData]) -> int:
    """Print one array; an object a series, like those of Prometheus' query_range, with its unit. How many series."""
    found: dict[SeriesId, list[list[float | str]]] = {}
    for piece in pieces:
        rows = found.setdefault(piece.series, [])
        for at, value in zip(piece.times.tolist(), piece.values.tolist(), strict=True):
            rows.append([at / 1000, format_value(value)])
    separator = "[\n"
    for series in sorted(found):
        one = {"metric": labels_of(series), "unit": unit_of(series.name), "values": sorted(found[series])}
        sys.stdout.write(separator + json_writer.dumps(one, ensure_ascii=False))
        separator = ",\n"
    if found:
        sys.stdout.write("\n]\n")
    return len(found)


def csv(pieces: Iterable[SeriesData]) -> int:
    """Print a row a sample: time in UTC, name, labels, value. How many series."""
    found: dict[SeriesId, list[SeriesData]] = {}
    for piece in pieces:
        found.setdefault(piece.series, []).append(piece)
    if not found:
        return 0
    labels = sorted({label for series in found for label, _unused in series.pairs})
    out = csv_writer.writer(sys.stdout, lineterminator="\n")
    out.writerow(["time", "metric", *labels, "value"])
    for series in sorted(found):
        fixed = [series.name, *(series.labels.get(label, "") for label in labels)]
        for piece in found[series]:
            for at, value in zip(piece.times.tolist(), piece.values.tolist(), strict=True):
                moment = datetime.fromtimestamp(at / 1000, timezone.utc)
                out.writerow(
                    [moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), *fixed, format_value(value)]
                )
    return len(found)
