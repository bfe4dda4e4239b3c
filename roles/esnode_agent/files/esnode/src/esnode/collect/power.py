# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Power and energy of the host: CPU packages (RAPL) and the whole node (BMC or ACPI power meter).

Sources: /sys/class/powercap; `ipmitool dcmi power reading`; hwmon chips `power_meter`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from esnode import catalogue
from esnode.collect import NotPresent, Settings
from esnode.collect._aside import Aside
from esnode.collect._dcmi import EVERY_S, TIMEOUT_S, Dcmi, Failed, Unsupported, device
from esnode.collect._hwmon import Chip, chips
from esnode.collect._procfs import read_number, read_text, sentence
from esnode.collect._rapl import Rapl
from esnode.snapshot import Reading
from esnode.worker import Late

_DISCOVER_S = 30.0
_DCMI = "ipmi_dcmi"
_METER_EVERY_S = 1.0
"""An ACPI power meter asks the firmware, which averages over a second or longer."""
_METER_PATIENCE_S = 5.0


def create(settings: Settings) -> Power:
    """Make the collector."""
    return Power(settings)


class Meter:
    """A source of the node's power, with the energy that followed from it."""

    def __init__(self, source: str, read: Callable[[], float | None], every_s: float, patience_s: float) -> None:
        self.source = source
        self._read = read
        self._aside = Aside(f"power {source}", self._stamped, every_s=every_s, patience_s=patience_s)
        self._power = catalogue.NODE_POWER.series(source)
        self._energy = catalogue.NODE_ENERGY.series(source)
        self._joules = 0.0
        self._last: tuple[float, float] | None = None

    def _stamped(self) -> tuple[float, float] | None:
        watts = self._read()
        return None if watts is None else (time.monotonic(), watts)

    def start(self) -> None:
        """Begin a reading if one is due."""
        self._aside.start()

    def collect(self, reading: Reading, until: float) -> float | None:
        """Add power and energy; the power in W, None where it is not known now. Lets the reading's exception through.

        A reading that takes long is waited for (until `until`, monotonic seconds) only while there is none before it.
        """
        try:
            answer = self._aside.get(until if self._last is None else 0.0)
        except Exception:
            self._last = None
            raise
        self.integrate(answer)
        if answer is None:
            return None
        reading.samples[self._power] = answer[1]
        reading.samples[self._energy] = self._joules
        return answer[1]

    def integrate(self, answer: tuple[float, float] | None) -> float:
        """Add the energy since the reading before (trapezoid); nothing across a time in which power was unknown."""
        if answer is not None and self._last is not None:
            (then, before), (now, watts) = self._last, answer
            self._joules += (before + watts) / 2 * (now - then)
        self._last = answer
        return self._joules

    def close(self) -> None:
        """Let the thread end."""
        self._aside.close()


class Power:
    """Reads the CPU's counters at each run; the node's sources are asked on threads of their own."""

    name = "power"

    def __init__(self, settings: Settings) -> None:
        self._rapl = Rapl(settings.roots.sys / "class/powercap")
        self._hwmon = settings.roots.sys / "class/hwmon"
        self._dev = settings.roots.dev
        self._envelope_w = settings.config.collectors.node_power_envelope_watts
        self._part_deadline_s = settings.part_deadline_s
        self._meters: dict[str, Meter] = {}
        self._discover_due = 0.0
        self._refused: str | None = None

    def collect(self) -> Reading:
        """Read once."""
        now = time.monotonic()
        if now >= self._discover_due:
            self._discover()
            self._discover_due = now + _DISCOVER_S
        if not self._rapl and not self._meters and not self._refused and self._envelope_w is None:
            raise NotPresent("no RAPL counters, no BMC with an IPMI device and no ACPI power meter")
        reading = Reading(detail={"node_power_sources": sorted(self._meters)})
        for meter in self._meters.values():
            meter.start()
        if self._refused:
            reading.detail["not_read"] = [self._refused]
        self._rapl.read(reading)
        watts = [self._collect_meter(meter, reading, now + self._part_deadline_s) for meter in self._meters.values()]
        self._compare(reading, [one for one in watts if one is not None])
        return reading

    def _discover(self) -> None:
        self._rapl.discover()
        readers: dict[str, tuple[Callable[[], float | None], float, float]] = {}
        self._refused = None
        if (bmc := device(self._dev)) is not None:
            if os.access(bmc, os.R_OK | os.W_OK, effective_ids=True):
                readers[_DCMI] = (Dcmi().watts, EVERY_S, TIMEOUT_S + 5.0)
            else:  # whoever may write to it may do anything to the BMC: not a right to give an exporter lightly
                self._refused = f"cannot ask the BMC for the node's power: no right to open {bmc}"
        for chip in chips(self._hwmon, {"power_meter"}):
            if (file := _power_file(chip)) is not None:
                readers[chip.place] = (partial(_watts, file), _METER_EVERY_S, _METER_PATIENCE_S)
        for source in self._meters.keys() - readers.keys():
            self._meters.pop(source).close()
        for source, (read, every_s, patience_s) in readers.items():
            if source not in self._meters:
                self._meters[source] = Meter(source, read, every_s, patience_s)

    def _collect_meter(self, meter: Meter, reading: Reading, until: float) -> float | None:
        try:
            return meter.collect(reading, until)
        except Late:
            reading.errors.append(
                f"the node's power is not answered by {meter.source}; the BMC or firmware hangs and may need a reset"
            )
        except Failed as error:
            reading.errors.append(str(error))
        except Unsupported:
            reading.detail["dcmi"] = "the BMC has no DCMI power reading or it is deactivated there"
        except OSError as error:
            reading.errors.append(sentence(f"the node's power ({meter.source})", error))
        return None

    def _compare(self, reading: Reading, watts: list[float]) -> None:
        if self._envelope_w is None:
            return
        reading.samples[catalogue.NODE_POWER_ENVELOPE.series()] = self._envelope_w
        if watts:
            # Of two sources that differ the higher one counts: an envelope is there to be kept.
            exceeded = max(watts) > self._envelope_w
            reading.samples[catalogue.NODE_POWER_ENVELOPE_EXCEEDED.series()] = int(exceeded)
        elif not self._meters:
            reason = self._refused or (
                "nothing here measures the node's power (no BMC with an IPMI device, no ACPI power meter); load the "
                "module ipmi_devintf or remove the setting"
            )
            reading.errors.append(f"node_power_envelope_watts is set but {reason}")

    def close(self) -> None:
        """Let the threads end."""
        for meter in list(self._meters.values()):
            meter.close()


def _power_file(chip: Chip) -> Path | None:
    """The file with the power of the node in microwatts; None if the meter measures a part of it or a battery."""
    # Grace superchips have a meter for each socket and say so: "CPU Power Socket 0", "Module Power Socket 1".
    if "socket" in read_text(chip.directory / "power1_oem_info").lower():
        return None
    if read_number(chip.directory / "power1_is_battery"):
        return None
    for name in ("power1_average", "power1_input"):
        if (file := chip.directory / name).exists():
            return file
    return None


def _watts(file: Path) -> float | None:
    microwatts = read_number(file)
    return None if microwatts is None else microwatts / 1e6
