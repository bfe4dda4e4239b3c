# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""All of it or nothing, whatever fails and when: any selection, any value, a fault at any call of any GPU."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nvml_host import THOROUGH, Host

GPUS = 4
EXAMPLES = 25 if THOROUGH else 5
LIKE_A_PROCESS = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])

# A module, its options and what prepares the host so that what was before is known.
WRITES: list[tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]] = [
    ("nvml_power_limit", {"limit": "300W"}, [("nvml_power_limit", {"limit": "450W"})]),
    ("nvml_clock_lock", {"graphics": "1200-1500"}, [("nvml_clock_lock", {"graphics": "600-900"})]),
    ("nvml_compute_mode", {"mode": "exclusive_process"}, []),
    ("nvml_ecc_mode", {"enabled": False}, []),
    ("nvml_persistence_mode", {"enabled": False}, []),
    (
        "nvml_mig",
        {"layout": [{"profile": "3g.40gb"}, {"profile": "1g.10gb", "count": 2}]},
        [("nvml_mig", {"layout": [{"profile": "2g.20gb", "compute": ["1c", "1c"]}, {"profile": "1g.10gb"}]})],
    ),
]


@contextmanager
def machine(gpus: str = f"h100:{GPUS}", **options: Any) -> Iterator[Host]:
    with tempfile.TemporaryDirectory() as folder:
        yield Host(Path(folder), gpus, **options)


def consistent(
    h: Host, before: list[dict[str, Any]], selected: list[int], result: dict[str, Any], lost: set[int]
) -> None:
    """What a result says is what the simulator shows."""
    after = h.settings()
    for index in range(GPUS):
        if index not in selected:
            assert after[index] == before[index], f"GPU {index} was not selected"
    changed = {index for index in selected if after[index] != before[index]}
    if not result.get("failed"):
        assert {gpu["index"] for gpu in result["gpus"] if gpu["changed"]} == changed
        assert result["changed"] == bool(changed)
        return
    uuids = {gpu["index"]: gpu["uuid"] for gpu in h.sim.state()["gpus"]}
    not_back = {index for index, uuid in uuids.items() if uuid in result.get("rollback_failed", {})}
    assert changed <= not_back, "changed, and neither put back nor reported"
    assert changed <= lost, "a GPU that could be put back was not"
    if changed:
        assert result["changed"], "something has changed, and it says that nothing has"
    if not not_back:
        assert not result["changed"]


@LIKE_A_PROCESS
@given(
    selected=st.sets(st.integers(0, GPUS - 1), min_size=1),
    watts=st.integers(100, 800),
    check=st.booleans(),
    earlier=st.lists(st.integers(200, 700), min_size=GPUS, max_size=GPUS),
    cap=st.one_of(st.none(), st.integers(200, 700)),
)
def test_check_is_apply_and_twice_is_once(selected, watts, check, earlier, cap):
    with machine() as h:
        for index, limit in enumerate(earlier):
            h.ok("nvml_power_limit", gpus=[str(index)], limit=limit)
        if cap:
            h.sim("bmc-cap", "all", cap)
        options = {"gpus": [str(index) for index in selected], "limit": watts}
        before = h.settings()
        predicted = h("nvml_power_limit", check=True, **options)
        assert h.settings() == before
        done = h("nvml_power_limit", **options)
        assert bool(predicted.get("failed")) == bool(done.get("failed")) == (not 200 <= watts <= 700)
        consistent(h, before, sorted(selected), done, set())
        if done.get("failed"):
            assert predicted["msg"] == done["msg"]
            return
        assert predicted["changed"] == done["changed"]
        for expected, real in zip(predicted["gpus"], done["gpus"], strict=True):
            assert expected["changed"] == real["changed"]
            assert expected["after"].items() <= real["after"].items()
        again = h("nvml_power_limit", check=check, **options)
        assert not again["changed"] and again["gpus"] == [
            {**gpu, "changed": False, "before": gpu["after"]} for gpu in done["gpus"]
        ]


@LIKE_A_PROCESS
@given(
    write=st.sampled_from(WRITES),
    selected=st.sets(st.integers(0, GPUS - 1), min_size=1),
    victim=st.integers(0, GPUS - 1),
    calls=st.sampled_from(["nvmlDevice*", "nvmlDeviceSet*", "nvml*Instance*"]),
    code=st.sampled_from([3, 4, 15, 19, 23, 999]),
    after=st.integers(0, 40),
    times=st.sampled_from([1, 2, None]),
)
# A driver that tells of no profiles any more, once the layout was found to be possible.
@example(write=WRITES[-1], selected={0}, victim=0, calls="nvmlDevice*", code=3, after=5, times=None)
def test_a_fault_at_any_call(write, selected, victim, calls, code, after, times):
    module, options, prepare = write
    with machine() as h:
        for name, more in prepare:
            h.ok(name, gpus="all", **more)
        before = h.settings()
        fault = ["fail", calls, code, "--gpu", victim]
        fault += ["--after", after] if after else []
        h.sim(*fault, *([] if times is None else ["--times", times]))
        result = h(module, gpus=[str(index) for index in selected], **options)
        consistent(h, before, sorted(selected), result, {victim})
        h.sim("clear", "faults")
        if result.get("failed") and victim in selected:
            # whoever runs it again has what was asked for, and then nothing is left to do
            h.ok(module, gpus=[str(index) for index in selected], **options)
        assert not h.ok(module, gpus=[str(index) for index in selected], **options)["changed"]


@LIKE_A_PROCESS
@given(
    mw=st.integers(200_000, 700_000),
    steps=st.lists(st.sampled_from([0, 1, 2, 10, 50, 100]), min_size=GPUS, max_size=GPUS),
    selected=st.sets(st.integers(0, GPUS - 1), min_size=1),
)
def test_a_limit_that_the_driver_rounds_is_reached_within_a_watt_or_put_back(mw, steps, selected):
    """A step of 0 is a driver that keeps each mW; the limit before is a multiple of all of them."""
    with machine() as h:
        for index, step in enumerate(steps):
            h.sim("limit-step", index, step)
        before = h.settings()
        made = {index: mw // (1000 * steps[index]) * 1000 * steps[index] if steps[index] else mw for index in selected}
        options = {"gpus": [str(index) for index in selected], "limit": f"{mw}mW"}
        done = h("nvml_power_limit", **options)
        consistent(h, before, sorted(selected), done, set())
        assert bool(done.get("failed")) == any(mw - real >= 1000 for real in made.values()), done
        if not done.get("failed"):
            assert {gpu["index"]: gpu["after"]["limit_mw"] for gpu in done["gpus"]} == made
            rounded = sum("the driver made it" in warning for warning in done["warnings"])
            assert rounded == sum(real != mw for real in made.values())
            assert not h.ok("nvml_power_limit", **options)["changed"]


# What a driver that is loaded anew may have forgotten of a GPU, as the simulator names it.
FORGOTTEN = ("power_limit_mw", "gpu_locked_clocks", "memory_locked_clocks", "compute_mode", "persistence_mode")


@LIKE_A_PROCESS
@given(
    write=st.sampled_from(WRITES),
    selected=st.sets(st.integers(0, GPUS - 1), min_size=1),
    events=st.lists(
        st.sampled_from([("reload-driver",), ("reboot",), ("reset", 0), ("reset", GPUS - 1)]), min_size=1, max_size=2
    ),
    seconds=st.integers(30, 100_000),
)
def test_whatever_the_driver_forgot_between_two_runs_is_there_again(write, selected, events, seconds):
    module, options, prepare = write
    options = {"gpus": [str(index) for index in selected], **options}
    with machine() as h:
        h.sim("persistenced", "on")
        for name, more in prepare:
            h.ok(name, gpus="all", **more)
        h.ok(module, **options)
        wanted = [{key: gpu[key] for key in FORGOTTEN} for gpu in h.settings()]
        for event in events:
            h.sim.advance(seconds)
            h.sim(*event)
        before = h.settings()
        predicted = h.ok(module, check=True, **options)
        done = h.ok(module, **options)
        assert [gpu["changed"] for gpu in predicted["gpus"]] == [gpu["changed"] for gpu in done["gpus"]]
        consistent(h, before, sorted(selected), done, set())
        now = [{key: gpu[key] for key in FORGOTTEN} for gpu in h.settings()]
        assert [now[index] for index in selected] == [wanted[index] for index in selected]
        assert not h.ok(module, **options)["changed"]


@LIKE_A_PROCESS
@given(
    write=st.sampled_from([write for write in WRITES if write[0] != "nvml_persistence_mode"]),
    selected=st.sets(st.integers(0, GPUS - 1), min_size=1),
    held=st.sets(st.integers(0, GPUS - 1)),
)
def test_what_goes_with_the_last_client_is_not_called_set(write, selected, held):
    """Persistence mode is on for `held` alone, and nothing but the module itself has the GPUs open."""
    module, options, _unused = write
    options = {"gpus": [str(index) for index in selected], **options}
    with machine(persistence=False) as h:
        if held:
            h.ok("nvml_persistence_mode", gpus=[str(index) for index in held])
        before = h.settings()
        result = h(module, **options)
        volatile = module in ("nvml_power_limit", "nvml_clock_lock", "nvml_compute_mode")
        assert bool(result.get("failed")) == (volatile and not selected <= held), result
        consistent(h, before, sorted(selected), result, set())
        if result.get("failed"):
            assert "persistence mode is off" in result["msg"]
        else:
            assert not h.ok(module, **options)["changed"]


@pytest.mark.parametrize(("module", "options", "prepare"), WRITES, ids=[write[0] for write in WRITES])
def test_the_third_gpu_refuses(host, module, options, prepare):
    h = host("h100:4")
    for name, more in prepare:
        h.ok(name, gpus="all", **more)
    before = h.settings()
    for calls in ("nvmlDeviceSet*", "nvmlDeviceCreateGpuInstance*"):
        h.sim("fail", calls, 4, "--gpu", 2, "--times", 1)
    result = h.fails(module, gpus="all", **options)
    assert h.settings() == before
    assert result["errors"][0]["index"] == 2 and result["errors"][0]["code"] == 4
    # instances of the third had gone by then, so it was put back as well
    back = [2, 1, 0] if module == "nvml_mig" else [1, 0]
    assert result["rolled_back"] == [h.sim.gpu(index)["uuid"] for index in back]
    assert result["rollback_failed"] == {} and result["changed"] is False
    assert f"was put back on {len(back)} GPU(s)" in result["msg"]


def test_a_gpu_lost_after_it_was_set(host):
    h = host("h100:4")
    h.sim("hang", "nvmlDeviceSetPowerManagementLimit", "forever", "--gpu", 2)
    process = h.start("nvml_power_limit", gpus="all", limit="300W")
    until = time.monotonic() + 30
    while h.limits()[1] != 300000 and time.monotonic() < until:
        time.sleep(0.02)
    h.sim("lose", 1)
    h.sim("clear", "faults")
    result = h.finish(process)
    lost = h.sim.gpu(1)["uuid"]
    assert result["failed"] and result["changed"]
    assert list(result["rollback_failed"]) == [lost] and "fallen off the bus" in result["rollback_failed"][lost]
    assert "NOT PUT BACK" in result["msg"]
    assert h.limits() == [700000, 300000, 700000, 700000]


def test_a_signal_half_way_leaves_the_gpus_whole(host):
    h = host("h100:4")
    h.sim("hang", "nvmlDeviceSetPowerManagementLimit", 2, "--gpu", 2)
    process = h.start("nvml_power_limit", gpus="all", limit="300W")
    until = time.monotonic() + 30
    while h.limits()[1] != 300000 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert h.limits() == [300000] * 4


def test_persistence_off_and_the_last_client_gone(host):
    h = host("h100:2", persistence=False)
    h.sim("limit-step", "all", 0)
    result = h.fails("nvml_power_limit", gpus="all", limit="300W")
    assert "persistence mode is off" in result["msg"] and "nvml_persistence_mode" in result["msg"]
    assert not result["changed"] and h.limits() == [700000] * 2
    h.ok("nvml_persistence_mode", gpus="1")
    result = h.fails("nvml_power_limit", gpus="all", limit="300W")
    assert not result["changed"] and h.limits() == [700000] * 2
    h.ok("nvml_persistence_mode", gpus="all")
    assert h.ok("nvml_power_limit", gpus="all", limit="300W")["changed"] and h.limits() == [300000] * 2
