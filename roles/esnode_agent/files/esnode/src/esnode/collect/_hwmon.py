# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chips of /sys/class/hwmon, named by where they sit: the N of hwmonN changes from boot to boot."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from esnode.collect._procfs import list_directory, read_text


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip. `place`: its driver and device, such as `coretemp.0` or `k10temp-0000:00:18.3`."""

    directory: Path
    name: str
    place: str

    def inputs(self, kind: str) -> list[tuple[str, Path]]:
        """Label and input file of each sensor of a kind (`temp`, `power`); labels are unique in the chip."""
        numbers = sorted(
            int(file[len(kind) : -len("_input")])
            for file in list_directory(self.directory)
            if file.startswith(kind) and file.endswith("_input") and file[len(kind) : -len("_input")].isdecimal()
        )
        labels = {n: read_text(self.directory / f"{kind}{n}_label") or f"{kind}{n}" for n in numbers}
        often = Counter(labels.values())
        return [
            (label if often[label] == 1 else f"{label} ({kind}{n})", self.directory / f"{kind}{n}_input")
            for n, label in labels.items()
        ]


def chips(hwmon: Path, names: Collection[str]) -> list[Chip]:
    """The chips with one of these driver names, in the order of their places."""
    found: list[Chip] = []
    for entry in list_directory(hwmon):
        directory = hwmon / entry
        # Drivers of the old registration keep name and sensors in the device's own directory.
        for candidate in (directory, directory / "device"):
            if (name := read_text(candidate / "name")) in names:
                device = (
                    os.path.basename(os.path.realpath(directory / "device"))
                    if (directory / "device").exists()
                    else entry
                )
                found.append(Chip(candidate, name, device if device.startswith(name) else f"{name}-{device}"))
                break
    return sorted(found, key=lambda chip: chip.place)
