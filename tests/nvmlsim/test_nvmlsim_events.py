# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Events that one process causes reach those who registered for them, and nobody else."""

from __future__ import annotations

import time

import pytest

XID, SINGLE, DOUBLE = 8, 1, 2
TIMEOUT, LOST, DRIVER_NOT_LOADED = 10, 15, 9
WAIT = (
    "(lambda e: [n.nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId])"
    "(n.nvmlEventSetWait_v2(s, %d))"
)


def listen(c, gpus: str = "(0, 1)", types: str = "11") -> None:
    c("s = n.nvmlEventSetCreate()")
    c(f"for i in {gpus}: n.nvmlDeviceRegisterEvents(h(i), {types}, s)")


def test_events_arrive_in_order_and_earlier_ones_do_not(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    sim("inject", "xid", 0, 13)
    c("early = n.nvmlEventSetCreate()")
    sim("inject", "xid", 0, 31)
    c("n.nvmlDeviceRegisterEvents(h(), 8, early)")
    assert c.code("n.nvmlEventSetWait_v2(early, 0)") == TIMEOUT
    listen(c)
    assert c.code(WAIT % 0) == TIMEOUT
    sim("inject", "xid", 1, 79)
    sim("inject", "ecc", 0, "corrected")
    sim("inject", "ecc", 0, "uncorrected")
    assert [c(WAIT % 1000) for _ in range(3)] == [
        [1, XID, 79, 0xFFFFFFFF],
        [0, SINGLE, 0, 0xFFFFFFFF],
        [0, DOUBLE, 0, 0xFFFFFFFF],
    ]
    assert c.code(WAIT % 10) == TIMEOUT


def test_a_waiting_process_is_woken(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    listen(c)
    c.send(WAIT % 30000)
    time.sleep(0.2)
    started = time.monotonic()
    sim("inject", "xid", 1, 48)
    assert c.receive() == [1, XID, 48, 0xFFFFFFFF]
    assert time.monotonic() - started < 5


def test_only_what_was_registered(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    listen(c, gpus="(1,)", types="8")
    sim("inject", "xid", 0, 79)
    sim("inject", "ecc", 1, "corrected")
    assert c.code(WAIT % 50) == TIMEOUT


def test_two_sets_each_get_their_own(machine, client):
    sim = machine("h100:2")
    one, two = client(sim), client(sim)
    for c in (one, two):
        listen(c)
    sim("inject", "xid", 0, 31)
    assert one(WAIT % 1000) == two(WAIT % 1000) == [0, XID, 31, 0xFFFFFFFF]


def test_a_lost_gpu_ends_the_wait_after_its_events(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    listen(c)
    c.send(WAIT % 30000)
    sim("lose", 0)
    with pytest.raises(Exception, match=f"{LOST}"):
        c.receive()
    sim("restore", 0)
    sim("inject", "xid", 1, 79, "--lose")
    assert c("n.nvmlEventSetWait_v2(s, 1000).eventData") == 79
    assert c.code(WAIT % 1000) == LOST


def test_a_driver_reload_ends_the_wait(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    listen(c)
    c.send(WAIT % 30000)
    sim("reload-driver", "--force")
    with pytest.raises(Exception, match=f"{DRIVER_NOT_LOADED}"):
        c.receive()


def test_supported_types_and_dead_sets(machine, client):
    sim = machine("h100,rtx4090")
    c = client(sim)
    assert c("n.nvmlDeviceGetSupportedEventTypes(h(0))") & 0x800B == 0x800B
    assert c("n.nvmlDeviceGetSupportedEventTypes(h(1))") & 3 == 0
    c("s = n.nvmlEventSetCreate()")
    assert c.code("n.nvmlDeviceRegisterEvents(h(1), 1, s)") == 3
    c("n.nvmlEventSetFree(s)")
    assert c.code("n.nvmlDeviceRegisterEvents(h(0), 8, s)") == 2
    assert c.code("n.nvmlEventSetWait_v2(s, 10)") == 2


def test_a_storm_loses_the_oldest_only(machine, client):
    sim = machine("h100:2")
    c = client(sim)
    listen(c)
    for xid in range(1, 41):
        sim("inject", "xid", "all", xid)
    got = [c(WAIT % 100)[:3] for _ in range(80)]
    assert got == [[gpu, XID, xid] for xid in range(1, 41) for gpu in (0, 1)]
