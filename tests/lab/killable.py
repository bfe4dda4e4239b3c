# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program with a lab of one host, to be ended in every way: it prints the lab's folder and waits."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "nvmlsim"))

import lab

with lab.Lab("killable", [lab.Spec("node1", sys.argv[1], gpus="t4:1")]) as one:
    print(one.slot.path, flush=True)
    time.sleep(600)
