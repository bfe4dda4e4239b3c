# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Energy counters of CPU packages and their DRAM: RAPL through /sys/class/powercap, Intel and AMD."""

from __future__ import annotations

import time
from pathlib import Path

from esnode import catalogue
from esnode.catalogue import Series
from esnode.collect._procfs import list_directory, read_number, read_text
from esnode.snapshot import Reading

_MOST_WATTS = 2000
"""No package draws more, so that a counter with a range of R joules wraps at most once in R / 2000 seconds."""


class Zone:
    """One counter. It is kept in whole microjoules, so that nothing is lost to rounding."""

    def __init__(self, directory: Path, energy: Series, power: Series | None) -> None:
        self.file = directory / "energy_uj"
        self.range_uj = read_number(directory / "max_energy_range_uj")
        self.energy = energy
        self.power = power
        self.total_uj: int | None = None
        """The counter with its wraps unfolded, None before the first reading."""
        self._raw_uj = 0
        self.read_at = 0.0

    @property
    def safe_s(self) -> float:
        """Seconds in which the counter wraps at most once."""
        return float("inf") if self.range_uj is None else self.range_uj / 1e6 / _MOST_WATTS

    def advance(self, raw_uj: int, now: float) -> float | None:
        """Take the counter's value at `now` (monotonic seconds); the mean power since the value before, W.

        None at first and where it can't be known: after a reset, or after so long that it may have wrapped twice.
        The total then goes on without what passed in between.
        """
        before_uj, elapsed_s = self._raw_uj, now - self.read_at
        self._raw_uj, self.read_at = raw_uj, now
        if self.total_uj is None:
            self.total_uj = raw_uj
            return None
        passed_uj = raw_uj - before_uj
        if passed_uj < 0 and self.range_uj is not None:
            passed_uj += self.range_uj
        if passed_uj < 0 or elapsed_s <= 0 or elapsed_s > self.safe_s:
            return None
        self.total_uj += passed_uj
        return passed_uj / 1e6 / elapsed_s


def find(powercap: Path) -> dict[Path, Zone]:
    """The zones of packages and of their DRAM by directory. Others (core, uncore, the platform's psys) are parts or
    sums of these, and intel-rapl-mmio is a second door to the same counters.
    """
    zones: dict[Path, Zone] = {}
    packages: dict[str, str] = {}
    for entry in list_directory(powercap):
        if not entry.startswith("intel-rapl:"):
            continue
        directory, name = powercap / entry, read_text(powercap / entry / "name")
        if name.startswith("package-"):
            package = packages[entry] = name.removeprefix("package-")
            zones[directory] = Zone(
                directory, catalogue.CPU_PACKAGE_ENERGY.series(package), catalogue.CPU_PACKAGE_POWER.series(package)
            )
        elif name == "dram" and (parent := entry.rpartition(":")[0]) in packages:
            zones[directory] = Zone(directory, catalogue.CPU_DRAM_ENERGY.series(packages[parent]), None)
    return zones


class Rapl:
    """All counters of this machine."""

    def __init__(self, powercap: Path) -> None:
        self._powercap = powercap
        self._zones: dict[Path, Zone] = {}

    def discover(self) -> None:
        """Look which counters there are; those known already go on."""
        self._zones = {path: self._zones.get(path, zone) for path, zone in find(self._powercap).items()}

    def __bool__(self) -> bool:
        return bool(self._zones)

    def read(self, reading: Reading) -> None:
        """Add energies and powers. One sentence tells of all counters that can't be read.

        Kernels since 5.10 give the counters to root alone, and an agent without that right is what most want: so a
        refusal is a note in `detail["not_read"]` and no error.
        """
        failed: list[OSError] = []
        for zone in self._zones.values():
            try:
                raw_uj = read_number(zone.file)
            except OSError as error:
                failed.append(error)
                continue
            if raw_uj is None:
                continue
            is_first = zone.total_uj is None
            now = time.monotonic()
            elapsed_s = now - zone.read_at
            watts = zone.advance(raw_uj, now)
            if not is_first and elapsed_s > zone.safe_s:
                reading.errors.append(
                    f"{zone.file} may have wrapped unseen since it was last read; "
                    f"set scrape_interval_seconds to at most {int(zone.safe_s)}"
                )
                continue
            assert zone.total_uj is not None
            reading.samples[zone.energy] = zone.total_uj / 1e6
            if watts is not None and zone.power is not None:
                reading.samples[zone.power] = watts
        if failed:
            more = f" and {len(failed) - 1} more like it" if len(failed) > 1 else ""
            said = f"cannot read CPU energy from {failed[0].filename}{more}: {failed[0].strerror}"
            if all(isinstance(error, PermissionError) for error in failed):
                hint = "kernels let only root read it; a tmpfiles.d rule can give the agent's group the right"
                reading.detail.setdefault("not_read", []).append(f"{said}; {hint}")
            else:
                reading.errors.append(said)
