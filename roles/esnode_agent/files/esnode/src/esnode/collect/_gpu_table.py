# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NVML call gives which family, with the unit that NVML has and what makes ours of it.

A line of alternatives is tried from left to right. Units of NVML: power mW, energy mJ since the driver was loaded,
clocks MHz, temperature degC, memory bytes, utilisation %, time lost to a clock event ns, NVLink data KiB.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

from esnode import catalogue as c
from esnode.catalogue import Family
from esnode.collect._gpu_query import Field, Getter, getter, pick

_MHZ = 1_000_000
_ULL = ctypes.c_ulonglong
_CLOCKS = ("graphics", "sm", "memory", "video")

CLOCK_EVENT_REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clocks_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons, named as nvidia-smi names them."""

REASON_CALLS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
SUPPORTED_REASON_CALLS = ("nvmlDeviceGetSupportedClocksEventReasons", "nvmlDeviceGetSupportedClocksThrottleReasons")


def memory_getters(total: Family, used: Family, *reserved: Family) -> tuple[Getter, ...]:
    """Memory in bytes of a GPU or a MIG device."""
    return (
        # nvmlMemory_v2_t as 64-bit words: version (and padding), total, reserved, free, used
        getter(
            "nvmlDeviceGetMemoryInfo_v2",
            pick(total, at=1),
            *(pick(family, at=2) for family in reserved),
            pick(used, at=4),
            ctype=_ULL,
            size=5,
            preset=(0x02000028,),
        ),
        # drivers before 510: total, free, used, the reserved part being in `used`
        getter("nvmlDeviceGetMemoryInfo", pick(total, at=0), pick(used, at=2), ctype=_ULL, size=3),
    )


FAST: tuple[tuple[Getter, ...], ...] = (
    (
        getter(
            "nvmlDeviceGetUtilizationRates",
            pick(c.GPU_UTILIZATION, at=0),
            pick(c.GPU_MEMORY_UTILIZATION, at=1),
            size=2,
        ),
    ),
    (getter("nvmlDeviceGetEncoderUtilization", pick(c.GPU_ENCODER_UTILIZATION), size=2, spread=True),),
    (getter("nvmlDeviceGetDecoderUtilization", pick(c.GPU_DECODER_UTILIZATION), size=2, spread=True),),
    memory_getters(c.GPU_MEMORY_TOTAL, c.GPU_MEMORY_USED, c.GPU_MEMORY_RESERVED),
    (
        # nvmlTemperature_v1_t: version, sensor, degC; the plain getter is deprecated but is all that old drivers have
        getter(
            "nvmlDeviceGetTemperatureV",
            pick(c.GPU_TEMPERATURE, "gpu", at=2),
            ctype=ctypes.c_int,
            size=3,
            preset=(0x0100000C,),
        ),
        getter("nvmlDeviceGetTemperature", pick(c.GPU_TEMPERATURE, "gpu"), arguments=(0,)),
    ),
    (
        getter(
            "nvmlDeviceGetMarginTemperature",
            pick(c.GPU_TEMPERATURE_MARGIN, at=1),
            ctype=ctypes.c_int,
            size=2,
            preset=(0x01000008,),
        ),
    ),
    (getter("nvmlDeviceGetPowerUsage", pick(c.GPU_POWER, over=1000)),),
    (getter("nvmlDeviceGetPowerManagementLimit", pick(c.GPU_POWER_LIMIT, "requested", over=1000)),),
    (getter("nvmlDeviceGetEnforcedPowerLimit", pick(c.GPU_POWER_LIMIT, "enforced", over=1000)),),
    (getter("nvmlDeviceGetTotalEnergyConsumption", pick(c.GPU_ENERGY, over=1000), ctype=_ULL),),
    *(
        (getter("nvmlDeviceGetClockInfo", pick(c.GPU_CLOCK, name, times=_MHZ), arguments=(number,)),)
        for number, name in enumerate(_CLOCKS)
    ),
    (getter("nvmlDeviceGetPerformanceState", pick(c.GPU_PERFORMANCE_STATE, top=15)),),
)
"""At each tick."""

HEALTH: tuple[tuple[Getter, ...], ...] = (
    (
        # nvmlBAR1Memory_t: total, free, used
        getter(
            "nvmlDeviceGetBAR1MemoryInfo",
            pick(c.GPU_BAR1_TOTAL, at=0),
            pick(c.GPU_BAR1_USED, at=2),
            ctype=_ULL,
            size=3,
        ),
    ),
    (
        getter(
            "nvmlDeviceGetRowRemapperHistogram",
            *(
                pick(c.GPU_ROW_REMAP_BANKS, name, at=i)
                for i, name in enumerate(("max", "high", "partial", "low", "none"))
            ),
            size=5,
        ),
    ),
    (getter("nvmlDeviceGetPersistenceMode", pick(c.GPU_PERSISTENCE_MODE)),),
    (getter("nvmlDeviceGetComputeMode", pick(c.GPU_COMPUTE_MODE)),),
    (
        getter(
            "nvmlDeviceGetEccMode",
            pick(c.GPU_ECC_MODE, "current", at=0),
            pick(c.GPU_ECC_MODE, "pending", at=1),
            size=2,
            spread=True,
        ),
    ),
    (
        getter(
            "nvmlDeviceGetMigMode",
            pick(c.GPU_MIG_MODE, "current", at=0),
            pick(c.GPU_MIG_MODE, "pending", at=1),
            size=2,
            spread=True,
        ),
    ),
    (getter("nvmlDeviceGetCurrPcieLinkGeneration", pick(c.GPU_PCIE_LINK_GENERATION, "current")),),
    (getter("nvmlDeviceGetCurrPcieLinkWidth", pick(c.GPU_PCIE_LINK_WIDTH, "current")),),
)
"""Every few seconds, and at once when the driver reported an event."""

STATIC: tuple[tuple[Getter, ...], ...] = (
    (getter("nvmlDeviceGetPowerManagementDefaultLimit", pick(c.GPU_POWER_LIMIT, "default", over=1000)),),
    (
        getter(
            "nvmlDeviceGetPowerManagementLimitConstraints",
            pick(c.GPU_POWER_LIMIT, "min", at=0, over=1000),
            pick(c.GPU_POWER_LIMIT, "max", at=1, over=1000),
            size=2,
            spread=True,
        ),
    ),
    *(
        (getter("nvmlDeviceGetMaxClockInfo", pick(c.GPU_CLOCK_MAX, name, times=_MHZ), arguments=(number,)),)
        for number, name in enumerate(_CLOCKS)
    ),
    # Boards that count in T.Limit (Ada, Hopper, Blackwell) have no absolute thresholds: their fields 193 to 196 are
    # offsets to the margin, and the margin is that of whichever sensor is closest to its own limit, which need not
    # be the one whose temperature NVML tells. Temperature + margin + offset would be wrong, so it is not made up.
    *(
        (getter("nvmlDeviceGetTemperatureThreshold", pick(c.GPU_TEMPERATURE_THRESHOLD, name), arguments=(number,)),)
        for number, name in ((0, "shutdown"), (1, "slowdown"), (2, "memory_max"), (3, "gpu_max"), (5, "target"))
    ),
    (getter("nvmlDeviceGetMaxPcieLinkGeneration", pick(c.GPU_PCIE_LINK_GENERATION, "max")),),
    (getter("nvmlDeviceGetMaxPcieLinkWidth", pick(c.GPU_PCIE_LINK_WIDTH, "max")),),
)
"""Once a minute."""

_NS = 1_000_000_000
_FAST_FIELDS = (
    # A memory sensor that is not there is 0 degC on some drivers, which no memory in use can be.
    Field(82, pick(c.GPU_TEMPERATURE, "memory", low=1)),
    Field(74, pick(c.GPU_CLOCK_EVENT_SECONDS, "sw_power_cap", over=_NS)),
    Field(76, pick(c.GPU_CLOCK_EVENT_SECONDS, "sync_boost", over=_NS)),
    Field(269, pick(c.GPU_CLOCK_EVENT_SECONDS, "sw_thermal_slowdown", over=_NS)),
    Field(270, pick(c.GPU_CLOCK_EVENT_SECONDS, "hw_thermal_slowdown", over=_NS)),
    Field(271, pick(c.GPU_CLOCK_EVENT_SECONDS, "hw_power_brake_slowdown", over=_NS)),
)

_HEALTH_FIELDS = (
    Field(3, pick(c.GPU_ECC_ERRORS, "corrected", "volatile")),
    Field(4, pick(c.GPU_ECC_ERRORS, "uncorrected", "volatile")),
    Field(5, pick(c.GPU_ECC_ERRORS, "corrected", "aggregate")),
    Field(6, pick(c.GPU_ECC_ERRORS, "uncorrected", "aggregate")),
    Field(29, pick(c.GPU_RETIRED_PAGES, "single_bit")),
    Field(30, pick(c.GPU_RETIRED_PAGES, "double_bit")),
    Field(31, pick(c.GPU_RETIRED_PAGES_PENDING)),
    Field(142, pick(c.GPU_REMAPPED_ROWS, "correctable")),
    Field(143, pick(c.GPU_REMAPPED_ROWS, "uncorrectable")),
    Field(144, pick(c.GPU_ROW_REMAP_PENDING)),
    Field(145, pick(c.GPU_ROW_REMAP_FAILED)),
    Field(94, pick(c.GPU_PCIE_REPLAYS)),
    Field(230, pick(c.GPU_RECOVERY_ACTION)),
)

LINK_COUNT_FIELD = 91
# Fields of one link each: the id of link 0, that of link 6; there are none past link 11.
_PER_LINK = {"crc_flit": (32, 96), "crc_data": (39, 102), "replay": (46, 108), "recovery": (53, 114)}
# Fields whose scope is the link. 215 is NVLink 5's counter of recoveries, which has no other.
_SCOPED = {"replay": (161,), "recovery": (162, 215)}
_ERROR_COUNTERS = {"replay": 0, "recovery": 1, "crc_flit": 2, "crc_data": 3}


def fast_fields(links: int) -> list[Field]:
    """Field values of each tick."""
    return [*_FAST_FIELDS, *_throughput(links)]


def health_fields(links: int) -> list[Field]:
    """Field values of every few seconds."""
    return [*_HEALTH_FIELDS, *_link_states(links), *_link_errors(links)]


def _throughput(links: int) -> Iterator[Field]:
    for link in range(links):
        for family, kib, octets in ((c.GPU_NVLINK_TRANSMIT, 138, 202), (c.GPU_NVLINK_RECEIVE, 139, 204)):
            yield Field(kib, pick(family, str(link), times=1024), link)
            yield Field(octets, pick(family, str(link)), link)


def _link_states(links: int) -> Iterator[Field]:
    for link in range(links):
        yield Field(165, pick(c.GPU_NVLINK_UP, str(link)), link)


def _link_errors(links: int) -> Iterator[Field]:
    for link in range(links):
        for kind, (first, seventh) in _PER_LINK.items():
            series = pick(c.GPU_NVLINK_ERRORS, str(link), kind)
            for scoped in _SCOPED.get(kind, ()):
                yield Field(scoped, series, link)
            if link < 12:
                yield Field(first + link if link < 6 else seventh + link - 6, series)


def link_getters(links: int) -> Iterator[Getter]:
    """Getters of one link each, for what the field values of an older driver or of a higher link do not give."""
    for link in range(links):
        yield getter("nvmlDeviceGetNvLinkState", pick(c.GPU_NVLINK_UP, str(link)), arguments=(link,))
        for kind, counter in _ERROR_COUNTERS.items():
            series = pick(c.GPU_NVLINK_ERRORS, str(link), kind)
            yield getter("nvmlDeviceGetNvLinkErrorCounter", series, arguments=(link, counter), ctype=_ULL)


def fan_getters(fan: int) -> tuple[Getter, ...]:
    """The speed of one fan; drivers before 510 have nvmlDeviceGetFanSpeed alone, which is the first fan's."""
    series = pick(c.GPU_FAN_SPEED, str(fan))
    by_number = getter("nvmlDeviceGetFanSpeed_v2", series, arguments=(fan,))
    return (by_number, getter("nvmlDeviceGetFanSpeed", series)) if fan == 0 else (by_number,)
