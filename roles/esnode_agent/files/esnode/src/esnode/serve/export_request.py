# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a request to /tsdb/export asks for, and the bytes that answer it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from multidict import MultiMapping

from esnode import sample_stream
from esnode.expose import CONTENT_TYPES
from esnode.serve import export_formats, prometheus_api, times
from esnode.serve.batches import Watched
from esnode.serve.export_parquet import parquet
from esnode.serve.thinning import last_of_each_step
from esnode.store import FOREVER_MS
from esnode.store.selecting import Selecting

Format = Literal["jsonl", "openmetrics", "parquet", "native"]
FORMATS: tuple[Format, ...] = get_args(Format)
_KNOWN = ("from", "to", "match[]", "step", "format")
_TYPES: dict[Format, tuple[str, str]] = {
    "jsonl": ("application/x-ndjson", "jsonl"),
    "openmetrics": (CONTENT_TYPES["openmetrics"], "om.txt"),
    "parquet": ("application/vnd.apache.parquet", "parquet"),
    "native": (sample_stream.CONTENT_TYPE, "esnode"),
}


class BadExport(Exception):
    """A parameter is not understood; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Export:
    """A request that was understood: times in ms and included, `step_ms` None for every sample."""

    from_ms: int
    to_ms: int
    wanted: list[prometheus_api.Matchers]
    step_ms: int | None
    format: Format

    @classmethod
    def of(cls, parameters: MultiMapping[str]) -> Export:
        """Read the parameters. BadExport for one that is not known: a misspelt one must not export everything."""
        for name in parameters:
            if name not in _KNOWN:
                raise BadExport(f"{name!r} is no parameter of an export: {', '.join(_KNOWN)} are")
            if name != "match[]" and len(parameters.getall(name)) > 1:
                raise BadExport(f"{name} is given more than once")
        now = round(time.time() * 1000)
        moments = {}
        for name, default in (("from", -FOREVER_MS), ("to", now)):
            try:
                moments[name] = times.moment_ms(parameters[name], now) if parameters.get(name) else default
            except times.TimeError as error:
                raise BadExport(f"{name}: {error}") from error
        if moments["from"] > moments["to"]:
            raise BadExport("from is later than to")
        try:
            step = times.duration_ms(parameters["step"]) if parameters.get("step") else None
        except times.TimeError as error:
            raise BadExport(f"step: {error}") from error
        form = parameters.get("format", "jsonl")
        if form not in FORMATS:
            raise BadExport(f"format: {form!r} is none of {', '.join(FORMATS)}")
        try:
            wanted = prometheus_api.match_parameters(parameters)
        except prometheus_api.ApiError as error:
            raise BadExport(str(error)) from error
        return cls(moments["from"], moments["to"], wanted, step, form)

    def headers(self) -> dict[str, str]:
        """What the answer is."""
        kind, suffix = _TYPES[self.format]
        return {"Content-Type": kind, "Content-Disposition": f'attachment; filename="esnode-history.{suffix}"'}

    def body(self, store: Selecting, watched: Watched) -> Iterator[bytes]:
        """The answer in parts."""
        if self.format == "openmetrics":
            series = prometheus_api.matching_series(store, self.wanted, self.from_ms, self.to_ms)
            return export_formats.open_metrics(store, series, self.from_ms, self.to_ms, self.step_ms, watched)
        pieces = watched(prometheus_api.union(store, self.wanted, self.from_ms, self.to_ms))
        if self.step_ms:
            pieces = last_of_each_step(pieces, self.step_ms)
        if self.format == "parquet":
            return parquet(pieces)
        return sample_stream.encode(pieces) if self.format == "native" else export_formats.json_lines(pieces)
