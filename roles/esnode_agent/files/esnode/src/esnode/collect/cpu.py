# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU time, clocks, temperatures and throttling; load, pressure and the kernel's own clock.

Sources: /proc/stat, /proc/loadavg, /proc/pressure, cpufreq or /proc/cpuinfo, hwmon, thermal_throttle, adjtimex(2).
"""

from __future__ import annotations

import ctypes
import os
import time
from operator import lt, sub
from pathlib import Path

from esnode import catalogue
from esnode.catalogue import Series
from esnode.collect import Settings
from esnode.collect._hwmon import chips
from esnode.collect._procfs import HeldFile, attempt, read_each, read_number, read_optional
from esnode.snapshot import Reading, Samples

# Guest time is part of user and nice: counted there once, so that the modes of a CPU add up to its time.
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_IDLE, _IOWAIT = 3, 4
_CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "k8temp", "cpu_thermal", "via_cputemp"})
_SLOW_S = 5.0
"""Clocks, temperatures and throttle counts take a system call per CPU and move slowly: read at most this often."""
_CPUINFO_S = 15.0
"""/proc/cpuinfo of a large machine takes milliseconds."""
_PRESSURE = (
    ("cpu", b"some ", catalogue.PRESSURE_WAITING),
    ("memory", b"some ", catalogue.PRESSURE_WAITING),
    ("memory", b"full ", catalogue.PRESSURE_STALLED),
    ("io", b"some ", catalogue.PRESSURE_WAITING),
    ("io", b"full ", catalogue.PRESSURE_STALLED),
)
_STAT_SINGLES = {
    b"ctxt": catalogue.CONTEXT_SWITCHES.series(),
    b"intr": catalogue.INTERRUPTS.series(),
    b"procs_running": catalogue.PROCS_RUNNING.series(),
    b"procs_blocked": catalogue.PROCS_BLOCKED.series(),
    b"btime": catalogue.BOOT_TIME.series(),
}
_LOADS = (catalogue.LOAD1.series(), catalogue.LOAD5.series(), catalogue.LOAD15.series())
_CLOCK = catalogue.CLOCK_SYNCHRONIZED.series()
_TIME_ERROR = 5
"""Return value of adjtimex(2) while the clock is not synchronized."""


def create(settings: Settings) -> Cpu:
    """Make the collector."""
    return Cpu(settings)


class _Times:
    """The time counters of one CPU, in the kernel's ticks."""

    __slots__ = ("series", "ticks", "usage")

    def __init__(self, cpu: str) -> None:
        self.series = [catalogue.CPU_SECONDS.series(cpu, mode) for mode in _MODES]
        self.usage = catalogue.CPU_USAGE.series(cpu)
        self.ticks: list[int] | None = None

    def advance(self, ticks: list[int], reset_ticks: int) -> float | None:
        """Take the counters' new values; the busy share in percent since the values before, None at first.

        idle and iowait are known to step back a little, which a counter must not: such a step is held at the old
        value. A long step back of idle is a CPU that was taken away and came back: its counters start anew.
        """
        old = self.ticks
        if old is None or old[_IDLE] - ticks[_IDLE] > reset_ticks:
            self.ticks = ticks
            return None
        if any(map(lt, ticks, old)):
            ticks = list(map(max, ticks, old))
        self.ticks = ticks
        passed = list(map(sub, ticks, old))
        total = sum(passed)
        return 100.0 * (total - passed[_IDLE] - passed[_IOWAIT]) / total if total else None


class Cpu:
    """Reads all of it at each run, what is slow every few seconds."""

    name = "cpu"

    def __init__(self, settings: Settings) -> None:
        proc, sys = settings.roots.proc, settings.roots.sys
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._stat = HeldFile(proc / "stat")
        self._loadavg = HeldFile(proc / "loadavg")
        self._pressure_files = {name: HeldFile(proc / "pressure" / name) for name in ("cpu", "memory", "io")}
        self._cpuinfo = proc / "cpuinfo"
        self._cpus = sys / "devices/system/cpu"
        self._hwmon = sys / "class/hwmon"
        self._times: dict[bytes, _Times] = {}
        self._throttle_files: list[tuple[str | Path, Series]] = []
        self._topology: frozenset[bytes] = frozenset()
        self._slow = Reading()
        self._slow_due = 0.0
        self._cpuinfo_samples: Samples = {}
        self._cpuinfo_due = 0.0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def collect(self) -> Reading:
        """Read once."""
        reading = Reading()
        attempt(reading, "CPU time", self._read_stat)
        attempt(reading, "load averages", self._read_load)
        attempt(reading, "pressure (PSI)", self._read_pressure)
        attempt(reading, "the clock's state", self._read_clock)
        now = time.monotonic()
        if now >= self._slow_due or self._topology != self._times.keys():
            self._slow_due = now + _SLOW_S
            self._slow = slow = Reading()
            attempt(slow, "CPU clocks", self._read_frequency)
            attempt(slow, "CPU temperatures", self._read_temperature)
            attempt(slow, "CPU throttle counts", self._read_throttles)
        reading.samples.update(self._slow.samples)
        reading.errors += self._slow.errors
        return reading

    def _read_stat(self, samples: Samples) -> None:
        per_s = self._ticks_per_s
        seen: dict[bytes, _Times] = {}
        for line in self._stat.read().splitlines():
            if line.startswith(b"cpu "):
                continue
            if line.startswith(b"cpu"):
                name, *fields = line.split(None, 9)
                ticks = list(map(int, fields[:8]))
                if len(ticks) < 8:
                    raise ValueError(f"{self._stat.path} has a cpu line of {len(ticks)} fields")
                seen[name] = times = self._times.get(name) or _Times(str(int(name[3:])))
                usage = times.advance(ticks, 3 * per_s)
                assert times.ticks is not None
                for series, value in zip(times.series, times.ticks, strict=True):
                    samples[series] = value / per_s
                if usage is not None:
                    samples[times.usage] = usage
                continue
            key, _unused, rest = line.partition(b" ")
            if (single := _STAT_SINGLES.get(key)) is not None:
                samples[single] = int(rest.partition(b" ")[0])
        self._times = seen  # a CPU that was taken away leaves nothing behind

    def _read_load(self, samples: Samples) -> None:
        for series, value in zip(_LOADS, self._loadavg.read().split(None, 3)[:3], strict=True):
            samples[series] = float(value)

    def _read_pressure(self, samples: Samples) -> None:
        # Nothing to read, or "not supported" with psi=0: a kernel without PSI.
        contents = {name: file.read_optional() or b"" for name, file in self._pressure_files.items()}
        for name, kind, family in _PRESSURE:
            for line in contents[name].splitlines():
                if line.startswith(kind):
                    samples[family.series(name)] = int(line.rpartition(b"total=")[2]) / 1e6

    def _read_clock(self, samples: Samples) -> None:
        # struct timex is 208 bytes; all zero is modes = 0, which only asks and needs no right.
        state = self._libc.adjtimex(ctypes.create_string_buffer(512))
        if state < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "adjtimex(2)")
        samples[_CLOCK] = int(state != _TIME_ERROR)

    def _read_frequency(self, samples: Samples) -> None:
        numbers = [str(int(name[3:])) for name in self._times]
        khz: Samples = {}
        try:
            read_each(
                khz,
                ((f"{self._cpus}/cpu{n}/cpufreq/scaling_cur_freq", catalogue.CPU_FREQUENCY.series(n)) for n in numbers),
            )
        finally:
            samples.update({series: value * 1000 for series, value in khz.items() if value})
        if samples:
            return
        now = time.monotonic()
        if now >= self._cpuinfo_due:
            self._cpuinfo_due = now + _CPUINFO_S
            self._cpuinfo_samples = _cpuinfo_frequencies(read_optional(self._cpuinfo) or b"")
        samples.update((s, v) for s, v in self._cpuinfo_samples.items() if s.labels["cpu"] in numbers)

    def _read_temperature(self, samples: Samples) -> None:
        read_each(
            samples,
            (
                (path, catalogue.CPU_TEMPERATURE.series(f"{chip.place}/{label}"))
                for chip in chips(self._hwmon, _CHIPS)
                for label, path in chip.inputs("temp")
            ),
            divisor=1000,
        )

    def _read_throttles(self, samples: Samples) -> None:
        if self._topology != self._times.keys():
            self._throttle_files = self._find_throttles()
            self._topology = frozenset(self._times)
        read_each(samples, self._throttle_files)

    def _find_throttles(self) -> list[tuple[str | Path, Series]]:
        """The counts of each core and package, once: at the first CPU of each."""
        found: list[tuple[str | Path, Series]] = []
        seen: set[tuple[str, int, int]] = set()
        for number in sorted(int(name[3:]) for name in self._times):
            directory = self._cpus / f"cpu{number}"
            if not (directory / "thermal_throttle").is_dir():
                continue
            package = read_number(directory / "topology/physical_package_id") or 0
            core = read_number(directory / "topology/core_id")
            for key in (("core", package, number if core is None else core), ("package", package, 0)):
                if key not in seen:
                    seen.add(key)
                    path = directory / "thermal_throttle" / f"{key[0]}_throttle_count"
                    found.append((path, catalogue.CPU_THROTTLES.series(str(number), key[0])))
        return found

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._loadavg, *self._pressure_files.values()):
            file.close()


def _cpuinfo_frequencies(content: bytes) -> Samples:
    """The clock of each CPU as /proc/cpuinfo of x86 tells it, Hz."""
    samples: Samples = {}
    cpu = b""
    for line in content.splitlines():
        if line.startswith(b"processor"):
            cpu = line.rpartition(b":")[2].strip()
        elif line.startswith(b"cpu MHz") and cpu:
            samples[catalogue.CPU_FREQUENCY.series(str(int(cpu)))] = float(line.rpartition(b":")[2]) * 1e6
    return samples
