# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of the playbook for power does, from what all hosts have answered."""

from __future__ import annotations

import typing as t

from .power import Impossible, plan

Answer = dict[str, t.Any]


def plan_run(
    answers: dict[str, Answer],
    groups: dict[str, list[str]],
    held: t.Collection[str] = (),
    skip_unreachable: bool = False,
) -> dict[str, t.Any]:
    """`stops` says all that is impossible; unless it is empty, nothing may be changed."""
    stops = [f"{host} can't be asked: {answer['failure']}" for host, answer in answers.items() if answer["failure"]]
    budgets, mistakes = _budgets(answers)
    stops += mistakes
    members: dict[str, str] = {}
    plans: dict[str, t.Any] = {}
    for group, budget in budgets.items():
        if group not in groups:
            stops.append(f"esnode_power_budgets: there is no group {group!r} in the inventory")
            continue
        if not set(groups[group]) & set(answers):
            continue  # another rack, and this run is limited to some
        unknown = _unknown(group, groups[group], answers)
        stops += unknown
        for host in groups[group]:
            if members.setdefault(host, group) != group:
                stops.append(f"{host} is in two groups with a budget, {members[host]} and {group}: it can be in one")
        if not unknown:
            try:
                plans[group] = _plan(group, budget, {host: answers[host] for host in groups[group]}, held)
            except Impossible as impossible:
                stops.append(str(impossible))
    alone = [host for host, answer in answers.items() if answer["unreachable"] and host not in members]
    if alone and not skip_unreachable:
        stops.append(f"unreachable: {', '.join(alone)}. To leave them out: -e esnode_skip_unreachable=true")
    gpus = [host for host, answer in answers.items() if answer["gpus"]]
    return {
        "stops": stops,
        "hosts": list(answers),
        "gpus": gpus,
        "budgeted": [host for host in gpus if host in members],
        "budgets": plans,
        "steps": {host: one for each in plans.values() for host, one in each["hosts"].items()},
    }


def _budgets(answers: dict[str, Answer]) -> tuple[dict[str, t.Any], list[str]]:
    """They may be declared for all hosts or in the group itself, so each host may know others."""
    budgets: dict[str, t.Any] = {}
    mistakes = []
    for host, answer in answers.items():
        for group, budget in answer["budgets"].items():
            if str(budgets.setdefault(group, budget)) != str(budget):
                mistakes.append(
                    f"esnode_power_budgets: {group} is {budgets[group]} for some hosts and {budget} for {host}"
                )
    return budgets, mistakes


def _unknown(group: str, hosts: list[str], answers: dict[str, Answer]) -> list[str]:
    """A budget computed from a part of its hosts would be wrong."""
    absent = [host for host in hosts if host not in answers]
    silent = [host for host in hosts if answers.get(host, {}).get("unreachable")]
    failed = [host for host in hosts if answers.get(host, {}).get("failure")]
    stops = []
    if absent:
        stops.append(
            f"{group} has a budget, and this run leaves out {', '.join(absent)} of it: run it for the whole group"
        )
    if silent:
        stops.append(
            f"{group} has a budget, and {', '.join(silent)} of it can't be reached, so what its GPUs may draw is not "
            "known: take it out of the group, and what it may draw off the budget"
        )
    if failed:
        stops.append(f"{group} has a budget, and what the GPUs of {', '.join(failed)} may draw is not known")
    return stops


def _forgets(answer: Answer) -> bool:
    """Whether a limit goes back to the default, above the budget, when the last process lets go of a GPU."""
    declared = answer["persistence_mode"]
    if declared in ("", None):
        return any(gpu.get("modes", {}).get("persistence") is False for gpu in answer["gpus"])
    return bool(answer["gpus"]) and not declared


def _plan(group: str, budget: t.Any, answers: dict[str, Answer], held: t.Collection[str]) -> dict[str, t.Any]:
    forgetful = [host for host, answer in answers.items() if _forgets(answer)]
    if forgetful:
        raise Impossible(
            f"{group} has a budget, and persistence mode is off on {', '.join(forgetful)} or would be switched off: "
            "the driver forgets limits there. Declare persistence_mode: true in the profile"
        )
    shares = {answer["share"] for answer in answers.values()}
    if len(shares) > 1:
        raise Impossible(f"{group}: esnode_power_share must be the same on all of its hosts; it is {sorted(shares)}")
    return plan(
        {host: answer["gpus"] for host, answer in answers.items()},
        budget,
        shares.pop() if shares else "equal",
        {host: answer["host_watts"] for host, answer in answers.items()},
        {host: [one for one in answer["ceilings"] if one] for host, answer in answers.items()},
        [host for host in held if host in answers],
        group,
    )
