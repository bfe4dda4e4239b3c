# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `top` shows, out of pages of an agent: readings, rates, courses, and an agent that goes away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from esnode.commands import CommandError
from esnode.commands._top_reading import Frame, Reading

PAGE = """# HELP esnode_cpu_usage_percent x
esnode_cpu_usage_percent{cpu="0"} 10
esnode_cpu_usage_percent{cpu="1"} 30
esnode_load1 0.5
esnode_gpu_power_watts{uuid="GPU-a",index="0"} %(power)s
esnode_gpu_power_limit_watts{uuid="GPU-a",index="0",kind="requested"} 650
esnode_gpu_power_limit_watts{uuid="GPU-a",index="0",kind="enforced"} 700
esnode_gpu_clock_hertz{uuid="GPU-a",index="0",domain="sm"} 1.98e+09
esnode_gpu_clock_event_active{uuid="GPU-a",index="0",reason="sw_power_cap"} 1
esnode_gpu_clock_event_active{uuid="GPU-a",index="0",reason="gpu_idle"} 0
esnode_gpu_last_xid{uuid="GPU-a",index="0"} 79
esnode_gpu_last_xid_timestamp_seconds{uuid="GPU-a",index="0"} 900
esnode_network_receive_bytes_total{interface="lo"} %(lo)s
esnode_network_receive_bytes_total{interface="eth0"} %(eth0)s
esnode_network_receive_bytes_total{interface="eth1"} 5
esnode_network_transmit_bytes_total{interface="eth0"} 0
esnode_collector_last_success_timestamp_seconds{collector="network"} %(time)s
esnode_collector_last_success_timestamp_seconds{collector="gpu"} %(time)s
"""
STATUS = {
    "version": "1",
    "host": "n1",
    "interval_seconds": 10,
    "gpus": [
        {"uuid": "GPU-a", "index": 0, "name": "H100", "state": "ok", "error": None},
        {"uuid": "GPU-b", "index": 1, "name": "H100", "state": "lost", "error": "fell off the bus"},
    ],
}


class Agent:
    def __init__(self) -> None:
        self.page: dict[str, Any] = {"power": 100, "lo": 0, "eth0": 1000, "time": 1000}
        self.history: list[tuple[str, Mapping[str, str], list[int], list[float]]] = []
        self.away = False
        self.asked_history = 0

    def get(self, path: str) -> bytes:
        if self.away:
            raise CommandError("no answer")
        return (json.dumps(STATUS) if path == "/status" else PAGE % self.page).encode()

    def past(self, names: Sequence[str], seconds: float) -> list[tuple[str, Mapping[str, str], list[int], list[float]]]:
        self.asked_history += 1
        return [one for one in self.history if one[0] in names]


@pytest.fixture
def agent() -> Agent:
    return Agent()


def frames(agent: Agent, *pages: dict[str, Any]) -> list[Frame]:
    reading = Reading(agent.get, agent.past)
    made = []
    for page in pages:
        agent.page.update(page)
        made.append(reading.frame())
    return made


def test_readings_of_a_gpu(agent: Agent) -> None:
    (frame,) = frames(agent, {})
    whole, lost = frame.gpus
    assert (whole.power_w, whole.limit_w, whole.sm_hz) == (100, 700, 1.98e9)
    assert (whole.reasons, whole.xid, whole.xid_time) == (["sw_power_cap"], 79, 900)
    assert whole.temperature_c is None, "what can't be read is not 0"
    assert frame.time == 1000, "the agent's clock"
    assert (lost.state, lost.error, lost.power_w) == ("lost", "fell off the bus", None)


def test_a_rate_needs_two_snapshots_and_is_that_of_the_busiest_device(agent: Agent) -> None:
    first, same, second = frames(agent, {}, {}, {"time": 1010, "eth0": 6000, "lo": 10**9})
    assert first.traffic == same.traffic == {}
    one = second.traffic["network"]
    assert (one.device, one.in_bytes_s, one.out_bytes_s) == ("eth0", 500, 0)


def test_the_store_gives_the_first_picture_its_rates_and_courses(agent: Agent) -> None:
    agent.history = [
        ("esnode_network_receive_bytes_total", {"interface": "eth0"}, [970_000, 990_000], [0.0, 800.0]),
        ("esnode_gpu_power_watts", {"uuid": "GPU-a"}, [20_000, 990_000], [1.0, 90.0]),
    ]
    (frame,) = frames(agent, {})
    assert frame.traffic["network"].in_bytes_s == 20
    course = frame.courses["esnode_gpu_power_watts", "GPU-a"]
    assert course == [(990_000, 90.0), (1_000_000, 100.0)], "of the last quarter of an hour"


def test_a_counter_that_started_over(agent: Agent) -> None:
    *_, last = frames(agent, {}, {"time": 1010, "eth0": 50})
    assert last.traffic["network"].in_bytes_s == 5


def test_after_it_was_away_the_gap_is_filled_from_the_store(agent: Agent) -> None:
    reading = Reading(agent.get, agent.past)
    reading.frame()
    asked = agent.asked_history
    reading.frame()
    assert agent.asked_history == asked
    agent.away = True
    with pytest.raises(CommandError):
        reading.frame()
    agent.away = False
    agent.history = [("esnode_gpu_power_watts", {"uuid": "GPU-a"}, [995_000], [95.0])]
    assert (995_000, 95.0) in reading.frame().courses["esnode_gpu_power_watts", "GPU-a"]


def test_an_agent_without_a_store(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_names: Sequence[str], _seconds: float) -> list[Any]:
        raise CommandError("no history")

    frame = Reading(agent.get, none).frame()
    assert frame.courses["esnode_gpu_power_watts", "GPU-a"] == [(1_000_000, 100.0)]
