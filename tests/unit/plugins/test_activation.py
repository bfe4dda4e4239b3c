# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host goes back to when a change fails; on a real file system, on a host where no agent runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils import activation, record, release

A, B, C = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb", "1.2.0-cccccccccccc"
STATUS: dict[str, Any] = {"gpus": [], "collectors": {"cpu": {"state": "ok"}}}


def agent(name: str) -> record.Agent:
    return record.Agent(name, "/nowhere/esnode.toml", "127.0.0.1:9", "")


@pytest.fixture
def layout(tmp_path: Path) -> dict[str, str]:
    """A host with three releases; A and B ran well on it, B last."""
    names = ("prefix", "config_dir", "run_dir", "service_log_dir")
    for name in (A, B, C):
        marker = tmp_path / "prefix/releases" / name / release.MARKER
        marker.parent.mkdir(parents=True)
        marker.touch()
    places = {name: str(tmp_path / name) for name in names}
    for name in (A, B):
        record.keep(places["prefix"], agent(name), [], STATUS, fresh=True)
    return {"scope": "system", "manager": "supervisor", **places}


def fallback(layout: dict[str, str], wanted: str) -> str:
    return activation.Change(layout, lambda _command: (1, "", ""), agent(wanted), {}, 1).fallback_name


def test_the_active_one_is_gone_back_to(layout: dict[str, str]) -> None:
    release.flip(layout["prefix"], B)
    assert fallback(layout, C) == B
    assert fallback(layout, B) == B, "with the files that it ran well with"


def test_an_active_one_that_was_never_healthy_is_not(layout: dict[str, str]) -> None:
    release.flip(layout["prefix"], C)
    assert fallback(layout, C) == B


def test_one_that_was_left_and_activated_again_but_not_seen_healthy_is_not(layout: dict[str, str]) -> None:
    record.leave(layout["prefix"], B, A, "not healthy")
    release.flip(layout["prefix"], B)
    assert fallback(layout, B) == A


def test_nothing_is_gone_back_to_on_a_new_host(layout: dict[str, str]) -> None:
    for name in (A, B):
        release.remove(layout["prefix"], name)
    release.flip(layout["prefix"], C)
    assert fallback(layout, C) == ""
