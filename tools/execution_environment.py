# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the execution environment's definition with ansible-builder, in build/ee.

Twice: as a definition of its own (`create` validates it and writes the build context), and as ansible-builder reads it
out of the installed collection (`introspect`), which must find the same requirements.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build/ee"


def main() -> int:
    shutil.rmtree(WORK, ignore_errors=True)
    collection = WORK / "ansible_collections/esnode/core"
    collection.mkdir(parents=True)
    with tarfile.open(ROOT / "build/dist/esnode-core-1.0.0.tar.gz") as archive:
        archive.extractall(collection)  # our own file, and Python 3.10.0 knows no filter
    builder = Path(sys.executable).with_name("ansible-builder")
    # Paths in the definition count from the root of the collection, so that is where it is put.
    definition = shutil.copy(collection / "meta/execution-environment.yml", collection)
    subprocess.run([builder, "create", "--file", definition, "--context", WORK / "context"], check=True)
    found = subprocess.run([builder, "introspect", WORK], check=True, capture_output=True, text=True).stdout
    print(found)
    names = ("ee-requirements.txt", "ee-bindep.txt")
    texts = [(collection / "meta" / name).read_text() for name in names]
    wanted = [line for text in texts for line in text.splitlines() if line and not line.startswith("#")]
    missing = [line for line in wanted if line not in found]
    if missing:
        print(f"ansible-builder does not find in the installed collection: {', '.join(missing)}")
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
