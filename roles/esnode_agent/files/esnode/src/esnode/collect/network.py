# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network interfaces, TCP retransmissions and InfiniBand ports.

Sources: /proc/1/net (the machine's own network namespace), /sys/class/net, /sys/class/infiniband. All interfaces
are told, `lo` too, as by node_exporter.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from esnode import catalogue
from esnode.catalogue import Family, Series
from esnode.collect import Settings
from esnode.collect._aside import Aside
from esnode.collect._procfs import (
    HeldFile,
    attempt,
    list_directory,
    read_number,
    read_optional,
    read_text,
    sentence,
)
from esnode.snapshot import Reading, Samples
from esnode.worker import Late

_DEV_FIELDS: tuple[tuple[int, Family], ...] = (
    (0, catalogue.NETWORK_RECEIVE_BYTES),
    (1, catalogue.NETWORK_RECEIVE_PACKETS),
    (2, catalogue.NETWORK_RECEIVE_ERRORS),
    (3, catalogue.NETWORK_RECEIVE_DROPS),
    (8, catalogue.NETWORK_TRANSMIT_BYTES),
    (9, catalogue.NETWORK_TRANSMIT_PACKETS),
    (10, catalogue.NETWORK_TRANSMIT_ERRORS),
    (11, catalogue.NETWORK_TRANSMIT_DROPS),
)
# port_xmit_data and port_rcv_data count units of four bytes (InfiniBand specification, PortCounters).
_IB_COUNTERS = (
    ("link_downed", catalogue.INFINIBAND_LINK_DOWNED, 1),
    ("symbol_error", catalogue.INFINIBAND_SYMBOL_ERRORS, 1),
    ("port_rcv_data", catalogue.INFINIBAND_RECEIVE_BYTES, 4),
    ("port_xmit_data", catalogue.INFINIBAND_TRANSMIT_BYTES, 4),
)
_SPEED_S = 30.0
"""A link's speed rarely changes, and asking for it takes the lock of all network configuration."""
_SPEED_PATIENCE_S = 5.0


def create(settings: Settings) -> Network:
    """Make the collector."""
    return Network(settings)


class _Interface:
    __slots__ = ("fields", "operstate", "up")

    def __init__(self, name: str, directory: Path) -> None:
        self.fields = [(field, family.series(name)) for field, family in _DEV_FIELDS]
        self.up = catalogue.NETWORK_UP.series(name)
        self.operstate = f"{directory}/{name}/operstate"


class Network:
    """Reads all of it at each run; what asks a driver or a firmware is asked on a thread of its own."""

    name = "network"

    def __init__(self, settings: Settings) -> None:
        proc, sys = settings.roots.proc, settings.roots.sys
        # Process 1 is in the machine's network namespace; where it can't be seen, our own has to do.
        net = proc / "1/net" if (proc / "1/net/dev").exists() else proc / "net"
        self._dev = HeldFile(net / "dev")
        self._snmp = HeldFile(net / "snmp")
        self._net = sys / "class/net"
        self._infiniband = sys / "class/infiniband"
        self._part_deadline_s = settings.part_deadline_s
        self._interfaces: dict[bytes, _Interface] = {}
        self._speeds = Aside("network speeds", self._read_speeds, every_s=_SPEED_S, patience_s=_SPEED_PATIENCE_S)
        self._ports: Aside[Reading] | None = None

    def collect(self) -> Reading:
        """Read once."""
        reading = Reading()
        until = time.monotonic() + self._part_deadline_s
        self._speeds.start()
        if self._ports is None and list_directory(self._infiniband):
            self._ports = Aside("infiniband", self._read_infiniband)
        if self._ports is not None:
            self._ports.start()
        attempt(reading, "network interfaces", self._read_interfaces)
        attempt(reading, "TCP statistics", self._read_tcp)
        self._add_speeds(reading)
        if self._ports is not None:
            self._add_infiniband(reading, self._ports, until)
        return reading

    def _read_interfaces(self, samples: Samples) -> None:
        seen: dict[bytes, _Interface] = {}
        for line in self._dev.read().splitlines()[2:]:
            name, _unused, rest = line.rpartition(b":")
            values = rest.split()
            name = name.strip()
            interface = self._interfaces.get(name) or _Interface(name.decode("utf-8", "replace"), self._net)
            seen[name] = interface
            for field, series in interface.fields:
                samples[series] = int(values[field])
            state = read_text(interface.operstate)
            if state and state != "unknown":  # lo, tunnels: the driver does not tell
                samples[interface.up] = int(state == "up")
        self._interfaces = seen

    def _read_tcp(self, samples: Samples) -> None:
        lines = [line.split() for line in self._snmp.read().splitlines() if line.startswith(b"Tcp: ")]
        if len(lines) != 2:
            raise ValueError(f"{self._snmp.path} has {len(lines)} lines of Tcp, not 2")
        samples[catalogue.TCP_RETRANSMITTED.series()] = int(lines[1][lines[0].index(b"RetransSegs")])

    def _read_speeds(self) -> dict[bytes, tuple[Series, int]]:
        speeds: dict[bytes, tuple[Series, int]] = {}
        for key in list(self._interfaces) or [name.encode() for name in list_directory(self._net)]:
            name = key.decode("utf-8", "replace")
            # The kernel says -1, or that the question is invalid, where a link has no speed.
            megabits = read_number(self._net / name / "speed")
            if megabits is not None and 0 < megabits < 2**32 - 1:
                speeds[key] = catalogue.NETWORK_SPEED.series(name), megabits * 1_000_000
        return speeds

    def _add_speeds(self, reading: Reading) -> None:
        try:
            speeds = self._speeds.get(time.monotonic() + self._part_deadline_s / 4) or {}
        except Late:
            reading.errors.append(
                f"the link speeds in {self._net}/*/speed are not answered; a network driver hangs: see the kernel log"
            )
        except OSError as error:
            reading.errors.append(sentence("link speeds", error))
        else:
            reading.samples.update(speed for key, speed in speeds.items() if key in self._interfaces)

    def _read_infiniband(self) -> Reading:
        reading = Reading()
        for device in list_directory(self._infiniband):
            for port in list_directory(self._infiniband / device / "ports"):
                directory = self._infiniband / device / "ports" / port
                part = partial(_read_port, directory=directory, labels=(device, port))
                attempt(reading, f"InfiniBand port {device}/{port}", part)
        return reading

    def _add_infiniband(self, reading: Reading, ports: Aside[Reading], until: float) -> None:
        try:
            answer = ports.get(until)
        except Late:
            reading.errors.append(
                f"the InfiniBand counters in {self._infiniband} are not answered; "
                "an adapter's firmware hangs: see the kernel log"
            )
        except OSError as error:
            reading.errors.append(sentence("InfiniBand ports", error))
        else:
            if answer is not None:
                reading.samples.update(answer.samples)
                reading.errors += answer.errors

    def close(self) -> None:
        """Close the files and let the threads end."""
        self._dev.close()
        self._snmp.close()
        self._speeds.close()
        if self._ports is not None:
            self._ports.close()


def _read_port(samples: Samples, directory: Path, labels: tuple[str, str]) -> None:
    # "4: ACTIVE"
    if state := (read_optional(directory / "state") or b"").partition(b":")[0].strip():
        samples[catalogue.INFINIBAND_LINK_STATE.series(*labels)] = int(int(state) == 4)
    for file, family, factor in _IB_COUNTERS:
        if (count := read_number(directory / "counters" / file)) is not None:
            samples[family.series(*labels)] = count * factor
