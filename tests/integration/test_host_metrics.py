# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The host collectors on this machine, against psutil and node_exporter, and with a file system that really hangs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped,unused-ignore]
import pytest
from esnode.collect import Collector, Roots, Settings, cpu, disk, memory, network
from esnode.config import Config
from esnode.snapshot import Samples
from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]
NODE_EXPORTER = "prometheus-node-exporter"


# File systems that other tests mount meanwhile come and go, and hang.
OTHERS = "/pytest-of-"


def collectors() -> list[Collector]:
    settings = Settings(Config())
    return [module.create(settings) for module in (cpu, memory, disk, network)]


def read(all_of: list[Collector]) -> Samples:
    samples: Samples = {}
    for collector in all_of:
        reading = collector.collect()
        assert [error for error in reading.errors if OTHERS not in error] == []
        samples.update((s, v) for s, v in reading.samples.items() if OTHERS not in s.labels.get("mountpoint", ""))
    return samples


def by_key(samples: Samples) -> dict[Key, float]:
    return {(s.family.name, tuple(sorted(s.labels.items()))): v for s, v in samples.items()}


# Our family and node_exporter's. Its "device" of a network is our "interface", its speed is in bytes.
SAME = {
    "esnode_cpu_seconds_total": "node_cpu_seconds_total",
    "esnode_load1": "node_load1",
    "esnode_load5": "node_load5",
    "esnode_load15": "node_load15",
    "esnode_context_switches_total": "node_context_switches_total",
    "esnode_interrupts_total": "node_intr_total",
    "esnode_boot_time_seconds": "node_boot_time_seconds",
    "esnode_clock_synchronized": "node_timex_sync_status",
    "esnode_memory_total_bytes": "node_memory_MemTotal_bytes",
    "esnode_memory_available_bytes": "node_memory_MemAvailable_bytes",
    "esnode_memory_free_bytes": "node_memory_MemFree_bytes",
    "esnode_memory_buffers_bytes": "node_memory_Buffers_bytes",
    "esnode_memory_cached_bytes": "node_memory_Cached_bytes",
    "esnode_swap_total_bytes": "node_memory_SwapTotal_bytes",
    "esnode_major_page_faults_total": "node_vmstat_pgmajfault",
    "esnode_oom_kills_total": "node_vmstat_oom_kill",
    "esnode_filesystem_size_bytes": "node_filesystem_size_bytes",
    "esnode_filesystem_available_bytes": "node_filesystem_avail_bytes",
    "esnode_filesystem_files_free": "node_filesystem_files_free",
    "esnode_filesystem_readonly": "node_filesystem_readonly",
    "esnode_disk_read_bytes_total": "node_disk_read_bytes_total",
    "esnode_disk_written_bytes_total": "node_disk_written_bytes_total",
    "esnode_disk_reads_completed_total": "node_disk_reads_completed_total",
    "esnode_disk_writes_completed_total": "node_disk_writes_completed_total",
    "esnode_disk_read_seconds_total": "node_disk_read_time_seconds_total",
    "esnode_disk_write_seconds_total": "node_disk_write_time_seconds_total",
    "esnode_disk_io_seconds_total": "node_disk_io_time_seconds_total",
    "esnode_network_receive_bytes_total": "node_network_receive_bytes_total",
    "esnode_network_transmit_bytes_total": "node_network_transmit_bytes_total",
    "esnode_network_receive_packets_total": "node_network_receive_packets_total",
    "esnode_network_transmit_packets_total": "node_network_transmit_packets_total",
    "esnode_network_receive_errors_total": "node_network_receive_errs_total",
    "esnode_network_transmit_errors_total": "node_network_transmit_errs_total",
    "esnode_network_receive_drops_total": "node_network_receive_drop_total",
    "esnode_network_transmit_drops_total": "node_network_transmit_drop_total",
    "esnode_network_speed_bits_per_second": "node_network_speed_bytes",
    "esnode_tcp_retransmitted_segments_total": "node_netstat_Tcp_RetransSegs",
    "esnode_pressure_waiting_seconds_total": "node_pressure_{resource}_waiting_seconds_total",
    "esnode_pressure_stalled_seconds_total": "node_pressure_{resource}_stalled_seconds_total",
}
# These breathe between two looks; what is asked of them is to be near.
GAUGES = ("load", "memory_available", "memory_free", "memory_cached", "memory_buffers", "filesystem_a", "filesystem_f")


@pytest.fixture(scope="module")
def node_exporter() -> Iterator[str]:
    """URL of node_exporter's page."""
    command = shutil.which(NODE_EXPORTER)
    if command is None and os.geteuid() == 0 and shutil.which("apt-get"):
        for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", NODE_EXPORTER]):
            subprocess.run(["apt-get", *step], check=False, capture_output=True, timeout=300)
        command = shutil.which(NODE_EXPORTER)
    if command is None:
        pytest.skip(f"NOT COMPARED with node_exporter: install Debian's {NODE_EXPORTER}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    arguments.append("--collector.netdev.device-exclude=^$")  # as upstream: Debian's leaves lo out
    url = f"http://127.0.0.1:{port}/metrics"
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    fetch(url)
                    break
                except OSError:
                    assert time.monotonic() < deadline and process.poll() is None
                    time.sleep(0.05)
            yield url
        finally:
            process.terminate()


def fetch(url: str) -> dict[Key, float]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        page = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def theirs(name: str, labels: dict[str, str]) -> Key:
    """What node_exporter calls a series of ours."""
    labels = {("device" if key == "interface" else key): value for key, value in labels.items()}
    peer = SAME[name]
    if "{resource}" in peer:
        peer = peer.format(resource=labels.pop("resource"))
    return peer, tuple(sorted(labels.items()))


def test_every_value_lies_between_two_of_node_exporter(node_exporter: str) -> None:
    all_of = collectors()
    read(all_of)
    before = fetch(node_exporter)
    ours = by_key(read(all_of))
    after = fetch(node_exporter)
    compared: set[str] = set()
    wrong: list[str] = []
    for (name, labels), value in ours.items():
        if name not in SAME:
            continue
        key = theirs(name, dict(labels))
        if key not in before:
            wrong.append(f"{name}{dict(labels)} is not on node_exporter's page as {key}")
            continue
        low, high = sorted((before[key], after[key]))
        factor = 8 if name == "esnode_network_speed_bits_per_second" else 1
        low, high = low * factor, high * factor
        slack = 1e-9 * high
        if any(part in name for part in GAUGES):
            slack = max(0.05 * high, 0.5)
        if name == "esnode_cpu_seconds_total":
            slack = 0.011  # one tick of the kernel: the page rounds a moment earlier
        compared.add(name)
        if not low - slack <= value <= high + slack:
            wrong.append(f"{name}{dict(labels)} is {value}, node_exporter says {low} to {high}")
    assert wrong == []
    assert {name for name, _ in ours} & SAME.keys() == compared
    assert len(compared) > 30
    for collector in all_of:
        collector.close()


def test_no_device_of_node_exporter_is_missing(node_exporter: str) -> None:
    all_of = collectors()
    ours, peer = by_key(read(all_of)), fetch(node_exporter)
    for name in ("esnode_cpu_seconds_total", "esnode_network_receive_bytes_total", "esnode_disk_read_bytes_total"):
        have = {theirs(family, dict(labels)) for family, labels in ours if family == name}
        # It tells compressed RAM as a disk; we don't.
        assert have == {key for key in peer if key[0] == SAME[name] and "zram" not in str(key)}
    for collector in all_of:
        collector.close()


def test_psutil_sees_the_same() -> None:
    all_of = collectors()
    read(all_of)
    cpu_before, net_before = psutil.cpu_times(percpu=True), psutil.net_io_counters(pernic=True)
    ours = by_key(read(all_of))
    cpu_after, net_after = psutil.cpu_times(percpu=True), psutil.net_io_counters(pernic=True)
    for number, (low, high) in enumerate(zip(cpu_before, cpu_after, strict=True)):
        for mode in ("user", "nice", "system", "iowait", "irq", "softirq", "steal", "idle"):
            value = ours["esnode_cpu_seconds_total", (("cpu", str(number)), ("mode", mode))]
            assert getattr(low, mode) - 0.011 <= value <= getattr(high, mode) + 0.011
    for name, net_low in net_before.items():
        for family, field in (
            ("receive_bytes", "bytes_recv"),
            ("transmit_bytes", "bytes_sent"),
            ("receive_drops", "dropin"),
        ):
            value = ours[f"esnode_network_{family}_total", (("interface", name),)]
            assert getattr(net_low, field) <= value <= getattr(net_after[name], field)
    memory_now = psutil.virtual_memory()
    assert ours["esnode_memory_total_bytes", ()] == memory_now.total
    assert ours["esnode_memory_used_bytes", ()] == pytest.approx(memory_now.total - memory_now.available, rel=0.2)
    assert ours["esnode_boot_time_seconds", ()] == psutil.boot_time()
    for (name, labels), value in ours.items():
        if name == "esnode_filesystem_used_bytes":
            assert value == pytest.approx(psutil.disk_usage(dict(labels)["mountpoint"]).used, rel=0.05)
    for collector in all_of:
        collector.close()


def test_usage_is_what_a_busy_cpu_has() -> None:
    collector = cpu.create(Settings(Config()))
    number = min(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    collector.collect()
    os.sched_setaffinity(0, {number})
    try:
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
    finally:
        os.sched_setaffinity(0, before)
    usage = {s.labels["cpu"]: v for s, v in collector.collect().samples.items() if "usage" in s.family.name}
    assert 50 < usage[str(number)] <= 100
    collector.close()


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A mounted FUSE file system and the process that answers for it."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("NOT TESTED with a file system that really hangs: needs root and /dev/fuse")
    place = tmp_path / "far away"
    place.mkdir()
    server = Path(__file__).with_name("hung_fuse.py")
    with subprocess.Popen([sys.executable, str(server), str(place)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "mounted\n"
            yield place, process
        finally:
            process.kill()  # the kernel answers all that hang with an error, then
            process.wait()
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
    assert str(place).replace(" ", r"\040") not in Path("/proc/self/mountinfo").read_text()


def test_a_file_system_that_hangs_costs_its_own_series(
    hung: tuple[Path, subprocess.Popen[str]], tmp_path: Path
) -> None:
    place, process = hung
    # The mount table of the test's own mount namespace: process 1 may be in another one.
    roots = Roots(proc=tmp_path / "proc")
    (roots.proc / "1").mkdir(parents=True)
    shutil.copy("/proc/diskstats", roots.proc / "diskstats")
    mounts = [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if (" - ext" in line and OTHERS not in line) or "esnodetest" in line
    ]
    (roots.proc / "1/mountinfo").write_text("\n".join(mounts) + "\n")
    collector = disk.create(Settings(Config(), roots))
    collector._part_deadline_s = 2.0

    def look() -> tuple[dict[str, float], list[str]]:
        reading = collector.collect()
        sizes = {s.labels["mountpoint"]: v for s, v in reading.samples.items() if "filesystem_size" in s.family.name}
        return sizes, reading.errors

    sizes, errors = look()
    others = sizes.keys() - {str(place)}
    assert errors == []
    assert sizes[str(place)] == 1000 * 4096
    collector._part_deadline_s = 0.3
    process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        sizes, errors = look()
        assert sizes.keys() == others
        assert errors == [
            (
                f"file system {place} (fuse.esnodetest from hung) does not answer; "
                "check its server or unmount it (umount -l)"
            )
        ]
    process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + 20
    while str(place) not in (answer := look())[0]:
        assert time.monotonic() < deadline
    assert answer[1] == []
    process.send_signal(signal.SIGSTOP)
    look()
    process.kill()  # a server that died while it was asked: an error at once, no hang
    process.wait()
    while "does not answer" in (errors := look()[1])[0]:
        assert time.monotonic() < deadline
    assert len(errors) == 1
    assert errors[0].startswith(f"cannot read the file system {place} (fuse.esnodetest from hung): ")
    assert "the process behind it has died" in errors[0]
    collector.close()
