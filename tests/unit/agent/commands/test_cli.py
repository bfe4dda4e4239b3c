# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: what is understood, and what the start of the agent does not pay for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from esnode import cli

SOURCE = Path(cli.__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["query", "up", "--from", "-5x"], 2, "--from: '-5x' is no time: write now, -168h"),
        (["query", "up", "--from", "-1h", "--to", "-2h"], 2, "--from -1h is not before --to -2h"),
        (["query", "up", "--since", "soon"], 2, "--since: 'soon' is no duration: write 30s"),
        (["query", "up", "--since", "1h", "--from", "-1h"], 2, "give one of them"),
        (["query", "up{", "--from=-1h"], 2, "the selector 'up{' is none: at its end"),
        (["export", "--from", "-1h", "--to", "-30m", "--match", "{up"], 2, "the selector '{up' is none"),
        (["export", "--from", "--force"], 2, "expected one argument"),
        (["export", "--key-file", "/k", "--url", "http://127.0.0.1:1"], 2, "--key-file is for --store"),
        (["export", "--url", "127.0.0.1:9100"], 2, "is not an http:// or https:// URL"),
        (["top", "--interval", "0"], 2, "is not a number of seconds from 0.1 to 3600"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str) -> None:
    try:
        ended = cli.main(arguments)
    except SystemExit as error:  # argparse
        ended = int(error.code or 0)
    said = capsys.readouterr()
    assert (ended, said.out) == (code, "")
    assert words in said.err


def test_without_a_configuration_the_other_ways_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["query", "up", "--config", str(tmp_path / "none.toml")]) == 1
    said = capsys.readouterr().err
    assert "--url http://127.0.0.1:9100" in said and "--store /var/lib/esnode/tsdb" in said


def test_the_command_line_itself_imports_nothing_heavy_and_no_ssl() -> None:
    code = (
        "import sys; from esnode import cli; cli._parser(); "
        "heavy = ('ssl', 'numpy', 'aiohttp', 'rich', 'plotext', 'sqlite3', '_hashlib'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
