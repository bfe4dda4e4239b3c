# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""make lab, make lab-shell and make lab-down: tests/lab up COUNT [FOLDER] | shell NAME | down [FOLDER]

The lab belongs to FOLDER, which is the checkout without one, and its inventory is written to inventory/lab/ there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path.append(str(CHECKOUT / "tests/nvmlsim"))

import standing  # noqa: E402 # needs the simulator's folder on the path

try:
    verb, *words = sys.argv[1:]
    last = 1 if verb == "down" else 2
    owner = Path(words.pop()).resolve() if len(words) == last else CHECKOUT
    if command := standing.main(owner, [verb, *words]):
        os.execvp(command[0], command)
except (RuntimeError, TimeoutError) as error:
    sys.exit(f"make lab: {error}")
