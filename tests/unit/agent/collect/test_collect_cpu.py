# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""CPU: usage between two runs, counters that step back, CPUs that come and go, files that are odd."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import cpu
from esnode.snapshot import Samples
from hypothesis import given
from hypothesis import strategies as st


def values(samples: Samples, name: str) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels.values()): v for s, v in samples.items() if s.family.name == name}


def test_usage_is_the_busy_share_between_two_runs(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = cpu.create(trees.settings(roots))
    assert values(collector.collect().samples, "esnode_cpu_usage_percent") == {}  # nothing to compare with
    (roots.proc / "stat").write_text(trees.XEON_STAT_LATER)
    reading = collector.collect()
    usage = values(reading.samples, "esnode_cpu_usage_percent")
    # CPU 0: 25 of 100 ticks; CPU 1: idle and waiting for I/O are no work; CPU 2: 50 of 50, its steps back are none.
    # The others had no tick at all: no share of nothing.
    assert usage == {("0",): 25.0, ("1",): 0.0, ("2",): 100.0}
    seconds = values(reading.samples, "esnode_cpu_seconds_total")
    assert seconds["2", "idle"] == 9968.89 and seconds["2", "iowait"] == 1.52  # held, not back
    assert seconds["0", "user"] == 100.65  # guest time is in it and not added again


def test_guest_time_is_counted_once(tmp_path: Path) -> None:
    roots = trees.lay(tmp_path, {"proc/stat": "cpu0 500 50 0 100 0 0 0 0 400 40\n", "proc/loadavg": "0 0 0 1/1 1"})
    samples = cpu.create(trees.settings(roots)).collect().samples
    assert sum(values(samples, "esnode_cpu_seconds_total").values()) == 6.5


def test_a_cpu_that_left_takes_its_series_and_starts_anew(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = cpu.create(trees.settings(roots))
    collector.collect()
    without = "".join(line + "\n" for line in trees.XEON_STAT.splitlines() if not line.startswith("cpu5"))
    (roots.proc / "stat").write_text(without)
    samples = collector.collect().samples
    for name in ("esnode_cpu_seconds_total", "esnode_cpu_frequency_hertz", "esnode_cpu_usage_percent"):
        assert "5" not in {labels[0] for labels in values(samples, name)}
    (roots.proc / "stat").write_text(trees.XEON_STAT.replace("cpu5 10050 115 2561 996892", "cpu5 1 1 1 10"))
    samples = collector.collect().samples
    assert values(samples, "esnode_cpu_seconds_total")["5", "idle"] == 0.1
    assert ("5",) not in values(samples, "esnode_cpu_usage_percent")
    assert ("5",) in values(samples, "esnode_cpu_frequency_hertz")


def test_a_long_step_back_is_a_new_start(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = cpu.create(trees.settings(roots))
    collector.collect()
    (roots.proc / "stat").write_text(trees.XEON_STAT.replace("cpu5 10050 115 2561 996892", "cpu5 1 1 1 10"))
    samples = collector.collect().samples
    assert values(samples, "esnode_cpu_seconds_total")["5", "user"] == 0.01
    assert ("5",) not in values(samples, "esnode_cpu_usage_percent")


def test_a_missing_stat_is_one_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    (roots.proc / "stat").unlink()
    reading = cpu.create(trees.settings(roots)).collect()
    assert reading.errors == [
        (
            f"cannot read CPU time from {roots.proc}/stat: No such file or directory; "
            "check that the kernel's file systems are mounted there"
        )
    ]
    assert values(reading.samples, "esnode_load1") == {(): 1.25}


def test_one_sensor_that_fails_costs_its_own_series(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    broken = roots.sys / "class/hwmon/hwmon5/temp2_input"
    broken.unlink()
    broken.mkdir()  # EISDIR stands for EIO, which a file can't be made to give
    reading = cpu.create(trees.settings(roots)).collect()
    assert [e for e in reading.errors if "temp2_input" in e] == reading.errors != []
    sensors = {labels[0] for labels in values(reading.samples, "esnode_cpu_temperature_celsius")}
    assert sensors == {
        "coretemp.0/Package id 0",
        "coretemp.0/Core 1",
        "coretemp.1/Package id 1",
        "coretemp.1/Core 0",
        "coretemp.1/Core 1",
    }


def test_the_clock_is_what_the_kernel_says(tmp_path: Path) -> None:
    reading = cpu.create(trees.settings(trees.xeon(tmp_path))).collect()
    answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    assert reading.samples[catalogue.CLOCK_SYNCHRONIZED.series()] == (answer != 5)


def test_an_unsynchronized_clock_is_zero_and_a_refusal_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = cpu.create(trees.settings(trees.xeon(tmp_path)))
    series = catalogue.CLOCK_SYNCHRONIZED.series()

    class Libc:
        answer = 5

        def adjtimex(self, _: object) -> int:
            if self.answer < 0:
                ctypes.set_errno(1)
            return self.answer

    monkeypatch.setattr(collector, "_libc", Libc())
    assert collector.collect().samples[series] == 0
    Libc.answer = 0
    assert collector.collect().samples[series] == 1
    Libc.answer = -1
    reading = collector.collect()
    assert series not in reading.samples
    assert reading.errors[0].startswith("cannot read the clock's state from adjtimex(2): Operation not permitted")


LINES = st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(trees.XEON_STAT.encode().splitlines())), max_size=12)


@given(lines=LINES, cut=st.integers(0, 400))
def test_any_stat_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cut: int) -> None:
    roots = trees.lay(tmp_path_factory.mktemp("odd"), {})
    (roots.proc / "stat").write_bytes(b"\n".join(lines)[:cut])
    (roots.proc / "loadavg").write_bytes(b"\n".join(lines)[:cut])
    reading = cpu.create(trees.settings(roots)).collect()
    assert all(isinstance(value, (int, float)) for value in reading.samples.values())


TICKS = st.lists(st.integers(0, 10**6), min_size=8, max_size=8)


@given(steps=st.lists(TICKS, min_size=2, max_size=10))
def test_counters_step_back_only_by_a_new_start_and_shares_stay_in_bounds(steps: list[list[int]]) -> None:
    times = cpu._Times("0")
    for ticks in steps:
        before = times.ticks
        usage = times.advance(list(ticks), 300)
        assert times.ticks is not None
        if before is not None and before[3] - ticks[3] <= 300:
            assert all(new >= old for new, old in zip(times.ticks, before, strict=True))
        else:
            assert usage is None
        assert usage is None or 0 <= usage <= 100
