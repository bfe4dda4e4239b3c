# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which format and encoding a client gets."""

from __future__ import annotations

import pytest
from esnode.serve import negotiate

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "prometheus"),
        ("", "prometheus"),
        ("*/*", "prometheus"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "prometheus"),
        (PROMETHEUS_2, "openmetrics"),
        (PROMETHEUS_3, "openmetrics"),
        ("application/openmetrics-text; version=1.0.0; q=0.2, text/plain; q=0.9", "prometheus"),
        ("application/openmetrics-text;version=0.0.1", "prometheus"),
        ("application/openmetrics-text;q=0, text/plain;q=0.1", "prometheus"),
        ("application/openmetrics-text;q=many", "prometheus"),
        (";;,=;q", "prometheus"),
    ],
)
def test_format(accept: str | None, expected: str) -> None:
    assert negotiate.text_format(accept) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, "identity"),
        ("gzip", "gzip"),
        ("deflate, gzip;q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("*;q=1, gzip;q=0", "identity"),
        ("*", "gzip"),
        ("br", "identity"),
    ],
)
def test_encoding(header: str | None, expected: str) -> None:
    assert negotiate.encoding(header) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "identity"),
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("*", "zstd"),
        ("br", "identity"),
        ("gzip;q=0", "identity"),
    ],
)
def test_coding_of_an_export(accept: str | None, expected: str) -> None:
    assert negotiate.coding(accept) == expected
