# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Power limits: what can be asked for, on every board, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils._nvml_power import PowerLimit, milliwatts, watts
from hypothesis import given
from hypothesis import strategies as st
from nvml_host import boards


def first(h) -> Any:
    return h.sim.gpu()


@pytest.mark.parametrize("profile", boards())
def test_every_board(host, profile):
    h = host(profile)
    board = first(h)
    for limit, expected in (
        ("70%", board["default_limit_mw"] * 70 // 100),
        ("min", board["min_limit_mw"]),
        ("max", board["max_limit_mw"]),
        ("default", board["default_limit_mw"]),
    ):
        if expected < board["min_limit_mw"]:
            assert "takes" in h.fails("nvml_power_limit", gpus="all", limit=limit)["msg"]
            continue
        predicted = h.ok("nvml_power_limit", gpus="all", limit=limit, check=True)
        unset = first(h)["power_limit_mw"]
        done = h.ok("nvml_power_limit", gpus="all", limit=limit)
        assert first(h)["power_limit_mw"] == expected == done["gpus"][0]["after"]["limit_mw"]
        assert predicted["changed"] == done["changed"] == (unset != expected)
        foreseen = predicted["gpus"][0]["after"]  # what is enforced above the present limit can't be foreseen
        assert foreseen == {key: done["gpus"][0]["after"][key] for key in foreseen}
        assert set(done["gpus"][0]["after"]) - set(foreseen) <= {"enforced_limit_mw"}
        again = h.ok("nvml_power_limit", gpus="all", limit=limit)
        assert not again["changed"] and again["gpus"][0]["before"] == done["gpus"][0]["after"]
    low, high = board["min_limit_mw"], board["max_limit_mw"]
    for limit in (f"{low - 1}mW", f"{high + 1}mW", "0"):
        before = h.settings()
        result = h.fails("nvml_power_limit", gpus="all", limit=limit)
        assert watts(low) in result["msg"] and watts(high) in result["msg"] and board["name"] in result["msg"]
        assert h.settings() == before


def test_ways_to_write_it(host):
    h = host("h100:1")
    for limit, mw in (
        ("300", 300000),
        (300, 300000),
        ("301W", 301000),
        ("0.3kW", 300000),
        ("300.5 W", 300500),
        ("302000mW", 302000),
        ("66.7%", 466900),
    ):
        h.ok("nvml_power_limit", gpus="all", limit=limit)
        assert h.limits() == [mw], limit
    for limit in ("lots", "-300", "300V", "%", "1e3", ""):
        assert "write 300" in h.fails("nvml_power_limit", gpus="all", limit=limit)["msg"], limit
    h = host("rtx4090:1")
    h.ok("nvml_power_limit", gpus="all", limit="50%", percent_of="max")
    assert h.limits() == [300000]


@given(st.integers(1, 10**7))
def test_watts_are_exact(mw):
    assert milliwatts(f"{mw}mW", "limit") == milliwatts(watts(mw), "limit") == mw


@given(st.integers(0, 150), st.integers(1, 10**7))
def test_percentages_never_exceed_their_share(percent, default_mw):
    limit = PowerLimit(f"{percent}%")
    wanted = limit._wanted(None, {"default_limit_mw": default_mw})  # type: ignore[arg-type]
    assert wanted * 100 <= default_mw * percent < (wanted + 1) * 100


def test_a_mixed_host_is_validated_whole_before_anything_is_set(host):
    h = host("h100:2,l4:1")
    result = h.fails("nvml_power_limit", gpus="all", limit="300W")
    assert [error["index"] for error in result["errors"]] == [2]
    assert "Nothing was changed" in result["msg"]
    assert h.limits() == [700000, 700000, 72000]
    h.ok("nvml_power_limit", gpus="all", limit="80%")
    assert h.limits() == [560000, 560000, 57600]


def test_the_ceiling_lowers_and_says_so(host):
    h = host("h100:1,l4:1")
    result = h.ok("nvml_power_limit", gpus="all", limit="default", ceiling="500W")
    assert h.limits() == [500000, 72000]
    assert [w for w in result["warnings"] if "ceiling" in w and "700 W" in w and "500 W" in w]
    assert "ceiling" in h.fails("nvml_power_limit", gpus="0", limit="default", ceiling="100W")["msg"]
    assert "ceiling" in h.fails("nvml_power_limit", gpus="0", limit="default", ceiling="50%")["msg"]


def test_what_is_enforced_is_returned_and_warned_of(host):
    h = host("h100:1")
    h.sim("bmc-cap", 0, 400)
    predicted = h.ok("nvml_power_limit", gpus="all", limit="600W", check=True)
    result = h.ok("nvml_power_limit", gpus="all", limit="600W")
    after = result["gpus"][0]["after"]
    assert (after["limit_mw"], after["enforced_limit_mw"]) == (600000, 400000)
    assert predicted["gpus"] == result["gpus"]
    assert [w for w in result["warnings"] if "600 W is requested but 400 W is enforced" in w]
    again = h.ok("nvml_power_limit", gpus="all", limit="600W")
    assert not again["changed"] and [w for w in again["warnings"] if "400 W is enforced" in w]


def test_modules_of_superchips(host):
    h = host("gh200:1")
    result = h.ok("nvml_power_limit", gpus="all", limit="80%", scope="module")
    assert first(h)["module_limit_mw"] == 800000 and first(h)["power_limit_mw"] == 900000
    assert result["gpus"][0]["before"]["limit_mw"] == 1000000
    assert not h.ok("nvml_power_limit", gpus="all", limit="800W", scope="module")["changed"]
    # pynvml drops what this call returns: that it was refused must show all the same
    h.sim("fail", "nvmlDeviceSetPowerManagementLimit_v2", 999)
    result = h.fails("nvml_power_limit", gpus="all", limit="700W", scope="module")
    assert "999" in result["msg"] and first(h)["module_limit_mw"] == 800000
    assert "its module" in host("h100:1").fails("nvml_power_limit", gpus="all", limit="max", scope="module")["msg"]
    h = host("gh200:1", driver_version="525.60.13")
    assert h.fails("nvml_power_limit", gpus="all", limit="700W", scope="module")


def test_a_driver_that_rounds_has_done_it_and_one_that_does_something_else_has_not(host):
    h = host("h100:2")
    h.sim("limit-step", "all", 1)
    result = h.ok("nvml_power_limit", gpus="all", limit="300.7W")
    assert h.limits() == [300000, 300000] and result["changed"]
    assert [w for w in result["warnings"] if "the driver made it 300 W" in w]
    assert not h.ok("nvml_power_limit", gpus="all", limit="300.7W")["changed"]
    h.sim("limit-step", 1, 50)
    result = h.fails("nvml_power_limit", gpus="all", limit="349W")
    assert "what it reports is" in result["msg"] and h.limits() == [300000, 300000]
    assert len(result["rolled_back"]) == 2 and result["changed"] is False


def test_rights(host):
    for command in (("pretend-uid", 1000), ("pretend-unprivileged", "on")):
        h = host("h100:2")
        h.sim(*command)
        result = h.fails("nvml_power_limit", gpus="all", limit="300W")
        assert "become" in result["msg"] and "CAP_SYS_ADMIN" in result["msg"] and result["changed"] is False
        assert result["errors"][0]["code"] == 4 and h.limits() == [700000, 700000]


def test_a_board_without_a_limit(host):
    h = host("h100:1")
    h.sim("fail", "nvmlDeviceGetPowerManagementLimitConstraints", 3)
    assert "no power limit that can be set" in h.fails("nvml_power_limit", gpus="all", limit="min")["msg"]


def test_diff_is_of_what_changes_alone(host):
    h = host("h100:2")
    h.ok("nvml_power_limit", gpus="0", limit="300W")
    result = h.ok("nvml_power_limit", gpus="all", limit="300W", diff=True, check=True)
    (diff,) = result["diff"]
    name = f"GPU 1 ({h.sim.gpu(1)['uuid']})"
    assert diff["before"] == {name: {"limit_mw": 700000, "enforced_limit_mw": 700000}}
    assert diff["after"] == {name: {"limit_mw": 300000, "enforced_limit_mw": 300000}}
    assert "diff" not in h.ok("nvml_power_limit", gpus="all", limit="300W")
    assert "diff" not in h.ok("nvml_power_limit", gpus="all", limit="300W", diff=True)
