# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the collection with another agent in them: the releases of a test."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = Path("ansible_collections/esnode/core")
AGENT = CORE / "roles/esnode_agent/files/esnode/src/esnode"
# /healthz is 200, but what was read before is not any more.
BLIND = {
    "collect/cpu.py": (
        "def collect(self)",
        "def collect(self):\n        raise OSError('cannot read')\n\n    def old(self)",
    )
}
# Healthy at first, and ends some seconds after it was started, each time.
SHORT_LIVED = {
    "collect/cpu.py": (
        "def collect(self)",
        """def collect(self):
        import os, time
        ends = float(os.environ.setdefault('ENDS', str(time.monotonic() + 4)))
        return os._exit(9) if time.monotonic() > ends else self.old()

    def old(self)""",
    )
}


def copy(into: Path, version: str, changes: dict[str, tuple[str, str]] | None = None) -> Path:
    """A collections path with what a tarball would hold. `changes`: file of the agent: (text, what replaces it)."""
    for part in ("meta", "plugins", "roles", "playbooks"):
        shutil.copytree(ROOT / part, into / CORE / part, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    for name in ("galaxy.yml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, into / CORE)
    version_file = ("__init__.py", ('__version__ = "1.0.0"', f'__version__ = "{version}"'))
    for name, (old, new) in [version_file, *(changes or {}).items()]:
        path = into / AGENT / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))
    return into
