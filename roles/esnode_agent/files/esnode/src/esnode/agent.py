# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wiring only: the configuration makes collectors, the ticker makes snapshots, the page holds them, HTTP serves it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib
import logging
import os
import platform
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from esnode import __version__, catalogue, config_file, derive, history, systemd, tls
from esnode import log as logs
from esnode.certificate import Served
from esnode.collect import Collector, Roots, Settings, deadline_s
from esnode.config import RESTART_ONLY, Config
from esnode.config_file import ConfigError, Loaded
from esnode.deliver import receiver
from esnode.deliver.remote_write import RemoteWrite
from esnode.scheduler import Scheduler
from esnode.serve.history_routes import HistoryRoutes
from esnode.serve.page import Page
from esnode.serve.routes import Routes
from esnode.serve.server import Server, listen
from esnode.snapshot import Samples, Snapshot
from esnode.telemetry import Telemetry

log = logging.getLogger("esnode.agent")

_STOP_S = 1.8
_CLOSE_S = 2.0  # for the disk to take what is not on it yet; both together below the unit's TimeoutStopSec
_M_ARENA_MAX = -8

_COLLECTORS: dict[str, Callable[[Config], bool]] = {
    "cpu": lambda c: c.collectors.enable_cpu,
    "memory": lambda c: c.collectors.enable_memory,
    "disk": lambda c: c.collectors.enable_disk,
    "network": lambda c: c.collectors.enable_network,
    "gpu": lambda c: c.collectors.enable_gpu,
    "gpu_events": lambda c: c.collectors.enable_gpu_events,
    "gpu_settings": lambda c: c.collectors.enable_gpu_settings,
    "backup": lambda c: c.collectors.enable_backup,
    "power": lambda c: c.collectors.enable_power,
    "app": lambda c: c.app.enable_app,
}
"""Collector modules and whether the configuration wants them."""


def _made_from(name: str, config: Config) -> tuple[object, ...]:
    """What of the configuration a collector is made from; when it changes the collector is made anew."""
    interval = config.agent.scrape_interval_seconds
    options: dict[str, tuple[object, ...]] = {
        "gpu": (interval, config.collectors.gpu_process_memory, config.collectors.gpu_pcie_throughput),
        "gpu_events": (),  # its counters go on over a change of the interval
        "power": (interval, config.collectors.node_power_envelope_watts),
        "app": (interval, config.app),
    }
    return options.get(name, (interval,))


def _create(name: str, settings: Settings) -> Collector:
    collector: Collector = importlib.import_module(f"esnode.collect.{name}").create(settings)
    return collector


class Agent:
    """One running agent. `run` returns when it was told to stop."""

    def __init__(self, loaded: Loaded, roots: Roots) -> None:
        self._loaded = loaded
        self._in_force = loaded.config  # what RESTART_ONLY keys had when this process started
        self._roots = roots
        self._started = time.time()
        self._loaded_at = self._started
        self._reload_error: list[str] = []
        self._page = Page()
        self._telemetry = Telemetry()
        self._history = history.History(loaded.config.tsdb)
        self._remote_write = RemoteWrite(loaded.config.remote_write, lambda: self._history.store)
        self._previous: Snapshot | None = None
        self._wanted = {n: _made_from(n, loaded.config) for n, wanted in _COLLECTORS.items() if wanted(loaded.config)}
        settings = Settings(loaded.config, roots)
        self._scheduler = Scheduler(
            [_create(name, settings) for name in self._wanted],
            loaded.config.agent.scrape_interval_seconds,
            self._own_samples,
            self._publish,
        )
        self._context = tls.server_context(loaded.config.security) if loaded.config.security.enable_tls else None
        self._certificate = self._served(loaded.config)

    @property
    def _config(self) -> Config:
        return self._loaded.config

    def _served(self, config: Config) -> Served | None:
        return Served(self._context, str(config.security.tls_cert_path)) if self._context else None

    async def run(self, sockets: list[socket.socket]) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        app = Routes(self._page, self.status, self._not_ready).application()
        HistoryRoutes(lambda: self._history.store, lambda: self._history.trouble).add_to(app)
        server = Server(app, self._telemetry)
        self._scheduler.start()
        self._history.start()
        self._remote_write.start()
        await server.start(sockets, self._context)
        scheme = "https" if self._context else "http"
        addresses = sorted({_shown(s) for s in sockets})
        log.info("listening on %s", ", ".join(f"{scheme}://{a}" for a in addresses), extra={"version": __version__})
        # What start-up has made lives for ever: without it the collector of garbage would look at it again and again.
        gc.collect()
        gc.freeze()
        beat = asyncio.create_task(self._tell_systemd())
        await stop.wait()
        log.info("stopping")
        systemd.notify("STOPPING=1")
        beat.cancel()
        ends = asyncio.gather(server.stop(), self._stop_threads(loop), return_exceptions=True)
        for error in await asyncio.wait_for(ends, _STOP_S + _CLOSE_S):
            if error is not None:
                log.error("a part did not stop as it should: %s", error, exc_info=error)

    async def _stop_threads(self, loop: asyncio.AbstractEventLoop) -> None:
        for stop, within_s in (
            (self._scheduler.stop, _STOP_S / 2),
            (self._remote_write.close, _CLOSE_S / 4),
            (self._history.close, _CLOSE_S),
        ):
            try:
                await loop.run_in_executor(None, stop, within_s)
            except Exception:  # what is left must be closed all the same, the store above all
                log.exception("a part did not stop as it should")

    async def _tell_systemd(self) -> None:
        """READY once there is something to serve, then the watchdog's beat as long as the ticker ticks."""
        while self._page.snapshot is None:
            await asyncio.sleep(0.02)
        systemd.notify("READY=1\nSTATUS=" + self._one_line())
        beat_s = systemd.watchdog_interval_s()
        while True:
            if self._certificate:
                self._certificate.remind()
            await asyncio.sleep(beat_s or 60.0)
            if self._ticker_silent_s() < 3 * self._scheduler.interval_s + deadline_s(self._scheduler.interval_s) + 5:
                systemd.notify("WATCHDOG=1\nSTATUS=" + self._one_line())
            else:
                log.error("the ticker has not moved for %.0f s: no watchdog beat", self._ticker_silent_s())

    def _one_line(self) -> str:
        states = [r.state.state for r in self._scheduler.runners.values()]
        bad = [n for n, r in self._scheduler.runners.items() if r.state.state in ("failed", "late", "partial")]
        return f"{states.count('ok')} collectors up" + (f", in trouble: {', '.join(bad)}" if bad else "")

    def _ticker_silent_s(self) -> float:
        return time.monotonic() - self._scheduler.last_tick

    def _not_ready(self) -> str | None:
        if self._page.snapshot is None:
            return "no collection has finished yet"
        age_s = self._ticker_silent_s()
        if age_s > 3 * self._scheduler.interval_s + deadline_s(self._scheduler.interval_s):
            return f"the newest collection is {age_s:.0f} s old; the interval is {self._scheduler.interval_s:g} s"
        return None

    def _publish(self, snapshot: Snapshot) -> None:
        derived = derive.tokens_per_joule(self._previous, snapshot) if self._previous else {}
        self._previous = snapshot
        whole = Snapshot(snapshot.timestamp, {**snapshot.parts, "derived": derived}) if derived else snapshot
        self._page.update(whole)
        self._history.append(whole)

    def _own_samples(self) -> Samples:
        driver = self._gpu_detail().get("driver") or ""
        return {
            catalogue.BUILD_INFO.series(__version__, platform.python_version(), str(driver)): 1,
            catalogue.START_TIME.series(): self._started,
            **({catalogue.TLS_NOT_AFTER.series(): ends} if (ends := self._certificate_ends()) else {}),
            **self._telemetry.samples(),
            **self._history.samples(),
            **self._remote_write.samples(),
        }

    def _certificate_ends(self) -> float | None:
        return self._certificate.not_after if self._certificate else None

    def _gpu_detail(self) -> dict[str, Any]:
        runner = self._scheduler.runners.get("gpu")
        return runner.state.detail if runner else {}

    def status(self) -> dict[str, Any]:
        """What /status shows; JSON types only, no secret."""
        gpu = self._gpu_detail()
        security = self._config.security
        return {
            "version": __version__,
            "host": platform.node(),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "started": self._started,
            "ready": self._not_ready() is None,
            "interval_seconds": self._scheduler.interval_s,
            "tls": {
                "min_version": security.min_tls_version,
                "certificate": self._certificate.path,
                "not_after": self._certificate.not_after,
                "warning": self._certificate.warning(),
            }
            if self._certificate
            else None,
            "config": {
                "path": str(self._loaded.path),
                "loaded": self._loaded_at,
                "notices": list(self._loaded.notices),
                "reload_errors": self._reload_error,
                "restart_needed_for": self._restart_needed_for(self._config),
            },
            "collectors": {
                name: {
                    "state": r.state.state,
                    "series": r.state.series,
                    "duration_seconds": r.state.duration_s,
                    "last_success": r.state.last_success,
                    "errors": list(r.state.errors),
                    "errors_total": r.state.errors_total,
                    **{k: v for k, v in r.state.detail.items() if name != "gpu"},
                }
                for name, r in self._scheduler.runners.items()
            },
            "tsdb": self._history.status(),
            "remote_write": self._remote_write.status(),
            "driver": gpu.get("driver"),
            "cuda": gpu.get("cuda"),
            "gpus": gpu.get("gpus", []),
        }

    def reload(self) -> None:
        """Read the configuration again; what can't be used leaves everything as it is."""
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        path = self._loaded.path
        try:
            loaded = config_file.load(path)
            found = [
                *tls.check(loaded.config.security),
                *history.check(loaded.config.tsdb),
                *history.misfits(loaded.config.tsdb),
            ]
            found += receiver.check(loaded.config.remote_write)
            mistakes = [f"{path}: {m}" for m in found]
            if mistakes:
                raise ConfigError(mistakes)
            if self._context and loaded.config.security.enable_tls:
                tls.configure(self._context, loaded.config.security)
                self._certificate = self._served(loaded.config)
        except (ConfigError, OSError, ValueError) as error:
            self._reload_error = getattr(error, "mistakes", [str(error)])
            self._telemetry.reload("failure")
            for mistake in self._reload_error:
                log.error("reload refused, the old configuration stays: %s", mistake)
        else:
            self._reload_error = []
            self._telemetry.reload("success")
            self._take(loaded)
        systemd.notify("READY=1\nSTATUS=" + self._one_line())

    def _restart_needed_for(self, config: Config) -> list[str]:
        """RESTART_ONLY keys whose value in the file is not the one in force."""

        def value(of: Config, key: str) -> object:
            section, _unused, name = key.partition(".")
            return getattr(getattr(of, section), name)

        return [key for key in RESTART_ONLY if value(config, key) != value(self._in_force, key)]

    def _take(self, loaded: Loaded) -> None:
        new = loaded.config
        for key in self._restart_needed_for(new):
            log.warning("reload: %s has changed and needs a restart; the old value stays in force", key)
        self._loaded, self._loaded_at = loaded, time.time()
        announce(loaded)
        wanted = {n: _made_from(n, new) for n, is_wanted in _COLLECTORS.items() if is_wanted(new)}
        keep = frozenset(n for n in wanted if self._wanted.get(n) == wanted[n])
        settings = Settings(new, self._roots)
        self._scheduler.change(
            [_create(n, settings) for n in wanted if n not in keep], keep, new.agent.scrape_interval_seconds
        )
        self._wanted = wanted
        self._history.change(new.tsdb)
        self._remote_write.change(new.remote_write)
        log.info("configuration reloaded from %s", loaded.path)


def _shown(one: socket.socket) -> str:
    name = one.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
    return str(name)


def announce(loaded: Loaded) -> None:
    """Set up the log as configured and say what the configuration's reader should know."""
    token = loaded.config.orchestrator.token
    logs.configure(loaded.config.agent, frozenset([token] if token else []))
    for notice in loaded.notices:
        log.info("configuration: %s", notice)


def main(loaded: Loaded, roots: Roots) -> int:
    """Run the agent in the foreground; the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `run` takes it: a reload during the start ends nothing
    announce(loaded)
    _prepare_process()
    sockets = systemd.listen_sockets()
    if not sockets:
        agent = loaded.config.agent
        try:
            sockets = listen(agent.host, agent.port)
        except OSError as error:
            log.critical(
                "%s: agent.listen_address = %s: cannot listen: %s",
                loaded.path,
                msgspec.json.encode(agent.listen_address).decode(),
                error.strerror or error,
            )
            return 1
    elif loaded.config.agent.port not in (ports := {s.getsockname()[1] for s in sockets if s.family != socket.AF_UNIX}):
        log.warning(
            "%s: agent.listen_address = %s does not count: the service manager's socket unit holds the port, now %s; "
            "change both, as a deployment does",
            loaded.path,
            msgspec.json.encode(loaded.config.agent.listen_address).decode(),
            ", ".join(map(str, sorted(ports))),
        )
    agent_process = Agent(loaded, roots)
    try:
        asyncio.run(agent_process.run(sockets))
    except (asyncio.TimeoutError, TimeoutError):
        log.warning("some part did not stop in time and is left behind")
    logging.shutdown()
    # Threads that hang in a driver would keep the interpreter from ending.
    sys.stdout.flush()
    os._exit(0)


def _prepare_process() -> None:
    """Few malloc arenas and short switches between threads: less memory, and a scrape is not kept waiting."""
    with contextlib.suppress(AttributeError):  # musl has no arenas
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)
    sys.setswitchinterval(0.0005)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:  # each client takes a descriptor, and collectors must always find one
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard > 0 else 4096, hard))
