# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Power: counters that wrap, a BMC that is slow or dumb, energy without what was not known."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import NotPresent, Roots, _dcmi, power
from esnode.collect._rapl import Zone, find
from hypothesis import given
from hypothesis import strategies as st

PACKAGE_ENERGY, PACKAGE_POWER = catalogue.CPU_PACKAGE_ENERGY.series("0"), catalogue.CPU_PACKAGE_POWER.series("0")
DCMI_POWER, DCMI_ENERGY = catalogue.NODE_POWER.series("ipmi_dcmi"), catalogue.NODE_ENERGY.series("ipmi_dcmi")
RANGE_UJ = 65_532_610_987


@pytest.fixture
def zone(tmp_path: Path) -> Zone:
    (tmp_path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    return Zone(tmp_path, PACKAGE_ENERGY, PACKAGE_POWER)


def test_a_machine_without_any_source_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotPresent, match="no RAPL"):
        power.create(trees.settings(trees.lay(tmp_path, {}))).collect()


def test_power_is_energy_over_time(zone: Zone) -> None:
    assert zone.advance(1_000_000, 10.0) is None
    assert zone.advance(501_000_000, 12.0) == 250.0
    assert zone.total_uj == 501_000_000


def test_a_wrap_is_unfolded(zone: Zone) -> None:
    zone.advance(RANGE_UJ - 1_000_000, 0.0)
    assert zone.advance(2_000_000, 1.0) == 3.0
    assert zone.total_uj == RANGE_UJ + 2_000_000


@given(passed=st.lists(st.integers(0, RANGE_UJ - 1), max_size=20), start=st.integers(0, RANGE_UJ - 1))
def test_the_unfolded_counter_is_the_sum_of_all_steps(passed: list[int], start: int) -> None:
    zone = Zone(Path("/nonexistent"), PACKAGE_ENERGY, PACKAGE_POWER)
    zone.range_uj = RANGE_UJ
    true = start
    zone.advance(start, 0.0)
    for second, step in enumerate(passed, start=1):
        true += step
        zone.advance(true % RANGE_UJ, float(second))
        assert zone.total_uj == true


def test_after_too_long_nothing_is_claimed(zone: Zone) -> None:
    zone.advance(5, 0.0)
    assert zone.advance(10, zone.safe_s + 1) is None
    assert zone.total_uj == 5
    assert zone.advance(1_000_010, zone.safe_s + 2) == 1.0  # and it goes on from there
    assert zone.total_uj == 1_000_005


def test_only_packages_and_their_dram_are_counted(tmp_path: Path) -> None:
    powercap = trees.xeon(tmp_path).sys / "class/powercap"
    zones = ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0"]
    assert sorted(path.name for path in find(powercap)) == zones


def test_a_reset_without_a_known_range_is_not_guessed(tmp_path: Path) -> None:
    zone = Zone(tmp_path, PACKAGE_ENERGY, PACKAGE_POWER)
    zone.advance(100, 0.0)
    assert zone.advance(7, 1.0) is None
    assert zone.total_uj == 100


def test_collected_twice(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = power.create(trees.settings(roots))
    first = collector.collect()
    assert PACKAGE_POWER not in first.samples and first.samples[PACKAGE_ENERGY] == 123456.789012
    (roots.sys / "class/powercap/intel-rapl:0/energy_uj").write_text(f"{123456789012 + 7_000_000}\n")
    second = collector.collect()
    assert second.samples[PACKAGE_ENERGY] == 123463.789012
    assert second.samples[PACKAGE_POWER] > 0
    assert second.samples[catalogue.CPU_PACKAGE_POWER.series("1")] == 0.0
    collector.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_only_root_may_read_is_a_note_and_no_error(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    roots.dev.mkdir(exist_ok=True)
    (roots.dev / "ipmi0").touch(0o600)
    for path in (roots.sys / "class/powercap").glob("*/energy_uj"):
        path.chmod(0o400)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent != Path("/") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    collector = power.create(trees.settings(roots))
    os.seteuid(65534)
    try:
        reading = collector.collect()
    finally:
        os.seteuid(0)
    assert reading.errors == []
    refused, counters = reading.detail["not_read"]
    assert "no right to open" in refused and "ipmi0" in refused
    assert "intel-rapl:0/energy_uj and 3 more like it: Permission denied" in counters
    assert "give the agent's group the right" in counters
    assert not [s for s in reading.samples if "cpu" in s.family.name]
    collector.close()


@pytest.fixture
def bmc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """A machine with a BMC and nothing else; `ipmitool` is a script in tmp_path/bin."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(_dcmi, "_PATH", "")
    return trees.lay(tmp_path / "tree", {"dev/ipmi0": ""})


def ipmitool(tmp_path: Path, body: str) -> None:
    tool = tmp_path / "bin/ipmitool"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)


ANSWER = """\
cat <<'END'

    Instantaneous power reading:                   1432 Watts
    Minimum during sampling period:                 66 Watts
    Average power reading over sample period:      148 Watts
    IPMI timestamp:                           Sat Oct 23 08:25:52 2021
    Sampling period:                          01987338 Seconds.
    Power reading state is:                   activated

END"""


def test_the_bmc_is_asked_for_exactly_this_and_rarely(bmc: Roots, tmp_path: Path) -> None:
    ipmitool(tmp_path, f'echo "$@" >>{tmp_path}/asked\n{ANSWER}')
    collector = power.create(trees.settings(bmc, envelope_w=1432))
    for _ in range(3):
        reading = collector.collect()
        assert reading.errors == []
        assert reading.samples[DCMI_POWER] == 1432
        assert reading.samples[catalogue.NODE_POWER_ENVELOPE_EXCEEDED.series()] == 0  # at it is not above it
    assert (tmp_path / "asked").read_text() == "dcmi power reading\n"
    collector.close()


def test_a_slow_bmc_delays_and_costs_nothing_else(bmc: Roots, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    ipmitool(tmp_path, f"read _ <{tmp_path}/gate\n{ANSWER}")
    collector = power.create(trees.settings(bmc, envelope_w=1000))
    collector._part_deadline_s = 0.2
    reading = collector.collect()
    assert DCMI_POWER not in reading.samples and DCMI_ENERGY not in reading.samples
    assert catalogue.NODE_POWER_ENVELOPE_EXCEEDED.series() not in reading.samples  # unknown is not kept
    assert reading.samples[catalogue.NODE_POWER_ENVELOPE.series()] == 1000
    (tmp_path / "gate").write_text("go\n")
    deadline = time.monotonic() + 10
    while DCMI_POWER not in (reading := collector.collect()).samples:
        assert time.monotonic() < deadline
    assert reading.samples[catalogue.NODE_POWER_ENVELOPE_EXCEEDED.series()] == 1
    collector.close()


def test_one_that_never_ends_is_ended(bmc: Roots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ipmitool(tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 600")
    monkeypatch.setattr(_dcmi, "TIMEOUT_S", 1.5)
    collector = power.create(trees.settings(bmc))
    deadline = time.monotonic() + 20
    while not (reading := collector.collect()).errors:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "did not end in" in reading.errors[0]
    assert DCMI_POWER not in reading.samples
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    collector.close()


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("echo 'Could not open device at /dev/ipmi0' >&2; exit 1", "Could not open device at /dev/ipmi0"),
        ("exit 3", "exit status 3"),
        ("echo 'Instantaneous power reading: lots Watts'", "lots Watts"),
    ],
)
def test_a_refusal_is_told(bmc: Roots, tmp_path: Path, body: str, error: str) -> None:
    ipmitool(tmp_path, body)
    reading = power.create(trees.settings(bmc)).collect()
    assert len(reading.errors) == 1 and error in reading.errors[0]


@pytest.mark.parametrize(
    "body",
    [
        "echo 'DCMI request failed because: Invalid command (c1)' >&2; exit 1",
        ANSWER.replace(" activated", " deactivated"),
    ],
)
def test_a_bmc_that_cannot_is_no_error(bmc: Roots, tmp_path: Path, body: str) -> None:
    ipmitool(tmp_path, body)
    reading = power.create(trees.settings(bmc)).collect()
    assert reading.errors == [] and reading.samples == {} and "dcmi" in reading.detail


def test_a_missing_ipmitool_is_named(bmc: Roots) -> None:
    reading = power.create(trees.settings(bmc)).collect()
    assert "install the package ipmitool" in reading.errors[0]


def test_energy_is_the_trapezoid_and_nothing_across_a_gap() -> None:
    meter = power.Meter("test", lambda: None, 1.0, 1.0)
    meter.integrate((0.0, 100.0))
    assert meter.integrate((10.0, 200.0)) == 1500.0
    assert meter.integrate((10.0, 200.0)) == 1500.0  # the same reading again adds nothing
    assert meter.integrate(None) == 1500.0
    assert meter.integrate((1000.0, 200.0)) == 1500.0  # nobody knows what it drew in between
    assert meter.integrate((1000.5, 100.0)) == 1575.0
    meter.close()


@given(st.lists(st.tuples(st.floats(0.05, 60), st.floats(0, 12000)), min_size=2, max_size=50))
def test_constant_steps_lose_nothing_to_rounding(steps: list[tuple[float, float]]) -> None:
    meter = power.Meter("test", lambda: None, 1.0, 1.0)
    now, want, before = 0.0, 0.0, None
    for seconds, watts in steps:
        want += 0 if before is None else (before + watts) / 2 * seconds
        now, before = now + seconds, watts
        got = meter.integrate((now, watts))
    assert got == pytest.approx(want, rel=1e-9, abs=1e-6)
    meter.close()


def test_a_part_of_the_node_is_not_the_node(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    meter = tmp_path / trees.POWER_METER
    (meter / "power1_oem_info").write_text("CPU Power Socket 0\n")
    reading = power.create(trees.settings(roots)).collect()
    assert not [s for s in reading.samples if s.family is catalogue.NODE_POWER]


def test_an_envelope_that_nothing_measures_is_an_error(tmp_path: Path) -> None:
    reading = power.create(trees.settings(trees.lay(tmp_path, {}), envelope_w=500)).collect()
    assert "nothing here measures the node's power" in reading.errors[0]


def test_no_thread_stays_behind(bmc: Roots, tmp_path: Path) -> None:
    ipmitool(tmp_path, ANSWER)
    before = set(threading.enumerate())
    collector = power.create(trees.settings(bmc))
    collector.collect()
    assert set(threading.enumerate()) - before
    (bmc.dev / "ipmi0").unlink()
    collector._discover_due = 0.0
    with pytest.raises(NotPresent):
        collector.collect()
    deadline = time.monotonic() + 10
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline


@given(st.text(max_size=200))
def test_any_output_is_a_number_or_none(output: str) -> None:
    _dcmi.parse(output)
