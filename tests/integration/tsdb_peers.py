# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian's Prometheus and VictoriaMetrics as receivers of remote write, read back sample by sample."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

NEWEST = Path(__file__).parents[2] / "build/peers/usr/bin"


def newest(name: str) -> str:
    """Debian's newest build of a program, empty where it is missing or does not run."""
    program = NEWEST / name
    runs = program.exists() and not subprocess.run([program, "--help"], capture_output=True, check=False).returncode
    return str(program) if runs else ""


Labels = tuple[tuple[str, str], ...]
Held = dict[Labels, dict[int, float]]


class Peer:
    """`with Prometheus(folder, port) as peer`: runs until the block ends, and can be started again on the same data."""

    program = path = ready = ""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"http://127.0.0.1:{port}"
        folder.mkdir(exist_ok=True)

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Any:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *self.arguments()], stdout=log, stderr=log)
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.get(self.ready)
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        self.__exit__()
        raise AssertionError(f"{self.program} does not answer:\n{(self.folder / 'log').read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **query: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return bytes(answer.read())

    def query(self, text: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.get("/api/v1/query", query=text))["data"]["result"]
        return found

    def held(self) -> Held:
        """All samples of esnode's series; Prometheus keeps its markers of staleness to itself."""
        raise NotImplementedError


class Prometheus(Peer):
    """Takes nothing that is older than what it has."""

    program, path, ready = shutil.which("prometheus") or "", "/api/v1/write", "/-/ready"

    def arguments(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        config.write_text("global: {}\n")
        return [
            f"--config.file={config}",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
        ]

    def held(self) -> Held:
        return {
            tuple(sorted(series["metric"].items())): {
                round(when * 1000): float(value) for when, value in series["values"]
            }
            for series in self.query('{__name__=~"esnode_.*"}[1d]')
        }


class VictoriaMetrics(Peer):
    """Takes everything."""

    program, path, ready = shutil.which("victoria-metrics") or "", "/api/v1/write", "/health"

    def arguments(self) -> list[str]:
        return [
            f"-storageDataPath={self.folder}/data",
            f"-httpListenAddr=127.0.0.1:{self.port}",
            "-search.latencyOffset=0s",
            "-memory.allowedBytes=64MB",
        ]

    def held(self) -> Held:
        self.get("/internal/force_flush")
        held: Held = {}
        for line in self.get("/api/v1/export", **{"match[]": '{__name__=~"esnode_.*"}'}).splitlines():
            series = json.loads(line)
            samples = zip(series["timestamps"], series["values"], strict=True)
            held.setdefault(tuple(sorted(series["metric"].items())), {}).update(
                (when, value) for when, value in samples if value is not None
            )
        return held


class NewestPrometheus(Prometheus):
    """Prometheus 3 or later."""

    program = newest("prometheus")


class NewestVictoriaMetrics(VictoriaMetrics):
    """The same, newer."""

    program = newest("victoria-metrics")
