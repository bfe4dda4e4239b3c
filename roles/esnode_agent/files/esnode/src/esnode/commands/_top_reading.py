# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `top` shows, read from the agent: the newest snapshot, and of the last quarter of an hour what moves."""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esnode import catalogue
from esnode.catalogue import Family
from esnode.commands import CommandError

COURSE_S = 900
"""How far back the courses reach."""

_HOST = (
    catalogue.CPU_USAGE, catalogue.LOAD1, catalogue.LOAD5, catalogue.LOAD15, catalogue.MEMORY_TOTAL,
    catalogue.MEMORY_USED, catalogue.SWAP_TOTAL, catalogue.SWAP_USED, catalogue.NODE_POWER,
    catalogue.COLLECTOR_LAST_SUCCESS,
)  # fmt: skip
_GPU = (
    catalogue.GPU_POWER, catalogue.GPU_POWER_LIMIT, catalogue.GPU_UTILIZATION, catalogue.GPU_MEMORY_USED,
    catalogue.GPU_MEMORY_TOTAL, catalogue.GPU_TEMPERATURE, catalogue.GPU_CLOCK, catalogue.GPU_CLOCK_EVENT_ACTIVE,
    catalogue.GPU_LAST_XID, catalogue.GPU_LAST_XID_TIMESTAMP,
)  # fmt: skip
RATES = {
    "network": (catalogue.NETWORK_RECEIVE_BYTES, catalogue.NETWORK_TRANSMIT_BYTES),
    "disk": (catalogue.DISK_READ_BYTES, catalogue.DISK_WRITTEN_BYTES),
}
"""By collector: the counters whose rates are shown, in and out."""
COURSES = (catalogue.GPU_POWER, catalogue.GPU_UTILIZATION)
_WANTED = {family.name for family in (*_HOST, *_GPU, *(f for pair in RATES.values() for f in pair))}

Values = dict[str, list[tuple[dict[str, str], float]]]
"""By name of a metric: labels and value of each series."""


@dataclass(slots=True)
class Gpu:
    """One GPU; what is None can't be read."""

    index: str
    uuid: str
    name: str
    state: str
    error: str
    power_w: float | None = None
    limit_w: float | None = None
    utilization_percent: float | None = None
    memory_used_bytes: float | None = None
    memory_total_bytes: float | None = None
    temperature_c: float | None = None
    memory_temperature_c: float | None = None
    sm_hz: float | None = None
    memory_hz: float | None = None
    reasons: list[str] = field(default_factory=list)
    xid: int | None = None
    xid_time: float | None = None


@dataclass(slots=True)
class Traffic:
    """Bytes per second of the busiest device, and all of its bytes so far."""

    device: str
    in_bytes_s: float
    out_bytes_s: float
    bytes: float


@dataclass(slots=True)
class Frame:
    """All that one picture needs. `traffic` is by collector; what can't be read is absent."""

    status: dict[str, Any]
    values: Values
    gpus: list[Gpu]
    traffic: dict[str, Traffic]
    courses: dict[tuple[str, str], list[tuple[int, float]]]
    """By metric and UUID: times (ms) and values of the last quarter of an hour."""
    time: float
    """The agent's clock at the newest collection, Unix seconds: that of this machine may differ."""

    def one(self, family: Family) -> float | None:
        """The value of a family that has one series."""
        return next((value for _unused, value in self.values.get(family.name, ())), None)


History = Callable[[Sequence[str], float], list[tuple[str, Mapping[str, str], list[int], list[float]]]]
"""Name, labels, times (ms) and values of all series of these names in the last so many seconds."""


class Reading:
    """Makes frames out of what an agent answers; keeps what rates and courses need between two of them."""

    def __init__(self, get: Callable[[str], bytes], history: History) -> None:
        self._get, self._history = get, history
        self._filled = False
        self._counters: dict[tuple[str, str], tuple[float, float]] = {}
        self._rates: dict[tuple[str, str], float] = {}
        self._courses: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)

    def frame(self) -> Frame:
        """The newest; CommandError when the agent does not answer."""
        try:
            status = json.loads(self._get("/status"))
            values = parse(self._get("/metrics").decode())
        except CommandError:
            self._filled = False  # there is a gap to fill from the store once it answers again
            raise
        if not self._filled:
            # An agent without a store has no history: courses then begin now.
            with contextlib.suppress(CommandError):
                self._fill(float(status.get("interval_seconds", 15)))
            self._filled = True
        self._keep(values)
        gpus = [_gpu(known, values) for known in status.get("gpus", ())]
        courses = {key: sorted(course.items()) for key, course in self._courses.items()}
        newest = max(_collected(values).values(), default=time.time())
        return Frame(status, values, gpus, self._traffic(), courses, newest)

    def _fill(self, interval_s: float) -> None:
        for name, labels, times, samples in self._history([family.name for family in COURSES], COURSE_S):
            self._courses[name, labels.get("uuid", "")].update(zip(times, samples, strict=True))
        counters = [family.name for pair in RATES.values() for family in pair]
        for name, labels, times, samples in self._history(counters, max(30.0, 4 * interval_s)):
            for time_ms, value in zip(times[-2:], samples[-2:], strict=True):
                self._count((name, _device(labels)), time_ms / 1000, value)

    def _keep(self, values: Values) -> None:
        taken = _collected(values)
        for collector, pair in RATES.items():
            for family in pair:
                for labels, value in values.get(family.name, ()):
                    self._count((family.name, _device(labels)), taken.get(collector, time.time()), value)
        at_ms = int(taken.get("gpu", time.time()) * 1000)
        for family in COURSES:
            for labels, value in values.get(family.name, ()):
                self._courses[family.name, labels.get("uuid", "")][at_ms] = value
        for course in self._courses.values():
            for old in [at for at in course if at < at_ms - COURSE_S * 1000]:
                del course[old]

    def _count(self, key: tuple[str, str], at: float, value: float) -> None:
        before_at, before = self._counters.get(key, (at, value))
        if at - before_at > 0.05:
            # A counter that fell has started over.
            self._rates[key] = (value - before if value >= before else value) / (at - before_at)
        if at > before_at or key not in self._counters:
            self._counters[key] = (at, value)

    def _traffic(self) -> dict[str, Traffic]:
        busiest: dict[str, Traffic] = {}
        for collector, (into, out) in RATES.items():
            for name, device in self._rates:
                if name == into.name and device != "lo":
                    keys = (name, device), (out.name, device)
                    rates = [self._rates.get(key, 0.0) for key in keys]
                    so_far = sum(self._counters[key][1] for key in keys if key in self._counters)
                    one = Traffic(device, rates[0], rates[1], so_far)
                    if collector not in busiest or _busy(one) > _busy(busiest[collector]):
                        busiest[collector] = one
        return busiest


def parse(page: str) -> Values:
    """The values that are shown, of a page in the Prometheus text format."""
    from prometheus_client.parser import text_string_to_metric_families

    names = tuple(f"{name}{{" for name in _WANTED) + tuple(f"{name} " for name in _WANTED)
    lines = [line for line in page.splitlines() if line.startswith(names)]
    values: Values = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            values.setdefault(sample.name, []).append((sample.labels, sample.value))
    return values


def _collected(values: Values) -> dict[str, float]:
    """When each collector was last whole, Unix seconds."""
    return {labels["collector"]: at for labels, at in values.get(catalogue.COLLECTOR_LAST_SUCCESS.name, ())}


def _busy(traffic: Traffic) -> tuple[float, float]:
    return traffic.in_bytes_s + traffic.out_bytes_s, traffic.bytes


def _device(labels: Mapping[str, str]) -> str:
    return labels.get("interface") or labels.get("device") or ""


def _gpu(known: Mapping[str, Any], values: Values) -> Gpu:
    uuid = str(known.get("uuid", ""))

    def read(family: Family, **wanted: str) -> float | None:
        for labels, value in values.get(family.name, ()):
            if labels.get("uuid") == uuid and all(labels.get(label) == text for label, text in wanted.items()):
                return value
        return None

    xid = read(catalogue.GPU_LAST_XID)
    return Gpu(
        index=str(known.get("index", "")),
        uuid=uuid,
        name=str(known.get("name", "")),
        state=str(known.get("state", "")),
        error=str(known.get("error") or ""),
        power_w=read(catalogue.GPU_POWER),
        limit_w=read(catalogue.GPU_POWER_LIMIT, kind="enforced"),
        utilization_percent=read(catalogue.GPU_UTILIZATION),
        memory_used_bytes=read(catalogue.GPU_MEMORY_USED),
        memory_total_bytes=read(catalogue.GPU_MEMORY_TOTAL),
        temperature_c=read(catalogue.GPU_TEMPERATURE, sensor="gpu"),
        memory_temperature_c=read(catalogue.GPU_TEMPERATURE, sensor="memory"),
        sm_hz=read(catalogue.GPU_CLOCK, domain="sm"),
        memory_hz=read(catalogue.GPU_CLOCK, domain="memory"),
        reasons=[
            labels["reason"]
            for labels, value in values.get(catalogue.GPU_CLOCK_EVENT_ACTIVE.name, ())
            if labels.get("uuid") == uuid and value == 1
        ],
        xid=int(xid) if xid else None,
        xid_time=read(catalogue.GPU_LAST_XID_TIMESTAMP),
    )
