# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One GPU with a valid handle: what is read of it, how often, and what its answers say about its state."""

from __future__ import annotations

import time
from typing import Any

from esnode import catalogue
from esnode.catalogue import Family
from esnode.collect import _nvml
from esnode.collect._gpu_gpm import Gpm
from esnode.collect._gpu_mig import Mig
from esnode.collect._gpu_processes import Processes
from esnode.collect._gpu_query import Batch, Bits, Fallback, Query, Source, Trouble
from esnode.collect._gpu_table import (
    CLOCK_EVENT_REASONS,
    FAST,
    HEALTH,
    LINK_COUNT_FIELD,
    REASON_CALLS,
    STATIC,
    SUPPORTED_REASON_CALLS,
    fan_getters,
    fast_fields,
    health_fields,
    link_getters,
)
from esnode.snapshot import Samples

HEALTH_S = 5.0
STATIC_S = 60.0
_MOST_LINKS = 36

_ARCHITECTURES = {number: name.title() for name, number in _nvml.constants("NVML_DEVICE_ARCH_").items()}


class Gone(Exception):
    """The GPU gives nothing any more: `code` is what NVML answers. INVALID_ARGUMENT means that the handle is stale."""

    def __init__(self, code: int, asked: list[str]) -> None:
        super().__init__(code)
        self.code = code
        self.asked = asked


class Clock:
    """Sources that are read once a period; in between their last answer stands."""

    def __init__(self, period_s: float, sources: list[Source]) -> None:
        self.sources = sources
        self.samples: Samples = {}
        self.trouble: Trouble = {}
        self.due = 0.0
        self._period_s = period_s
        self._first = True

    def read(self, now: float, share: float) -> None:
        """Read if it is time; `share` (0 to 1) spreads the GPUs of a machine over the period."""
        if now < self.due:
            return
        self.samples, self.trouble = {}, {}
        for source in self.sources:
            source.read(self.samples, self.trouble, now)
        self.due = now + self._period_s * (1 - share / 2 if self._first else 1)
        self._first = False


class Device:
    """What is read of one GPU. Made and used on the GPU's own thread, since every call may hang."""

    def __init__(self, handle: Any, uuid: str, index: int, pci: str, *, processes: Processes | None) -> None:
        self.handle = handle
        self.uuid = uuid
        self.index = index
        self.pci = pci
        self.name = ""
        of = self.of = (uuid, str(index))
        self._share = index % 8 / 8
        self._touches = _nvml.SESSION.touches(uuid)
        self._static = Clock(STATIC_S, [Query(handle, of, row) for row in STATIC])
        self._fast: list[Source] = [Query(handle, of, row) for row in FAST]
        self._health = Clock(HEALTH_S, [Query(handle, of, row) for row in HEALTH])
        self._mig_mode = catalogue.GPU_MIG_MODE.series(*of, "current")
        self._mig_was: float | None = None
        self._info: Info | None = None
        self._processes = processes
        self._unprepared: Trouble = {}
        self._prepare_again = time.monotonic() + STATIC_S
        self._prepare()

    def _prepare(self) -> None:
        """Find out how many fans, links and instances there are to be read."""
        handle, of = self.handle, self.of
        links = self._link_count()
        self._mig = Mig(handle, of)
        self._fast += [
            Batch(handle, of, fast_fields(links)),
            Bits(handle, of, REASON_CALLS, catalogue.GPU_CLOCK_EVENT_ACTIVE, self._reasons()),
            *(Query(handle, of, fan_getters(fan)) for fan in range(self._fan_count())),
            self._mig,
            Gpm(handle, of),
        ]
        self._health.sources += [
            Batch(handle, of, health_fields(links)),
            Fallback(handle, of, link_getters(links)),
        ]
        if self._processes is not None:
            self._health.sources.append(self._processes.of(handle, of))

    def _fan_count(self) -> int:
        try:
            return int(_nvml.call("nvmlDeviceGetNumFans", self.handle))
        except _nvml.NVMLError as error:
            if _nvml.code_of(error) == _nvml.FUNCTION_NOT_FOUND:
                return 1  # a driver before 510, whose getter of the speed tells whether there is a fan
            self._not_prepared("nvmlDeviceGetNumFans", error)
            return 0

    def _link_count(self) -> int:
        try:
            value = _nvml.call("nvmlDeviceGetFieldValues", self.handle, [LINK_COUNT_FIELD])[0]
            if value.nvmlReturn == _nvml.SUCCESS:
                return min(int(value.value.uiVal), _MOST_LINKS)
        except _nvml.NVMLError:
            pass  # the getter of a link's state answers too
        for link in range(_MOST_LINKS):
            try:
                _nvml.call("nvmlDeviceGetNvLinkState", self.handle, link)
            except _nvml.NVMLError as error:
                self._not_prepared("nvmlDeviceGetNvLinkState", error)
                return link
        return _MOST_LINKS

    def _not_prepared(self, function: str, error: Exception) -> None:
        code = _nvml.code_of(error)
        if code not in _nvml.ABSENT | _nvml.NOT_NOW:
            self._unprepared.setdefault(code, []).append(function)

    def _reasons(self) -> dict[int, str]:
        """The reasons that this GPU can have; those of NVML's first release of the mask where it does not say."""
        for name in SUPPORTED_REASON_CALLS:
            try:
                mask = int(_nvml.call(name, self.handle))
            except _nvml.NVMLError:
                continue
            return {bit: label for bit, label in CLOCK_EVENT_REASONS.items() if mask & bit}
        return {bit: label for bit, label in CLOCK_EVENT_REASONS.items() if bit <= 0x100}

    def hurry(self) -> None:
        """Let the next tick read everything."""
        self._health.due = self._static.due = 0.0

    def read(self, now: float, driver: str, cuda: str) -> tuple[Samples, Trouble]:
        """Read what is due; all samples that hold now, and what could not be read. Raises `Gone`."""
        if self._unprepared and now >= self._prepare_again:
            raise Gone(_nvml.INVALID_ARGUMENT, ["its parts could not be counted"])  # begin anew
        samples: Samples = {}
        trouble: Trouble = {}
        answered = 0
        for source in self._fast:
            answered += source.read(samples, trouble, now)
        self._check(answered, trouble)
        touches = _nvml.SESSION.touches(self.uuid)
        if touches != self._touches:
            self._touches, self._health.due = touches, 0.0
        self._health.read(now, self._share)
        mig = self._health.samples.get(self._mig_mode)
        if mig != self._mig_was and self._mig_was is not None:
            raise Gone(_nvml.INVALID_ARGUMENT, ["MIG mode has changed"])  # begin anew: other readings are supported
        self._mig_was = mig
        self._static.read(now, self._share)
        samples.update(self._health.samples)
        samples.update(self._static.samples)
        for part in (self._health.trouble, self._static.trouble, self._unprepared):
            for code, asked in part.items():
                trouble.setdefault(code, []).extend(asked)
        if self._info is None:
            self._info = Info(self, driver, cuda)
        self._info.add(samples, trouble)
        trouble.pop(_nvml.INVALID_ARGUMENT, None)  # the handle is good, so it is another way to say "not supported"
        return samples, trouble

    @staticmethod
    def _check(answered: int, trouble: Trouble) -> None:
        """Tell a GPU that is gone from one that fails at this or that: most or all of its answers say so."""
        for code in _nvml.GONE | _nvml.CLOSED:
            if len(trouble.get(code, ())) > answered:
                raise Gone(code, trouble[code])
        if trouble and not answered:
            code = max(trouble, key=lambda one: len(trouble[one]))
            raise Gone(code, trouble[code])

    def not_supported(self, samples: Samples) -> list[str]:
        """The families that this GPU or driver has nothing for."""
        sources = (*self._fast, *self._health.sources, *self._static.sources)
        wanted: set[Family] = {family for source in sources for family in source.families()}
        return sorted(f.name for f in wanted - {series.family for series in samples})

    def close(self) -> None:
        """Give back what is held in NVML."""
        for source in self._fast:
            source.close()


class Info:
    """What a GPU is: the labels of esnode_gpu_info, asked until NVML has told them all; "" is what it has not got."""

    _ASKED = (
        ("name", "nvmlDeviceGetName"),
        ("serial", "nvmlDeviceGetSerial"),
        ("vbios", "nvmlDeviceGetVbiosVersion"),
        ("board_part", "nvmlDeviceGetBoardPartNumber"),
        ("arch", "nvmlDeviceGetArchitecture"),
    )

    def __init__(self, device: Device, driver: str, cuda: str) -> None:
        self._device = device
        self._driver = driver
        self._cuda = cuda
        self._told: dict[str, str] = {}
        self._series: catalogue.Series | None = None

    def add(self, samples: Samples, trouble: Trouble) -> None:
        """Add the series, or what is in the way."""
        if self._series is None:
            for label, function in self._ASKED:
                if label not in self._told:
                    self._ask(label, function, trouble)
            if len(self._told) < len(self._ASKED):
                return
            device, told = self._device, self._told
            device.name = told["name"]
            self._series = catalogue.GPU_INFO.series(
                *device.of,
                told["name"],
                device.pci,
                told["serial"],
                told["vbios"],
                self._driver,
                self._cuda,
                told["arch"],
                told["board_part"],
            )
        samples[self._series] = 1

    def _ask(self, label: str, function: str, trouble: Trouble) -> None:
        try:
            value = _nvml.call(function, self._device.handle)
        except _nvml.NVMLError as error:
            code = _nvml.code_of(error)
            if code not in _nvml.ABSENT | _nvml.NOT_NOW:
                trouble.setdefault(code, []).append(function)
                return
            value = ""
        if label == "arch":
            value = _ARCHITECTURES.get(value, "")
        self._told[label] = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
