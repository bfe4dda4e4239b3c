# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Makes the module of trees importable whatever pytest's import mode is."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
