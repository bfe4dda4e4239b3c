# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Memory: what a kernel does not tell is absent."""

from __future__ import annotations

from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import memory
from hypothesis import given
from hypothesis import strategies as st


def test_a_kernel_without_available_memory_has_no_used_memory(tmp_path: Path) -> None:
    samples = memory.create(trees.settings(trees.epyc(tmp_path))).collect().samples
    assert catalogue.MEMORY_TOTAL.series() in samples
    assert catalogue.MEMORY_USED.series() not in samples
    assert catalogue.SWAP_USED.series() not in samples
    assert catalogue.OOM_KILLS.series() not in samples


def test_a_node_that_left_takes_its_series(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = memory.create(trees.settings(roots))
    assert catalogue.NUMA_TOTAL.series("1") in collector.collect().samples
    (roots.sys / "devices/system/node/node1/meminfo").unlink()
    reading = collector.collect()
    assert reading.errors == []
    assert catalogue.NUMA_TOTAL.series("1") not in reading.samples
    assert catalogue.NUMA_TOTAL.series("0") in reading.samples


def test_a_missing_meminfo_costs_its_own_series(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    (roots.proc / "meminfo").unlink()
    reading = memory.create(trees.settings(roots)).collect()
    assert len(reading.errors) == 1 and str(roots.proc / "meminfo") in reading.errors[0]
    assert catalogue.MEMORY_TOTAL.series() not in reading.samples
    assert catalogue.EDAC_CORRECTABLE.series("0") in reading.samples


@given(content=st.one_of(st.binary(max_size=300), st.integers(0, 300).map(lambda n: trees.MEMINFO.encode()[:n])))
def test_any_meminfo_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    roots = trees.lay(tmp_path_factory.mktemp("odd"), {"sys/devices/system/node/node0/cpulist": "0"})
    for place in (roots.proc / "meminfo", roots.proc / "vmstat", roots.sys / "devices/system/node/node0/meminfo"):
        place.write_bytes(content)
    reading = memory.create(trees.settings(roots)).collect()
    assert all(isinstance(value, int) for value in reading.samples.values())
