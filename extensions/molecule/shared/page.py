# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the agent from inside of its host."""

from __future__ import annotations

import json
import shlex
from typing import Any

FETCH = """
import ssl, sys, urllib.request
url, authority = sys.argv[1:]
context = ssl.create_default_context(cadata=authority) if authority else None
sys.stdout.write(urllib.request.urlopen(url, timeout=20, context=context).read().decode())
"""


def get(host: Any, url: str, authority: str = "") -> str:
    """The page, read by the host's own Python; `authority` is the certificate to trust."""
    done = host.run(shlex.join(["python3", "-c", FETCH, url, authority]))
    assert done.rc == 0, done.stderr
    return str(done.stdout)


def status(host: Any) -> dict[str, Any]:
    return dict(json.loads(get(host, "http://127.0.0.1:9100/status")))


def service(host: Any) -> dict[str, str]:
    """What systemd says of the service."""
    shown = host.check_output("systemctl show esnode-core")
    return dict(line.split("=", 1) for line in shown.splitlines())
