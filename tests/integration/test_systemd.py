# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The protocols of systemd, spoken with a real notify socket and the real systemd-socket-activate."""

from __future__ import annotations

import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from agent_process import AgentProcess, configuration, free_port

ACTIVATE = shutil.which("systemd-socket-activate")


def test_ready_status_watchdog_reload_and_stop_are_told(tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with AgentProcess(tmp_path, configuration(port, interval=1), port, env=env, wait=False) as agent:
            first = manager.recv(4096).decode()
            assert first.startswith("READY=1\n") and "STATUS=1 collectors up" in first
            assert agent.get("/metrics")[0] == 200, "ready means that there is something to serve"
            times = []
            for _ in range(3):
                assert manager.recv(4096).decode().startswith("WATCHDOG=1")
                times.append(time.monotonic())
            assert times[2] - times[0] < 2, "a beat comes at least every half of WATCHDOG_USEC"
            agent.process.send_signal(signal.SIGHUP)
            for wanted in ("RELOADING=1\nMONOTONIC_USEC=", "READY=1"):
                while not (told := manager.recv(4096).decode()).startswith(wanted):
                    assert told.startswith("WATCHDOG=1")
            agent.process.send_signal(signal.SIGTERM)
            assert agent.process.wait(10) == 0
            last = ""
            while not last.startswith("STOPPING=1"):
                last = manager.recv(4096).decode()


@pytest.mark.skipif(ACTIVATE is None, reason="needs systemd-socket-activate (package systemd)")
def test_a_socket_handed_over_is_served_and_the_first_request_starts_the_agent(tmp_path: Path) -> None:
    port, elsewhere = free_port(), free_port()
    assert ACTIVATE
    prefix = (ACTIVATE, "-l", f"127.0.0.1:{port}", "-E", "PYTHONPATH")
    with AgentProcess(tmp_path, configuration(elsewhere, interval=1), port, prefix=prefix, wait=False) as agent:
        for _ in range(100):
            try:
                status, _, body = agent.get("/metrics")
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        assert status == 200
        assert b"esnode_cpu_seconds_total{" in body, "the request that started the agent gets the numbers"
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", elsewhere), 1):
            pass
