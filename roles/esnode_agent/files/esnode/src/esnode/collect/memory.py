# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""RAM, swap, paging, memory errors (EDAC) and NUMA nodes.

Sources: /proc/meminfo, /proc/vmstat, /sys/devices/system/edac, /sys/devices/system/node.
"""

from __future__ import annotations

import os
from pathlib import Path

from esnode import catalogue
from esnode.catalogue import Series
from esnode.collect import Settings
from esnode.collect._procfs import HeldFile, attempt, list_directory, read_each, read_optional
from esnode.snapshot import Reading, Samples

_MEMINFO = {
    b"MemTotal": catalogue.MEMORY_TOTAL.series(),
    b"MemAvailable": catalogue.MEMORY_AVAILABLE.series(),
    b"MemFree": catalogue.MEMORY_FREE.series(),
    b"Buffers": catalogue.MEMORY_BUFFERS.series(),
    b"Cached": catalogue.MEMORY_CACHED.series(),
    b"SwapTotal": catalogue.SWAP_TOTAL.series(),
}
_PAGE = os.sysconf("SC_PAGE_SIZE")
_VMSTAT = {
    b"pswpin": (catalogue.SWAP_IN.series(), _PAGE),
    b"pswpout": (catalogue.SWAP_OUT.series(), _PAGE),
    b"pgmajfault": (catalogue.MAJOR_PAGE_FAULTS.series(), 1),
    b"oom_kill": (catalogue.OOM_KILLS.series(), 1),
}
_USED = catalogue.MEMORY_USED.series()
_SWAP_USED = catalogue.SWAP_USED.series()


def create(settings: Settings) -> Memory:
    """Make the collector."""
    return Memory(settings)


class Memory:
    """Reads all of it at each run."""

    name = "memory"

    def __init__(self, settings: Settings) -> None:
        self._meminfo = HeldFile(settings.roots.proc / "meminfo")
        self._vmstat = HeldFile(settings.roots.proc / "vmstat")
        self._controllers = settings.roots.sys / "devices/system/edac/mc"
        self._nodes = settings.roots.sys / "devices/system/node"

    def collect(self) -> Reading:
        """Read once."""
        reading = Reading()
        attempt(reading, "memory use", self._read_meminfo)
        attempt(reading, "paging", self._read_vmstat)
        attempt(reading, "memory errors (EDAC)", self._read_edac)
        attempt(reading, "NUMA nodes", self._read_nodes)
        return reading

    def _read_meminfo(self, samples: Samples) -> None:
        sizes = _sizes(self._meminfo.read())
        for key, series in _MEMINFO.items():
            if key in sizes:
                samples[series] = sizes[key]
        if b"MemTotal" in sizes and b"MemAvailable" in sizes:
            samples[_USED] = sizes[b"MemTotal"] - sizes[b"MemAvailable"]
        if b"SwapTotal" in sizes and b"SwapFree" in sizes:
            samples[_SWAP_USED] = sizes[b"SwapTotal"] - sizes[b"SwapFree"]

    def _read_vmstat(self, samples: Samples) -> None:
        for line in self._vmstat.read().splitlines():
            key, _unused, value = line.partition(b" ")
            if (known := _VMSTAT.get(key)) is not None:
                series, factor = known
                samples[series] = int(value) * factor

    def _read_edac(self, samples: Samples) -> None:
        counts: list[tuple[str | Path, Series]] = []
        for entry in list_directory(self._controllers):
            if entry.startswith("mc") and entry[2:].isdecimal():
                directory, number = self._controllers / entry, entry[2:]
                counts.append((directory / "ce_count", catalogue.EDAC_CORRECTABLE.series(number)))
                counts.append((directory / "ue_count", catalogue.EDAC_UNCORRECTABLE.series(number)))
        read_each(samples, counts)

    def _read_nodes(self, samples: Samples) -> None:
        for entry in list_directory(self._nodes):
            if not (entry.startswith("node") and entry[4:].isdecimal()):
                continue
            content = read_optional(self._nodes / entry / "meminfo")
            if content is None:  # the node was taken away a moment ago
                continue
            # Each line begins with "Node 0 ".
            sizes = _sizes(content.replace(f"Node {entry[4:]} ".encode(), b""))
            node, total, free = entry[4:], sizes.get(b"MemTotal"), sizes.get(b"MemFree")
            if total is not None:
                samples[catalogue.NUMA_TOTAL.series(node)] = total
            if free is not None:
                samples[catalogue.NUMA_FREE.series(node)] = free
            if total is not None and free is not None:
                samples[catalogue.NUMA_USED.series(node)] = total - free

    def close(self) -> None:
        """Close the files."""
        self._meminfo.close()
        self._vmstat.close()


def _sizes(content: bytes) -> dict[bytes, int]:
    """The lines "key: number kB" in bytes."""
    sizes: dict[bytes, int] = {}
    for line in content.splitlines():
        key, _unused, value = line.partition(b":")
        if value.endswith(b" kB"):
            sizes[key] = int(value[:-3]) * 1024
    return sizes
