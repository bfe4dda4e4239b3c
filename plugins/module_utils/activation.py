# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the agent of a host to a release and its files, see that it is healthy, and go back when it is not."""

from __future__ import annotations

import contextlib
import time
import typing as t

from ansible_collections.esnode.core.plugins.module_utils import (
    command,
    files,
    health,
    host,
    record,
    release,
    service,
)

if t.TYPE_CHECKING:
    Status = dict[str, t.Any]
    Needed = tuple[str, str]  # (action, reason)


class Unhealthy(Exception):
    """The agent did not become healthy; the text says why, and what the host went back to."""

    def __init__(self, text: str, returned_to: str = "") -> None:
        super().__init__(text)
        self.returned_to = returned_to


class Change:
    """One agent made to run as `agent` says, with these files, which are written as part of the change.

    `soak_s`: seconds that an agent that was changed has to stay up after it was found healthy.
    `status` is what the agent said of itself before, None when it did not answer; `pid` is its process.
    `action` and `reason` are what was done in the end.
    """

    def __init__(
        self,
        layout: dict[str, str],
        run: command.Run,
        agent: record.Agent,
        wanted: files.Wanted,
        timeout_s: int,
        allow_fewer_gpus: bool = False,
        soak_s: int = 0,
    ) -> None:
        self._layout = layout
        self._prefix = layout["prefix"]
        self._run = run
        self._agent = agent
        self._timeout_s = timeout_s
        self._allow_fewer_gpus = allow_fewer_gpus
        self._files = wanted
        self._soak_s = soak_s
        self._manager = service.manager(layout, run)
        self.url = health.base_url(agent.listen_address, bool(agent.certificate))
        self.pid = self._manager.pid()
        self.status = self._ask()
        self._fallback = self._choose_fallback()
        self.action = "none"
        self.reason = ""

    @property
    def fallback_name(self) -> str:
        """Name of the release that the host goes back to when the change fails; empty when there is none."""
        return self._fallback.agent.release if self._fallback else ""

    def _ask(self) -> Status | None:
        """What runs says of itself, at the address that is wanted or at the one that it had."""
        if not self.pid:
            return None
        urls = [self.url]
        known = record.of(self._prefix, release.current(self._prefix) or "")
        if known:
            urls.append(health.base_url(known.agent.listen_address, bool(known.agent.certificate)))
        for url in dict.fromkeys(urls):
            status = health.Client(url).status()
            if status and status["pid"] == self.pid:
                return status
        return None

    def _choose_fallback(self) -> record.Record | None:
        """What was healthy last: the active release, or the one before when the wanted one is active and never was."""
        name = release.current(self._prefix) or ""
        # One that was left and is active again was not seen healthy since: a deployment of it was cut off.
        active = record.of(self._prefix, name) if record.left(self._prefix, name) is None else None
        return active or record.previous(self._prefix, self._agent.release)

    def _before(self, action: str) -> Status | None:
        """What must not get worse: what the agent says now, unless that is of one that was not seen healthy."""
        to = self._fallback
        if to is None:
            return self.status
        running = host.agents(self._prefix).get(self.pid) if self.pid else None
        known = running and record.of(self._prefix, running) and record.left(self._prefix, running) is None
        # Nothing is to be done and yet its files are others: a deployment was cut off before it had seen the outcome.
        cut_off = action == "none" and files.differing(to.files)
        return self.status if self.status and known and not cut_off else to.status

    def needed(self) -> Needed:
        """(action, reason): what brings the running agent to what the host's files say."""
        if self.pid is None:
            return "start", "the agent does not run"
        running = host.agents(self._prefix).get(self.pid)
        if running != self._agent.release:
            return "restart", f"release {running} runs"
        others = files.rewritten(self._files)
        if [path for path in others if path != self._agent.config]:
            return "restart", f"{', '.join(others)}: not as wanted"
        status = health.Client(self.url).status()
        if status is None or status["pid"] != self.pid:
            return "restart", "the agent does not answer there"
        stale = self._manager.stale(status["started"])
        if stale:
            return "restart", stale
        if status["config"]["restart_needed_for"]:
            return "restart", ", ".join(status["config"]["restart_needed_for"]) + " can't be reloaded"
        unread = health.unread(status, (self._agent.config, self._agent.certificate))
        if others:
            return "reload", f"{self._agent.config}: not as wanted"
        if unread:
            return "reload", f"{unread} changed after the agent has read it"
        return "none", "the agent runs as wanted"

    def carry_out(self, action: str) -> Status:
        """Do it. Returns the JSON of /status of the healthy agent; raises Unhealthy after the host went back."""
        try:
            return self._try(action)
        except (Unhealthy, command.Failed, service.ServiceError, OSError) as bad:
            raise self._go_back(str(bad)) from bad

    def _try(self, action: str) -> Status:
        before = self._before(action)
        files.put(self._files)
        if release.current(self._prefix) != self._agent.release:
            release.flip(self._prefix, self._agent.release)
        if action == "start":
            service.end(list(host.agents(self._prefix)))  # an agent without its supervisor would hold the port
        self.action = action
        status = self._wait(self._agent, action, before)
        if action == "reload" and status["config"]["restart_needed_for"]:
            self.action = "restart"
            self.reason = ", ".join(status["config"]["restart_needed_for"]) + " can't be reloaded"
            status = self._wait(self._agent, "restart", before)
        return self._soak(status, before) if self._soak_s and action != "none" else status

    def _soak(self, status: Status, before: Status | None) -> Status:
        """Look on while the agent works: it must not end, and must be healthy when the time is over."""
        until = time.monotonic() + self._soak_s
        while time.monotonic() < until:
            if self._manager.pid() != status["pid"]:
                raise Unhealthy(
                    f"esnode-core {self._agent.release} was healthy and ended within {self._soak_s} s\n"
                    f"{self._last_lines()}"
                )
            time.sleep(1)
        return self._wait(self._agent, "none", before)

    def _last_lines(self) -> str:
        return "Last lines of its log:\n" + (self._manager.log_tail().strip() or "(none)")

    def _go_back(self, why: str) -> Unhealthy:
        """What to raise, after the host went back to what was healthy before."""
        to = self._fallback
        if to is None:
            self._manager.stop()
            return Unhealthy(f"{why}\nNo release was healthy on this host before, so the agent was stopped.")
        name = to.agent.release
        if name == self._agent.release and not files.differing(to.files):
            return Unhealthy(
                f"{why}\nThe same release was healthy with the same files before, so there is nothing to go back to: "
                "look for what has changed on this host."
            )
        others = files.differing(to.files)
        what = f"release {name}" + (f" and {', '.join(others)}" if others else "")
        try:
            files.put(to.files)
            if name != self._agent.release:
                with contextlib.suppress(OSError):  # a full disk must not keep the host on a bad release
                    record.leave(self._prefix, self._agent.release, name, why)
            if release.current(self._prefix) != name:
                release.flip(self._prefix, name)
            self._wait(to.agent, "restart", to.status)
        except (Unhealthy, command.Failed, service.ServiceError, release.ReleaseError, OSError) as worse:
            return Unhealthy(f"{why}\nThe host went back to {what}, but that is not healthy either: {worse}")
        return Unhealthy(f"{why}\nThe host went back to {what}, and is healthy with it.", name)

    def _wait(self, agent: record.Agent, action: str, before: Status | None) -> Status:
        """Start, restart or reload, then wait until the agent is healthy; raises Unhealthy."""
        since = time.time()
        old = health.Client(self.url).status() if action == "reload" else None
        known = old["config"]["reload_errors"] if old else []
        old_pid = self._manager.pid()
        if action == "reload":
            self._manager.reload()
        elif action != "none":
            self._manager.restart()
        client = health.Client(health.base_url(agent.listen_address, bool(agent.certificate)), agent.certificate)
        version = release.version_of(agent.release)
        until = time.monotonic() + self._timeout_s
        while True:
            lines = health.trouble(client, version, before, self._allow_fewer_gpus)
            status = client.status()
            refused = status["config"]["reload_errors"] if status else []
            if refused and refused != known:
                raise Unhealthy(f"the agent refused the new configuration and keeps the old one: {'; '.join(refused)}")
            lines += refused
            if status and action == "reload" and status["config"]["loaded"] < since:
                lines.append("the new configuration is not read yet")
            if status and not lines:
                if action in ("none", "reload") or status["pid"] != old_pid:
                    return status
                lines.append("the agent that ran before still answers")
            if time.monotonic() > until:
                raise Unhealthy(
                    f"esnode-core {agent.release} is not healthy after {self._timeout_s} s: "
                    f"{'; '.join(lines)}\n{self._last_lines()}"
                )
            time.sleep(0.2)
