# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collectors: one file a subject, each with a `create(settings)` that returns a `Collector`.

A collector reads; it is run by the scheduler on a thread of its own with a deadline. It raises `NotPresent`
when this machine has nothing of its kind, puts what it could not read into `Reading.errors`, and lets any
other exception through when it could read nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from esnode.config import Config
from esnode.snapshot import Reading


class NotPresent(Exception):
    """This machine has nothing that the collector could read. Not an error: no series, no `collector_up`."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the kernel's files are: elsewhere in a container, and in tests."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    root: Path = Path("/")
    dev: Path = Path("/dev")


def deadline_s(interval_s: float) -> float:
    """Seconds that a collector has for one run."""
    return min(0.8 * interval_s, 5.0)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a collector is made from: the configuration and the roots."""

    config: Config
    roots: Roots = field(default_factory=Roots)

    @property
    def interval_s(self) -> float:
        """Seconds between two ticks."""
        return self.config.agent.scrape_interval_seconds

    @property
    def part_deadline_s(self) -> float:
        """Seconds for one part (a GPU, a mount) of a collector, so that the others are still served in time."""
        return 0.75 * deadline_s(self.interval_s)


class Collector(Protocol):
    """What the scheduler runs."""

    name: str
    """Value of the `collector` label: the name of the module."""

    def collect(self) -> Reading:
        """Read once. Called from one thread at a time, never in parallel with itself."""

    def close(self) -> None:
        """Give back what is held (NVML, files). Must not block; called once, possibly while `collect` hangs."""
