# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run galaxy-importer on the built tarball, as Galaxy does on upload; a warning is a failure here.

`ansible-test` is run apart (tools/sanity.py), for which the importer would want a container, and ansible-lint, too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build/importer"


def main() -> int:
    HOME.mkdir(parents=True, exist_ok=True)
    env = {
        **os.environ,
        "HOME": str(HOME),
        "ANSIBLE_HOME": str(HOME / "ansible"),
        "GALAXY_IMPORTER_ANSIBLE_LOCAL_TMP": str(HOME / "tmp"),
        "GALAXY_IMPORTER_CHECK_REQUIRED_TAGS": "true",
        "GALAXY_IMPORTER_RUN_ANSIBLE_LINT": "false",
        "GALAXY_IMPORTER_TMP_ROOT_DIR": str(HOME),
    }
    # It writes importer_result.json where it runs.
    command = [sys.executable, "-m", "galaxy_importer.main", str(ROOT / "build/dist/esnode-core-1.0.0.tar.gz")]
    done = subprocess.run(command, cwd=HOME, env=env, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    print(output)
    marks = ("WARNING:", "ERROR:")
    bad = [line for line in output.splitlines() if any(mark in line for mark in marks)]
    print(f"{len(bad)} warnings and errors")
    return int(bool(done.returncode or bad))


if __name__ == "__main__":
    sys.exit(main())
