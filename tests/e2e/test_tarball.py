# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as users get it: installed from its tarball, with nothing but what can be called by name left."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from deployment import Deployment

CALLABLE = {"meta", "plugins", "roles", "playbooks", "MANIFEST.json", "FILES.json"}


def test_installed_from_its_tarball_it_deploys(
    deployment: Deployment, ansible: Path, snapshot: Path, tmp_path: Path
) -> None:
    galaxy = [ansible / "ansible-galaxy", "collection"]
    environment = {**os.environ, "HOME": str(deployment.home), "ANSIBLE_HOME": str(deployment.home / ".ansible")}
    source = snapshot / "ansible_collections/esnode/core"
    subprocess.run([*galaxy, "build", "--output-path", tmp_path], cwd=source, env=environment, check=True)
    [tarball] = tmp_path.glob("esnode-core-*.tar.gz")
    install = [*galaxy, "install", "--no-deps", "--offline", "--collections-path", tmp_path / "collections", tarball]
    subprocess.run(install, cwd=tmp_path, env=environment, check=True)
    for path in (tmp_path / "collections/ansible_collections/esnode/core").iterdir():
        if path.name not in CALLABLE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    deployment.collections = tmp_path / "collections"
    assert deployment.run().action == "start"
    assert deployment.status()["version"] == "1.0.0"
    deployment.collections = snapshot
    assert deployment.run().changed == 0, "the checkout makes the same release"
    assert deployment.run(playbook="remove").code == 0
