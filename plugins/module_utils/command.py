# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the host, by AnsibleModule.run_command, with nothing of the connection's environment and a time limit."""

from __future__ import annotations

import os
import typing as t

Run = t.Callable[..., tuple[int, str, str]]  # AnsibleModule.run_command
_KEPT = ("HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
_RUNTIME_DIRS = "/run/user"


class Failed(Exception):
    """A command has failed; the text is the command and what it said."""


def attempt(run: Run, command: t.Sequence[str], limit_s: int = 300) -> tuple[int, str]:
    """(exit code, output and errors) of a command; 124 when it took longer, 127 when it is not there."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Where the user's service manager is found: unset in a session without PAM, and another user's after su.
    runtime_dir = os.path.join(_RUNTIME_DIRS, str(os.geteuid()))
    if os.path.isdir(runtime_dir):
        kept["XDG_RUNTIME_DIR"] = runtime_dir
    environment = [f"{name}={value}" for name, value in kept.items()]
    environment += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
    code, out, err = run(["/usr/bin/env", "-i", *environment, "timeout", str(limit_s), *command])
    return code, out + err


def must(run: Run, command: t.Sequence[str], limit_s: int = 300) -> str:
    """Output of a command that has to succeed; raises Failed."""
    code, said = attempt(run, command, limit_s)
    if code:
        tail = "\n".join(said.strip().splitlines()[-15:])
        raise Failed(f"{' '.join(command)} ended with {'a time-out' if code == 124 else code}: {tail}")
    return said
