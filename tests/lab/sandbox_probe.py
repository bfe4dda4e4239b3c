# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Try what an intruder in the agent would. Runs on a host; prints "attempt: done" or "attempt: why not"."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import subprocess
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
PR_CAPBSET_READ, CAP_SYS_ADMIN = 23, 21
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def write(path: str) -> None:
    Path(path).write_text("x")
    Path(path).unlink()


def c(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_child(call: str, *arguments: int | ctypes.c_char_p) -> None:
    """A system call that would change this process."""
    child = os.fork()
    if not child:
        os._exit(0 if getattr(LIBC, call)(*arguments) == 0 else ctypes.get_errno())
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(code, os.strerror(code))


def setuid_program() -> None:
    done = subprocess.run(["/usr/bin/sudo", "-n", "true"], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip().splitlines()[0])


def make_setuid() -> None:
    path = Path("/dev/shm/bit")
    path.touch()
    try:
        path.chmod(0o4755)
    finally:
        path.unlink()


def ptrace() -> None:
    victim = subprocess.Popen(["/bin/sleep", "60"])
    try:
        c(LIBC.ptrace(PTRACE_ATTACH, victim.pid, 0, 0))
        os.waitpid(victim.pid, os.WUNTRACED)
        LIBC.ptrace(PTRACE_DETACH, victim.pid, 0, 0)
    finally:
        victim.kill()


def signal_init() -> None:
    os.kill(1, 0)


def listen() -> None:
    socket.create_server(("127.0.0.1", 0)).close()


def make_device() -> None:
    os.mknod("/dev/shm/node", 0o20600, os.makedev(1, 3))
    os.unlink("/dev/shm/node")


ATTEMPTS = {
    "write to /usr": lambda: write("/usr/probe"),
    "write to /etc": lambda: write("/etc/probe"),
    "write to /home": lambda: write("/home/probe"),
    "write to /opt": lambda: write("/opt/probe"),
    "read the /tmp of others": lambda: Path("/tmp/theirs").read_text(),
    "read the password hashes": lambda: Path("/etc/shadow").read_text(),
    "open another device": lambda: open("/dev/other", "rb").close(),
    "make a device": make_device,
    "become root by sudo": setuid_program,
    "make a setuid program": make_setuid,
    "trace a process": ptrace,
    "signal process 1": signal_init,
    "new mount namespace": lambda: in_child("unshare", CLONE_NEWNS),
    "new user namespace": lambda: in_child("unshare", CLONE_NEWUSER),
    "open an Internet socket": listen,
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close(),
    "writable and executable memory": lambda: mmap.mmap(-1, 4096, prot=7).close(),
    "change the owner of a file": lambda: in_child("chown", *(ctypes.c_char_p(b"/dev/shm"), 0, 0)),
    "have CAP_SYS_ADMIN in reach": lambda: c(LIBC.prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) - 1),
    "change the scheduler": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
}

for name, attempt in ATTEMPTS.items():
    try:
        attempt()
        print(f"{name}: done", flush=True)
    except Exception as error:
        print(f"{name}: {error!r}".replace("\n", " "), flush=True)
