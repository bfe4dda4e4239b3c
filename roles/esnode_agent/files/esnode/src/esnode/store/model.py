# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into a store and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from esnode.store.errors import StoreError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MIB = 1024 * 1024
SMALLEST_BYTES = 8 * MIB
FOREVER_MS = 2**62


def writable(text: str) -> bool:
    """Whether UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class SeriesLike(Protocol):
    """What `append` takes as the key of a value: hashable, and never changing its name or labels."""

    @property
    def name(self) -> str:
        """The sample's name, with the suffix of a histogram's part."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Label values by name, without `__name__`."""

    def __hash__(self) -> int:
        """The same for the same series."""


Key = TypeVar("Key", bound=SeriesLike)


@dataclass(frozen=True, slots=True, order=True)
class SeriesId:
    """The identity of a series: its name, and its labels sorted by name. A label with an empty value is no label."""

    name: str
    pairs: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, labels: Mapping[str, str]) -> SeriesId:
        """Make the identity from a name and labels in any order."""
        return cls(name, tuple(sorted((label, value) for label, value in labels.items() if value)))

    @property
    def labels(self) -> dict[str, str]:
        """Label values by name."""
        return dict(self.pairs)

    @property
    def writable(self) -> bool:
        """Whether name and labels are text that UTF-8 can hold; half of a surrogate pair is not."""
        return writable(self.name) and all(writable(text) for pair in self.pairs for text in pair)


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on a label (`__name__` for the name), as in a Prometheus selector; expressions match the whole."""

    label: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str


@dataclass(frozen=True, slots=True)
class SeriesData:
    """Samples of one series: `times` in ms since 1970 (int64), `values` (float64), of equal length."""

    series: SeriesId
    times: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Options:
    """How a store keeps its data.

    `retention_s`: what is older goes. `max_bytes`: all files of the store together take no more; the oldest go first.
    `key_file`: encrypt with the first key in it; the further ones still read. `flush_s`: samples are on the disk this
    long after they were appended, at most (and the time of one write). `seal_s`, `seal_values`, `seal_rows`: the hot
    part becomes a block when it spans so many seconds, or so many values or rows. `unwritten_bytes`: how much waits in
    memory while the disk takes nothing, then the oldest are lost, with a count.
    `wall`, `monotonic`: the clocks, seconds.
    """

    retention_s: float = 168 * 3600.0
    max_bytes: int = 1024 * MIB
    key_file: Path | None = None
    flush_s: float = 5.0
    seal_s: float = 7200.0
    seal_values: int = 600_000
    seal_rows: int = 1800
    unwritten_bytes: int = 16 * MIB
    wall: Callable[[], float] | None = None
    monotonic: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        if self.max_bytes < SMALLEST_BYTES:
            raise StoreError(f"a store needs at least {SMALLEST_BYTES // MIB} MiB of disk, not {self.max_bytes} bytes")
        if self.retention_s <= 0 or self.flush_s <= 0 or self.seal_s <= 0:
            raise StoreError("retention, flush and seal times of a store must be longer than 0 s")


@dataclass(slots=True)
class Lost:
    """Samples that were given up: how many appends and samples, and between which times (ms)."""

    rows: int = 0
    samples: int = 0
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, rows: int, samples: int, first_ms: int, last_ms: int) -> None:
        """Count further samples in."""
        self.rows += rows
        self.samples += samples
        self.first_ms = first_ms if self.first_ms is None else min(self.first_ms, first_ms)
        self.last_ms = last_ms if self.last_ms is None else max(self.last_ms, last_ms)


@dataclass(frozen=True, slots=True)
class Stats:
    """How the store is.

    `problem`: why the disk takes nothing just now, None when it does. `write_errors`: tries that failed since the store
    was opened. `damaged`: distinct damaged parts met, by kind.
    `lost`: what was given up in memory since the store was opened. Times in ms, sizes in bytes; `oldest_ms` and
    `newest_ms` None: no samples. `old_keys`: names of keys that something is still written with, zeros for none.
    """

    series: int
    hot_rows: int
    unwritten_rows: int
    blocks: int
    bytes: int
    oldest_ms: int | None
    newest_ms: int | None
    problem: str | None
    dropped_blocks: int
    write_errors: int
    lost: Lost = field(default_factory=Lost)
    damaged: Mapping[str, int] = field(default_factory=dict)
    old_keys: tuple[str, ...] = ()
