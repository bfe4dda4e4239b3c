# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What wire.py writes is what Google's own codec reads, and the other way round."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from esnode import wire
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

INT64, DOUBLE, STRING, MESSAGE = 3, 1, 9, 11  # types of fields in a descriptor


@pytest.fixture(scope="module")
def series() -> Any:
    """The class of `TimeSeries {repeated Label labels = 1; repeated Sample samples = 2}` of Prometheus' protocol."""
    file = descriptor_pb2.FileDescriptorProto(name="remote.proto", package="p", syntax="proto3")
    for name, members in {
        "Label": [("name", STRING, ""), ("value", STRING, "")],
        "Sample": [("value", DOUBLE, ""), ("timestamp", INT64, "")],
        "TimeSeries": [("labels", MESSAGE, ".p.Label"), ("samples", MESSAGE, ".p.Sample")],
    }.items():
        message = file.message_type.add(name=name)
        for number, (member, kind, of) in enumerate(members, 1):
            many = {"label": 3, "type_name": of} if of else {"label": 1}
            message.field.add(name=member, number=number, type=kind, **many)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.TimeSeries"))


bits = st.integers(0, 2**64 - 1).map(lambda number: struct.unpack("<d", struct.pack("<Q", number))[0])
times = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(0, 300), st.integers(1_700_000_000_000, 1_800_000_000_000)
)


@given(st.lists(st.tuples(times, st.one_of(st.floats(), bits)), max_size=40), st.integers(1, 3))
def test_samples_are_read_by_google(series: Any, written: list[tuple[int, float]], repeat: int) -> None:
    written = written * repeat
    stamps = np.array([time for time, _ in written], np.int64)
    values = np.array([value for _, value in written], np.float64)
    read = series.FromString(wire.samples(2, stamps, values))
    assert [sample.timestamp for sample in read.samples] == stamps.tolist()
    assert np.array([sample.value for sample in read.samples], np.float64).tobytes() == values.tobytes()


def test_many_samples_over_the_edge_of_a_slice(series: Any) -> None:
    stamps = np.arange(-5000, 5000, dtype=np.int64) ** 3
    read = series.FromString(wire.samples(2, stamps, stamps / 7))
    assert [sample.timestamp for sample in read.samples] == stamps.tolist()
    assert [sample.value for sample in read.samples] == (stamps / 7).tolist()


words = st.text(max_size=200)


@given(st.lists(st.tuples(words, words), max_size=5))
def test_labels_go_both_ways(series: Any, pairs: list[tuple[str, str]]) -> None:
    read = series.FromString(wire.labels(1, pairs))
    assert [(label.name, label.value) for label in read.labels] == pairs
    back = [dict(wire.fields(wire.message(content))) for _, content in wire.fields(read.SerializeToString())]
    assert [(wire.string(one.get(1, b"")), wire.string(one.get(2, b""))) for one in back] == pairs


@given(times, bits)
def test_numbers_of_google_are_read(series: Any, time: int, value: float) -> None:
    made = series()
    made.samples.add(value=value, timestamp=time)
    ((number, content),) = wire.fields(made.SerializeToString())
    sample = dict(wire.fields(wire.message(content)))
    assert number == 2 and wire.signed(sample.get(2, 0)) == time
    assert struct.pack("<d", wire.double(sample.get(1, 0))) == struct.pack("<d", value)
