# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking one GPU: getters and field values that are set up once and then cost one call and few objects.

A getter that this GPU or driver has not got is remembered and asked again after `RETRY_S`; the others are not
touched by it. pynvml's own functions make several objects a call and an object a field value, hence the own calls
through its function pointers here.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from esnode.catalogue import Family, Series
from esnode.collect import _nvml
from esnode.snapshot import Samples

RETRY_S = 300.0
_NOT_AVAILABLE_32 = 0xFFFFFFFF
_NOT_AVAILABLE_64 = 0xFFFFFFFFFFFFFFFF

Trouble = dict[int, list[str]]
"""What was asked in vain, by the code that NVML answered."""


class Source(Protocol):
    """Something that reads a part of one GPU."""

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """Add what could be read; how many calls were answered. `now`: monotonic seconds."""

    def families(self) -> set[Family]:
        """The families that it would give."""

    def close(self) -> None:
        """Give back what it holds in NVML; called while NVML is still open, on the GPU's thread."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One number of an answer: value x times / over is the series' value; outside `low` to `top` it is not known."""

    family: Family
    labels: tuple[str, ...] = ()
    at: int = 0
    times: int = 1
    over: int = 1
    low: int = -(1 << 31)
    top: int = _NOT_AVAILABLE_64 - 1


def pick(family: Family, *labels: str, **options: int) -> Pick:
    """Make a `Pick`; `labels` are the values of the labels after uuid and index."""
    return Pick(family, labels, **options)


@dataclass(frozen=True, slots=True)
class Getter:
    """A C function `name(device, *arguments, out...)` whose outputs are `size` numbers of type `ctype`.

    `spread`: each output has a pointer of its own instead of being a member of one struct. `preset`: what stands in
    the first outputs before the call (the version of a struct).
    """

    name: str
    picks: tuple[Pick, ...]
    arguments: tuple[int, ...] = ()
    ctype: Any = ctypes.c_uint
    size: int = 1
    spread: bool = False
    preset: tuple[int, ...] = ()


def getter(name: str, *picks: Pick, **options: Any) -> Getter:
    """Make a `Getter`."""
    return Getter(name, picks, **options)


class Query:
    """One reading of one GPU by the first of several getters that this GPU has."""

    def __init__(self, device: Any, of: tuple[str, ...], getters: Sequence[Getter]) -> None:
        self._device = device
        self._of = of
        self._getters = getters
        self._silent_until = 0.0
        self._bind(0)

    def _bind(self, choice: int) -> None:
        self._choice = choice
        chosen = self._getters[choice]
        self.name = chosen.name
        out = (chosen.ctype * chosen.size)(*chosen.preset)
        width = ctypes.sizeof(chosen.ctype)
        pointers = [ctypes.byref(out, i * width) for i in range(chosen.size)] if chosen.spread else [ctypes.byref(out)]
        function = _nvml.pointer(chosen.name)
        self._call: Callable[[], int] = (
            partial(function, self._device, *chosen.arguments, *pointers) if function else _missing
        )
        self._out = out
        top = _NOT_AVAILABLE_32 - 1 if chosen.ctype is ctypes.c_uint else _NOT_AVAILABLE_64 - 1
        self._rows = [
            (p.at, p.family.series(*self._of, *p.labels), p.times, p.over, p.low, min(p.top, top)) for p in chosen.picks
        ]

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        if now < self._silent_until:
            return 0
        while (code := self._call()) != _nvml.SUCCESS:
            if code in _nvml.ABSENT:
                if code == _nvml.INVALID_ARGUMENT:
                    trouble.setdefault(code, []).append(self.name)
                if self._choice + 1 < len(self._getters):
                    self._bind(self._choice + 1)
                    continue
                self._bind(0)
                self._silent_until = now + RETRY_S
            elif code not in _nvml.NOT_NOW:
                trouble.setdefault(code, []).append(self.name)
            return 0
        out = self._out
        for at, series, times, over, low, top in self._rows:
            value = out[at]
            if low <= value <= top:
                samples[series] = value * times if over == 1 else value * times / over
        return 1

    def families(self) -> set[Family]:
        """See `Source`."""
        return {p.family for g in self._getters for p in g.picks}

    def close(self) -> None:
        """See `Source`."""


class Bits:
    """One series a bit of a bit mask, by the first of several getters that this GPU has."""

    def __init__(
        self, device: Any, of: tuple[str, str], getters: Sequence[str], family: Family, bits: dict[int, str]
    ) -> None:
        whole = family.series(*of, "")  # stands for the mask until its bits are told apart; never emitted
        self._mask = Query(device, of, [Getter(g, (Pick(family, ("",)),), ctype=ctypes.c_ulonglong) for g in getters])
        self._whole = whole
        self._family = family
        self._series = [(bit, family.series(*of, label)) for bit, label in bits.items()]

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        read: Samples = {}
        answered = self._mask.read(read, trouble, now)
        if answered:
            mask = int(read[self._whole])
            for bit, series in self._series:
                samples[series] = 1 if mask & bit else 0
        return answered

    def families(self) -> set[Family]:
        """See `Source`."""
        return {self._family}

    def close(self) -> None:
        """See `Source`."""


class Fallback:
    """Getters for the series that no source before it gave."""

    def __init__(self, device: Any, of: tuple[str, str], getters: Iterable[Getter]) -> None:
        self._device = device
        self._of = of
        self._getters = [(g, g.picks[0].family.series(*of, *g.picks[0].labels)) for g in getters]
        self._queries: dict[Series, Query] = {}

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        answered = 0
        for one, series in self._getters:
            if series in samples:
                continue
            query = self._queries.get(series)
            if query is None:
                query = self._queries[series] = Query(self._device, self._of, (one,))
            answered += query.read(samples, trouble, now)
        return answered

    def families(self) -> set[Family]:
        """See `Source`."""
        return {g.picks[0].family for g, _unused in self._getters}

    def close(self) -> None:
        """See `Source`."""


def _missing() -> int:
    return _nvml.FUNCTION_NOT_FOUND


@dataclass(frozen=True, slots=True)
class Field:
    """A field value: its id, its scope (a link, where the id is one per link) and the number that it is."""

    id: int
    pick: Pick
    scope: int = 0


# nvmlFieldValue_t: id, scope, timestamp, latency, type of the value, return code, value
_ENTRY = struct.Struct("=IIqqIIQ")
_DOUBLE, _UINT, _ULL, _SLL, _SINT, _USHORT = 0, 1, 3, 4, 5, 6


def _decode(kind: int, raw: int) -> float:
    """A value that is not an unsigned number; the union is little-endian wherever there is an NVIDIA driver."""
    if kind == _DOUBLE:
        return float(struct.unpack("=d", struct.pack("=Q", raw))[0])
    if kind == _SINT:
        return int(struct.unpack("=i", struct.pack("=I", raw & 0xFFFFFFFF))[0])
    if kind == _SLL:
        return int(struct.unpack("=q", struct.pack("=Q", raw))[0])
    if kind == _USHORT:
        return raw & 0xFFFF
    return raw


class Batch:
    """Field values of one GPU, read by one call.

    Where several fields give the same series the first that the board has is taken. Each field has its own return
    code; those that the board has not got are left out until they are tried again after `RETRY_S`.
    """

    name = "nvmlDeviceGetFieldValues"

    def __init__(self, device: Any, of: tuple[str, str], fields: Iterable[Field]) -> None:
        self._device = device
        self._all = [(f, f.pick.family.series(*of, *f.pick.labels)) for f in fields]
        self._function = _nvml.pointer(self.name)
        self._probe_at = 0.0
        self._arm(self._all)

    def _arm(self, fields: list[tuple[Field, Series]]) -> None:
        self._fields = fields
        array = (ctypes.c_char * (_ENTRY.size * len(fields)))()
        for i, (field, _unused) in enumerate(fields):
            _ENTRY.pack_into(array, i * _ENTRY.size, field.id, field.scope, 0, 0, 0, 0, 0)
        self._array = array
        self._call: Callable[[], int] = (
            partial(self._function, self._device, len(fields), ctypes.byref(array)) if self._function else _missing
        )
        self._rows = [(series, f.pick.times, f.pick.over, f.pick.low, f.pick.top) for f, series in fields]

    def read(self, samples: Samples, trouble: Trouble, now: float) -> int:
        """See `Source`."""
        probing = now >= self._probe_at
        if probing:
            self._arm(self._all)
            self._probe_at = now + RETRY_S
        if not self._fields:
            return 0
        code = self._call()
        if code != _nvml.SUCCESS:
            return self._refused(code, trouble)
        kept: list[tuple[Field, Series]] = []
        lost_one = False
        for i, ((series, times, over, low, top), entry) in enumerate(
            zip(self._rows, _ENTRY.iter_unpack(self._array), strict=True)
        ):
            raw: float = entry[6]
            if entry[5] != _nvml.SUCCESS:
                if entry[5] in _nvml.ABSENT:
                    lost_one = True
                    continue
                if entry[5] not in _nvml.NOT_NOW:
                    trouble.setdefault(entry[5], []).append(f"field {entry[0]}")
            elif probing and series in samples:
                continue  # an earlier field of the list gives it
            else:
                if (kind := entry[4]) == _UINT:
                    raw = entry[6] & 0xFFFFFFFF
                    if raw == _NOT_AVAILABLE_32:
                        raw = _NOT_AVAILABLE_64
                elif kind != _ULL:
                    raw = _decode(kind, entry[6])
                if low <= raw <= top:
                    samples[series] = raw * times if over == 1 else raw * times / over
            if probing:
                kept.append(self._fields[i])
        if probing:
            self._arm(kept)
        elif lost_one:
            self._probe_at = now  # another field may give it
        return 1

    def _refused(self, code: int, trouble: Trouble) -> int:
        if code in _nvml.ABSENT:
            if code == _nvml.INVALID_ARGUMENT:
                trouble.setdefault(code, []).append(self.name)
            self._arm([])
        elif code not in _nvml.NOT_NOW:
            trouble.setdefault(code, []).append(self.name)
            self._probe_at = 0.0
        return 0

    def families(self) -> set[Family]:
        """See `Source`."""
        return {f.pick.family for f, _unused in self._all}

    def close(self) -> None:
        """See `Source`."""
