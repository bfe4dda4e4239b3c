# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that appends for ever and says what is durable: store_appender.py FOLDER FIRST_TICK SEAL_ROWS."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from esnode import store
from samples import START_MS, row

SERIES = 20


def main(folder: str, first: int, seal_rows: int) -> None:
    options = store.Options(seal_rows=seal_rows, wall=lambda: START_MS / 1000, flush_s=0.05)
    one = store.open(Path(folder), options)
    print("open", flush=True)
    for tick in range(first, first + 1_000_000):
        one.append(START_MS + tick, row(SERIES, tick))
        if tick % 3 == 0:
            one.flush()
            print(tick, flush=True)
        else:
            time.sleep(0.001)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
