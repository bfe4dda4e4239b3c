# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on the host have an environment of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import command


def run(arguments: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def environment() -> dict[str, str]:
    return dict(line.split("=", 1) for line in command.must(run, ["env"]).splitlines())


def test_nothing_of_the_connection_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "fr_FR.UTF-8")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert environment().keys() <= {"PATH", "LANG", "HOME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}
    assert environment()["HOME"] == "/home/somebody"


@pytest.mark.parametrize("inherited", [None, "/run/user/99"])
def test_the_users_own_service_manager_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inherited: str | None
) -> None:
    """Without PAM nobody names it, and after su it is that of another user."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if inherited:
        monkeypatch.setenv("XDG_RUNTIME_DIR", inherited)
    monkeypatch.setattr(command, "_RUNTIME_DIRS", str(tmp_path))
    assert environment().get("XDG_RUNTIME_DIR") == inherited
    own = tmp_path / str(os.geteuid())
    own.mkdir()
    assert environment()["XDG_RUNTIME_DIR"] == str(own)
