# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`esnode-core top`: the node at a glance, live."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from esnode.commands import CommandError, UsageError, _terminal
from esnode.commands._agent_http import AgentHttp, add_url

if TYPE_CHECKING:
    from esnode.commands import Subparsers
    from esnode.commands._top_reading import Frame

_LOOK_S = 0.2
"""How often keys, the size of the terminal and new numbers are looked for."""


def register(commands: Subparsers, common: argparse.ArgumentParser) -> None:
    """Add the command of this file."""
    top = commands.add_parser("top", parents=[common], help="watch the node and its GPUs live; q ends it")
    add_url(top)
    top.add_argument("--once", action="store_true", help="print one picture and end")
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks, default 2")
    top.set_defaults(command=_top)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(text)) and 0.1 <= seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f'"{text}" is not a number of seconds from 0.1 to 3600')


class _Agent:
    """The agent, found anew after it was away: it may have come back with another certificate or port."""

    def __init__(self, options: argparse.Namespace) -> None:
        from esnode.commands._top_reading import Reading

        self._options = options
        self._http: AgentHttp | None = AgentHttp(options)
        self._reading = Reading(self._get, self._history)

    def frame(self) -> Frame:
        try:
            return self._reading.frame()
        except (CommandError, ValueError, KeyError):
            self._http = None
            raise

    def _there(self) -> AgentHttp:
        if self._http is None:
            self._http = AgentHttp(self._options)
        return self._http

    def _get(self, path: str) -> bytes:
        return self._there().get(path)

    def _history(
        self, names: Sequence[str], seconds: float
    ) -> list[tuple[str, Mapping[str, str], list[int], list[float]]]:
        from esnode.commands._samples import AgentSamples

        now_ms = int(time.time() * 1000)
        pieces = AgentSamples(self._there()).pieces(list(names), now_ms - int(seconds * 1000), now_ms, None)
        return [(one.series.name, one.series.labels, one.times.tolist(), one.values.tolist()) for one in pieces]


class _Poller(threading.Thread):
    """Asks the agent in the background, so that a key counts at once however long an answer takes."""

    def __init__(self, agent: _Agent, first: Frame, interval_s: float) -> None:
        super().__init__(name="poller", daemon=True)
        self._agent, self._interval_s = agent, interval_s
        self._ended = threading.Event()
        self._away_since = 0.0
        self.frame = first
        self.note = ""
        self.version = 0

    def run(self) -> None:
        """Until `end`."""
        while not self._ended.wait(self._interval_s):
            try:
                self.frame = self._agent.frame()
                self.note, self._away_since = "", 0.0
            except Exception as error:  # whatever a broken-off answer may be: the next one counts
                self._away_since = self._away_since or time.monotonic()
                self.note = f"{time.monotonic() - self._away_since:.0f} s old: {error}"
            self.version += 1

    def end(self) -> None:
        """Ask no more."""
        self._ended.set()


class _Keys:
    """Keys as they are typed; whatever happens, the terminal gets its mode back."""

    def __enter__(self) -> _Keys:
        self._before: list[Any] | None = None
        if sys.stdin.isatty():
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, *_unused: object) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def read(self, timeout_s: float) -> str:
        """What was typed within this time."""
        if self._before is None:
            time.sleep(timeout_s)
            return ""
        ready, _unused, _unused = select.select([sys.stdin], [], [], timeout_s)
        return os.read(sys.stdin.fileno(), 64).decode(errors="replace") if ready else ""


def _top(options: argparse.Namespace) -> int:
    if not (options.once or _terminal.is_terminal()):
        raise UsageError("standard output is no terminal to watch on: esnode-core top --once prints one picture")
    rich_console = _terminal.drawing("rich.console")
    from esnode.commands._top_view import picture

    _terminal.take_any_text()
    agent = _Agent(options)
    frame = agent.frame()
    columns, _unused = _terminal.size()
    colours = _terminal.colours()
    console = rich_console.Console(
        no_color=not colours,
        force_terminal=_terminal.is_terminal(),
        width=None if _terminal.is_terminal() else columns,
        highlight=False,
        emoji=False,
    )
    if options.once:
        console.print(picture(frame, columns))
        return 0
    _watch(_Poller(agent, frame, options.interval), console)
    return 0


def _watch(poller: _Poller, console: Any) -> None:
    from rich.live import Live

    from esnode.commands._top_view import picture

    # Noted, not raised: an exception out of a handler is lost where Python may not raise one.
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: told.append(number))
    poller.start()
    shown: tuple[int, tuple[int, int]] | None = None
    with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while not told:
            now = (poller.version, _terminal.size())
            if now != shown:
                live.update(picture(poller.frame, now[1][0], poller.note), refresh=True)
                shown = now
            typed = keys.read(_LOOK_S)
            if "q" in typed or "Q" in typed or "\x03" in typed:
                break
    poller.end()
    if signal.SIGINT in told:
        raise KeyboardInterrupt
    if told:
        sys.exit(128 + told[0])
