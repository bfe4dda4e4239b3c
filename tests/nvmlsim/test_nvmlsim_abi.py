# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The binary interface: names, layouts, versions, and pynvml of several years."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nvmlsim import BUILD, SOURCE, Simulator, build, run

FUNCTION_NOT_FOUND, VERSION_MISMATCH, DRIVER_NOT_LOADED = 13, 25, 9


def test_a_c_program_with_prototypes_of_its_own(machine, tmp_path):
    sim = machine("a100,l4")
    sim("process", "add", 1, 4000000001)
    sim("process", "add", 1, 4000000002)
    program = tmp_path / "abi_client"
    compiled = ["cc", "-Wall", "-o", program, SOURCE / "abi_client.c", f"-L{build()}", "-lnvidia-ml"]
    subprocess.run(compiled, check=True)
    done = subprocess.run([program], env={**os.environ, **sim.env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_function_that_pynvml_asks_for_is_exported():
    import pynvml

    library = ctypes.CDLL(str(build() / "libnvidia-ml.so.1"))
    wanted = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"', Path(pynvml.__file__).read_text()))
    assert len(wanted) > 300
    assert [name for name in sorted(wanted) if not hasattr(library, name)] == []
    assert [
        name for name in (line.split()[0] for line in run("functions").splitlines()) if not hasattr(library, name)
    ] == []


def test_nothing_else_is_exported():
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", BUILD / "libnvidia-ml.so.1"], capture_output=True, text=True, check=True
    )
    assert {line.split()[2][:4] for line in symbols.stdout.splitlines()} == {"nvml"}


VERSIONED = [
    ("nvmlDeviceGetMemoryInfo_v2", "c_nvmlMemory_v2_t", 0x02000028),
    ("nvmlDeviceGetTemperatureV", "c_nvmlTemperature_v1_t", 0x0100000C),
    ("nvmlDeviceGetMarginTemperature", "c_nvmlMarginTemperature_v1_t", 0x01000008),
    ("nvmlDeviceGetGpuFabricInfoV", "c_nvmlGpuFabricInfo_v3_t", 0x03000028),
    ("nvmlDeviceGetSramEccErrorStatus", "c_nvmlEccSramErrorStatus_v1_t", 0x01000068),
    ("nvmlDeviceGetPciInfoExt", "nvmlPciInfoExt_v1_t", 0x01000040),
    ("nvmlDeviceGetCurrentClockFreqs", "c_nvmlDeviceCurrentClockFreqs_v1_t", 0x01000804),
    ("nvmlDeviceGetCapabilities", "c_nvmlDeviceCapabilities_v1_t", 0x01000008),
]


@pytest.mark.parametrize(("function", "struct", "version"), VERSIONED)
def test_versions(machine, client, function, struct, version):
    c = client(machine())
    c(f"x = n.{struct}()")
    call = f"call('{function}', h(), ctypes.byref(x))"
    c(f"x.version = {version}")
    assert c(call) == 0
    for wrong in (0, version + 1, version ^ 0x03000000):
        c(f"x.version = {wrong}")
        assert c(call) == VERSION_MISMATCH


def test_fabric_info_of_both_versions(machine, client):
    c = client(machine("h100,b200,l4"))
    c("x = n.c_nvmlGpuFabricInfo_v2_t(); x.version = n.nvmlGpuFabricInfo_v2")
    ask = "call('nvmlDeviceGetGpuFabricInfoV', h(%d), ctypes.byref(x))"
    assert [c(ask % i) for i in (0, 1, 2)] == [0, 0, 3]
    assert c("x.state") == 3


def test_an_old_driver_lacks_newer_functions_and_fields(machine, client):
    c = client(machine(driver_version="470.57.02"))
    assert c("n.nvmlSystemGetDriverVersion()") == "470.57.02"
    assert c("n.nvmlSystemGetCudaDriverVersion()") == 11040
    assert c("n.nvmlDeviceGetMemoryInfo(h()).total") > 0
    for call in (
        "MemoryInfo(h(), n.nvmlMemory_v2)",
        "CurrentClocksEventReasons(h())",
        "MarginTemperature(h())",
        "ComputeRunningProcesses_v3(h())",
    ):
        assert c.code(f"n.nvmlDeviceGet{call}") == FUNCTION_NOT_FOUND
    assert len(c("n.nvmlDeviceGetComputeRunningProcesses_v2(h())")) == 0
    assert c.code("n.nvmlGpmQueryDeviceSupport(h())") == FUNCTION_NOT_FOUND
    assert [r for r, _ in c("fields([83, 145, 186, 230])")] == [0, 0, 2, 2]


@pytest.mark.parametrize(("driver", "display", "pstate"), [("570.1", 0, 0), ("580.1", 26, 0), ("595.1", 26, 26)])
def test_what_drivers_have_deprecated(machine, client, driver, display, pstate):
    c = client(machine(driver_version=driver))
    assert (c.code("n.nvmlDeviceGetDisplayMode(h())"), c.code("n.nvmlDeviceGetPerformanceState(h())")) == (
        display,
        pstate,
    )


def test_uptime_starts_with_the_driver(machine, client):
    sim = machine(driver_version="610.43.02")
    c = client(sim)
    c("up = ctypes.c_uint()")
    sim.advance(100)
    ask = "(call('nvmlDeviceGetGpuUptime_v1', h(), ctypes.byref(up)), up.value)[1]"
    assert 100 <= c(ask) < 160
    c("n.nvmlShutdown()")
    sim("reload-driver")
    c("n.nvmlInit()")
    assert c(ask) < 60


@pytest.mark.parametrize("reason", ["missing", "other", "unset"])
def test_a_state_file_that_is_none_is_said_so(machine, client, tmp_path, reason, capfd):
    sim = machine()
    (tmp_path / "other").write_text("something else")
    where = {"missing": str(tmp_path / "missing"), "other": str(tmp_path / "other"), "unset": ""}[reason]
    c = client(sim, init=False, env={"NVMLSIM_STATE": where})
    assert c.code("n.nvmlInit()") == DRIVER_NOT_LOADED
    c.close()
    assert {"missing": "No such file", "other": "no state file of this build", "unset": "NVMLSIM_STATE is not set"}[
        reason
    ] in capfd.readouterr().err


EVERYDAY = """
import pynvml as n
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(1)
s = lambda x: x.decode() if isinstance(x, bytes) else x
assert s(n.nvmlDeviceGetName(h)) == "NVIDIA H100 80GB HBM3", n.nvmlDeviceGetName(h)
assert n.nvmlDeviceGetMemoryInfo(h, version=n.nvmlMemory_v2).reserved == 480 << 20
assert [p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(h)] == [4000000001]
assert s(n.nvmlDeviceGetPciInfo(h).busId) == "00000000:43:00.0"
n.nvmlDeviceSetPowerManagementLimit(h, 300000)
assert n.nvmlDeviceGetPowerManagementLimit(h) == 300000
assert n.nvmlDeviceGetFieldValues(h, [n.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION])[0].value.ullVal > 0
events = n.nvmlEventSetCreate()
n.nvmlDeviceRegisterEvents(h, n.nvmlEventTypeXidCriticalError, events)
try:
    n.nvmlEventSetWait_v2(events, 0)
except n.NVMLError_Timeout:
    pass
assert len(n.nvmlDeviceGetSupportedGraphicsClocks(h, 2619)) == 110
assert n.nvmlDeviceGetRemappedRows(h)[0] == 0
assert n.nvmlDeviceGetNvLinkState(h, 17) == 1
a, b = n.nvmlGpmSampleAlloc(), n.nvmlGpmSampleAlloc()
n.nvmlGpmSampleGet(h, a)
assert n.nvmlDeviceGetMigMode(h) == [0, 0]
n.nvmlShutdown()
print("good")
"""


@pytest.mark.parametrize("version", ["12.535.161", "12.560.30", "13.580.82", "13.615.71"])
def test_pynvml_of_several_years(machine, version):
    folder = BUILD / f"pynvml-{version}"
    if not (folder / "pynvml.py").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            folder,
            f"nvidia-ml-py=={version}",
        ]
        got = subprocess.run(pip, capture_output=True, text=True, check=False)
        if got.returncode:
            pytest.skip(f"nvidia-ml-py {version} cannot be had here: {got.stderr.splitlines()[-1:]}")
    sim: Simulator = machine("h100:2")
    sim("process", "add", 1, 4000000001)
    sim.advance(1)
    env = {**os.environ, **sim.env, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", EVERYDAY], env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "good\n", done.stderr
