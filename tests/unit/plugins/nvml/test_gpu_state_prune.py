# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""What is no longer declared is forgotten, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nvml_host import Host


def recorded(host: Host) -> list[dict[str, Any]]:
    return list(json.loads(host.state_file.read_text())["gpus"].values())


def test_only_what_its_owner_no_longer_declares_is_removed(host: Callable[..., Host]) -> None:
    one = host("h100:2")
    assert not one.ok("gpu_state_prune", owner="role", settings=["power_limit"])["changed"]
    assert one.files() == {}
    one.ok("nvml_power_limit", gpus=["all"], limit="300W", persist=True)
    one.ok("nvml_compute_mode", gpus=["0"], mode="prohibited", persist=True)
    assert not one.ok("gpu_state_prune", owner="role", settings=["power_limit"])["changed"]
    assert [entry["owners"] for entry in recorded(one)] == [{"role": ["power_limit"]}] * 2

    before = one.files()
    check = one.ok("gpu_state_prune", owner="role", settings=[], check=True, diff=True)
    assert check["changed"] and one.files() == before and check["diff"][0]["before"] != check["diff"][0]["after"]
    assert one.ok("gpu_state_prune", owner="another", settings=[])["removed"] == {}
    assert one.files() == before
    done = one.ok("gpu_state_prune", owner="role", settings=[], diff=True)
    assert list(done["removed"].values()) == [["power_limit"]] * 2
    assert {key: done[key] for key in ("removed", "diff")} == {key: check[key] for key in ("removed", "diff")}
    assert [(sorted(entry), sorted(entry["settings"])) for entry in recorded(one)] == [
        (["name", "settings"], ["compute_mode"])
    ]
    assert one.limits() == [300_000] * 2


def test_a_file_that_others_can_write_is_refused(host: Callable[..., Host]) -> None:
    one = host("h100:1")
    one.ok("nvml_power_limit", gpus=["all"], limit="300W", persist=True)
    one.state_file.chmod(0o666)
    refused = one.fails("gpu_state_prune", owner="role", settings=[])
    assert "writable by root alone" in refused["msg"] and not refused["changed"]
