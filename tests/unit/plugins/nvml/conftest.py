# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Hosts with simulated GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nvml_host import Host


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Host]:
    """host("h100:8", persistence=False): a machine; each call makes another one."""
    made = 0

    def make(gpus: str = "h100:1", **options: Any) -> Host:
        nonlocal made
        made += 1
        return Host(tmp_path / f"host{made}", gpus, **options)

    return make
