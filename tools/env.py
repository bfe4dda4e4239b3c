# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make or update the virtual environment build/venvs/NAME-3.X from requirements/NAME.txt and print its path.

    tools/py tools/env.py NAME [--python 3.X]    one environment; without --python on the newest Python that is there
    tools/py tools/env.py --pythons              the interpreters that are there
    tools/py tools/env.py --lock                 write every requirements/NAME.txt anew from its NAME.in

It costs nothing when the environment is up to date. Progress goes to stderr. Plain standard library, Python 3.10.
"""

from __future__ import annotations

import argparse
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENVS = ROOT / "build/venvs"
REQUIREMENTS = ROOT / "requirements"
AGENT = ROOT / "roles/esnode_agent/files/esnode/pyproject.toml"
SUPPORTED = ("3.10", "3.11", "3.12", "3.13")
# Environments that hold what the agent depends on, too.
WITH_AGENT = ("bench", "integration", "lint", "test", "test-core216")


class Missing(Exception):
    """Something has to be installed on this machine first; the text says what."""


def say(text: str) -> None:
    print(f"-- {text}", file=sys.stderr, flush=True)


def _candidates(version: str) -> Iterator[Path]:
    for folder in os.get_exec_path():
        yield Path(folder) / f"python{version}"
    for pattern in (
        f"{os.environ.get('PYENV_ROOT', '~/.pyenv')}/versions/{version}.*/bin",
        f"~/.local/share/uv/python/cpython-{version}.*/bin",
    ):
        path = Path(pattern).expanduser()
        yield from sorted(Path("/").glob(f"{path.relative_to('/')}/python{version}"), reverse=True)


def _runs(python: Path, version: str) -> bool:
    """Whether it is really that version: a pyenv shim exists for versions that are not switched on."""
    if not os.access(python, os.X_OK):
        return False
    asked = "import sys, ssl; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return done.stdout.strip() == version


@functools.cache
def interpreter(version: str) -> Path | None:
    """The interpreter of `version` ("3.12"), or None when this machine has none."""
    return next((path for path in _candidates(version) if _runs(path, version)), None)


def newest() -> tuple[str, Path]:
    """The newest supported Python that is there; else the one that runs this."""
    for version in reversed(SUPPORTED):
        if python := interpreter(version):
            return version, python
    return "{}.{}".format(*sys.version_info), Path(sys.executable)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def uv() -> Path:
    """uv, which makes the other environments: installed once by pip, so that nothing but Python has to be there."""
    home, lock = VENVS / "uv", REQUIREMENTS / "uv.txt"
    program, stamp, want = home / "bin/uv", home / ".stamp", _digest(lock.read_bytes())
    if program.exists() and stamp.exists() and stamp.read_text() == want:
        return program
    say("installing uv into build/venvs/uv")
    shutil.rmtree(home, ignore_errors=True)
    made = subprocess.run([sys.executable, "-m", "venv", home], capture_output=True, text=True, check=False)
    if made.returncode:
        raise Missing(
            f"{sys.executable} cannot make a virtual environment:\n{(made.stderr or made.stdout).strip()}\n"
            "On Debian and Ubuntu: apt-get install python3-venv. Or name another Python: make PYTHON=/path ..."
        )
    pip = [str(home / "bin/python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if subprocess.run([*pip, "--require-hashes", "-r", str(lock)], stdout=sys.stderr, check=False).returncode:
        raise Missing(
            "pip could not install uv from the package index; its message is above.\n"
            "Behind a proxy set HTTPS_PROXY; with a mirror of your own: pip config set global.index-url URL"
        )
    stamp.write_text(want)
    return program


def uv_environment() -> dict[str, str]:
    """uv reads no pip.conf, so it is told of a mirror there; its cache stays in build/, like everything generated."""
    env = {"UV_CACHE_DIR": str(ROOT / "build/cache/uv"), "UV_SYSTEM_CERTS": "1", "UV_NO_CONFIG": "1"}
    pip = [str(VENVS / "uv/bin/python"), "-m", "pip", "config", "get"]
    for where in ("global.index-url", "install.index-url", ":env:.index-url"):
        asked = subprocess.run([*pip, where], capture_output=True, text=True, check=False)
        if not asked.returncode:
            env["UV_DEFAULT_INDEX"] = asked.stdout.strip()
    return {**env, **os.environ}


def environment(name: str, version: str | None = None) -> Path:
    """The folder of the environment, made or brought up to date first. Raises Missing."""
    lock = REQUIREMENTS / f"{name}.txt"
    if not lock.exists():
        known = ", ".join(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
        raise Missing(f"There is no requirements/{name}.txt. Environments are: {known}")
    if version is None:
        version, python = newest()
    elif (found := interpreter(version)) is None:
        raise Missing(f"No Python {version} was found: it is looked for on PATH and in ~/.pyenv/versions.")
    else:
        python = found
    home = VENVS / f"{name}-{version}"
    VENVS.mkdir(parents=True, exist_ok=True)
    with (VENVS / f".{home.name}.lock").open("w") as guard, (VENVS / ".uv.lock").open("w") as uv_guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        stamp, want = home / ".stamp", _digest(lock.read_bytes(), str(python.resolve()).encode())
        if stamp.exists() and stamp.read_text() == want:
            return home
        fcntl.flock(uv_guard, fcntl.LOCK_EX)
        program = uv()
        fcntl.flock(uv_guard, fcntl.LOCK_UN)
        say(f"preparing build/venvs/{home.name}")
        stamp.unlink(missing_ok=True)
        env = uv_environment()
        quiet = () if sys.stderr.isatty() else ("--quiet",)
        create: list[str | Path] = [
            program,
            "venv",
            "--quiet",
            "--clear",
            "--python",
            python,
            "--no-python-downloads",
            home,
        ]
        sync: list[str | Path] = [
            program,
            "pip",
            "sync",
            *quiet,
            "--compile-bytecode",  # else every program that a test starts compiles what it imports
            "--python",
            home / "bin/python",
            "--require-hashes",
            lock,
        ]
        # One that is there is changed in place: a program may be running out of it.
        there = (home / "bin/python").exists() and (home / "bin/python").resolve() == python.resolve()
        for command in [sync] if there else [create, sync]:
            if subprocess.run(command, env=env, stdout=sys.stderr, check=False).returncode:
                raise Missing(f"build/venvs/{home.name} could not be made; uv's message is above.")
        stamp.write_text(want)
    return home


def write_locks() -> None:
    """Resolve each requirements/NAME.in for all supported Pythons at once, each to the newest that it takes."""
    program, env = uv(), uv_environment()
    for source in sorted(REQUIREMENTS.glob("*.in")):
        say(f"locking {source.name}")
        command = [str(program), "pip", "compile", "--quiet", "--upgrade", "--universal"]
        command += [
            "--python-version",
            SUPPORTED[0],
            "--generate-hashes",
            "--no-annotate",
            "--custom-compile-command",
            "make lock",
        ]
        command += [source.name, *([os.path.relpath(AGENT, REQUIREMENTS)] if source.stem in WITH_AGENT else [])]
        command += ["--output-file", f"{source.stem}.txt"]
        subprocess.run(command, cwd=REQUIREMENTS, env=env, stdout=subprocess.DEVNULL, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="of a file in requirements/, without .txt")
    parser.add_argument("--python", metavar="3.X", help="the version of Python; without it the newest")
    parser.add_argument("--pythons", action="store_true", help="list the interpreters that are there")
    parser.add_argument("--lock", action="store_true", help="resolve the requirements anew")
    args = parser.parse_args()
    try:
        if args.pythons:
            for version in SUPPORTED:
                print(version, interpreter(version) or "not found")
        elif args.lock:
            write_locks()
        elif args.name:
            print(environment(args.name, args.python))
        else:
            parser.error("name an environment")
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as failed:
        print(f"uv failed ({failed.returncode}); its message is above.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
