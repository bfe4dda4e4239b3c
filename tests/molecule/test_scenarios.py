# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each scenario of extensions/molecule, on the same hosts; skipped, with the reason, where no host can be booted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lab
import pytest

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted(path.parent.name for path in (ROOT / "extensions/molecule").glob("*/molecule.yml"))

pytestmark = pytest.mark.skipif(bool(lab.unavailable()), reason=f"hosts can't be booted here: {lab.unavailable()}")


def molecule(*words: str) -> tuple[int, str]:
    command = ["make", "--silent", "molecule", f"MOLECULE={' '.join(words)}"]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "160"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def hosts(request: pytest.FixtureRequest) -> Iterator[None]:
    molecule("destroy")  # what an interrupted run has left
    code, said = molecule("create")
    try:
        assert code == 0, said
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("\n" + "\n".join(line.strip(' │",') for line in said.splitlines() if "Debian" in line))
        yield
    finally:
        code, said = molecule("destroy")
        assert code == 0, said


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, hosts: None, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f" {scenario}", end=" ", flush=True)
    if (ROOT / "extensions/molecule" / scenario / "prepare.yml").exists():
        # By itself Molecule prepares shared hosts for the first scenario alone.
        code, said = molecule("prepare", "--force", "--scenario-name", scenario)
        assert code == 0, said
    code, said = molecule("test", "--scenario-name", scenario, "--destroy", "never")
    assert code == 0, said
