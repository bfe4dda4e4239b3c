# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Every host series of a known machine, compared with a page that was checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import Collector, Roots, cpu, disk, memory, network, power

GOLDEN = Path(__file__).parent / "golden"
# The state of the clock is the running kernel's own: the tree has no say in it.
LIVE = {catalogue.CLOCK_SYNCHRONIZED}


def page(collectors: list[Collector]) -> tuple[str, list[str]]:
    lines: list[str] = []
    errors: list[str] = []
    for collector in collectors:
        reading = collector.collect()
        errors += reading.errors
        lines += [f"{s.prefix}{v!r}" for s, v in reading.samples.items() if s.family not in LIVE]
        collector.close()
    return "\n".join(sorted(lines)) + "\n", errors


@pytest.mark.parametrize("machine", [trees.xeon, trees.epyc])
def test_page_of_a_machine(machine: Callable[[Path], Roots], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binaries = tmp_path / "bin"
    binaries.mkdir()
    tool = binaries / "ipmitool"
    tool.write_text("#!/bin/sh\necho '    Instantaneous power reading:                   220 Watts'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin")
    settings = trees.settings(machine(tmp_path / "tree"), envelope_w=800)
    got, errors = page([module.create(settings) for module in (cpu, memory, disk, network, power)])
    assert errors == []
    assert got == (GOLDEN / f"{machine.__name__}.txt").read_text()


def test_the_goldens_leave_no_family_out() -> None:
    """Each host family stands in a golden page or in the test named here."""
    elsewhere = {
        "esnode_cpu_usage_percent",  # between two collections: test_collect_cpu
        "esnode_cpu_package_power_watts",  # between two collections: test_collect_power
        "esnode_clock_synchronized",  # test_collect_cpu
    }
    pages = "".join(path.read_text() for path in GOLDEN.iterdir())
    subjects = "cpu_ load context interrupts procs pressure boot clock memory swap major oom edac numa disk network tcp"
    subjects += " infiniband node_"  # the values of file systems are the running kernel's: test_collect_disk
    prefixes = tuple(f"esnode_{subject}" for subject in subjects.split())
    families = {name for name in catalogue.FAMILIES if name.startswith(prefixes)}
    assert len(families) > 50
    missing = {name for name in families if f"\n{name}" not in f"\n{pages}"}
    assert missing == elsewhere
