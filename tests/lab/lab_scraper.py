# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scrape every host of a lab that stays, four times a second, while something else happens to them.

lab_scraper.py start RESULT FOLDER    the lab of FOLDER; returns when each host has answered once
lab_scraper.py stop RESULT            returns when RESULT is written; it is no error if nobody scrapes

RESULT has, for each address, how many scrapes were answered and which were not, the slowest answer, and the versions
that answered. The scraper ends by itself after ten minutes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

INTERVAL_S = 0.25
TIMEOUT_S = 10  # as Prometheus has it by default
AT_MOST = 2400  # scrapes of a host


def scrape(address: str, stop: Path, result: dict[str, Any]) -> None:
    result.update(answered=0, missed=[], slowest_s=0.0, versions=[])
    for number in range(AT_MOST):
        if stop.exists():
            return
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=TIMEOUT_S) as answer:
                found = re.search(r'^esnode_build_info\{.*version="([^"]+)"', answer.read().decode(), re.MULTILINE)
            version = found[1] if found else "unknown"
            if version not in result["versions"]:
                result["versions"].append(version)
            result["answered"] += 1
            result["slowest_s"] = max(result["slowest_s"], time.monotonic() - began)
        except (OSError, HTTPException, ValueError) as error:
            result["missed"].append(f"scrape {number}: {error!r}")
        time.sleep(max(0.0, INTERVAL_S - (time.monotonic() - began)))


def run(target: Path, hosts: list[str]) -> None:
    """In the network namespace of the lab; each host is NAME=ADDRESS."""
    stop = target.with_suffix(".stop")
    addresses = dict(host.split("=") for host in hosts)
    results: dict[str, dict[str, Any]] = {name: {} for name in addresses}
    threads = [threading.Thread(target=scrape, args=(addresses[name], stop, results[name])) for name in addresses]
    for thread in threads:
        thread.start()
    while not all(result.get("answered") or result.get("missed") for result in results.values()):
        time.sleep(0.05)
    print("scraping", flush=True)
    for thread in threads:
        thread.join()
    target.write_text(json.dumps(results, indent=1))
    stop.unlink(missing_ok=True)
    target.with_suffix(".running").unlink()


def start(target: Path, folder: Path) -> None:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "nvmlsim"))
    import lab
    import standing

    slot = standing.find(folder.resolve())
    if not slot:
        sys.exit(f"there is no lab of {folder}")
    one = lab.Lab.of(slot)
    stop_now(target)
    target.unlink(missing_ok=True)
    target.with_suffix(".running").touch()
    me = [
        *one.controller,
        sys.executable,
        __file__,
        "run",
        str(target),
        *(f"{host.name}={host.address}" for host in one),
    ]
    with target.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            me, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
    if not process.stdout or process.stdout.readline() != "scraping\n":
        target.with_suffix(".running").unlink()
        sys.exit(target.with_suffix(".log").read_text())


def stop_now(target: Path) -> None:
    running = target.with_suffix(".running")
    if running.exists():
        target.with_suffix(".stop").touch()
        until = time.monotonic() + 3 * TIMEOUT_S
        while running.exists():
            if time.monotonic() > until:
                running.unlink()  # it was killed
            time.sleep(0.05)
    target.with_suffix(".stop").unlink(missing_ok=True)


if __name__ == "__main__":
    verb, where, *more = sys.argv[1:]
    {"start": lambda: start(Path(where), Path(more[0])), "stop": lambda: stop_now(Path(where))}.get(
        verb, lambda: run(Path(where), more)
    )()
