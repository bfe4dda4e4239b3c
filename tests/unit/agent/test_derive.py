# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tokens per joule: only when both sides are known over the same span."""

from __future__ import annotations

import pytest
from esnode import catalogue
from esnode.derive import tokens_per_joule
from esnode.snapshot import Samples, Snapshot

A, B = catalogue.APP_TOKENS.series("a"), catalogue.APP_TOKENS.series("b")
G0, G1 = catalogue.GPU_ENERGY.series("GPU-0", "0"), catalogue.GPU_ENERGY.series("GPU-1", "1")
RESULT = catalogue.APP_TOKENS_PER_JOULE.series()


def snapshot(app: Samples, gpu: Samples) -> Snapshot:
    return Snapshot(0.0, {"app": app, "gpu": gpu})


def test_all_tokens_over_all_joules() -> None:
    before = snapshot({A: 100, B: 50}, {G0: 10.0, G1: 20.0})
    after = snapshot({A: 160, B: 70}, {G0: 25.0, G1: 25.0})
    assert tokens_per_joule(before, after) == {RESULT: 80 / 20}


def test_an_idle_server_is_zero_and_not_unknown() -> None:
    assert tokens_per_joule(snapshot({A: 5}, {G0: 1.0}), snapshot({A: 5}, {G0: 2.0})) == {RESULT: 0.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (snapshot({}, {G0: 1.0}), snapshot({A: 5}, {G0: 2.0})),
        (snapshot({A: 5}, {G0: 1.0}), snapshot({}, {G0: 2.0})),
        (snapshot({A: 5}, {}), snapshot({A: 6}, {})),
        (snapshot({A: 5}, {G0: 1.0}), snapshot({A: 6}, {G0: 1.0})),
        (snapshot({A: 5}, {G0: 9.0}), snapshot({A: 6}, {G0: 1.0})),
        (snapshot({A: 9}, {G0: 1.0}), snapshot({A: 6}, {G0: 2.0})),
        (snapshot({A: 5}, {G0: 1.0, G1: 1.0}), snapshot({A: 6}, {G0: 2.0})),
    ],
)
def test_unknown_stays_absent(before: Snapshot, after: Snapshot) -> None:
    assert tokens_per_joule(before, after) == {}
