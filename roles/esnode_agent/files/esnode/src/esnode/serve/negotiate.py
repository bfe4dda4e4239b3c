# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Content negotiation (RFC 9110, section 12.5): the formats and encodings of /metrics, the encodings of an export."""

from __future__ import annotations

from typing import Literal

from esnode.expose import Format
from esnode.serve.page import Encoding

Coding = Literal["identity", "gzip", "zstd"]


def _weights(header: str) -> list[tuple[str, dict[str, str], float]]:
    """Each item of an Accept-like header with its parameters and weight; what can't be read counts as 0."""
    items = []
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        parameters = {k.strip().lower(): v.strip().strip('"') for k, _unused, v in (p.partition("=") for p in rest)}
        try:
            weight = float(parameters.pop("q", "1"))
        except ValueError:
            weight = 0.0
        items.append((name.lower(), parameters, weight))
    return items


def text_format(accept: str | None) -> Format:
    """OpenMetrics when the client takes its version 1.0.0 (or any) and does not like plain text better."""
    openmetrics = plain = 0.0
    for name, parameters, weight in _weights(accept or ""):
        if name == "application/openmetrics-text" and parameters.get("version", "1.0.0") == "1.0.0":
            openmetrics = max(openmetrics, weight)
        # A client may also name text/plain;version=1.0.0, which is another format than ours.
        elif name in ("text/plain", "text/*") and parameters.get("version", "0.0.4") == "0.0.4":
            plain = max(plain, weight)
    return "openmetrics" if openmetrics > 0 and openmetrics >= plain else "prometheus"


def encoding(accept_encoding: str | None) -> Encoding:
    """gzip when the client takes it."""
    weights = {name: weight for name, _unused, weight in _weights(accept_encoding or "")}
    return "gzip" if weights.get("gzip", weights.get("*", 0.0)) > 0 else "identity"


def coding(accept_encoding: str | None) -> Coding:
    """zstd or gzip, whichever the client likes better, zstd when it does not mind."""
    weights = {name: weight for name, _unused, weight in _weights(accept_encoding or "")}
    gzip, zstd = (weights.get(name, weights.get("*", 0.0)) for name in ("gzip", "zstd"))
    if zstd > 0 and zstd >= gzip:
        return "zstd"
    return "gzip" if gzip > 0 else "identity"
