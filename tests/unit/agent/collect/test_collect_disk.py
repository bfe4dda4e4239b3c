# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Disk: which file systems are real, which devices are whole, and what one that hangs costs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import trees
from esnode import catalogue
from esnode.collect import _mounts, disk
from hypothesis import given
from hypothesis import strategies as st


def here(path: Path) -> str:
    device = os.stat(path).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def test_real_file_systems_each_once() -> None:
    found = {m.mountpoint: m for m in _mounts.real(_mounts.parse(trees.MOUNTINFO.encode()))}
    assert set(found) == {"/", "/data/my disk", "/home", "/pool", "/backup", "/mnt/lustre", "/mnt/s3"}
    assert {m.mountpoint for m in found.values() if m.may_hang} == {"/home", "/mnt/lustre", "/mnt/s3"}
    assert found["/home"].device == "filer:/export/home"
    assert found["/backup"].readonly  # of the superblock: mounted rw, then ro for its errors
    assert not found["/"].readonly  # "errors=remount-ro" is no "ro"


def test_of_two_whole_mounts_the_shorter_mount_point_names_the_file_system() -> None:
    lines = b"30 1 8:1 / /aaa/a rw - ext4 /dev/a rw\n31 1 8:1 / /zz rw - ext4 /dev/a rw\n"
    assert [m.mountpoint for m in _mounts.real(_mounts.parse(lines))] == ["/zz"]


def test_the_later_of_two_on_one_mount_point_is_seen() -> None:
    lines = b"30 1 8:1 / /mnt rw - ext4 /dev/a rw\n31 30 8:2 / /mnt rw - ext4 /dev/b rw\n"
    assert [m.device for m in _mounts.real(_mounts.parse(lines))] == ["/dev/b"]


def test_mounts_of_a_container_lose_the_prefix_of_the_host() -> None:
    lines = (
        b"1 0 0:9 / / rw - overlay overlay rw\n2 1 8:1 / /host/root rw - ext4 /dev/a rw\n"
        b"3 2 8:2 / /host/root/data rw - xfs /dev/b rw\n4 1 8:3 / /host/rootless rw - xfs /dev/c rw\n"
    )
    assert [m.mountpoint for m in _mounts.real(_mounts.parse(lines, strip="/host/root"))] == ["/", "/data"]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (rb"/a\040b", "/a b"),
        (rb"/t\011\012\134x", "/t\t\n\\x"),
        (rb"\303\244", "ä"),
        (rb"/end\04", r"/end\04"),
        (rb"/x\\040", r"/x\ "),
        (rb"/9\999", r"/9\999"),
        (rb"/big\777", r"/big\777"),
    ],
)
def test_octal_escapes(field: bytes, text: str) -> None:
    assert _mounts.unescape(field) == text


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=30))
def test_what_the_kernel_escapes_comes_back(name: str) -> None:
    # The kernel escapes blank, tab, newline and backslash (and "#" in some versions).
    escaped = b"".join(b"\\%03o" % c if c in b" \t\n\\#" else bytes([c]) for c in name.encode())
    assert _mounts.unescape(escaped) == name


@given(st.one_of(st.binary(max_size=400), st.integers(0, 2000).map(lambda n: trees.MOUNTINFO.encode()[:n])))
def test_any_mount_table_is_taken(content: bytes) -> None:
    _mounts.real(_mounts.parse(content))


@pytest.fixture
def mounted(tmp_path: Path) -> tuple[Path, disk.Disk]:
    """A machine whose root is a directory of this one's, with a server's file system in it."""
    roots = trees.xeon(tmp_path)
    (roots.root / "srv/far").mkdir(parents=True)
    (roots.proc / "1/mountinfo").write_text(
        f"1 0 {here(roots.root)} / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:77 / /srv/far ro - nfs4 filer:/far ro\n"
        "3 1 8:99 / /gone rw - xfs /dev/gone rw\n"
        "4 1 8:98 / /srv rw - xfs /dev/hidden rw\n"
    )
    return roots.proc, disk.create(trees.settings(roots))


def test_sizes_are_those_of_statvfs(mounted: tuple[Path, disk.Disk], tmp_path: Path) -> None:
    _, collector = mounted
    reading = collector.collect()
    assert reading.errors == []
    want = os.statvfs(tmp_path)
    for labels in (("/", "/dev/sda1", "ext4"), ("/srv/far", "filer:/far", "nfs4")):
        got = {f.name: reading.samples[f.series(*labels)] for f in disk._FILESYSTEM_FAMILIES}
        assert got["esnode_filesystem_size_bytes"] == want.f_blocks * want.f_frsize
        for name, blocks in (("used", want.f_blocks - want.f_bfree), ("available", want.f_bavail)):
            assert got[f"esnode_filesystem_{name}_bytes"] == pytest.approx(blocks * want.f_frsize, rel=0.05)
        assert got["esnode_filesystem_readonly"] == (labels[0] != "/")
    # What the agent can't see is no file system of another's numbers.
    assert set(reading.detail["not_read"]) == {"/gone", "/srv"}
    collector.close()


def test_one_that_hangs_costs_its_own_series_and_no_second_wait(
    mounted: tuple[Path, disk.Disk], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, collector = mounted
    collector._part_deadline_s = 0.3
    answer = threading.Event()
    real_statvfs = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        if path.endswith("/srv/far"):
            answer.wait(30)
        return real_statvfs(path)

    far, near = ("/srv/far", "filer:/far", "nfs4"), ("/", "/dev/sda1", "ext4")
    monkeypatch.setattr(os, "statvfs", statvfs)
    threads = threading.active_count()
    for _ in range(3):
        reading = collector.collect()
        assert reading.errors == [
            "file system /srv/far (nfs4 from filer:/far) does not answer; check its server or unmount it (umount -l)"
        ]
        assert catalogue.FILESYSTEM_SIZE.series(*near) in reading.samples
        assert not [s for s in reading.samples if s.labels.get("mountpoint") == "/srv/far"]
        assert catalogue.DISK_READS.series("sda") in reading.samples
    assert threading.active_count() <= threads + 1  # one thread for the mount, however often it is asked
    answer.set()
    collector._part_deadline_s = 5
    deadline = time.monotonic() + 10
    while catalogue.FILESYSTEM_SIZE.series(*far) not in collector.collect().samples:
        assert time.monotonic() < deadline
    assert collector.collect().errors == []
    collector.close()


def test_a_mount_that_is_gone_takes_its_series_and_its_thread(mounted: tuple[Path, disk.Disk]) -> None:
    proc, collector = mounted
    collector.collect()
    name = "statvfs /srv/far"
    assert name in {thread.name for thread in threading.enumerate()}
    (proc / "1/mountinfo").write_text("")
    reading = collector.collect()
    assert not [s for s in reading.samples if "mountpoint" in s.labels]
    deadline = time.monotonic() + 10
    while name in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < deadline
    collector.close()


def test_devices_come_and_go(tmp_path: Path) -> None:
    roots = trees.xeon(tmp_path)
    collector = disk.create(trees.settings(roots))
    collector.collect()
    (roots.proc / "diskstats").write_text(trees.DISKSTATS.replace(" sda ", " sdz "))
    (roots.sys / "block/sdz").mkdir()
    devices = {s.labels["device"] for s in collector.collect().samples if s.family is catalogue.DISK_READS}
    assert devices == {"sdz", "nvme0n1", "dm-0", "md127", "cciss/c0d0"}


@given(st.one_of(st.binary(max_size=300), st.integers(0, 900).map(lambda n: trees.DISKSTATS.encode()[:n])))
def test_any_diskstats_is_read_or_reported(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    roots = trees.lay(tmp_path_factory.mktemp("odd"), {"proc/1/mountinfo": "", "sys/block/sda/size": "1"})
    (roots.proc / "diskstats").write_bytes(content)
    reading = disk.create(trees.settings(roots)).collect()
    assert all(isinstance(value, (int, float)) for value in reading.samples.values())
