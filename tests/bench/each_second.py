# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Scrape hosts once a second, as Prometheus would, until stdin ends: each_second.py ADDRESS ...

Says "scraping" once each was asked, and at the end a line of JSON: how many scrapes, and those that were missed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request

INTERVAL_S, TIMEOUT_S = 1.0, 10.0  # Prometheus waits as long


def scrape(address: str, stop: threading.Event, asked: threading.Barrier, missed: list[str], count: list[int]) -> None:
    due, first = time.monotonic(), True
    while not stop.is_set():
        try:
            with urllib.request.urlopen(f"http://{address}:9100/metrics", timeout=TIMEOUT_S) as answer:
                if b"esnode_build_info" not in answer.read():
                    missed.append(f"{address}: a page that is none of the agent")
        except (OSError, ValueError) as error:
            missed.append(f"{address}: {error!r}")
        count.append(1)
        if first:
            asked.wait()
            first = False
        due += INTERVAL_S
        stop.wait(max(0.0, due - time.monotonic()))


def main(addresses: list[str]) -> None:
    stop, asked = threading.Event(), threading.Barrier(len(addresses) + 1)
    missed: list[str] = []
    count: list[int] = []
    threads = [threading.Thread(target=scrape, args=(a, stop, asked, missed, count)) for a in addresses]
    for thread in threads:
        thread.start()
    asked.wait()
    print("scraping", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"scrapes": len(count), "missed": missed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
