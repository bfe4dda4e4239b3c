# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m esnode` is `esnode-core`."""

from __future__ import annotations

import sys

from esnode.cli import main

sys.exit(main())
