# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""What a GPU's series must be, from the simulator's own state; and what the collector gave."""

from __future__ import annotations

from typing import Any

from esnode.snapshot import Samples

Values = dict[tuple[str, ...], float]
"""Value by family without `esnode_` and the labels after uuid and index."""

MOVING = {"gpu_energy_joules_total", "gpu_clock_event_seconds_total", "gpu_nvlink_receive_bytes_total"} | {
    "gpu_nvlink_transmit_bytes_total",
    "gpu_temperature_celsius",
    "gpu_temperature_margin_celsius",
    "gpu_power_watts",
    "gpu_fan_speed_percent",
}
"""Families whose value goes on between two looks."""

GPM = {
    "gpu_sm_active_ratio": 0.93,
    "gpu_sm_occupancy_ratio": 0.55,
    "gpu_tensor_active_ratio": 0.62,
}
"""Shares that the simulator gives of the time in which the SMs are busy."""

THRESHOLDS = {
    "v100": {"shutdown": 90, "slowdown": 87, "gpu_max": 83, "memory_max": 85},
    "t4": {"shutdown": 96, "slowdown": 93, "gpu_max": 85},
    "a100": {"shutdown": 92, "slowdown": 89, "gpu_max": 85, "memory_max": 95},
    "a100-40": {"shutdown": 92, "slowdown": 89, "gpu_max": 85, "memory_max": 95},
    "a100-400w": {"shutdown": 92, "slowdown": 89, "gpu_max": 85, "memory_max": 95},
    "a10": {"shutdown": 101, "slowdown": 98, "gpu_max": 91},
    "a6000": {"shutdown": 98, "slowdown": 95, "gpu_max": 93, "target": 84},
    "rtx4090": {"target": 84},
}

BAR1_MIB = {
    "v100": 16384,
    "t4": 256,
    "a100-40": 65536,
    "a100": 131072,
    "a100-400w": 131072,
    "a10": 32768,
    "a6000": 65536,
    "l4": 32768,
    "l40s": 65536,
    "rtx4090": 256,
    "h100": 131072,
    "h100nvl": 131072,
    "h200": 262144,
    "gh200": None,
    "b200": 262144,
    "gb200": 262144,
}

REASONS = (
    "gpu_idle",
    "applications_clocks_setting",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal_slowdown",
    "hw_thermal_slowdown",
    "hw_power_brake_slowdown",
    "display_clocks_setting",
)
COUNTED_REASONS = {
    "sw_power_cap": "sw_power_cap",
    "sync_boost": "sync_boost",
    "sw_thermal": "sw_thermal_slowdown",
    "hw_thermal": "hw_thermal_slowdown",
    "power_brake": "hw_power_brake_slowdown",
}
ARCHITECTURES = {5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper", 10: "Blackwell"}


def given(samples: Samples, uuid: str) -> Values:
    """The series of one GPU."""
    return {
        (series.family.name.removeprefix("esnode_"), *list(series.labels.values())[2:]): value
        for series, value in samples.items()
        if series.labels["uuid"] == uuid
    }


def expected(state: dict[str, Any], index: int) -> Values:
    """The series of one GPU on a recent driver with MIG off, but for those of GPM."""
    gpu = state["gpus"][index]
    values: Values = {
        ("gpu_info", *_info(state, gpu)): 1,
        ("gpu_utilization_percent",): gpu["utilization_percent"],
        ("gpu_memory_utilization_percent",): gpu["memory_utilization_percent"],
        ("gpu_encoder_utilization_percent",): 0,
        ("gpu_decoder_utilization_percent",): 0,
        ("gpu_memory_total_bytes",): gpu["memory_total_bytes"],
        ("gpu_memory_used_bytes",): gpu["memory_used_bytes"],
        ("gpu_memory_reserved_bytes",): gpu["memory_reserved_bytes"],
        ("gpu_temperature_celsius", "gpu"): gpu["temperature_c"],
        ("gpu_power_watts",): gpu["power_usage_mw"] / 1000,
        ("gpu_power_limit_watts", "requested"): gpu["power_limit_mw"] / 1000,
        ("gpu_power_limit_watts", "enforced"): gpu["enforced_limit_mw"] / 1000,
        ("gpu_power_limit_watts", "default"): gpu["default_limit_mw"] / 1000,
        ("gpu_power_limit_watts", "min"): gpu["min_limit_mw"] / 1000,
        ("gpu_power_limit_watts", "max"): gpu["max_limit_mw"] / 1000,
        ("gpu_energy_joules_total",): gpu["energy_mj"] / 1000,
        ("gpu_performance_state",): gpu["pstate"],
        ("gpu_persistence_mode",): gpu["persistence_mode"],
        ("gpu_compute_mode",): gpu["compute_mode"],
        ("gpu_recovery_action",): gpu["recovery_action"],
        ("gpu_pcie_link_generation", "current"): gpu["pcie_gen"],
        ("gpu_pcie_link_generation", "max"): gpu["pcie_max_gen"],
        ("gpu_pcie_link_width", "current"): gpu["pcie_width"],
        ("gpu_pcie_link_width", "max"): gpu["pcie_max_width"],
        ("gpu_pcie_replays_total",): gpu["pcie_replays"],
    }
    clocks = {"graphics": "graphics", "sm": "graphics", "memory": "memory", "video": "video"}
    for domain, name in clocks.items():
        values["gpu_clock_hertz", domain] = gpu[f"{name}_clock_mhz"] * 1_000_000
        values["gpu_clock_max_hertz", domain] = gpu[f"max_{name}_clock_mhz"] * 1_000_000
    for i, fan in enumerate(gpu["fans_percent"]):
        values["gpu_fan_speed_percent", str(i)] = fan
    for bit, reason in enumerate(REASONS):
        values["gpu_clock_event_active", reason] = gpu["clock_event_reasons"] >> bit & 1
    for name, reason in COUNTED_REASONS.items():
        values["gpu_clock_event_seconds_total", reason] = gpu["clock_event_ns"][name] / 1_000_000_000
    for threshold, celsius in THRESHOLDS.get(gpu["profile"], {}).items():
        values["gpu_temperature_threshold_celsius", threshold] = celsius
    if gpu["memory_temperature_c"] is not None:
        values["gpu_temperature_celsius", "memory"] = gpu["memory_temperature_c"]
    if gpu["margin_c"] is not None:
        values["gpu_temperature_margin_celsius",] = gpu["margin_c"]
    if (bar1_mib := BAR1_MIB[gpu["profile"]]) is not None:
        values["gpu_bar1_total_bytes",] = bar1_mib << 20
        values["gpu_bar1_used_bytes",] = (1 + 2 * len(gpu["processes"])) << 20
    for kind in ("compute", "graphics", "mps"):
        values["gpu_processes", kind] = sum(p["kind"] == kind for p in gpu["processes"])
    if gpu["mig_current"] is not None:
        values["gpu_mig_mode", "current"], values["gpu_mig_mode", "pending"] = gpu["mig_current"], gpu["mig_pending"]
    return {**values, **_ecc(gpu), **_memory_repair(gpu), **_links(gpu)}


def _info(state: dict[str, Any], gpu: dict[str, Any]) -> tuple[str, ...]:
    cuda = state["cuda_version"]
    return (
        gpu["name"],
        gpu["pci_bus_id"],
        gpu["serial"] or "",
        gpu["vbios"],
        state["driver_version"],
        f"{cuda // 1000}.{cuda % 1000 // 10}",
        ARCHITECTURES[gpu["architecture"]],
        gpu["board_part"] or "",
    )


def _ecc(gpu: dict[str, Any]) -> Values:
    values: Values = {}
    if gpu["ecc_current"] is None:
        return values
    values["gpu_ecc_mode", "current"], values["gpu_ecc_mode", "pending"] = gpu["ecc_current"], gpu["ecc_pending"]
    if gpu["ecc_current"]:
        for lifetime, kinds in gpu["ecc_errors"].items():
            for kind, counts in kinds.items():
                values["gpu_ecc_errors_total", kind, lifetime] = counts["total"]
    return values


def _memory_repair(gpu: dict[str, Any]) -> Values:
    values: Values = {}
    if (rows := gpu.get("remapped_rows")) is not None:
        values["gpu_remapped_rows", "correctable"] = rows["correctable"]
        values["gpu_remapped_rows", "uncorrectable"] = rows["uncorrectable"]
        values["gpu_row_remap_pending",] = rows["pending"]
        values["gpu_row_remap_failed",] = rows["failed"]
        for availability, banks in rows["histogram"].items():
            values["gpu_row_remap_banks", availability] = banks
    if (pages := gpu.get("retired_pages")) is not None:
        values["gpu_retired_pages", "single_bit"] = pages["single_bit"]
        values["gpu_retired_pages", "double_bit"] = pages["double_bit"]
        values["gpu_retired_pages_pending",] = pages["pending"]
    return values


def _links(gpu: dict[str, Any]) -> Values:
    values: Values = {}
    for number, link in enumerate(gpu["nvlinks"]):
        values["gpu_nvlink_up", str(number)] = link["up"]
        values["gpu_nvlink_transmit_bytes_total", str(number)] = link["tx_kib"] * 1024
        values["gpu_nvlink_receive_bytes_total", str(number)] = link["rx_kib"] * 1024
        if gpu["architecture"] == 10:  # NVLink 5 has no others; a link that is down has failed to recover once
            values["gpu_nvlink_errors_total", str(number), "recovery"] = link["recovery"] + (not link["up"])
        else:
            for kind in ("replay", "recovery", "crc_flit", "crc_data"):
                values["gpu_nvlink_errors_total", str(number), kind] = link[kind]
    return values


def assert_equal(got: Values, before: Values, after: Values) -> None:
    """Every value is the one before; what goes on may lie between before and after."""
    assert got.keys() == before.keys(), (sorted(got.keys() - before.keys()), sorted(before.keys() - got.keys()))
    for key, value in got.items():
        if key[0] in MOVING:
            low, high = sorted((before[key], after[key]))
            assert low <= value <= high, (key, low, value, high)
        else:
            assert value == before[key], (key, value, before[key])
