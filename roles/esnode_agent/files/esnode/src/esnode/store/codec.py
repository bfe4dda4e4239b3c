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
_FIELDS = [(name, _COLUMN[name]) for name in _COLUMN.names or ()]
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
    fields = [np.ascontiguousarray(table[name]).tobytes() for name, _unused in _FIELDS]
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
        count, self.rows, described, sections = _HEADER.unpack_from(data)
        start = _HEADER.size + described
        fields = unpack(data[_HEADER.size : start])
        self._data = data
        self.table: dict[str, list[int]] = {}
        offset = 0
        for name, kind in _FIELDS:
            self.table[name] = np.frombuffer(fields, kind, count, offset).tolist()
            offset += kind.itemsize * count
        sizes = np.frombuffer(fields, "<u4", sections, offset).tolist()
        offset += 4 * sections
        self._sections = list(accumulate(sizes, initial=start))
        self._tails = self._sections[-1]
        odd = sum(self.table["exceptions"])
        self._exceptions = np.frombuffer(fields, _EXCEPTION, odd, offset)
        self._masks = np.frombuffer(fields, np.uint8, -1, offset + self._exceptions.nbytes)
        if sum(-(-self.table["width"].count(width) // _TOGETHER) for width in range(1, 9)) != sections:
            raise Damaged("the columns do not match the sections")
        self._unpacked: dict[int, npt.NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.table["count"])

    def count(self, column: int) -> int:
        """Number of samples of a column."""
        return self.table["count"][column]

    def column(self, column: int) -> Column:
        """Decode one column."""
        try:
            return Column(self._present(column), self._values(column))
        except (UnpackError, struct.error, ValueError, IndexError, RuntimeError, TypeError) as error:
            raise Damaged(f"unreadable column {column}: {error}") from error

    def columns(self) -> Iterator[Column]:
        return (self.column(number) for number in range(len(self)))

    def _present(self, column: int) -> Bools | None:
        counts = self.table["count"]
        if counts[column] == self.rows:
            return None
        size = (self.rows + 7) // 8
        start = sum(count != self.rows for count in counts[:column]) * size
        return np.unpackbits(self._masks[start : start + size], count=self.rows).view(np.bool_)

    def _values(self, column: int) -> Floats:
        table, n = self.table, self.table["count"][column]
        values: Floats
        if not n:
            return np.empty(0)
        if table["kind"][column] == _DOUBLES:
            start = self._tails + sum(table["tail"][:column])
            values = standalone.simple_decompress(self._data[start : start + table["tail"][column]])
            if values is None or len(values) != n or values.dtype != np.float64:
                raise Damaged(f"column {column} has not {n} doubles")
        else:
            numbers = self._numbers(column, n)
            if table["kind"][column] == _BITS:
                values = numbers.view(np.float64)
            else:
                # Divide: multiplying with 10^-k gives other floats.
                scale = table["scale"][column]
                values = numbers / _POWERS[scale] if scale else numbers.astype(np.float64)
        odd = table["exceptions"][column]
        if odd:
            start = sum(table["exceptions"][:column])
            replaced = self._exceptions[start : start + odd]
            values.view(np.int64)[replaced["at"]] = replaced["bits"]
        return values

    def _numbers(self, column: int, n: int) -> Ints:
        table = self.table
        width, order, base = table["width"][column], table["order"][column], table["base"][column]
        if not width and not (order == 2 and table["second"][column]):
            return np.full(n, base, np.int64)
        codes = np.zeros((n, 8), np.uint8)
        if width:
            codes[:, :width] = self._codes(column).T
        numbers = codes.view("<i8").ravel()
        if order:
            numbers = _unzigzag(numbers.view(np.uint64))
            if order == 2:
                if n > 1:
                    numbers[1] = table["second"][column]
                numbers = np.cumsum(numbers)
            numbers = np.cumsum(numbers)
        if table["step"][column] != 1:
            numbers = numbers * np.int64(table["step"][column])
        numbers += np.int64(base)
        return numbers

    def _codes(self, column: int) -> npt.NDArray[np.uint8]:
        """The bytes of a column's codes: a row for each weight."""
        widths, counts = self.table["width"], self.table["count"]
        width = widths[column]
        alike = [number for number, other in enumerate(widths) if other == width]
        place = alike.index(column)
        together = alike[place - place % _TOGETHER :][:_TOGETHER]
        section = place // _TOGETHER + sum(-(-widths.count(less) // _TOGETHER) for less in range(1, width))
        planes = self._unpacked.get(section)
        if planes is None:
            raw = unpack(self._data[self._sections[section] : self._sections[section + 1]])
            planes = self._unpacked[section] = np.frombuffer(raw, np.uint8).reshape(width, -1)
        start = sum(counts[number] for number in together[: place % _TOGETHER])
        return planes[:, start : start + counts[column]]


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
