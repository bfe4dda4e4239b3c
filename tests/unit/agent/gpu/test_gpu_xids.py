# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Lines of the kernel log and the merging of its errors with NVML's."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from esnode.collect._gpu_kernel_log import KernelLog, parse
from esnode.collect._gpu_pci import bus_key
from esnode.collect._gpu_xids import Gpu, Xids
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("NVRM: Xid (PCI:0000:53:00): 79, pid=1234, name=python3, GPU has fallen off the bus.", ("0000:53:00", 79)),
        ("NVRM: Xid (PCI:0000:D8:00): 74, pid='<unknown>', name=<unknown>, NVLink: fatal error", ("0000:d8:00", 74)),
        ("NVRM: Xid (PCI:0008:01:00): 145, RLW_SRC_TRACK Nonfatal XC1 i0 Link 12", ("0008:01:00", 145)),
        ("NVRM: Xid (PCI:0000:4f:00 GPU-I:05): 31, pid=1, name=a, Ch 1", ("0000:4f:00", 31)),
        ("NVRM: Xid (0000:03:00): 56, CMDre 00000000 00000080", ("0000:03:00", 56)),
        ("NVRM: Xid (0009:00): 53, CMDre 00000000", ("0000:09:00", 53)),
        ("NVRM: Xid (PCI:0000:01:00): 62", ("0000:01:00", 62)),
        ("NVRM: Xid (PCI:...): 145, RLW_RXPIPE", None),
        ("nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 20034, Fatal, Link 63", None),
        ("NVRM: GPU at 0000:01:00.0 has fallen off the bus.", None),
    ],
)
def test_lines(text: str, wanted: tuple[str, int] | None) -> None:
    found = parse(text)
    assert (found and found[:2]) == wanted


@given(st.text())
def test_no_line_is_a_failure(text: str) -> None:
    parse(text)
    parse(f"NVRM: Xid ({text}): 1")
    parse(f"NVRM: Xid (PCI:0000:01:00): {text}")


def test_addresses_in_all_their_forms_are_one() -> None:
    assert {bus_key(text) for text in ("00000000:53:00.0", "0000:53:00.0", "PCI:0000:53:00", "53:00")} == {"0000:53:00"}


@given(st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 31))
def test_nvml_and_the_kernel_write_one_address(domain: int, bus: int, device: int) -> None:
    assert bus_key(f"{domain:08X}:{bus:02X}:{device:02X}.0") == bus_key(f"PCI:{domain:04x}:{bus:02x}:{device:02x}")


def _xids() -> Xids:
    xids = Xids()
    xids.see([Gpu("GPU-a", 0, "0000:01:00"), Gpu("GPU-b", 1, "0000:02:00")])
    return xids


def _counts(xids: Xids) -> dict[tuple[str, int], float]:
    return {
        (s.labels["uuid"], int(s.labels["xid"])): v
        for s, v in xids.samples().items()
        if s.family.name == "esnode_gpu_xid_errors_total"
    }


errors = st.lists(st.tuples(st.sampled_from(["GPU-a", "GPU-b"]), st.sampled_from([13, 31, 79])), max_size=30)


@given(errors, st.data())
def test_however_the_streams_interleave_each_error_counts_once(
    happened: list[tuple[str, int]], data: st.DataObject
) -> None:
    xids = _xids()
    xids.begin("nvml")
    xids.begin("kernel")
    waiting = {"nvml": list(happened), "kernel": list(happened)}
    news: Counter[tuple[str, int]] = Counter()
    while left := [stream for stream, told in waiting.items() if told]:
        stream = data.draw(st.sampled_from(left))
        uuid, xid = waiting[stream].pop(0)
        news[uuid, xid] += xids.count(stream, uuid, xid, 1.0)
        assert _counts(xids) == news  # at no time more than was news, and never less than before
    assert _counts(xids) == Counter(happened)


@given(errors, errors, errors)
def test_a_stream_that_ends_or_begins_late_neither_hides_nor_doubles(
    both: list[tuple[str, int]], one: list[tuple[str, int]], again: list[tuple[str, int]]
) -> None:
    xids = _xids()
    xids.begin("nvml")
    xids.begin("kernel")
    for stream in ("nvml", "kernel"):
        for uuid, xid in both:
            xids.count(stream, uuid, xid, 1.0)
    xids.end("nvml")
    for uuid, xid in one:
        xids.count("kernel", uuid, xid, 2.0)
    xids.begin("nvml")
    for stream in ("kernel", "nvml"):
        for uuid, xid in again:
            xids.count(stream, uuid, xid, 3.0)
    assert _counts(xids) == Counter(both) + Counter(one) + Counter(again)


def test_a_log_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    log = KernelLog(tmp_path / "kmsg")
    assert not log.open()
    assert str(tmp_path / "kmsg") in (log.trouble or "")


def test_records_of_a_device_come_one_a_read(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    # lseek is refused on a pipe as on nothing that is a kernel log: it is left alone
    log = KernelLog(path)
    assert not log.open()
    assert log.trouble


def test_a_line_that_comes_in_two_parts(tmp_path: Path) -> None:
    path = tmp_path / "kmsg"
    path.write_text("4,1,1,-;NVRM: Xid (PCI:0000:01:00): 13, old\n")
    log = KernelLog(path)
    assert log.open()
    with path.open("a") as kernel:
        kernel.write("4,2,2,-;NVRM: Xid (PCI:00")
        kernel.flush()
        assert list(log.read()) == []
        kernel.write("00:01:00): 31, new\n")
    (line,) = log.read()
    assert (line.pci, line.xid, line.text) == ("0000:01:00", 31, "new")
    log.close()
