# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Network: interfaces that come and go, links without a speed, an adapter that hangs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import network
from hypothesis import given
from hypothesis import strategies as st


def test_an_interface_that_left_takes_its_series(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = network.create(trees.settings(roots))
    assert catalogue.NETWORK_SPEED.series("eno1") in collector.collect().samples
    rest = "".join(line + "\n" for line in trees.NET_DEV.splitlines() if "eno1" not in line)
    (roots.proc / "1/net/dev").write_text(rest)
    samples = collector.collect().samples
    assert {s.labels.get("interface") for s in samples if "interface" in s.labels} == {"lo", "ib0"}
    collector.close()


def test_a_closed_network_of_process_1_falls_back_to_our_own(tmp_path: Path) -> None:
    roots = trees.epyc(tmp_path)
    assert catalogue.TCP_RETRANSMITTED.series() in network.create(trees.settings(roots)).collect().samples


def test_an_adapter_that_hangs_costs_its_own_series(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    # Opening a FIFO for reading waits for a writer: a read of sysfs that does not come back.
    state = roots.sys / "class/infiniband/mlx5_0/ports/1/state"
    state.unlink()
    os.mkfifo(state)
    collector = network.create(trees.settings(roots))
    collector._part_deadline_s = 0.3
    for _ in range(2):
        reading = collector.collect()
        assert len(reading.errors) == 1 and "InfiniBand" in reading.errors[0]
        assert not [s for s in reading.samples if "infiniband" in s.family.name]
        assert catalogue.NETWORK_RECEIVE_BYTES.series("eno1") in reading.samples
    os.close(os.open(state, os.O_WRONLY))
    state.unlink()
    state.write_text("4: ACTIVE\n")
    deadline = time.monotonic() + 10
    while catalogue.INFINIBAND_LINK_STATE.series("mlx5_0", "1") not in collector.collect().samples:
        assert time.monotonic() < deadline
    collector.close()


def test_a_torn_snmp_is_an_error_that_says_so(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    (roots.proc / "1/net/snmp").write_text(trees.NET_SNMP.split("Tcp: 1")[0])
    reading = network.create(trees.settings(roots)).collect()
    assert len(reading.errors) == 1 and "lines of Tcp" in reading.errors[0]
    assert catalogue.TCP_RETRANSMITTED.series() not in reading.samples


@given(st.one_of(st.binary(max_size=400), st.integers(0, 900).map(lambda n: trees.NET_DEV.encode()[:n])))
def test_any_file_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    roots = trees.lay(tmp_path_factory.mktemp("odd"), {"proc/1/net/dev": "", "proc/1/net/snmp": ""})
    (roots.proc / "1/net/dev").write_bytes(content)
    (roots.proc / "1/net/snmp").write_bytes(content)
    collector = network.create(trees.settings(roots))
    reading = collector.collect()
    collector.close()
    assert all(isinstance(value, int) for value in reading.samples.values())
