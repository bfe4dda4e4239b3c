# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Setters: what one process sets another sees; permission, range, and what is lost when."""

from __future__ import annotations

import pytest

INVALID, NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, IN_USE, DEPRECATED = 2, 3, 4, 9, 19, 26
TDP, UNLIMITED = 0xFFFFFF01, 0xFFFFFF02


def test_another_process_sees_what_one_sets(machine, client):
    sim = machine("h100:2")
    one, two = client(sim), client(sim)
    one("n.nvmlDeviceSetPowerManagementLimit(h(1), 450123)")
    assert two("n.nvmlDeviceGetPowerManagementLimit(h(1))") == 450123
    assert two("n.nvmlDeviceGetPowerManagementLimit(h(0))") == 700000
    assert sim.gpu(1)["power_limit_mw"] == 450123


SETTERS = [
    "n.nvmlDeviceSetPowerManagementLimit(h(), 500000)",
    "n.nvmlDeviceSetGpuLockedClocks(h(), 1005, 1005)",
    "n.nvmlDeviceResetGpuLockedClocks(h())",
    "n.nvmlDeviceSetMemoryLockedClocks(h(), 2619, 2619)",
    "n.nvmlDeviceResetMemoryLockedClocks(h())",
    "n.nvmlDeviceSetApplicationsClocks(h(), 2619, 1980)",
    "n.nvmlDeviceResetApplicationsClocks(h())",
    "n.nvmlDeviceSetPersistenceMode(h(), 0)",
    "n.nvmlDeviceSetComputeMode(h(), 3)",
    "n.nvmlDeviceSetEccMode(h(), 0)",
    "n.nvmlDeviceClearEccErrorCounts(h(), 0)",
    "n.nvmlDeviceSetAccountingMode(h(), 1)",
    "n.nvmlDeviceSetAPIRestriction(h(), 0, 0)",
    "n.nvmlDeviceSetMigMode(h(), 1)",
]


@pytest.mark.parametrize("setter", SETTERS)
@pytest.mark.parametrize("lack", [("pretend-uid", 1000), ("pretend-unprivileged", "on")])
def test_setters_want_root(machine, client, setter, lack):
    sim = machine()
    c = client(sim)
    sim("pretend-uid", 0)
    sim(*lack)
    before = sim.gpu()
    assert c.code(setter) == NO_PERMISSION
    after = sim.gpu()
    for key in (
        "power_limit_mw",
        "gpu_locked_clocks",
        "persistence_mode",
        "compute_mode",
        "ecc_pending",
        "mig_pending",
    ):
        assert after[key] == before[key]
    sim("pretend-uid", 0)
    sim("pretend-unprivileged", "off")
    assert c.code(setter) == 0


def test_application_clocks_are_open_when_the_restriction_is_lifted(machine, client):
    sim = machine()
    c = client(sim)
    c("n.nvmlDeviceSetAPIRestriction(h(), 0, 0)")
    sim("pretend-uid", 1000)
    c("n.nvmlDeviceSetApplicationsClocks(h(), 2619, 1200)")
    assert c.code("n.nvmlDeviceSetPowerManagementLimit(h(), 500000)") == NO_PERMISSION
    assert c("n.nvmlDeviceGetApplicationsClock(h(), 0)") == 1200


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("n.nvmlDeviceSetPowerManagementLimit(h(), 199999)", INVALID),
        ("n.nvmlDeviceSetPowerManagementLimit(h(), 200000)", 0),
        ("n.nvmlDeviceSetPowerManagementLimit(h(), 700000)", 0),
        ("n.nvmlDeviceSetPowerManagementLimit(h(), 700001)", INVALID),
        ("n.nvmlDeviceSetGpuLockedClocks(h(), 1500, 1000)", INVALID),
        ("n.nvmlDeviceSetGpuLockedClocks(h(), 2619, 2619)", 0),
        (f"n.nvmlDeviceSetGpuLockedClocks(h(), {TDP}, 1000)", INVALID),
        (f"n.nvmlDeviceSetGpuLockedClocks(h(), 1000, {UNLIMITED})", INVALID),
        (f"n.nvmlDeviceSetGpuLockedClocks(h(), {TDP}, {UNLIMITED})", 0),
        ("n.nvmlDeviceSetMemoryLockedClocks(h(), 2619, 1593)", INVALID),
        ("n.nvmlDeviceSetApplicationsClocks(h(), 2619, 1001)", INVALID),
        ("n.nvmlDeviceSetApplicationsClocks(h(), 2620, 1005)", INVALID),
        ("n.nvmlDeviceSetComputeMode(h(), 1)", NOT_SUPPORTED),
        ("n.nvmlDeviceSetComputeMode(h(), 4)", INVALID),
        ("n.nvmlDeviceSetFanSpeed_v2(h(), 0, 50)", NOT_SUPPORTED),
        ("n.nvmlDeviceGetSupportedGraphicsClocks(h(), 1234)", 6),
    ],
)
def test_ranges(machine, client, call, code):
    assert client(machine()).code(call) == code


def test_unlimited_twice_takes_the_lock_away(machine, client):
    sim = machine()
    c = client(sim)
    c("n.nvmlDeviceSetGpuLockedClocks(h(), 900, 1200)")
    assert sim.gpu()["gpu_locked_clocks"] == [900, 1200]
    c(f"n.nvmlDeviceSetGpuLockedClocks(h(), {UNLIMITED}, {UNLIMITED})")
    assert sim.gpu()["gpu_locked_clocks"] == []


def test_old_boards_have_no_memory_lock(machine, client):
    assert client(machine("t4")).code("n.nvmlDeviceSetMemoryLockedClocks(h(), 5001, 5001)") == NOT_SUPPORTED


def test_the_module_scope_is_graces_alone(machine, client):
    sim = machine("gh200,h100")
    c = client(sim)
    c(
        "def v2(i, scope, mw, version=0x0200000C):\n"
        " class V(ctypes.Structure):\n"
        "  _fields_ = [('version', ctypes.c_uint), ('scope', ctypes.c_ubyte), ('mw', ctypes.c_uint)]\n"
        " return call('nvmlDeviceSetPowerManagementLimit_v2', h(i), ctypes.byref(V(version, scope, mw)))"
    )
    assert c("v2(0, 1, 800000)") == 0
    assert c("v2(0, 1, 1000001)") == INVALID
    assert c("v2(1, 1, 800000)") == NOT_SUPPORTED
    assert c("v2(1, 0, 500000)") == 0
    assert c("v2(1, 0, 500000, 0x0100000C)") == 25
    gpus = sim.state()["gpus"]
    assert (gpus[0]["module_limit_mw"], gpus[0]["power_limit_mw"], gpus[1]["power_limit_mw"]) == (
        800000,
        900000,
        500000,
    )


def test_a_bmc_cap_lowers_what_is_enforced_and_nothing_else(machine, client):
    sim = machine(load="1.0")
    c = client(sim)
    sim("bmc-cap", 0, 500)
    assert c("[n.nvmlDeviceGetPowerManagementLimit(h()), n.nvmlDeviceGetEnforcedPowerLimit(h())]") == [700000, 500000]
    assert c("fields([190, 192])") == [[0, 500000], [0, 700000]]
    sim.advance(10)
    assert 480000 < c("n.nvmlDeviceGetPowerUsage(h())") <= 500000
    c("n.nvmlDeviceSetPowerManagementLimit(h(), 400000)")
    assert c("n.nvmlDeviceGetEnforcedPowerLimit(h())") == 400000


def test_limits_in_steps_are_not_what_was_asked_for(machine, client):
    sim = machine()
    c = client(sim)
    sim("limit-step", 0, 50)
    c("n.nvmlDeviceSetPowerManagementLimit(h(), 349999)")
    assert c("n.nvmlDeviceGetPowerManagementLimit(h())") == 300000
    sim("limit-step", 0, 0)
    c("n.nvmlDeviceSetPowerManagementLimit(h(), 349999)")
    assert c("n.nvmlDeviceGetPowerManagementLimit(h())") == 349999


def settle(c) -> None:
    c("n.nvmlDeviceSetPowerManagementLimit(h(), 400000)")
    c("n.nvmlDeviceSetGpuLockedClocks(h(), 900, 1200)")
    c("n.nvmlDeviceSetComputeMode(h(), 3)")
    c("n.nvmlDeviceSetAccountingMode(h(), 1)")


def settings(sim) -> list[object]:
    g = sim.gpu()
    return [g[k] for k in ("power_limit_mw", "gpu_locked_clocks", "compute_mode", "accounting_mode")]


SET, DEFAULTS = [400000, [900, 1200], 3, 1], [700000, [], 0, 0]


@pytest.mark.parametrize("kill", [False, True])
def test_without_persistence_the_last_client_takes_the_settings_along(machine, client, kill):
    sim = machine(persistence=False)
    one, two = client(sim), client(sim)
    settle(one)
    one.close(kill=kill)
    assert settings(sim) == SET
    energy = sim.gpu()["energy_mj"]
    sim.advance(5)
    assert sim.gpu()["energy_mj"] > energy
    if kill:
        two.close(kill=True)
    else:
        two("n.nvmlShutdown()")
    assert settings(sim) == DEFAULTS
    assert sim.gpu()["uptime_s"] < 5


def test_with_persistence_they_stay(machine, client):
    sim = machine()
    one = client(sim)
    settle(one)
    one.close()
    assert settings(sim) == SET


def test_shutdown_counts_inits(machine, client):
    sim = machine(persistence=False)
    c = client(sim)
    c("n.nvmlInit()")
    settle(c)
    c("n.nvmlShutdown()")
    assert settings(sim) == SET and sim.state()["clients"] == 1
    c("n.nvmlShutdown()")
    assert settings(sim) == DEFAULTS and sim.state()["clients"] == 0
    assert c.code("n.nvmlDeviceGetCount()") == 1


def test_a_forked_child_does_not_let_go_for_its_parent(machine, client):
    sim = machine(persistence=False)
    c = client(sim)
    settle(c)
    c("import os\npid = os.fork()\nif pid == 0:\n n.nvmlShutdown(); n.nvmlInit(); n.nvmlShutdown(); os._exit(0)")
    assert c("os.waitpid(pid, 0)[1]") == 0
    assert sim.state()["clients"] == 1
    assert settings(sim) == SET


def test_a_driver_reload_wants_the_clients_gone_and_starts_over(machine, client):
    sim = machine()
    c = client(sim)
    settle(c)
    sim.advance(1000)
    with pytest.raises(Exception, match="in use by process"):
        sim("reload-driver")
    sim("reload-driver", "--force")
    assert settings(sim) == DEFAULTS
    reloaded = sim.gpu()
    assert reloaded["persistence_mode"] == 0
    assert max(reloaded["clock_event_ns"].values()) < 500e9
    assert reloaded["energy_mj"] < 500 * 70_000
    assert c.code("n.nvmlDeviceGetPowerUsage(h())") == DRIVER_NOT_LOADED
    c("n.nvmlShutdown()")
    c("n.nvmlInit()")
    assert c("n.nvmlDeviceGetPowerUsage(h())") > 0


def test_an_unloaded_driver(machine, client):
    sim = machine()
    sim("unload-driver")
    c = client(sim, init=False)
    assert c.code("n.nvmlInit()") == DRIVER_NOT_LOADED
    sim("load-driver")
    c("n.nvmlInit()")


def test_ecc_and_mig_wait_for_a_reboot(machine, client):
    sim = machine("a100")
    sim("vm", "on")
    c = client(sim)
    c("n.nvmlDeviceSetEccMode(h(), 0)")
    assert c("n.nvmlDeviceGetEccMode(h())") == [1, 0]
    assert c("n.nvmlDeviceSetMigMode(h(), 1)") == 16
    assert c("n.nvmlDeviceGetMigMode(h())") == [0, 1]
    settle(c)
    c.close()
    sim("reboot")
    c = client(sim)
    assert c("n.nvmlDeviceGetEccMode(h())") == [0, 0]
    assert c("n.nvmlDeviceGetMigMode(h())") == [1, 1]
    assert c("n.nvmlDeviceGetPersistenceMode(h())") == 0


def test_a_reset_applies_ecc_and_keeps_to_idle_gpus(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    c("n.nvmlDeviceSetEccMode(h(), 0)")
    with pytest.raises(Exception, match="in use"):
        sim("reset", 0)
    c("n.nvmlShutdown()")
    sim("process", "add", 1, 4000000000)
    with pytest.raises(Exception, match="in use by process 4000000000"):
        sim("reset", 1)
    sim("reset", 0)
    assert (sim.gpu(0)["ecc_current"], sim.gpu(1)["ecc_current"]) == (0, 1)
    c("n.nvmlInit()")
    assert c.code("n.nvmlDeviceGetTotalEccErrors(h(), 0, 0)") == NOT_SUPPORTED


def test_mig_mode_is_taken_but_not_in_force_while_the_gpu_is_held(machine, client):
    sim = machine("a100,h100")
    one, _ = client(sim), client(sim)
    assert one("n.nvmlDeviceSetMigMode(h(0), 1)") == IN_USE
    assert one("n.nvmlDeviceGetMigMode(h(0))") == [0, 1]
    assert one("n.nvmlDeviceSetMigMode(h(1), 1)") == 0
    assert one("n.nvmlDeviceGetMigMode(h(1))") == [1, 1]


def test_application_clocks_are_gone_from_590_on(machine, client):
    sim = machine(driver_version="590.48.01")
    c = client(sim)
    for call in (
        "n.nvmlDeviceGetApplicationsClock(h(), 0)",
        "n.nvmlDeviceSetApplicationsClocks(h(), 2619, 1980)",
        "n.nvmlDeviceGetClock(h(), 0, 1)",
    ):
        assert c.code(call) == DEPRECATED
    assert c("n.nvmlDeviceGetClock(h(), 0, 0)") == 345
    assert c("n.nvmlDeviceGetClock(h(), 0, 3)") == 1980


def test_a_superchips_handles_are_void_after_persistence_goes_off(machine, client):
    c = client(machine("gh200"))
    c("old = h()")
    c("n.nvmlDeviceSetPersistenceMode(old, 0)")
    assert c.code("n.nvmlDeviceGetPowerUsage(old)") == INVALID
    assert c("n.nvmlDeviceGetPowerUsage(h())") > 0


def test_fans_follow_or_obey(machine, client):
    sim = machine("rtx4090")
    c = client(sim)
    assert c("n.nvmlDeviceGetNumFans(h())") == 2
    c("n.nvmlDeviceSetFanSpeed_v2(h(), 1, 77)")
    assert c("[n.nvmlDeviceGetFanSpeed_v2(h(), i) for i in (0, 1)]") == [0, 77]
    assert c.code("n.nvmlDeviceSetFanSpeed_v2(h(), 2, 77)") == INVALID
    c("n.nvmlDeviceSetDefaultFanSpeed_v2(h(), 1)")
    sim("set-load", 0, 1)
    sim.advance(120)
    assert c("n.nvmlDeviceGetFanSpeed(h())") > 50


def test_accounting_and_processes(machine, client):
    sim = machine()
    c = client(sim)
    assert c("n.nvmlDeviceGetComputeRunningProcesses(h())") == []
    assert c.code("n.nvmlDeviceGetAccountingPids(h())") == NOT_SUPPORTED
    c("n.nvmlDeviceSetAccountingMode(h(), 1)")
    sim("process", "add", 0, 4000000001, "--memory", 1000)
    sim("process", "add", 0, 4000000002, "--memory", "unknown", "--kind", "mps")
    compute = c("n.nvmlDeviceGetComputeRunningProcesses(h())")
    assert [(p["pid"], p["usedGpuMemory"]) for p in compute] == [(4000000001, 1000 << 20)]
    assert c("n.nvmlDeviceGetMPSComputeRunningProcesses(h())")[0]["usedGpuMemory"] is None
    assert c("n.nvmlDeviceGetMemoryInfo(h(), n.nvmlMemory_v2).used") >= 1000 << 20
    assert c("n.nvmlDeviceGetAccountingPids(h())") == [4000000001, 4000000002]
    sim("process", "remove", 0, 4000000001)
    assert c("n.nvmlDeviceGetAccountingStats(h(), 4000000001)")["isRunning"] == 0
    c("n.nvmlDeviceSetAccountingMode(h(), 0)")
    c("n.nvmlDeviceSetAccountingMode(h(), 1)")
    assert c("n.nvmlDeviceGetAccountingPids(h())") == []


def test_a_process_that_dies_leaves_the_list(machine, client):
    sim = machine()
    c, worker = client(sim), client(sim, init=False)
    sim("process", "add", 0, worker.process.pid)
    assert len(c("n.nvmlDeviceGetComputeRunningProcesses(h())")) == 1
    worker.close(kill=True)
    assert c("n.nvmlDeviceGetComputeRunningProcesses(h())") == []


def test_workload_power_profiles(machine, client):
    c = client(machine("b200,h100"))
    c(
        "def ask(mask, name):\n"
        " x = n.c_nvmlWorkloadPowerProfileRequestedProfiles_v1_t()\n"
        " x.version = n.nvmlWorkloadPowerProfileRequestedProfiles_v1\n"
        " x.requestedProfilesMask.mask[0] = mask\n"
        " return call('nvmlDeviceWorkloadPowerProfile'+name+'RequestedProfiles', h(), ctypes.byref(x))"
    )
    assert c("ask(0b10100, 'Set')") == 0
    assert c("ask(0b00100, 'Clear')") == 0
    assert c("ask(1 << 20, 'Set')") == INVALID
    c(
        "now = n.c_nvmlWorkloadPowerProfileCurrentProfiles_v1_t()\n"
        "now.version = n.nvmlWorkloadPowerProfileCurrentProfiles_v1"
    )
    assert c("call('nvmlDeviceWorkloadPowerProfileGetCurrentProfiles', h(), ctypes.byref(now))") == 0
    assert c("[now.requestedProfilesMask.mask[0], now.enforcedProfilesMask.mask[0]]") == [0b10000, 0b10000]
    assert c("call('nvmlDeviceWorkloadPowerProfileGetCurrentProfiles', h(1), ctypes.byref(now))") == 3
