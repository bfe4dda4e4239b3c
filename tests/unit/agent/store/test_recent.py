# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read lately is given again without a look at the disk, within its bounds and never for something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from esnode import store
from esnode.store import Matcher, SeriesId
from esnode.store.recent import Recent
from samples import START_MS

LOAD, TEMPERATURE = SeriesId("load"), SeriesId("temperature", (("gpu", "0"),))


def test_the_oldest_goes_when_there_is_no_room() -> None:
    recent: Recent[str, bytes] = Recent(30, len)
    for name in "abc":
        recent.put(name, name.encode() * 10)
    assert recent.get("a") == b"a" * 10  # so b was used longest ago
    recent.put("d", b"d" * 10)
    assert [recent.get(name) for name in "abcd"] == [b"a" * 10, None, b"c" * 10, b"d" * 10]
    recent.put("a", b"other")
    assert recent.get("a") == b"a" * 10, "the same place is counted once"
    recent.put("e", b"e" * 31)
    assert [recent.get(name) for name in "acde"] == [None] * 4, "what is larger than all room"
    recent.put("f", b"f" * 30)
    assert recent.get("f")
    recent.clear()
    assert recent.get("f") is None


def test_what_is_remembered_can_not_be_written_into(tmp_path: Path) -> None:
    with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
        for row in range(50):
            one.append(START_MS + 1000 * row, {LOAD: row / 10})
        one.seal()
        (piece,) = one.export()
        with pytest.raises(ValueError, match="read-only"):
            piece.values[0] = 1.0


def test_a_neighbour_is_read_from_the_chunk_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [SeriesId("temperature", (("gpu", str(gpu)),)) for gpu in range(8)]
    with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
        for row in range(50):
            one.append(START_MS + 1000 * row, {gpu: row * number + 0.5 for number, gpu in enumerate(gpus)})
        one.seal()
        read: list[int] = []
        unwrap = one._catalog._envelope.unwrap
        monkeypatch.setattr(
            one._catalog._envelope, "unwrap", lambda kind, *rest: read.append(kind == b"chunk") or unwrap(kind, *rest)
        )
        for number in range(8):
            (found,) = one.select([Matcher("gpu", "=", str(number))])
            assert found.values.tolist() == [row * number + 0.5 for row in range(50)]
        assert sum(read) == 1
        # What one reader unpacks stays with it.
        (held,) = one._catalog._chunks._held.values()
        assert held._unpacked == {} == held._decoded


def test_a_second_selection_reads_no_chunk_and_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
        for row in range(50):
            sample = {LOAD: row / 10}
            if row % 3:
                sample[TEMPERATURE] = float(row)
            one.append(START_MS + 1000 * row, sample)
        one.seal()
        first = one.select([Matcher("gpu", "=", "0")])
        unread = one.select([Matcher("__name__", "=", "load")], START_MS + 10_000, START_MS + 20_000)
        monkeypatch.setattr(one._catalog, "_chunk", lambda *_arguments: pytest.fail("a chunk was read"))
        again = one.select([Matcher("gpu", "=", "0")])
        assert [(data.series, data.times.tolist(), data.values.tolist()) for data in again] == [
            (data.series, data.times.tolist(), data.values.tolist()) for data in first
        ]
        assert again[0].values.tolist() == [float(row) for row in range(50) if row % 3]
        # Another span of what was read before.
        (part,) = one.select([Matcher("__name__", "=", "load")], START_MS + 15_000, START_MS + 16_000)
        assert part.values.tolist() == [1.5, 1.6] == unread[0].values.tolist()[5:7]


def test_an_export_of_everything_pushes_nothing_out(tmp_path: Path) -> None:
    with store.open(tmp_path / "store", store.Options(retention_s=1e10)) as one:
        for row in range(50):
            one.append(START_MS + 1000 * row, {LOAD: row / 10, TEMPERATURE: float(row)})
        one.seal()
        every = [piece.values.tolist() for piece in one.export()]
        assert not one._catalog._columns._held and not one._catalog._chunks._held
        one.select([Matcher("__name__", "=", "load")])
        assert len(one._catalog._columns._held) == len(one._catalog._chunks._held) == 1
        assert [piece.values.tolist() for piece in one.export()] == every
        assert len(one._catalog._columns._held) == len(one._catalog._chunks._held) == 1
