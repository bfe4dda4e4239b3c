# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values for people: the unit of a metric as the catalogue has it, one scale for all values that stand together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from esnode.catalogue import FAMILIES

_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")
_DECIMAL = ("", "k", "M", "G", "T", "P")
_SCALED: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "bytes": ("B", 1024, _BINARY),
    "B/s": ("B/s", 1024, _BINARY),
    "bit/s": ("bit/s", 1000, _DECIMAL),
    "Hz": ("Hz", 1000, _DECIMAL),
    "J": ("J", 1000, _DECIMAL),
}
"""By unit of the catalogue: how it is written, the factor between two prefixes, the prefixes."""
_SHOWN = {"degC": "°C", "1": "", "count": ""}


@dataclass(frozen=True, slots=True)
class Scale:
    """How values that stand together are shown: divided by `factor`, with `digits` after the point, as `unit`."""

    factor: float = 1.0
    unit: str = ""
    digits: int | None = None

    def text(self, value: float) -> str:
        """The value in this scale, without its unit."""
        if self.digits is None or not math.isfinite(value):
            return number(value / self.factor)
        return f"{value / self.factor:.{self.digits}f}"


def unit_of(name: str) -> str:
    """The catalogue's unit of a metric, "" for one that is not in it."""
    for suffix in ("", "_bucket", "_sum", "_count"):
        if name.endswith(suffix) and (family := FAMILIES.get(name.removesuffix(suffix))):
            return "count" if suffix in ("_bucket", "_count") else family.unit
    return ""


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """The scale in which these values read well together."""
    finite = [value for value in values if math.isfinite(value)]
    largest = max(map(abs, finite), default=0.0)
    shown, step, prefixes = _SCALED.get(unit, (_SHOWN.get(unit, unit), 1000, ("",)))
    power = 0
    while power + 1 < len(prefixes) and largest >= step ** (power + 1):
        power += 1
    factor = float(step**power)
    whole = all(value % factor == 0 for value in finite)
    top = largest / factor
    # Very small values have no common number of digits that says anything.
    digits = 0 if whole or top >= 10_000 else (None if top < 0.01 else 3 - max(0, math.floor(math.log10(top))))
    return Scale(factor, prefixes[power] + shown, digits)


def scaled(value: float, unit: str) -> str:
    """One value in its own scale, with its unit: "1.5 GiB"."""
    scale = scale_for(unit, [value])
    return f"{scale.text(value)} {scale.unit}".rstrip()


def number(value: float) -> str:
    """Four digits, whole numbers up to ten digits in full; no exponent where a person would write none."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    if value == int(value) and abs(value) < 1e10:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e10:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.4g}"
