# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two protocols of systemd that a service speaks: sd_notify(3) and sd_listen_fds(3).

Both are a few lines over a socket and an environment variable, documented as stable by systemd.
"""

from __future__ import annotations

import os
import socket

_FIRST_FD = 3


def notify(state: str) -> bool:
    """Send a state such as "READY=1" to the service manager; False when there is none that listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.sendall(state.encode())
        except OSError:  # the manager is restarting: it asks nothing of us meanwhile
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Seconds between two WATCHDOG=1 (half of what systemd allows), None when it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    limit_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    return limit_us / 2e6 if limit_us > 0 else None


def listen_sockets() -> list[socket.socket]:
    """The sockets that systemd has opened for this process, in the order of the socket unit."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    sockets = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(os.environ.get("LISTEN_FDS", "0"))):
        os.set_inheritable(fd, False)
        sockets.append(socket.socket(fileno=fd))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return sockets
