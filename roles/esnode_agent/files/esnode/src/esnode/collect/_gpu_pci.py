# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NVIDIA's display devices as the PCI bus shows them, with or without a driver. Source: /sys/bus/pci/devices."""

from __future__ import annotations

import os
from pathlib import Path

_VENDOR = "0x10de"
_DISPLAY = "0x03"


def display_devices(sys_root: Path) -> list[str]:
    """PCI addresses of the GPUs of this machine; those handed to a virtual machine (vfio-pci) are not ours."""
    base = sys_root / "bus/pci/devices"
    try:
        addresses = sorted(os.listdir(base))
    except OSError:
        return []
    return [address for address in addresses if _is_gpu(base / address)]


def _is_gpu(device: Path) -> bool:
    try:
        ours = (device / "vendor").read_text().strip() == _VENDOR
        display = (device / "class").read_text().startswith(_DISPLAY)
    except OSError:  # unplugged since the listing
        return False
    if not (ours and display):
        return False
    try:
        return os.path.basename(os.readlink(device / "driver")) != "vfio-pci"
    except OSError:
        return True  # no driver is bound


def bus_key(bus_id: str) -> str:
    """A PCI address in one form, "0000:53:00", from "00000000:53:00.0", "PCI:0000:53:00" or "53:00"."""
    parts = bus_id.lower().removeprefix("pci:").split(".")[0].split(":")
    domain = int(parts[-3], 16) if len(parts) > 2 else 0
    return f"{domain:04x}:{int(parts[-2], 16):02x}:{int(parts[-1], 16):02x}"
