# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Divide a power budget among GPUs. Limits come out in whole watts, since not every driver keeps parts of them."""

from __future__ import annotations

import dataclasses
import decimal
import re
import typing as t
from fractions import Fraction

from ansible_collections.esnode.core.plugins.module_utils._nvml_power import milliwatts, watts

SHARES = ("equal", "default", "draw")
_PERCENT = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*%$")
_SHIFT = 40  # a GPU is given at most one watt within 2**-40 of the level, so the search below is exact


class Impossible(Exception):
    """There is no such plan; the text says why and what to do."""


@dataclasses.dataclass
class Share:
    """One GPU and what it may and shall have. In mW."""

    host: str
    uuid: str
    name: str
    index: int
    before: int
    low: int
    high: int
    weight: int
    after: int = 0

    @property
    def fixed(self) -> bool:
        """Its limit can't be changed, and need not be in whole watts."""
        return self.low == self.high


def plan(
    hosts: dict[str, list[dict[str, t.Any]]],
    budget: str | float,
    share: str = "equal",
    reserve: dict[str, str | float] | None = None,
    ceilings: dict[str, str | float | list[str | float]] | None = None,
    held: t.Collection[str] = (),
    group: str = "",
) -> dict[str, t.Any]:
    """What becomes of each GPU, host by host, in two passes: `lower` everywhere, then `raise`.

    `held`: hosts that were to lower and have not; then `raise` is what is left for the others.
    """
    prefix = f"{group}: " if group else ""
    if share not in SHARES:
        raise Impossible(f"{prefix}share is {share!r}; it must be one of {', '.join(SHARES)}")
    try:
        budget_mw = milliwatts(str(budget), "budget")
        reserves = {host: milliwatts(str((reserve or {}).get(host, 0)), f"reserve of {host}") for host in hosts}
        shares = [_share(host, gpu, share, (ceilings or {}).get(host)) for host, gpus in hosts.items() for gpu in gpus]
        _once(shares)
        _divide(shares, budget_mw - sum(reserves.values()), sum(reserves.values()))
    except (Impossible, ValueError) as error:
        raise Impossible(f"{prefix}{error}") from error
    if held:
        _hold(shares, held, budget_mw - sum(reserves.values()))
    return {
        "budget_mw": budget_mw,
        "reserve_mw": sum(reserves.values()),
        "before_mw": sum(reserves.values()) + sum(one.before for one in shares),
        "after_mw": sum(reserves.values()) + sum(one.after for one in shares),
        "hosts": {
            host: _of_host([one for one in shares if one.host == host], reserves[host], host in held) for host in hosts
        },
    }


def _share(host: str, gpu: dict[str, t.Any], share: str, ceilings: t.Any) -> Share:
    who = f"GPU {gpu.get('index')} of {host}"
    if gpu.get("state", "ok") != "ok":
        raise Impossible(
            f"{who} can't be asked: {gpu.get('error', gpu['state'])}. What it may draw is not known; take {host} out "
            "of the group, and what it draws off the budget"
        )
    power = gpu.get("power", {})
    absent = [key for key in ("limit_mw", "min_limit_mw", "max_limit_mw") if power.get(key) is None]
    if absent:
        raise Impossible(
            f"{who} ({gpu.get('name')}) has no power limit that can be set; take {host} out of the group, and what it "
            "draws off the budget"
        )
    draw = power.get("draw_mw", power.get("usage_mw"))
    if share == "draw" and draw is None:
        raise Impossible(f"{who} ({gpu.get('name')}) does not tell its draw; use share 'equal' or 'default'")
    default = power.get("default_limit_mw", power["max_limit_mw"])
    low, high = _whole_watts(power["min_limit_mw"], power["max_limit_mw"])
    for ceiling in ceilings if isinstance(ceilings, list) else [] if ceilings is None else [ceilings]:
        most = min(high, _ceiling(str(ceiling), power, default) // 1000 * 1000)
        if most < low:
            raise Impossible(f"{who}: a ceiling of {ceiling} is below the {watts(low)} that {gpu.get('name')} takes")
        high = most
    weight = {"equal": 1, "default": default, "draw": draw}[share]
    return Share(
        host, gpu["uuid"], gpu.get("name", ""), gpu["index"], power["limit_mw"], low, high, max(int(weight), 1)
    )


def _whole_watts(low: int, high: int) -> tuple[int, int]:
    """The whole watts in a range; a range without any is the GPU's minimum."""
    inner = -(-low // 1000) * 1000, high // 1000 * 1000
    return inner if inner[0] <= inner[1] else (low, low)


def _ceiling(text: str, power: dict[str, t.Any], default: int) -> int:
    """Written as the limit of esnode.core.nvml_power_limit."""
    words = {"default": default, "min": power["min_limit_mw"], "max": power["max_limit_mw"]}
    percent = _PERCENT.match(text.strip())
    if percent:
        return int(default * decimal.Decimal(percent.group(1)) / 100)
    return int(words[text]) if text in words else milliwatts(text, "ceiling")


def _once(shares: list[Share]) -> None:
    seen: dict[str, Share] = {}
    for one in shares:
        other = seen.setdefault(one.uuid, one)
        if other is not one:
            raise Impossible(
                f"{one.uuid} is GPU {other.index} of {other.host} and GPU {one.index} of {one.host}: is that one host "
                "under two names?"
            )


def _divide(shares: list[Share], available: int, reserve: int) -> None:
    """Fill `after`: never more than is available, and as much of it as the limits of the GPUs and whole watts allow."""
    least = sum(one.low for one in shares)
    if least > available:
        besides = f" and its hosts {watts(reserve)} besides" if reserve else ""
        raise Impossible(
            f"{watts(available + reserve)} is {watts(least - available)} too little: its {len(shares)} GPUs take at "
            f"least {watts(least)}{besides}"
        )
    for one in shares:
        one.after = one.low
    open_ = [one for one in shares if not one.fixed]
    fixed = sum(one.low for one in shares if one.fixed)
    _fill(open_, (available - fixed) // 1000)


def _hold(shares: list[Share], held: t.Collection[str], available: int) -> None:
    """Some hosts have not lowered: what they still have is taken from what the others would be raised by."""
    rising = []
    for one in shares:
        if one.host in held:
            one.after = one.before
        elif one.after > one.before:
            one.high, one.low = one.after, -(-one.before // 1000) * 1000
            rising.append(one)
    left = available - sum(one.after for one in shares if one not in rising)
    if sum(one.low for one in rising) > left:
        for one in rising:
            one.after = one.before
    else:
        _fill(rising, left // 1000)


def _fill(shares: list[Share], total_w: int) -> None:
    """Hand out watts as water fills vessels: always the next one to whom it brings least per weight.

    The order in which watts go out does not depend on how many there are, so nobody gets less from a larger budget.
    """

    def level(at: int) -> list[int]:
        return [min(max(at * one.weight >> _SHIFT, one.low // 1000), one.high // 1000) for one in shares]

    if not shares:
        return
    below, above = 0, (max(one.high for one in shares) // 1000 + 1) << _SHIFT
    if sum(level(above)) <= total_w:
        below = above
    while above - below > 1:
        middle = (above + below) // 2
        if sum(level(middle)) <= total_w:
            below = middle
        else:
            above = middle
    given = level(below)
    left = total_w - sum(given)
    for one, here in zip(shares, given):
        one.after = here * 1000
    # Between the two levels each GPU is given one watt at most.
    following = [
        (Fraction(here + 1, one.weight), one.uuid, one)
        for one, here, there in zip(shares, given, level(above))
        if there > here
    ]
    for _level, _uuid, one in sorted(following, key=lambda entry: entry[:2])[:left]:
        one.after += 1000


def _of_host(shares: list[Share], reserve: int, held: bool) -> dict[str, t.Any]:
    return {
        "reserve_mw": reserve,
        "before_mw": reserve + sum(one.before for one in shares),
        "after_mw": reserve + sum(one.after for one in shares),
        "gpus": [
            {"index": one.index, "uuid": one.uuid, "name": one.name, "before_mw": one.before, "after_mw": one.after}
            for one in shares
        ],
        # A GPU that keeps its limit is in the first pass, so that it is recorded.
        "lower": [] if held else _steps(one for one in shares if one.after <= one.before),
        "raise": [] if held else _steps(one for one in shares if one.after > one.before),
    }


def _steps(shares: t.Iterable[Share]) -> list[dict[str, t.Any]]:
    """GPUs of one limit in one call."""
    steps: dict[int, list[str]] = {}
    for one in shares:
        steps.setdefault(one.after, []).append(one.uuid)
    return [{"limit": watts(mw).replace(" ", ""), "gpus": sorted(uuids)} for mw, uuids in sorted(steps.items())]
