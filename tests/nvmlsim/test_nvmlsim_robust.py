# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Many threads, many processes, killed ones; and no error that the sanitizers see."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading

import pytest
from nvmlsim import BUILD, SOURCE, Simulator, build


def hammer(sim: Simulator, calls: int, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SOURCE / "hammer.py"), str(calls)],
        env={**os.environ, **sim.env, **env},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_threads_and_processes_at_once(machine):
    sim = machine("h100:8", load="training")
    workers = [hammer(sim, 2000) for _ in range(3)]
    stop = threading.Event()

    def disturb() -> None:
        while not stop.is_set():
            sim("inject", "xid", "all", 13)
            sim("inject", "ecc", "all", "corrected")
            sim.state()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    outcomes = [w.communicate() for w in workers]
    stop.set()
    disturber.join()
    assert outcomes == [("good\n", "")] * 3
    assert sim.state()["clients"] == 0


def test_killed_processes_leave_no_lock_behind(machine, client):
    sim = machine("h100:8", load="training")
    for _ in range(8):
        victim = hammer(sim, 10**9)
        while not sim.state()["clients"]:
            assert victim.poll() is None
        victim.kill()
        victim.communicate()
        assert client(sim)("[n.nvmlDeviceGetPowerUsage(h(i)) > 0 for i in range(8)]") == [1] * 8
    assert sim.state()["clients"] == 8


def test_one_killed_with_every_lock_in_hand(machine, client, tmp_path):
    sim = machine("h100:2")
    program = tmp_path / "killed_holder"
    parts = [SOURCE / f"{name}.c" for name in ("killed_holder", "state", "machine", "physics", "profiles", "health")]
    subprocess.run(["cc", "-D_GNU_SOURCE", "-o", program, *parts, "-lm", "-pthread"], check=True)
    assert subprocess.run([program, sim.path, "die"], check=False).returncode == -9
    assert subprocess.run([program, sim.path, "check"], check=False).returncode == 0
    assert client(sim)("n.nvmlDeviceGetPowerUsage(h(1))") > 0


def test_readable_and_writable_for_a_service_user(machine):
    sim = machine()
    assert stat.S_IMODE(sim.path.stat().st_mode) == 0o666
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    # the file is handed over open, for pytest keeps its folder to itself
    code = """
import ctypes, os, sys
import pynvml as n
n.nvmlLib = ctypes.CDLL("libnvidia-ml.so.1")
os.setuid(65534)
n.nvmlInit()
h = n.nvmlDeviceGetHandleByIndex(0)
assert n.nvmlDeviceGetPowerUsage(h) > 0
try:
    n.nvmlDeviceSetPowerManagementLimit(h, 500000)
except n.NVMLError_NoPermission:
    print("no")
"""
    with sim.path.open("r+b") as file:
        env = {**os.environ, **sim.env, "NVMLSIM_STATE": f"/proc/self/fd/{file.fileno()}"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, pass_fds=[file.fileno()], capture_output=True, text=True, check=False)
    assert done.stdout == "no\n", done.stderr


def test_init_replaces_the_file_and_running_processes_keep_theirs(client, tmp_path):
    path = tmp_path / "shared.state"
    c = client(Simulator(path, "h100:2"))
    Simulator(path, "l4:3")
    assert c("n.nvmlDeviceGetCount()") == 2
    c("n.nvmlShutdown()")
    c("n.nvmlInit()")
    assert c("[n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(h())]") == [3, "NVIDIA L4"]


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_sanitizers_find_nothing(machine, sanitizer):
    out = BUILD / ("san-" + sanitizer.split(",")[0])
    made = subprocess.run(
        ["make", "-s", "-C", SOURCE, f"OUT={out}", f"SANITIZE=-fsanitize={sanitizer}", "CFLAGS=-O1 -g"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    runtime = {"address,undefined": "libasan.so", "thread": "libtsan.so"}[sanitizer]
    found = subprocess.run(["cc", f"-print-file-name={runtime}"], capture_output=True, text=True, check=True)
    library = found.stdout.strip()
    if not os.path.isabs(library):
        pytest.skip(f"no {runtime} here")
    sim = machine("h100:8", load="training")
    outcome = hammer(
        sim, 60, LD_LIBRARY_PATH=str(out), LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0",
        TSAN_OPTIONS="report_bugs=1 ignore_noninstrumented_modules=1", PYTHONMALLOC="malloc",
    ).communicate()  # fmt: skip
    assert outcome[0] == "good\n", outcome[1][-6000:]
    assert "WARNING: ThreadSanitizer" not in outcome[1] and "runtime error" not in outcome[1], outcome[1][:6000]


@pytest.mark.slow
def test_valgrind_finds_nothing_in_the_command(machine):
    valgrind = shutil.which("valgrind")
    if not valgrind:
        pytest.skip("no valgrind here")
    sim = machine("h100:2,v100", load="inference")
    for command in ("show", "show --json", "inject xid all 79", "mig mode 0 on", "mig create 0 3g.40gb", "reboot"):
        call = [valgrind, "-q", "--error-exitcode=9", build() / "nvmlsim", sim.path, *command.split()]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
