# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""What a run for power refuses, and who takes part in it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.plugin_utils.power_run import plan_run

GROUPS = {"rack": ["a", "b"], "row": ["b", "c"], "other": ["d"], "all": ["a", "b", "c", "d"]}


def answer(host: str, gpus: int = 1, persistence: bool = True, **given: Any) -> dict[str, Any]:
    power = {"limit_mw": 700_000, "min_limit_mw": 200_000, "default_limit_mw": 700_000, "max_limit_mw": 700_000}
    board = {"name": "a board", "power": power, "modes": {"persistence": persistence}}
    return {
        "gpus": [{"index": i, "uuid": f"GPU-{host}-{i}", **board} for i in range(gpus)],
        "unreachable": False,
        "failure": "",
        "budgets": {"rack": "1kW"},
        "share": "equal",
        "host_watts": "0",
        "ceilings": ["", ""],
        "persistence_mode": "",
        **given,
    }


def answers(**changed: dict[str, Any]) -> dict[str, Any]:
    return {host: answer(host, **changed.get(host, {})) for host in "abc"}


def test_who_takes_part() -> None:
    run = plan_run(answers(a={"gpus": 0}), GROUPS)
    assert (run["stops"], run["gpus"], run["budgeted"], run["hosts"]) == ([], ["b", "c"], ["b"], ["a", "b", "c"])
    assert run["steps"]["b"]["lower"] == [{"limit": "700W", "gpus": ["GPU-b-0"]}]
    assert run["budgets"]["rack"]["after_mw"] == 700_000


def test_ceilings_and_reserves_are_those_of_the_hosts() -> None:
    run = plan_run(answers(a={"ceilings": ["50%", "300W"]}, b={"host_watts": "100W"}), GROUPS)
    assert run["steps"]["a"]["after_mw"] == 300_000 and run["steps"]["b"]["after_mw"] == 700_000
    assert plan_run(answers(a={"ceilings": ["", "350W"]}), GROUPS)["steps"]["a"]["after_mw"] == 350_000


def test_another_rack_is_left_alone() -> None:
    assert plan_run({"c": answer("c")}, GROUPS)["stops"] == []


def test_unreachable_hosts_may_be_left_out_unless_they_share_a_budget() -> None:
    away = {"unreachable": True, "gpus": 0}
    assert "unreachable: c. To leave them out" in plan_run(answers(c=away), GROUPS)["stops"][0]
    run = plan_run(answers(c=away), GROUPS, skip_unreachable=True)
    assert run["stops"] == [] and run["gpus"] == ["a", "b"]
    assert "b of it can't be reached" in plan_run(answers(b=away), GROUPS, skip_unreachable=True)["stops"][0]


def test_a_limit_that_the_driver_would_forget_is_no_part_of_a_budget() -> None:
    for given in ({"persistence": False}, {"persistence_mode": False}):
        (stop,) = plan_run(answers(a=given), GROUPS)["stops"]
        assert "persistence mode is off on a or would be switched off" in stop
    assert plan_run(answers(a={"persistence": False, "persistence_mode": True}), GROUPS)["stops"] == []
    assert plan_run(answers(a={"gpus": 0, "persistence_mode": False}), GROUPS)["stops"] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({host: {"budgets": {"rack": "300W"}} for host in "abc"}, "rack: 300 W is 100 W too little"),
        ({host: {"budgets": {"rock": "1kW"}} for host in "abc"}, "there is no group 'rock' in the inventory"),
        (
            {host: {"budgets": {"rack": 900, "row": 900}} for host in "abc"},
            "b is in two groups with a budget, rack and",
        ),
        ({"b": {"budgets": {"rack": "2kW"}}}, "rack is 1kW for some hosts and 2kW for b"),
        ({"b": {"share": "draw"}}, "esnode_power_share must be the same on all of its hosts"),
        ({"b": {"gpus": 0, "failure": "no driver"}}, "b can't be asked: no driver"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    assert any(message in stop for stop in plan_run(answers(**given), GROUPS)["stops"])


def test_a_part_of_a_group_is_refused() -> None:
    stops = plan_run({"a": answer("a")}, GROUPS)["stops"]
    assert stops == ["rack has a budget, and this run leaves out b of it: run it for the whole group"]
