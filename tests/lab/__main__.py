# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""make lab, make lab-shell and make lab-down: tests/lab up COUNT | shell NAME | down"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.append(str(CHECKOUT / "tests/nvmlsim"))

import standing  # noqa: E402 # needs the simulator's folder on the path

try:
    if command := standing.main(CHECKOUT, sys.argv[1:]):
        os.execvp(command[0], command)
except (RuntimeError, TimeoutError) as error:
    sys.exit(f"make lab: {error}")
