# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The esnode node agent: reads a host and its GPUs, serves what it read to Prometheus."""

from __future__ import annotations

__version__ = "1.0.0"
