# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who runs the agent: systemd, or a supervisord of its own where no systemd runs. Both have the same face.

`pid()` is the running agent's or None; `stale(started)` says why its service is not as the files define it;
`restart` (also from standstill), `reload`, `stop`, `remove`; `log_tail()` for error messages.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from ansible_collections.esnode.core.plugins.module_utils.command import Run, attempt, must

UNIT = "esnode-core.service"
SOCKET = "esnode-core.socket"
_STOP_S = 20.0


class ServiceError(Exception):
    """A process or the service manager did not do what it had to."""


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def end(pids: list[int]) -> None:
    """SIGTERM, then SIGKILL to what is left after the time that the agent needs to stop."""
    for number, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, 5.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + patience
        while any(alive(p) for p in pids) and time.monotonic() < until:
            time.sleep(0.05)
        pids = [p for p in pids if alive(p)]
    if pids:
        raise ServiceError(f"processes {pids} did not end on SIGKILL; they hang in the kernel (a dead GPU or mount?)")


def changed_since(started: float, *paths: str) -> str | None:
    """Why an agent that was started then is out of date: a file that is newer; None when there is none."""
    for path in paths:
        if os.path.exists(path) and os.stat(path).st_mtime > started:
            return f"{path} changed after the agent was started"
    return None


class Systemd:
    """A service of the system's or of the user's manager, and the socket that holds its port while it restarts."""

    def __init__(self, layout: dict[str, str], run: Run) -> None:
        self._layout = layout
        self._run = run
        self._environment = os.path.join(layout["config_dir"], "environment")
        user = layout["scope"] == "user"
        self._systemctl = ["systemctl", *(["--user"] if user else [])]
        self._journal = ["journalctl", *(["--user"] if user else []), "--no-pager", "--output=cat", "--lines=15"]

    def _show(self, name: str, unit: str = UNIT) -> str:
        return must(self._run, [*self._systemctl, "show", "--property", name, "--value", unit]).strip()

    def pid(self) -> int | None:
        return int(self._show("MainPID") or 0) or None

    def stale(self, started: float) -> str | None:
        for unit, path in ((UNIT, self._layout["unit"]), (SOCKET, self._layout["socket"])):
            if attempt(self._run, [*self._systemctl, "is-enabled", unit])[1].strip() != "enabled":
                return f"{unit} is not enabled"
            if self._show("NeedDaemonReload", unit) == "yes":
                return f"{path} changed"
        return self._socket_stale() or changed_since(started, self._layout["unit"], self._environment)

    def _socket_stale(self) -> str | None:
        """Why the port is not held as the socket unit says."""
        if self._show("ActiveState", SOCKET) != "active":
            return f"{SOCKET} does not listen"
        # systemctl shows what it has read last, not where it listens: that is as old as the unit's activation.
        since = int(self._show("ActiveEnterTimestampMonotonic", SOCKET)) / 1e6
        listens_since = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC) + since
        changed = changed_since(listens_since, self._layout["socket"])
        return changed and f"{self._layout['socket']} changed after the socket was opened"

    def restart(self) -> None:
        must(self._run, [*self._systemctl, "daemon-reload"])
        must(self._run, [*self._systemctl, "enable", UNIT, SOCKET])
        attempt(self._run, [*self._systemctl, "reset-failed", UNIT, SOCKET])
        if self._socket_stale():
            # An agent that opened the port itself has to let go of it first.
            must(self._run, [*self._systemctl, "stop", UNIT, SOCKET])
            must(self._run, [*self._systemctl, "start", SOCKET])
        # Not waited for: Type=notify holds systemctl until the first collection, and the health check looks closer.
        must(self._run, [*self._systemctl, "restart", "--no-block", UNIT])

    def reload(self) -> None:
        must(self._run, [*self._systemctl, "reload", UNIT])

    def stop(self) -> None:
        """Stop it, and have it not started at boot nor by a scrape."""
        for unit in (SOCKET, UNIT):
            attempt(self._run, [*self._systemctl, "disable", "--now", unit])

    def exists(self) -> bool:
        return any(os.path.lexists(self._layout[name]) for name in ("unit", "socket"))

    def remove(self) -> None:
        self.stop()  # one may be missing: an older deployment, a removal that was cut off
        for name in ("unit", "socket"):
            if os.path.lexists(self._layout[name]):
                os.unlink(self._layout[name])
        must(self._run, [*self._systemctl, "daemon-reload"])
        attempt(self._run, [*self._systemctl, "reset-failed", UNIT, SOCKET])

    def log_tail(self) -> str:
        unit = "--unit" if self._layout["scope"] == "system" else "--user-unit"
        return attempt(self._run, [*self._journal, unit, UNIT])[1]


class Supervisor:
    """A supervisord of our own that runs nothing but the agent. It does not come back after a reboot."""

    def __init__(self, layout: dict[str, str], run: Run) -> None:
        self._layout = layout
        self._run = run
        self._config = os.path.join(layout["config_dir"], "supervisord.conf")
        self._bin = os.path.join(layout["prefix"], "current", "bin")
        self._pid_file = os.path.join(layout["run_dir"], "supervisord.pid")

    def _supervisord(self) -> int | None:
        """pid of our supervisord, None when it does not run."""
        try:
            with open(self._pid_file, encoding="ascii") as stream:
                pid = int(stream.read())
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                ours = os.fsencode(self._config) in stream.read().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if ours and alive(pid) else None

    def pid(self) -> int | None:
        parent = self._supervisord()
        if parent is None:
            return None
        children = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", encoding="ascii", errors="replace") as stream:
                        state, ppid = stream.read().rpartition(")")[2].split()[:2]
                except OSError:
                    continue
                if int(ppid) == parent and state != "Z":
                    children.append(int(entry))
        return children[0] if children else None

    def stale(self, started: float) -> str | None:
        # supervisord reads its file once, whenever it last restarted the agent.
        if os.stat(self._config).st_mtime > os.stat(self._pid_file).st_mtime:
            return f"{self._config} changed after supervisord was started"
        return changed_since(started, os.path.join(self._layout["config_dir"], "environment"))

    def restart(self) -> None:
        # Also one whose agent is just waiting for its next start: a second supervisord would fight with it.
        self.stop()
        os.makedirs(self._layout["run_dir"], mode=0o755, exist_ok=True)  # /run is empty after a reboot
        must(self._run, [os.path.join(self._bin, "supervisord"), "--configuration", self._config])

    def reload(self) -> None:
        pid = self.pid()
        if pid is None:
            raise ServiceError("the agent ended before it could be reloaded")
        os.kill(pid, signal.SIGHUP)

    def stop(self) -> None:
        pid = self._supervisord()
        if pid is not None:
            end([pid])

    def exists(self) -> bool:
        return os.path.lexists(self._config) or self._supervisord() is not None

    def remove(self) -> None:
        self.stop()
        for path in (self._config, self._pid_file):
            if os.path.lexists(path):
                os.unlink(path)

    def log_tail(self) -> str:
        lines = []
        for name in ("supervisord.log", "esnode-core.log"):
            try:
                with open(
                    os.path.join(self._layout["service_log_dir"], name), encoding="utf-8", errors="replace"
                ) as stream:
                    lines += [f"{name}: {line.rstrip()}" for line in stream.readlines()[-10:]]
            except OSError:
                continue
        return "\n".join(lines)


def manager(layout: dict[str, str], run: Run) -> Systemd | Supervisor:
    return Systemd(layout, run) if layout["manager"] == "systemd" else Supervisor(layout, run)
