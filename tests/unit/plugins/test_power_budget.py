# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Properties of the division of a power budget, over random fleets."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.esnode.core.plugins.filter.gpu_facts import gpu_facts, model
from ansible_collections.esnode.core.plugins.filter.power_budget import power_budget
from ansible_collections.esnode.core.plugins.module_utils._nvml_power import milliwatts
from hypothesis import assume, given, settings
from hypothesis import strategies as st

# min, default and max in W of real boards, and of ones whose limits are odd or can't move
BOARDS = [
    (200, 700, 700),
    (100, 350, 350),
    (40, 72, 72),
    (10, 450, 600),
    (200, 310, 400),
    (62.5, 62.5, 62.5),
    (99.5, 150.25, 151),
]
Hosts = dict[str, list[dict[str, Any]]]
some = settings(max_examples=50, deadline=None)


def gpu(index: int, uuid: str, board: tuple[float, float, float], limit_mw: int, usage_mw: int = 0) -> dict[str, Any]:
    low, default, high = (int(value * 1000) for value in board)
    power = {"limit_mw": limit_mw, "min_limit_mw": low, "default_limit_mw": default, "max_limit_mw": high}
    return {"index": index, "uuid": uuid, "name": "a board", "state": "ok", "power": {**power, "usage_mw": usage_mw}}


@st.composite
def fleets(draw: Any) -> Hosts:
    hosts: Hosts = {}
    for number in range(draw(st.integers(1, 4))):
        gpus = []
        for index in range(draw(st.integers(0, 4))):
            board = draw(st.sampled_from(BOARDS))
            limit = draw(st.integers(int(board[0] * 1000), int(board[2] * 1000)))
            gpus.append(gpu(index, f"GPU-{number}-{index}", board, limit, draw(st.integers(0, 700_000))))
        hosts[f"node{number}"] = gpus
    return hosts


SHARES = st.sampled_from(["equal", "default", "draw"])
BUDGETS = st.integers(0, 12_000)


def divided(hosts: Hosts, budget: Any, **options: Any) -> dict[str, Any]:
    try:
        return power_budget(hosts, budget, **options)
    except AnsibleFilterError as error:
        assume("too little" not in str(error))
        raise


def limits(plan: dict[str, Any]) -> dict[str, int]:
    return {one["uuid"]: one["after_mw"] for host in plan["hosts"].values() for one in host["gpus"]}


def present(hosts: Hosts) -> dict[str, int]:
    return {one["uuid"]: one["power"]["limit_mw"] for gpus in hosts.values() for one in gpus}


def steps(plan: dict[str, Any], which: str, hosts: Any = None) -> list[tuple[str, int]]:
    return [
        (uuid, milliwatts(step["limit"], "limit"))
        for name, host in plan["hosts"].items()
        if hosts is None or name in hosts
        for step in host[which]
        for uuid in step["gpus"]
    ]


def with_limits(hosts: Hosts, now: dict[str, int]) -> Hosts:
    return {
        name: [{**one, "power": {**one["power"], "limit_mw": now[one["uuid"]]}} for one in gpus]
        for name, gpus in hosts.items()
    }


@some
@given(fleets(), BUDGETS, SHARES, st.randoms(use_true_random=False))
def test_no_prefix_of_the_steps_in_any_order_is_above_the_budget(
    hosts: Hosts, budget: int, share: str, rng: random.Random
) -> None:
    plan = divided(hosts, budget, share=share)
    now = present(hosts)
    most = max(sum(now.values()), budget * 1000)
    for which in ("lower", "raise"):
        todo = steps(plan, which)
        rng.shuffle(todo)
        for uuid, mw in todo:
            now[uuid] = mw
            assert sum(now.values()) <= most
        assert sum(now.values()) <= budget * 1000
        most = budget * 1000
    assert now == limits(plan) and plan["after_mw"] == sum(now.values())


@some
@given(fleets(), BUDGETS, SHARES, st.data())
def test_hosts_that_have_not_lowered_leave_less_for_the_others(
    hosts: Hosts, budget: int, share: str, data: st.DataObject
) -> None:
    plan = divided(hosts, budget, share=share)
    held = data.draw(st.lists(st.sampled_from(sorted(hosts)), min_size=1, unique=True))
    now = present(hosts)
    for uuid, mw in steps(plan, "lower", set(hosts) - set(held)):
        now[uuid] = mw
    most = max(sum(now.values()), budget * 1000)
    again = power_budget(hosts, budget, share=share, held=held)
    first = dict(steps(plan, "raise"))
    for uuid, mw in steps(again, "raise"):
        assert now[uuid] < mw <= first[uuid]
        now[uuid] = mw
        assert sum(now.values()) <= most
    assert not set(dict(steps(again, "raise"))) & {one["uuid"] for name in held for one in hosts[name]}


@some
@given(fleets(), BUDGETS, SHARES)
def test_the_budget_is_given_out_as_far_as_possible_and_limits_are_kept(hosts: Hosts, budget: int, share: str) -> None:
    after = limits(divided(hosts, budget, share=share))
    room = False
    for one in itertools.chain.from_iterable(hosts.values()):
        mw, power = after[one["uuid"]], one["power"]
        assert power["min_limit_mw"] <= mw <= power["max_limit_mw"]
        assert mw % 1000 == 0 or power["min_limit_mw"] == power["max_limit_mw"]
        room |= mw + 1000 <= power["max_limit_mw"] and mw % 1000 == 0
    if room:  # less than a watt is left over
        assert budget * 1000 - sum(after.values()) < 1000


@some
@given(fleets(), BUDGETS, st.integers(0, 500), SHARES)
def test_a_larger_budget_lowers_no_limit(hosts: Hosts, budget: int, more: int, share: str) -> None:
    less, much = limits(divided(hosts, budget, share=share)), limits(divided(hosts, budget + more, share=share))
    assert all(less[uuid] <= much[uuid] for uuid in less)


@some
@given(fleets(), BUDGETS, SHARES, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_what_was_applied_stays(
    hosts: Hosts, budget: int, share: str, rng: random.Random
) -> None:
    plan = divided(hosts, budget, share=share)
    mixed = {name: rng.sample(hosts[name], len(hosts[name])) for name in rng.sample(list(hosts), len(hosts))}
    assert limits(divided(mixed, budget, share=share)) == limits(plan)
    applied = with_limits(hosts, limits(plan))
    again = divided(applied, budget, share=share)
    assert limits(again) == limits(plan) and not steps(again, "raise")
    assert all(present(applied)[uuid] == mw for uuid, mw in steps(again, "lower"))


@some
@given(fleets(), BUDGETS)
def test_equal_shares_differ_only_where_a_limit_makes_them(hosts: Hosts, budget: int) -> None:
    after = limits(divided(hosts, budget))
    free = [
        after[one["uuid"]]
        for one in itertools.chain.from_iterable(hosts.values())
        if one["power"]["min_limit_mw"] + 1000 <= after[one["uuid"]] <= one["power"]["max_limit_mw"] - 1000
    ]
    assert not free or max(free) - min(free) <= 1000


def rack(limit: int = 700) -> Hosts:
    return {
        "big": [gpu(i, f"GPU-big-{i}", BOARDS[0], limit * 1000, 600_000) for i in range(8)],
        "small": [gpu(i, f"GPU-small-{i}", BOARDS[1], 350_000, 100_000) for i in range(4)],
        "cpu": [],
    }


def test_figures_of_a_rack() -> None:
    reserve = {"big": "1kW", "small": 500, "cpu": 400}
    plan = power_budget(rack(), "6kW", reserve=reserve)
    assert (plan["before_mw"], plan["after_mw"], plan["reserve_mw"]) == (8_900_000, 6_000_000, 1_900_000)
    watts = {"reserve_mw": 400_000, "before_mw": 400_000, "after_mw": 400_000}
    assert plan["hosts"]["cpu"] == {**watts, "gpus": [], "lower": [], "raise": []}
    assert sorted(set(limits(plan).values())) == [341_000, 342_000]
    proportional = limits(power_budget(rack(), "6kW", reserve=reserve, share="default"))
    assert set(proportional.values()) == {410_000, 205_000}
    by_draw = limits(power_budget(rack(), "6kW", reserve=reserve, share="draw"))
    assert by_draw["GPU-small-0"] == 100_000 and by_draw["GPU-big-0"] in (462_000, 463_000)
    measured = rack()
    for one in measured["small"]:  # over a while they draw as much as the others, whatever they do at this moment
        one["power"]["draw_mw"] = measured["big"][0]["power"]["usage_mw"]
    assert limits(power_budget(measured, "6kW", reserve=reserve, share="draw"))["GPU-small-0"] == 341_000
    for ceiling in ("60%", ["60%", "300W"], [300, "60%"]):
        capped = limits(power_budget(rack(), "6kW", reserve=reserve, ceilings={"small": ceiling}))
        assert capped["GPU-small-0"] == 210_000 and capped["GPU-big-0"] in (407_000, 408_000)


@pytest.mark.parametrize(
    ("budget", "options", "message"),
    [
        ("1900W", {}, "rack_a1: 1900 W is 100 W too little: its 12 GPUs take at least 2000 W"),
        (
            "2kW",
            {"reserve": {"cpu": 400}},
            "is 400 W too little: its 12 GPUs take at least 2000 W and its hosts 400 W besides",
        ),
        ("6 pounds", {}, "budget: '6 pounds' is no power"),
        ("6kW", {"share": "fair"}, "share is 'fair'; it must be one of equal, default, draw"),
        ("6kW", {"ceilings": {"big": "100W"}}, "GPU 0 of big: a ceiling of 100W is below the 200 W"),
        ("6kW", {"reserve": {"big": "lots"}}, "reserve of big: 'lots' is no power"),
    ],
)
def test_what_is_refused_is_said(budget: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        power_budget(rack(), budget, group="rack_a1", **options)


def test_gpus_of_which_too_little_is_known_are_refused() -> None:
    hosts = rack()
    lost = {"index": 3, "state": "lost", "error": "it has fallen off the bus"}
    with pytest.raises(AnsibleFilterError, match="GPU 3 of small can't be asked: it has fallen off the bus"):
        power_budget({**hosts, "small": [*hosts["small"][:3], lost]}, "6kW")
    with pytest.raises(AnsibleFilterError, match="GPU-big-0 is GPU 0 of big and GPU 0 of alias"):
        power_budget({**hosts, "alias": hosts["big"]}, "20kW")
    mute = {**hosts["small"][0], "power": {"limit_mw": 1}}
    with pytest.raises(AnsibleFilterError, match=r"GPU 0 of small .* has no power limit that can be set"):
        power_budget({"small": [mute]}, "6kW")
    del hosts["small"][0]["power"]["usage_mw"]
    with pytest.raises(AnsibleFilterError, match="does not tell its draw"):
        power_budget(hosts, "6kW", share="draw")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A100-SXM4-40GB", "a100"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GeForce RTX 4090", "rtx_4090"),
        ("NVIDIA RTX A6000", "rtx_a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx_6000_ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx_pro_6000"),
        ("NVIDIA GeForce GTX 1070 Ti", "gtx_1070_ti"),
        ("NVIDIA", "unknown"),
    ],
)
def test_models_have_short_names(name: str, short: str) -> None:
    assert model(name) == short


def test_facts_of_hosts() -> None:
    assert gpu_facts({"gpus": [], "skipped": True})["groups"] == ["gpu_none"]
    gpus = [
        {"name": "NVIDIA H100 80GB HBM3", "state": "ok", "modes": {"mig": True}, "memory": {"total_bytes": 8}},
        {"name": "NVIDIA L40S", "state": "ok", "modes": {}, "memory": {"total_bytes": 4}},
        {"index": 2, "state": "lost"},
    ]
    facts = gpu_facts({"gpus": gpus, "driver_version": "580.1"})
    assert facts["groups"] == ["gpu", "gpu_x3", "gpu_h100", "gpu_l40s", "gpu_mig", "gpu_unwell"]
    assert (facts["count"], facts["unwell"], facts["memory_bytes"], facts["driver_version"]) == (3, 1, 12, "580.1")
