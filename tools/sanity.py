# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run `ansible-test sanity` on the built tarball: tools/sanity.py ENVIRONMENT PYTHON [ARGUMENT ...]

ENVIRONMENT is one of tools/env.py that holds ansible-core. All that ansible-test writes stays in build/sanity: it gets
a home of its own, with the interpreters that tools/env.py finds. It would fetch get-pip.py from a server of its own;
in its place uv installs that version of pip, so a machine that reaches only a package index is enough.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from env import ROOT, SUPPORTED, environment, interpreter, uv, uv_environment

GET_PIP = """\
import os
import subprocess
import sys

command = [{uv!r}, "pip", "install", "--quiet", "--python", sys.executable]
command += [word for word in sys.argv[1:] if not word.startswith("-")]
subprocess.check_call(command, env={{**os.environ, **{env!r}}})
"""


def unpack(tarball: Path, base: Path) -> Path:
    """A fresh copy of the release under a path that ansible-test accepts, as a work tree of its own."""
    shutil.rmtree(base / "ansible_collections", ignore_errors=True)
    collection = base / "ansible_collections/esnode/core"
    collection.mkdir(parents=True)
    with tarfile.open(tarball) as archive:
        archive.extractall(collection)  # our own file, and Python 3.10.0 knows no filter
    subprocess.run(["git", "init", "--quiet"], cwd=collection, check=True)
    return collection


def prepare_home(home: Path, ansible_test: Path) -> None:
    # ansible-test hands its children few variables, so what uv needs is written down.
    names = ("UV_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    env = {name: value for name, value in uv_environment().items() if name.upper().startswith(names)}
    requirements = (ansible_test / "_internal/python_requirements.py").read_text()
    cache = home / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in re.findall(r"\bpip='([\d.]+)'", requirements):
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP.format(uv=str(uv()), env=env))


def link_pythons(folder: Path) -> None:
    """Real interpreters under their usual names: a pyenv shim is found and then fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in ("3.9", *SUPPORTED):  # 3.9 for the modules
        link = folder / f"python{version}"
        link.unlink(missing_ok=True)
        if found := interpreter(version):
            link.symlink_to(found)


def main(name: str, version: str, arguments: list[str]) -> int:
    venv = environment(name, version)
    base = ROOT / f"build/sanity/{name}-{version}"
    home, pythons = base / "home", base / "pythons"
    prepare_home(home, venv / f"lib/python{version}/site-packages/ansible_test")
    link_pythons(pythons)
    collection = unpack(ROOT / "build/dist/esnode-core-1.0.0.tar.gz", base)
    inherited = {key: value for key, value in uv_environment().items() if not key.startswith(("ANSIBLE_", "PYTHON"))}
    env = {
        **inherited,
        "HOME": str(home),
        "PATH": f"{pythons}:{venv / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
    }
    command = [str(venv / "bin/ansible-test"), "sanity", "--local", "--color", "no", *arguments]
    return subprocess.run(command, cwd=collection, env=env, stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
