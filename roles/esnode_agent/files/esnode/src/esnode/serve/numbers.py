# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers of arrays as text, those of many arrays at once: a call of numpy takes as long as some hundred numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

import numpy as np
import orjson

from esnode.store import SeriesData
from esnode.store.codec import Bools, Floats, Ints

_EXACT = 2.0**53
_TOGETHER = 50_000  # numbers whose text is made at once


def with_texts(pieces: Iterable[SeriesData]) -> Iterator[tuple[SeriesData, bytes]]:
    """Each with the text of its values, as `texts` makes it of some of them at once."""
    some: list[SeriesData] = []
    numbers = 0
    for piece in pieces:
        some.append(piece)
        numbers += len(piece.values)
        if numbers >= _TOGETHER:
            yield from zip(some, texts([one.values for one in some]), strict=True)
            some, numbers = [], 0
    if some:
        yield from zip(some, texts([one.values for one in some]), strict=True)


def texts(arrays: Sequence[Floats]) -> list[bytes]:
    """Of each array its numbers with a comma between two, each as short as it can be said.

    Without a point where all of an array are whole; `null` for NaN and the infinities. No array may be empty.
    """
    flat = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    starts = [0, *accumulate(map(len, arrays))]
    whole = _whole(flat)
    if len(arrays) == 1 or whole.all():
        alike: list[bool] = [bool(whole.all())] * len(arrays)
    else:
        alike = np.logical_and.reduceat(whole, starts[:-1]).tolist()
    if all(alike):
        return _cut(flat.astype(np.int64), starts)
    if not any(alike):
        return _cut(np.ascontiguousarray(flat), starts)
    found = [b""] * len(arrays)
    for kind in (True, False):
        places = [place for place, one in enumerate(alike) if one is kind]
        some = np.concatenate([arrays[place] for place in places])
        ends = [0, *accumulate(len(arrays[place]) for place in places)]
        for place, text in zip(places, _cut(some.astype(np.int64) if kind else some, ends), strict=True):
            found[place] = text
    return found


def whole_texts(numbers: Ints) -> bytes:
    """Whole numbers with a comma between two."""
    return orjson.dumps(np.ascontiguousarray(numbers), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def _whole(numbers: Floats) -> Bools:
    """Which are whole numbers that an integer holds; -0.0 is none. NaN and the infinities fail both comparisons."""
    whole: Bools = (numbers == np.trunc(numbers)) & (np.abs(numbers) < _EXACT)
    negative = np.signbit(numbers)
    if negative.any():
        whole &= ~negative | (numbers != 0)
    return whole


def _cut(numbers: Floats | Ints, starts: Sequence[int]) -> list[bytes]:
    """The texts of the numbers from each start to the next."""
    text = orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)
    if len(starts) == 2:
        return [text[1:-1]]
    commas = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(","))
    between: list[int] = [0, *commas[np.array(starts[1:-1]) - 1].tolist(), len(text) - 1]
    return [text[a + 1 : b] for a, b in pairwise(between)]
