# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node's power as its BMC tells it: IPMI DCMI, asked through ipmitool."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

EVERY_S = 30.0
"""A BMC is slow and averages over about a second to a minute anyway."""
TIMEOUT_S = 20.0
_UNSUPPORTED_S = 3600.0
_DEVICES = ("ipmi0", "ipmi/0", "ipmidev/0")
_PATH = "/usr/local/sbin:/usr/sbin:/sbin"


class Unsupported(Exception):
    """The BMC has no DCMI power reading, or it is switched off there."""


class Failed(Exception):
    """It should have answered; the text is one sentence of what, where and what to do."""


def device(dev: Path) -> Path | None:
    """The device of a BMC with a driver, None where there is none."""
    return next((dev / name for name in _DEVICES if (dev / name).exists()), None)


class Dcmi:
    """Asks the BMC; `watts` blocks for as long as it takes, at most some `TIMEOUT_S`."""

    def __init__(self) -> None:
        self._unsupported_until = 0.0

    def watts(self) -> float:
        """Instantaneous power of the node, W."""
        if time.monotonic() < self._unsupported_until:
            raise Unsupported
        command = shutil.which("ipmitool", path=f"{os.environ.get('PATH', '')}:{_PATH}")
        if command is None:
            raise Failed(
                "this machine has a BMC but no ipmitool to read the node's power with; "
                "install the package ipmitool or set enable_power = false"
            )
        try:
            done = subprocess.run(
                [command, "dcmi", "power", "reading"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                env={**os.environ, "LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(
                f"{command} dcmi power reading did not end in {TIMEOUT_S:.0f} s; the BMC may need a reset"
            ) from None
        except OSError as error:
            raise Failed(f"cannot run {command}: {error.strerror}; reinstall the package ipmitool") from None
        watts = parse(done.stdout)
        if watts is not None:
            return watts
        said = " ".join((done.stderr or done.stdout).split())[:200]
        if "Invalid command" in said or "deactivated" in done.stdout:
            self._unsupported_until = time.monotonic() + _UNSUPPORTED_S
            raise Unsupported
        raise Failed(
            f"{command} dcmi power reading says: {said or f'nothing, exit status {done.returncode}'}; "
            "the agent's user needs the right to open /dev/ipmi0"
        )


def parse(output: str) -> float | None:
    """Take the power out of what `ipmitool dcmi power reading` prints; None if it is not there or not measured."""
    values: dict[str, str] = {}
    for line in output.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values[key.strip()] = value.strip()
    number, _unused, unit = values.get("Instantaneous power reading", "").partition(" ")
    if unit.strip() != "Watts" or not number.isascii() or not number.isdecimal():
        return None
    if values.get("Power reading state is", "activated") != "activated":
        return None
    return float(number)
