# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small but real bundle: a wheel with a command esnode-core, pip's own wheel, requirements and a manifest."""

from __future__ import annotations

import ensurepip
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils.release import MANIFEST, REQUIREMENTS, sha256

METADATA = "Metadata-Version: 2.1\nName: esnode-core\nVersion: {version}\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY = "[console_scripts]\nesnode-core = tinynode:main\n"


def wheel(folder: Path, version: str, code: str) -> Path:
    path = folder / f"esnode_core-{version}-py3-none-any.whl"
    info = f"esnode_core-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinynode.py", code)
        archive.writestr(f"{info}/METADATA", METADATA.format(version=version))
        archive.writestr(f"{info}/WHEEL", WHEEL)
        archive.writestr(f"{info}/entry_points.txt", ENTRY)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """make(name, code): path of a bundle of that name, whose content lies unpacked in content-NAME beside it."""
    return lambda name, code="def main(): print('tiny')": _make(tmp_path, name, code)


def _make(folder: Path, name: str, code: str) -> Path:
    content = folder / f"content-{name}"
    wheels = content / "wheels"
    wheels.mkdir(parents=True)
    shutil.copy(next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")), wheels)
    agent = wheel(wheels, name.rpartition("-")[0], code)
    (content / REQUIREMENTS).write_text(f"esnode-core=={name.rpartition('-')[0]} --hash=sha256:{sha256(agent)}\n")
    files = [p for p in content.rglob("*") if p.is_file()]
    manifest = {"name": name, "files": {str(p.relative_to(content)): sha256(p) for p in files}}
    (content / MANIFEST).write_text(json.dumps(manifest))
    return pack(content, folder / f"{name}.tar")


def pack(content: Path, bundle: Path) -> Path:
    with tarfile.open(bundle, "w") as archive:
        for path in sorted(content.rglob("*")):
            if path.is_file():
                archive.add(path, str(path.relative_to(content)))
    return bundle
