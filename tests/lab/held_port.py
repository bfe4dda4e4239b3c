# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""held_port.py URL: scrape it eight times a second as Prometheus would. Lines on standard input: pause, go, end."""

from __future__ import annotations

import ssl
import sys
import threading
import time
import urllib.request
from http.client import HTTPException

TIMEOUT_S = 10
running, turn, ended = threading.Event(), threading.Lock(), threading.Event()
answered = 0
missed: list[str] = []


def scrape(url: str) -> None:
    global answered
    anyone = ssl._create_unverified_context()
    while not ended.is_set():
        with turn:
            try:
                with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=anyone) as answer:
                    assert b"esnode_build_info" in answer.read()
                answered += 1
            except (OSError, HTTPException, AssertionError) as error:
                missed.append(repr(error))
        running.set()
        time.sleep(0.125)


thread = threading.Thread(target=scrape, args=(sys.argv[1],), daemon=True)
thread.start()
running.wait()
print("scraping", flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "pause":
        turn.acquire()
        print("paused", flush=True)
    elif word == "go":
        turn.release()
    else:
        ended.set()
        thread.join()
        print(f"{answered} answered, missed: {missed}")
        break
