# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The root file systems of the hosts: one a release, made once by mmdebstrap and kept in ~/.cache/esnode/lab."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import subprocess
import sys
from pathlib import Path

RELEASES = ("bookworm", "trixie")

# What a small server has. Left out: python3-venv, pip, curl, openssl and apt, which the collection must not need.
SYSTEM = ("systemd", "systemd-sysv", "libpam-systemd", "dbus", "libstdc++6", "netbase")
PACKAGES = (*SYSTEM, "python3", "openssh-server", "sudo", "iproute2", "procps")
NOT_UNPACKED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# A throw-away host needs no login on a console and no housekeeping.
MASKED = ("console-getty.service", "getty.target", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer")
SSHD = "PermitRootLogin prohibit-password\nUseDNS no\nUsePAM no\nMaxStartups 100\n"


def recipe(release: str, target: Path | str) -> list[str]:
    """The command that makes a root file system."""
    setup = [
        *(f'ln -sf /dev/null "$1/etc/systemd/system/{unit}"' for unit in MASKED),
        f'printf {SSHD!r} >"$1/etc/ssh/sshd_config.d/lab.conf"',
        'mkdir -m 700 -p "$1/root/.ssh"',
    ]
    return [
        "mmdebstrap",
        "--quiet",
        "--variant=essential",
        f"--include={','.join(PACKAGES)}",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in NOT_UNPACKED),
        '--aptopt=Acquire::Languages "none"',
        *(f"--customize-hook={command}" for command in setup),
        release,
        str(target),
    ]


def cache() -> Path:
    # Not $HOME: tests change it, and each of them would make its own.
    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".cache/esnode/lab"


def rootfs(release: str) -> Path:
    """The folder with the root file system of `release`; made first if it is not there, by one process at a time."""
    digest = hashlib.sha256("\0".join(recipe(release, "")).encode()).hexdigest()[:12]
    ready = cache() / f"{release}-{digest}"
    if ready.is_dir():
        return ready
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{release}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if ready.is_dir():
            return ready
        print(f"-- making {ready} with mmdebstrap, once; it takes a minute or two", file=sys.stderr, flush=True)
        part = ready.with_suffix(".part")
        subprocess.run(["rm", "-rf", "--one-file-system", part], check=True)
        made = subprocess.run(recipe(release, part), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode:
            raise RuntimeError(f"mmdebstrap could not make Debian {release} in {part}:\n{made.stdout[-3000:]}")
        part.rename(ready)
    return ready
