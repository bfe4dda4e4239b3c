# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The exposition formats, read back by Prometheus' own parsers."""

from __future__ import annotations

import math
import os

import pytest
from esnode import catalogue
from esnode.expose import Format, Renderer
from esnode.snapshot import Samples, Snapshot
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

LABEL_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.floats(allow_nan=True, allow_infinity=True)


def page(parts: dict[str, Samples]) -> Snapshot:
    return Snapshot(1.0, parts)


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse_text(text) for s in family.samples}


@given(st.dictionaries(st.tuples(LABEL_TEXT, LABEL_TEXT), VALUES, max_size=20))
def test_what_is_rendered_is_read_back(values: dict[tuple[str, str], float]) -> None:
    samples = {catalogue.CPU_SECONDS.series(*labels): v for labels, v in values.items()}
    read = parsed(Renderer("prometheus").render(page({"cpu": samples})).decode())
    assert len(read) == len(samples)
    for (cpu, mode), value in values.items():
        got = read["esnode_cpu_seconds_total", frozenset({"cpu": cpu, "mode": mode}.items())]
        assert got == value or (math.isnan(got) and math.isnan(value))


def full_page() -> dict[str, Samples]:
    """One series of every family, as an agent would have it."""
    samples: Samples = {}
    for family in catalogue.FAMILIES.values():
        values = [f"{label}-0" for label in family.labels]
        if family.kind == "histogram":
            samples |= {family.part("_bucket", *values, le): 3.0 for le in ("0.5", "+Inf")}
            samples |= {family.part("_sum", *values): 1.5, family.part("_count", *values): 3.0}
        else:
            samples[family.series(*values)] = 2.0
    return {"all": samples}


def test_every_family_is_valid_openmetrics_and_prometheus_text() -> None:
    text = Renderer("prometheus").render(page(full_page())).decode()
    types = {f.name: f.type for f in parse_text(text)}
    strict = Renderer("openmetrics").render(page(full_page())).decode()
    strict_types = {f.name: f.type for f in openmetrics.text_string_to_metric_families(strict)}
    assert strict.endswith("# EOF\n")
    for family in catalogue.FAMILIES.values():
        name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        assert types[name] == strict_types[name] == family.kind


def test_one_family_given_by_two_collectors_is_one_block() -> None:
    series = [catalogue.CPU_SECONDS.series(str(n), "user") for n in range(2)]
    parts: dict[str, Samples] = {"a": {series[0]: 1, catalogue.LOAD1.series(): 5}, "b": {series[1]: 2}}
    text = Renderer("prometheus").render(page(parts)).decode()
    assert text.count("# TYPE esnode_cpu_seconds_total counter\n") == 1
    lines = text.splitlines()
    first = lines.index('esnode_cpu_seconds_total{cpu="0",mode="user"} 1.0')
    assert lines[first + 1] == 'esnode_cpu_seconds_total{cpu="1",mode="user"} 2.0'


def test_series_that_come_and_go_are_followed() -> None:
    renderer = Renderer("prometheus")
    one, two = catalogue.NETWORK_UP.series("eth0"), catalogue.NETWORK_UP.series("eth1")
    for samples in ({one: 1.0}, {one: 1.0, two: 0.0}, {two: 1.0}, {}, {two: 1.0, one: 0.0}):
        read = parsed(renderer.render(page({"network": samples})).decode())
        assert read == {("esnode_network_up", frozenset(s.labels.items())): v for s, v in samples.items()}


@pytest.mark.parametrize("text_format", ["prometheus", "openmetrics"])
def test_a_label_out_of_bytes_that_are_no_text_leaves_the_page_whole(text_format: Format) -> None:
    odd = os.fsdecode(b"nvme\xff0")
    series = catalogue.COLLECTOR_UP.series(odd)
    assert series is catalogue.COLLECTOR_UP.series(odd) is catalogue.COLLECTOR_UP.series("nvme\ufffd0")
    part = catalogue.REMOTE_WRITE_DURATION.part("_bucket", odd)
    assert part is catalogue.REMOTE_WRITE_DURATION.part("_bucket", "nvme\ufffd0")
    text = Renderer(text_format).render(page({"x": {series: 1.0, part: 2.0}})).decode()
    assert 'esnode_collector_up{collector="nvme\ufffd0"} 1.0\n' in text


def test_a_truth_value_and_a_whole_number_are_numbers() -> None:
    text = Renderer("prometheus").render(page({"x": {catalogue.NETWORK_UP.series("lo"): True}})).decode()
    assert text.endswith('{interface="lo"} 1.0\n')


def test_the_catalogue_gives_one_object_a_series_and_forgets_it_when_unused() -> None:
    family = catalogue.GPU_PROCESS_MEMORY
    series = family.series("u", "0", "1", "python", "x.service")
    assert family.series("u", "0", "1", "python", "x.service") is series
    before = len(family._made)
    del series
    assert len(family._made) == before - 1
