# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ssh's ProxyCommand with ProxyUseFdpass, started in the network namespace that reaches the hosts.

It connects, hands the socket to ssh, which runs outside of that namespace, and is gone: ssh_proxy.py HOST PORT
"""

from __future__ import annotations

import socket
import sys

with (
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as host,
    socket.socket(fileno=sys.stdout.fileno()) as ssh,
):
    host.setblocking(True)
    socket.send_fds(ssh, [b"\0"], [host.fileno()])
