# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of `top`: a frame as something that rich prints, for any width from 40 columns up."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from esnode import catalogue
from esnode.commands._digest import Digest, Span
from esnode.commands._table import bars
from esnode.commands._top_reading import COURSE_S, Frame, Gpu
from esnode.commands._units import scale_for

if TYPE_CHECKING:
    from rich.console import RenderableType

_REASONS = {
    "gpu_idle": "idle",
    "sw_power_cap": "power cap",
    "hw_power_brake_slowdown": "POWER BRAKE",
    "sw_thermal_slowdown": "thermal",
    "hw_thermal_slowdown": "HW THERMAL",
    "hw_slowdown": "HW SLOWDOWN",
    "applications_clocks_setting": "app clocks",
    "display_clocks_setting": "display",
    "sync_boost": "sync boost",
}
"""Clock event reasons as they are shown; capitals are trouble."""
_NONE = "-"
_WHICH = re.compile(r"GPU \d+( \([^)]*\))?: ")
"""How the agent's errors begin."""
_RECENT_XID_S = 3600
_COURSE = 10
"""A course shorter than this says little."""
_GIVING_WAY = (
    ("name", 64), ("mem MHz", 44), ("mem °C", 44), ("clocks held by", 0), ("MHz", 0), ("memory GiB", 0), ("XID", 0)
)  # fmt: skip
"""Columns that are left out when there would not be this much room beside them, in this order."""


def picture(frame: Frame, columns: int, note: str = "") -> RenderableType:
    """The whole picture; `note` is what is wrong with the connection, then the numbers are old and shown dim."""
    parts: list[RenderableType] = [_head(frame, note)]
    style = "dim" if note else ""
    parts += [Text(line, style) for line in _packed(_host(frame), columns)]
    parts += [Text(line, "red") for line in _troubles(frame)]
    if frame.gpus:
        parts += [Text(""), _gpus(frame, columns, style)]
    else:
        detail = frame.status.get("collectors", {}).get("gpu", {})
        parts.append(Text(f"no GPU: {'; '.join(detail.get('errors', ())) or 'none found'}", "dim"))
    return Group(*parts)


def _head(frame: Frame, note: str) -> Text:
    status = frame.status
    head = Text()
    head.append(f"esnode-core {status.get('version', '')} on {status.get('host', '')}", "bold")
    head.append(
        f"  every {status.get('interval_seconds', 0):g} s  {time.strftime('%H:%M:%S', time.localtime(frame.time))}"
    )
    if driver := status.get("driver"):
        head.append(f"  driver {driver}")
    if not status.get("ready", True):
        head.append("  the numbers are not fresh", "bold red")
    if note:
        head.append(f"\n{note}", "bold red")
    return head


def _host(frame: Frame) -> list[str]:
    """What the host's line is made of."""
    parts = []
    usage = [value for _unused, value in frame.values.get(catalogue.CPU_USAGE.name, ())]
    if usage:
        parts.append(f"CPU {sum(usage) / len(usage):.0f}% of {len(usage)}")
    loads = [frame.one(family) for family in (catalogue.LOAD1, catalogue.LOAD5, catalogue.LOAD15)]
    if all(load is not None for load in loads):
        parts.append("load " + " ".join(f"{load:.2f}" for load in loads))
    for word, used, total in (
        ("memory", frame.one(catalogue.MEMORY_USED), frame.one(catalogue.MEMORY_TOTAL)),
        ("swap", frame.one(catalogue.SWAP_USED), frame.one(catalogue.SWAP_TOTAL)),
    ):
        if used is not None and total:
            parts.append(f"{word} {_of(used, total, 'bytes')}")
    for collector, (into, out) in (("network", "↓↑"), ("disk", "RW")):
        if one := frame.traffic.get(collector):
            parts.append(f"{one.device} {into} {_rate(one.in_bytes_s)} {out} {_rate(one.out_bytes_s)}")
    for labels, watts in frame.values.get(catalogue.NODE_POWER.name, ()):
        parts.append(f"node {watts:.0f} W ({labels.get('source', '')})")
    return parts


def _of(used: float, total: float, unit: str) -> str:
    scale = scale_for(unit, [total])
    return f"{used / scale.factor:.1f}/{total / scale.factor:.1f} {scale.unit}"


def _rate(bytes_s: float) -> str:
    scale = scale_for("B/s", [bytes_s])
    return f"{bytes_s / scale.factor:.{1 if scale.factor > 1 else 0}f} {scale.unit}"


def _packed(parts: Sequence[str], columns: int) -> list[str]:
    """The parts in lines, none torn."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 3 + len(part) <= columns:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return lines


def _troubles(frame: Frame) -> list[str]:
    """Collectors that do not give all they should."""
    return [
        f"{name} {one['state']}: {'; '.join(one.get('errors', ()))}"
        for name, one in frame.status.get("collectors", {}).items()
        if one.get("state") in ("failed", "late", "partial")
    ]


def _gpus(frame: Frame, columns: int, style: str) -> Table:
    rows = [_cells(gpu, frame.time) for gpu in frame.gpus]
    widths = {head: max(len(head), *(row[head].cell_len for row in rows)) for head in rows[0]}
    widths["clocks held by"] = min(widths["clocks held by"], max(14, columns // 6))
    for head, spared in _GIVING_WAY:
        if sum(widths.values()) + len(widths) + spared > columns:
            del widths[head]
    left = columns - sum(widths.values()) - len(widths)
    courses = [
        family
        for family, needed in ((catalogue.GPU_POWER, _COURSE), (catalogue.GPU_UTILIZATION, 2 * _COURSE))
        if left > needed
    ]
    course = min(left // len(courses) - 1, 40) if courses else 0
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", style=style)
    for head, width in widths.items():
        right = head not in ("clocks held by", "name", "XID")
        table.add_column(head, justify="right" if right else "left", no_wrap=True, width=width)
    for family in courses:
        unit = "W" if family is catalogue.GPU_POWER else "%"
        table.add_column(f"{unit}, {COURSE_S // 60} min", no_wrap=True, width=course)
    for gpu, row in zip(frame.gpus, rows, strict=True):
        lines = (Text(_course(frame, gpu, family.name, course), "cyan") for family in courses)
        table.add_row(*(row[head] for head in widths), *lines)
    return table


def _cells(gpu: Gpu, now: float) -> dict[str, Text]:
    """A GPU's cells by the head of their column."""
    gib = 1024.0**3
    return {
        "GPU": Text(gpu.index),
        "name": Text(gpu.name.removeprefix("NVIDIA ")),
        "W": Text(_pair(gpu.power_w, gpu.limit_w)),
        "use%": Text(_whole(gpu.utilization_percent)),
        "memory GiB": Text(_pair(gpu.memory_used_bytes, gpu.memory_total_bytes, gib, 1)),
        "°C": Text(_whole(gpu.temperature_c)),
        "mem °C": Text(_whole(gpu.memory_temperature_c)),
        "MHz": Text(_whole(gpu.sm_hz, 1e6)),
        "mem MHz": Text(_whole(gpu.memory_hz, 1e6)),
        "clocks held by": _reasons(gpu),
        "XID": _xid(gpu, now),
    }


def _reasons(gpu: Gpu) -> Text:
    if gpu.state not in ("ok", "partial", ""):
        # Which GPU it is stands in the same row.
        why = _WHICH.sub("", gpu.error)
        return Text(f"{gpu.state}: {why}".rstrip(": "), "bold red")
    names = [_REASONS.get(reason, reason.replace("_", " ")) for reason in gpu.reasons]
    trouble = any(name.isupper() for name in names) or "thermal" in names
    # Trouble first, since the end may be cut off.
    names.sort(key=lambda name: not name.isupper())
    return Text(", ".join(names), "bold yellow" if trouble else "")


def _xid(gpu: Gpu, now: float) -> Text:
    if gpu.xid is None:
        return Text("")
    age_s = max(0.0, now - gpu.xid_time) if gpu.xid_time else math.inf
    return Text(f"{gpu.xid} {_age(age_s)}".rstrip(), "bold red" if age_s < _RECENT_XID_S else "yellow")


def _age(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{letter}"
    return f"{seconds:.0f}s"


def _whole(value: float | None, factor: float = 1.0) -> str:
    return _NONE if value is None else f"{value / factor:.0f}"


def _pair(value: float | None, most: float | None, factor: float = 1.0, digits: int = 0) -> str:
    if value is None:
        return _NONE
    text = f"{value / factor:.{digits}f}"
    return text if most is None else f"{text}/{most / factor:.{digits}f}"


def _course(frame: Frame, gpu: Gpu, name: str, columns: int) -> str:
    samples = frame.courses.get((name, gpu.uuid), [])
    now_ms = int(frame.time * 1000)
    one = Digest(Span(now_ms - COURSE_S * 1000, now_ms), columns)
    one.add(
        np.array([at for at, _unused in samples], np.int64), np.array([value for _unused, value in samples], np.float64)
    )
    high = 100.0 if name == catalogue.GPU_UTILIZATION.name else gpu.limit_w
    return bars(one.means(), 0.0, high)
