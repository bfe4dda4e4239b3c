# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A matrix of samples to bytes and back, without losing a bit.

Most of what a node reports are decimals with few digits, so a column is first scaled to integers where that is exact,
then taken as differences divided by what they have in common, and the bytes of equal weight are laid side by side for
zstd. Columns of true doubles go through pcodec. NaN, infinities and -0.0 go by their bits into a list.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard
from pcodec import ChunkConfig, standalone  # type: ignore[import-untyped, unused-ignore]

from esnode.store.errors import Damaged
from esnode.store.unpacking import UnpackError, unpack

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LEVEL = 3
_HEADER = struct.Struct("<HIIH")  # columns, rows, bytes of the description, sections
# One entry a column: how its values were written. `second` is the first difference where second differences are kept.
_COLUMN = np.dtype(
    [
        ("kind", "u1"),
        ("scale", "u1"),
        ("order", "u1"),
        ("width", "u1"),
        ("count", "<u4"),
        ("exceptions", "<u4"),
        ("tail", "<u4"),
        ("base", "<i8"),
        ("second", "<i8"),
        ("step", "<i8"),
    ]
)
_FIELDS = _COLUMN.names or ()
_FORMS = ("<B", "<B", "<B", "<B", "<I", "<I", "<I", "<q", "<q", "<q")
# Where a field of all columns lies in the description, in bytes a column, and how one is read.
_SIZES = (_COLUMN[name].itemsize for name in _FIELDS)
_PLACES = dict(zip(_FIELDS, zip(accumulate(_SIZES, initial=0), map(struct.Struct, _FORMS), strict=False), strict=True))
_EXCEPTION = np.dtype([("at", "<u4"), ("bits", "<i8")])
_DECIMAL, _BITS, _DOUBLES = 0, 1, 2  # column kinds: scaled integers, the floats' own bits, pcodec
_TOGETHER = 16  # columns that zstd sees together: reading one series unpacks this many
_POWERS = [float(10**scale) for scale in range(10)]
_EXACT_SCALED = 2.0**53
_EXACT_WHOLE = 2.0**62
_DOUBLES_CONFIG = ChunkConfig(compression_level=8)


@dataclass(slots=True)
class Column:
    """One series in a chunk: `present` marks the rows that have a value (None: all), `values` are theirs in order."""

    present: Bools | None
    values: Floats


def encode(columns: Iterable[Column], rows: int) -> bytes:
    """Return the chunk of these columns, each over the same `rows` rows."""
    columns = list(columns)
    table = np.zeros(len(columns), _COLUMN)
    planes: list[list[npt.NDArray[np.uint8]]] = [[] for _unused in range(9)]
    masks: list[bytes] = []
    exceptions: list[npt.NDArray[np.void]] = []
    tails: list[bytes] = []
    for entry, column in zip(table, columns, strict=True):
        time.sleep(0)  # who appends must not wait for a whole chunk until it gets the interpreter
        if column.present is not None:
            masks.append(np.packbits(column.present).tobytes())
        entry["count"] = len(column.values)
        if not len(column.values):
            continue
        values, odd = _without_exceptions(column.values)
        entry["exceptions"] = len(odd)
        exceptions.append(odd)
        whole = _as_decimal(values)
        if whole is None and not _constant(values):
            tail = standalone.simple_compress(values, _DOUBLES_CONFIG)
            entry["kind"], entry["tail"] = _DOUBLES, len(tail)
            tails.append(tail)
            continue
        if whole is None:
            entry["kind"], numbers = _BITS, values.view(np.int64)
        else:
            entry["kind"], (entry["scale"], numbers) = _DECIMAL, whole
        codes = _differences(numbers, entry)
        width = (int(np.max(codes)).bit_length() + 7) // 8
        entry["width"] = width
        if width:
            planes[width].append(codes.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T)
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
    sections = [
        compressor.compress(np.concatenate(wide[at : at + _TOGETHER], axis=1).tobytes())
        for wide in planes
        for at in range(0, len(wide), _TOGETHER)
    ]
    # Field by field: the same field of all columns compresses best side by side.
    fields = [np.ascontiguousarray(table[name]).tobytes() for name in _FIELDS]
    sizes = np.array([len(section) for section in sections], "<u4").tobytes()
    description = compressor.compress(b"".join((*fields, sizes, *(odd.tobytes() for odd in exceptions), *masks)))
    return b"".join((_HEADER.pack(len(columns), rows, len(description), len(sections)), description, *sections, *tails))


def _constant(values: Floats) -> bool:
    return bool((values.view(np.int64) == values.view(np.int64)[0]).all())


def _without_exceptions(values: Floats) -> tuple[Floats, npt.NDArray[np.void]]:
    """Values with each NaN, infinity and -0.0 replaced by its predecessor, and the list of what was replaced."""
    odd = ~np.isfinite(values) | ((values == 0.0) & np.signbit(values))
    at = np.flatnonzero(odd)
    replaced = np.zeros(len(at), _EXCEPTION)
    if not len(at):
        return np.ascontiguousarray(values, np.float64), replaced
    replaced["at"], replaced["bits"] = at, values.view(np.int64)[at]
    good = np.flatnonzero(~odd)
    if not len(good):
        return np.zeros(len(values)), replaced
    source = np.where(odd, 0, np.arange(len(values)))
    np.maximum.accumulate(source, out=source)
    source[: good[0]] = good[0]
    return values[source], replaced


def _as_decimal(values: Floats) -> tuple[int, Ints] | None:
    """The power of ten and the integers that give exactly these values when divided by it, if there are any."""
    largest = float(np.abs(values).max())
    first = values[:8]  # most scales fail at once
    for scale, power in enumerate(_POWERS):
        if largest * power >= (_EXACT_SCALED if scale else _EXACT_WHOLE):
            return None
        if not (np.rint(first * power) / power == first).all():
            continue
        whole = np.rint(values * power)
        if (whole / power == values).all():
            return scale, whole.astype(np.int64)
    return None


def _differences(numbers: Ints, entry: np.void) -> npt.NDArray[np.uint64]:
    """Write base, step, order and second into `entry`; return the codes, of the order that makes them smallest.

    All arithmetic wraps at 64 bits, in both directions.
    """
    one = np.zeros(len(numbers), np.int64)
    np.subtract(numbers[1:], numbers[:-1], out=one[1:])
    step = int(np.gcd.reduce(one, keepdims=True)[0]) if len(one) > 1 else 0
    step = 1 if step <= 0 else step  # gcd is negative for the most negative integer alone
    entry["step"] = step
    if step > 1:
        one //= step
    lowest, highest = int(np.min(numbers)), int(np.max(numbers))
    second = int(one[1]) if len(one) > 1 else 0
    two = np.zeros_like(one)
    np.subtract(one[2:], one[1:-1], out=two[2:])
    by_order: list[npt.NDArray[np.uint64]] = [_zigzag(one), _zigzag(two)]
    if highest - lowest < 2**63:
        by_order.append(((numbers - lowest) // step).view(np.uint64))
    costs = [float(np.log2(codes.astype(np.float64) + 1.0).sum()) for codes in by_order]
    best = costs.index(min(costs))
    entry["order"] = (1, 2, 0)[best]
    entry["base"] = lowest if best == 2 else int(numbers[0])
    entry["second"] = second if best == 1 else 0
    return by_order[best]


def _zigzag(numbers: Ints) -> npt.NDArray[np.uint64]:
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def _unzigzag(codes: npt.NDArray[np.uint64]) -> Ints:
    numbers: Ints = (codes >> np.uint64(1)).view(np.int64) ^ -(codes & np.uint64(1)).view(np.int64)
    return numbers


class Chunk:
    """A chunk that is being read. Raises Damaged when the bytes do not hold together."""

    def __init__(self, data: bytes) -> None:
        try:
            self._open(data)
        except (UnpackError, struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
            raise Damaged(f"unreadable chunk: {error}") from error

    def _open(self, data: bytes) -> None:
        numbers: tuple[int, int, int, int] = _HEADER.unpack_from(data)
        self._columns, self.rows, described, sections = numbers
        start = _HEADER.size + described
        self._data, self._fields = data, unpack(data[_HEADER.size : start])
        n = self._columns
        counts, odd = (self._bytes(field) for field in ("count", "exceptions"))
        # Mostly all columns are full and without exceptions, which their bytes tell at once.
        self._full = counts == self.rows.to_bytes(4, "little") * n
        self._counts: list[int] = [self.rows] * n if self._full else self._all("count").tolist()
        self._odd: list[int] = self._all("exceptions").tolist() if odd.strip(b"\0") else [0] * n
        self._widths, self._kinds = self._bytes("width"), self._bytes("kind")
        offset = _COLUMN.itemsize * n
        sizes = struct.unpack_from(f"<{sections}I", self._fields, offset)
        self._sections = list(accumulate(sizes, initial=start))
        offset += 4 * sections
        self._exceptions = np.frombuffer(self._fields, _EXCEPTION, sum(self._odd), offset)
        self._masks = self._fields[offset + self._exceptions.nbytes :]
        needed = [-(-self._widths.count(width) // _TOGETHER) for width in range(1, 9)]
        self._first_section = list(accumulate(needed, initial=0))  # by width, from 1 up
        if self._first_section[-1] != sections:
            raise Damaged("the columns do not match the sections")
        self._unpacked: dict[int, npt.NDArray[np.uint8]] = {}
        self._decoded: dict[int, dict[int, Floats]] = {}  # by section: its columns, once a second one was asked for

    def fresh(self) -> Chunk:
        """The same with nothing unpacked: for another reader, and to be kept."""
        other = Chunk.__new__(Chunk)
        other.__dict__.update(self.__dict__)
        other._unpacked, other._decoded = {}, {}
        return other

    @property
    def nbytes(self) -> int:
        """Memory that it takes with nothing unpacked."""
        return len(self._data) + len(self._fields) + len(self._masks) + 100 * self._columns

    def _bytes(self, field: str) -> bytes:
        each, form = _PLACES[field]
        return self._fields[each * self._columns : (each + form.size) * self._columns]

    def _all(self, field: str) -> npt.NDArray[Any]:
        return np.frombuffer(self._fields, _COLUMN[field], self._columns, _PLACES[field][0] * self._columns)

    def _one(self, field: str, column: int) -> int:
        each, form = _PLACES[field]
        value: int = form.unpack_from(self._fields, each * self._columns + form.size * column)[0]
        return value

    def __len__(self) -> int:
        return self._columns

    def count(self, column: int) -> int:
        """Number of samples of a column."""
        return self._counts[column]

    def column(self, column: int) -> Column:
        """Decode one column."""
        try:
            return Column(self._present(column), self._values(column))
        except (UnpackError, struct.error, ValueError, IndexError, RuntimeError, TypeError) as error:
            raise Damaged(f"unreadable column {column}: {error}") from error

    def columns(self) -> Iterator[Column]:
        return (self.column(number) for number in range(len(self)))

    def _present(self, column: int) -> Bools | None:
        if self._full or self._counts[column] == self.rows:
            return None
        size = (self.rows + 7) // 8
        start = sum(count != self.rows for count in self._counts[:column]) * size
        return np.unpackbits(np.frombuffer(self._masks, np.uint8, size, start), count=self.rows).view(np.bool_)

    def _values(self, column: int) -> Floats:
        n = self._counts[column]
        values: Floats
        if not n:
            return np.empty(0)
        if self._kinds[column] == _DOUBLES:
            tails = self._all("tail").tolist()
            start = self._sections[-1] + sum(tails[:column])
            values = standalone.simple_decompress(self._data[start : start + tails[column]])
            if values is None or len(values) != n or values.dtype != np.float64:
                raise Damaged(f"column {column} has not {n} doubles")
        else:
            values = self._scaled(column, n)
        odd = self._odd[column]
        if odd:
            start = sum(self._odd[:column])
            replaced = self._exceptions[start : start + odd]
            values.view(np.int64)[replaced["at"]] = replaced["bits"]
        return values

    def _scaled(self, column: int, n: int) -> Floats:
        width = self._widths[column]
        if not width:
            return self._floats(column, self._numbers(column, n, None))
        place = self._widths[:column].count(width)
        section = self._first_section[width - 1] + place // _TOGETHER
        decoded = self._decoded.get(section)
        if decoded is None:
            self._decoded[section] = {}
        elif not decoded:
            decoded = self._decoded[section] = self._together(section, width)
        if decoded and column in decoded:
            values: Floats = decoded[column].copy()  # or who keeps one column would keep all of them
            return values
        before = place % _TOGETHER * self.rows
        if not self._full:
            before = sum(self._counts[other] for other in self._alike(section, width) if other < column)
        return self._floats(column, self._numbers(column, n, self._planes(section, width)[:, before : before + n]))

    def _floats(self, column: int, numbers: Ints) -> Floats:
        if self._kinds[column] == _BITS:
            return numbers.view(np.float64)
        # Divide: multiplying with 10^-k gives other floats.
        scale = self._one("scale", column)
        return numbers / _POWERS[scale] if scale else numbers.astype(np.float64)

    def _numbers(self, column: int, n: int, planes: npt.NDArray[np.uint8] | None) -> Ints:
        order, base, second, step = (self._one(field, column) for field in ("order", "base", "second", "step"))
        if planes is None and not (order == 2 and second):
            return np.full(n, base, np.int64)
        codes = np.zeros((n, 8), np.uint8)
        if planes is not None:
            codes[:, : len(planes)] = planes.T
        numbers = codes.view("<i8").ravel()
        if order:
            numbers = _unzigzag(numbers.view(np.uint64))
            if order == 2:
                if n > 1:
                    numbers[1] = second
                numbers = numbers.cumsum()
            numbers = numbers.cumsum()
        if step != 1:
            numbers = numbers * np.int64(step)
        numbers += np.int64(base)
        return numbers

    def _together(self, section: int, width: int) -> dict[int, Floats]:
        """All columns of a section at once, which takes little longer than one; none if their lengths differ."""
        columns = self._alike(section, width)
        counts = {self._counts[column] for column in columns}
        if len(counts) > 1:
            return {}
        n = counts.pop()
        kind, order, base, second, step, scale = (
            self._all(field)[columns].astype(np.int64) for field in ("kind", "order", "base", "second", "step", "scale")
        )
        codes = np.zeros((len(columns) * n, 8), np.uint8)
        codes[:, :width] = self._planes(section, width).T
        numbers = codes.view("<i8").reshape(len(columns), n)
        summed = np.flatnonzero(order)
        if len(summed):
            differences = _unzigzag(numbers[summed].view(np.uint64))
            twice = np.flatnonzero(order[summed] == 2)
            if len(twice):
                if n > 1:
                    differences[twice, 1] = second[summed[twice]]
                differences[twice] = differences[twice].cumsum(axis=1)
            numbers[summed] = differences.cumsum(axis=1)
        numbers *= step[:, None]
        numbers += base[:, None]
        values: Floats = numbers / np.array(_POWERS)[scale][:, None]
        bits = np.flatnonzero(kind == _BITS)
        values[bits] = numbers[bits].view(np.float64)
        return dict(zip(columns, values, strict=True))

    def _alike(self, section: int, width: int) -> list[int]:
        """The columns in a section."""
        alike = [column for column, other in enumerate(self._widths) if other == width]
        start = (section - self._first_section[width - 1]) * _TOGETHER
        return alike[start : start + _TOGETHER]

    def _planes(self, section: int, width: int) -> npt.NDArray[np.uint8]:
        """The bytes of the codes of a section's columns: a row for each weight."""
        planes = self._unpacked.get(section)
        if planes is None:
            raw = unpack(self._data[self._sections[section] : self._sections[section + 1]])
            planes = self._unpacked[section] = np.frombuffer(raw, np.uint8).reshape(width, -1)
        return planes


def encode_times(times: Ints) -> bytes:
    """Times as bytes."""
    change = np.diff(times, prepend=np.int64(0))
    codes = _zigzag(np.diff(change, prepend=np.int64(0))).astype("<u8")
    return zstandard.ZstdCompressor(level=LEVEL).compress(codes.view(np.uint8).reshape(-1, 8).T.tobytes())


def decode_times(data: bytes) -> Ints:
    """Times from bytes."""
    try:
        codes = np.ascontiguousarray(np.frombuffer(unpack(data), np.uint8).reshape(8, -1).T).view("<u8").ravel()
    except (UnpackError, ValueError) as error:
        raise Damaged(f"unreadable times: {error}") from error
    times: Ints = np.cumsum(np.cumsum(_unzigzag(codes)))
    return times
