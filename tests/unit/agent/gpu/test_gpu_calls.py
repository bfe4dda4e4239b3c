# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Any call may fail with any code: what it gives is missing, everything else is as right as before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nvmlsim
import pytest
import reading
from esnode.collect import Settings, _nvml, gpu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

LINK_FIELDS = {
    "gpu_nvlink_errors_total",
    "gpu_nvlink_receive_bytes_total",
    "gpu_nvlink_transmit_bytes_total",
    "gpu_nvlink_up",
}
GIVES: dict[str, set[str]] = {
    "nvmlDeviceGetUtilizationRates": {"gpu_utilization_percent", "gpu_memory_utilization_percent"},
    "nvmlDeviceGetEncoderUtilization": {"gpu_encoder_utilization_percent"},
    "nvmlDeviceGetDecoderUtilization": {"gpu_decoder_utilization_percent"},
    "nvmlDeviceGetMemoryInfo": {"gpu_memory_total_bytes", "gpu_memory_used_bytes", "gpu_memory_reserved_bytes"},
    "nvmlDeviceGetTemperature*": {"gpu_temperature_celsius sensor=gpu", "gpu_temperature_threshold_celsius"},
    "nvmlDeviceGetMarginTemperature": {"gpu_temperature_margin_celsius"},
    "nvmlDeviceGetPowerUsage": {"gpu_power_watts"},
    "nvmlDeviceGetPowerManagementLimit": {"gpu_power_limit_watts requested"},
    "nvmlDeviceGetEnforcedPowerLimit": {"gpu_power_limit_watts enforced"},
    "nvmlDeviceGetPowerManagementDefaultLimit": {"gpu_power_limit_watts default"},
    "nvmlDeviceGetPowerManagementLimitConstraints": {"gpu_power_limit_watts min", "gpu_power_limit_watts max"},
    "nvmlDeviceGetTotalEnergyConsumption": {"gpu_energy_joules_total"},
    "nvmlDeviceGetClockInfo": {"gpu_clock_hertz"},
    "nvmlDeviceGetMaxClockInfo": {"gpu_clock_max_hertz"},
    "nvmlDeviceGetPerformanceState": {"gpu_performance_state"},
    "nvmlDeviceGetBAR1MemoryInfo": {"gpu_bar1_total_bytes", "gpu_bar1_used_bytes"},
    "nvmlDeviceGetRowRemapperHistogram": {"gpu_row_remap_banks"},
    "nvmlDeviceGetPersistenceMode": {"gpu_persistence_mode"},
    "nvmlDeviceGetComputeMode": {"gpu_compute_mode"},
    "nvmlDeviceGetEccMode": {"gpu_ecc_mode"},
    "nvmlDeviceGetMigMode": {"gpu_mig_mode"},
    "nvmlDeviceGetCurrPcieLinkGeneration": {"gpu_pcie_link_generation current"},
    "nvmlDeviceGetCurrPcieLinkWidth": {"gpu_pcie_link_width current"},
    "nvmlDeviceGetMaxPcieLinkGeneration": {"gpu_pcie_link_generation max"},
    "nvmlDeviceGetMaxPcieLinkWidth": {"gpu_pcie_link_width max"},
    "nvmlDeviceGetCurrentClocks*Reasons": {"gpu_clock_event_active"},
    "nvmlDeviceGetSupportedClocks*Reasons": set(),
    "nvmlDeviceGetNumFans": {"gpu_fan_speed_percent"},
    "nvmlDeviceGetFanSpeed": {"gpu_fan_speed_percent"},
    "nvmlDeviceGetComputeRunningProcesses": {"gpu_processes compute"},
    "nvmlDeviceGetGraphicsRunningProcesses": {"gpu_processes graphics"},
    "nvmlDeviceGetMPSComputeRunningProcesses": {"gpu_processes mps"},
    "nvmlDeviceGetFieldValues": {
        "gpu_ecc_errors_total",
        "gpu_retired_pages",
        "gpu_retired_pages_pending",
        "gpu_remapped_rows",
        "gpu_row_remap_pending",
        "gpu_row_remap_failed",
        "gpu_pcie_replays_total",
        "gpu_recovery_action",
        "gpu_clock_event_seconds_total",
        "gpu_temperature_celsius memory",
        "gpu_nvlink_receive_bytes_total",
        "gpu_nvlink_transmit_bytes_total",
    },
    "nvmlDeviceGetNvLinkState": set(),
    "nvmlDeviceGetNvLinkErrorCounter": {"gpu_nvlink_errors_total crc past link 11"},
    "nvmlGpm*": set(),
}
"""The series that are missing when a function fails: a family, or one with a label."""

LABELS_ONLY = {
    "nvmlDeviceGetSerial": 3,
    "nvmlDeviceGetVbiosVersion": 4,
    "nvmlDeviceGetBoardPartNumber": 8,
    "nvmlDeviceGetName": 1,
    "nvmlDeviceGetArchitecture": 7,
    "nvmlDeviceGetPciInfo": 2,
}
"""Functions that give a label of esnode_gpu_info: its place in the key."""

UNSUPPORTED = [2, 3, 4, 13, 25, 26]
NO_VALUE_NOW = [6, 21, 27]
TROUBLE = [10, 11, 17, 20, 999]


def missing(function: str) -> Callable[[tuple[str, ...]], bool]:
    """Whether a series is one of those that this function gives."""
    wanted = GIVES[function]

    def is_missing(key: tuple[str, ...]) -> bool:
        if key[0] in wanted or (len(key) > 1 and f"{key[0]} {key[1]}" in wanted):
            return True
        if key[:2] == ("gpu_temperature_celsius", "gpu"):
            return "gpu_temperature_celsius sensor=gpu" in wanted
        if key[0] == "gpu_nvlink_errors_total" and "gpu_nvlink_errors_total crc past link 11" in wanted:
            return int(key[1]) > 11 and key[2].startswith("crc")
        return False

    return is_missing


def compare(sim: nvmlsim.Simulator, collector: gpu.Gpu, gone: Callable[[tuple[str, ...]], bool]) -> list[str]:
    """Everything but what is gone from GPU 0 must be there and right; the errors."""
    before = sim.state()
    got = collector.collect()
    after = sim.state()
    for index, one in enumerate(before["gpus"]):
        values = reading.given(got.samples, one["uuid"])
        values = {k: v for k, v in values.items() if not k[0].endswith("_ratio")}
        wanted = [reading.expected(state, index) for state in (before, after)]
        if index == 0:
            wanted = [{k: v for k, v in w.items() if not gone(k)} for w in wanted]
        reading.assert_equal(values, *wanted)
    return got.errors


@pytest.mark.parametrize("profile", ["h100", "rtx4090", "v100"])
@pytest.mark.parametrize("function", GIVES)
def test_one_function_fails(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu], function: str, profile: str
) -> None:
    sim = machine(f"{profile}:2", load="0.5")
    sim.advance(120)
    uuid, pci = sim.gpu(0)["uuid"], sim.gpu(0)["pci_bus_id"]
    # the codes do not depend on the board
    for code in (*UNSUPPORTED, *NO_VALUE_NOW, *TROUBLE) if profile == "h100" else (3, 999):
        sim("fail", function, code, "--gpu", 0)
        if function.startswith("nvmlGpm"):
            sim("fail", function, code)
        gone = missing(function)
        if function == "nvmlDeviceGetNumFans" and code == 13:
            gone = lambda key: key[0] == "gpu_fan_speed_percent" and key[1] != "0"  # noqa: E731
        errors = compare(sim, collector(), gone)
        if code in TROUBLE and any(gone(key) for key in reading.expected(sim.state(), 0)):
            names = [e for e in errors if uuid in e and pci in e and "GPU 0" in e]
            assert names, (code, errors)
        elif code not in TROUBLE:
            assert errors == [], (code, errors)
        sim("clear", "faults")


@pytest.mark.parametrize("function", LABELS_ONLY)
def test_what_gpu_is_not_known(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu], function: str
) -> None:
    sim = machine("h100:2")
    sim("fail", function, 3, "--gpu", 0)
    got = collector().collect()
    assert got.errors == []
    info = next(k for k in reading.given(got.samples, sim.gpu(0)["uuid"]) if k[0] == "gpu_info")
    wanted = list(next(k for k in reading.expected(sim.state(), 0) if k[0] == "gpu_info"))
    wanted[LABELS_ONLY[function]] = ""
    assert list(info) == wanted


@pytest.mark.parametrize("code", [2, 3, 10, 15, 16, 28, 999])
@pytest.mark.parametrize("function", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"])
def test_a_gpu_that_cannot_be_identified(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu], function: str, code: int
) -> None:
    sim = machine("h100:2")
    sim("fail", function, code, "--gpu", 0)
    one = collector()
    got = one.collect()
    assert not reading.given(got.samples, sim.gpu(0)["uuid"])
    assert len(reading.given(got.samples, sim.gpu(1)["uuid"])) > 100
    assert len(got.errors) == 1 and "GPU 0" in got.errors[0]
    sim("clear", "faults")
    assert one.collect().errors == []


def test_a_gpu_of_somebody_else_is_no_error(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu]
) -> None:
    sim = machine("h100:2")
    sim("fail", "nvmlDeviceGetHandleByIndex", 4, "--gpu", 0)
    got = collector().collect()
    assert got.errors == []
    assert [one["state"] for one in got.detail["gpus"]] == ["no_permission", "ok"]


def test_what_is_not_supported_is_not_asked_each_time(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu]
) -> None:
    sim = machine("h100:1")
    fault = sim("fail", "nvmlDeviceGetPowerUsage", 3, "--times", 2).strip()
    one = collector()
    for _ in range(3):
        assert ("gpu_power_watts",) not in reading.given(one.collect().samples, sim.gpu()["uuid"])
    assert [f["remaining"] for f in sim.state()["faults"]] == [1], fault


functions = st.dictionaries(
    st.sampled_from(sorted(GIVES)), st.sampled_from([*UNSUPPORTED, *NO_VALUE_NOW, *TROUBLE]), max_size=6
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(failing=functions)
def test_any_set_of_functions_fails(
    monkeypatch: pytest.MonkeyPatch, settings: Callable[..., Settings], until: Any, failing: dict[str, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sim = nvmlsim.Simulator(Path(folder) / "state", "h100:2", load="0.5")
        monkeypatch.setenv("NVMLSIM_STATE", str(sim.path))
        sim.advance(120)
        for function, code in failing.items():
            sim("fail", function, code, "--gpu", 0)
        # Field values that cannot be had leave the number of links to a getter, and their states and errors too.
        no_fields, no_states = "nvmlDeviceGetFieldValues" in failing, "nvmlDeviceGetNvLinkState" in failing
        no_counters = "nvmlDeviceGetNvLinkErrorCounter" in failing

        def gone(key: tuple[str, ...]) -> bool:
            if no_fields and key[0] in LINK_FIELDS:
                return no_states or key[0].endswith("bytes_total") or (no_counters and "errors" in key[0])
            return any(missing(function)(key) for function in failing)

        one = gpu.create(settings())
        try:
            compare(sim, one, gone)
        finally:
            one.close()
            until(lambda: _nvml.SESSION.generation == 0)
