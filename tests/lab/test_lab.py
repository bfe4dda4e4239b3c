# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's hosts are what tests take them for: booted, limited, sandboxed, reached; and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lab
import lab_slot
import pytest
import standing
from lab_playbook import ansible

COUNT_GPUS = """
import ctypes
nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_uint()
assert nvml.nvmlInit_v2() == 0
assert nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
print(count.value)
"""
TAKE_64_MB = "len(bytearray(64 << 20)); print('taken')"


def network_of(path: Path) -> int:
    """What tells a network namespace from others."""
    return path.stat().st_ino


def left(slot: Path, networks: list[int]) -> list[str]:
    """What there still is of a lab."""
    found = [*map(str, slot.glob("**/*")), *lab_slot.mounts_below(slot)]
    prefix = f"esnode-lab-{slot.name}-"
    found += map(str, lab_slot.folders(f"{prefix}*"))
    found += map(str, Path("/run/systemd/nspawn").glob(f"*/{prefix}*"))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if network_of(process / "ns/net") in networks or re.search(rf"{prefix}|{slot}/", command):
                found.append(f"{process.name}: {command}")
    return found


def in_unit(host: lab.Host, *command: str, **properties: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a service with these properties."""
    options = [f"--property={name}={value}" for name, value in properties.items()]
    return host.run(["systemd-run", "--quiet", "--collect", "--wait", "--pipe", *options, *command], check=False)


def ping(inventory: Path, *hosts: str) -> str:
    command = [str(ansible() / "ansible"), ":".join(hosts), "-i", str(inventory), "-m", "ansible.builtin.ping"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}).stdout


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    specs = [lab.Spec("plain", "bookworm"), lab.Spec("eight", "trixie", gpus="h100:8")]
    with lab.Lab("test", specs) as booted:
        yield booted


@pytest.mark.parametrize(("name", "release"), [("plain", "bookworm"), ("eight", "trixie")])
class TestHost:
    def test_is_of_its_release_with_every_unit_up(self, one: lab.Lab, name: str, release: str) -> None:
        assert one[name].run(["systemctl", "is-system-running"]).stdout == "running\n"
        assert f"VERSION_CODENAME={release}\n" in one[name].run(["cat", "/etc/os-release"]).stdout
        assert one[name].run(["hostname"]).stdout == f"{name}\n"

    def test_limits_of_a_unit_hold(self, one: lab.Lab, name: str, release: str) -> None:
        take = ["python3", "-c", TAKE_64_MB]
        assert in_unit(one[name], *take, MemoryMax="128M").stdout == "taken\n"
        assert in_unit(one[name], *take, MemoryMax="32M", MemorySwapMax="0").returncode
        forks = ["python3", "-c", "import os; [os.fork() or os._exit(0) for _ in range(1)]"]
        assert in_unit(one[name], *forks).returncode == 0
        assert "Resource temporarily unavailable" in in_unit(one[name], *forks, TasksMax="1").stderr

    def test_sandbox_of_a_unit_holds(self, one: lab.Lab, name: str, release: str) -> None:
        assert in_unit(one[name], "touch", "/etc/tried").returncode == 0
        refused = in_unit(one[name], "touch", "/etc/tried", ProtectSystem="strict")
        assert "Read-only file system" in refused.stderr
        assert (one[name].root / "etc/tried").exists()

    def test_ansible_reaches_it(self, one: lab.Lab, name: str, release: str) -> None:
        assert f"{name} | SUCCESS" in ping(one.inventory, release)

    def test_controller_reaches_its_ports(self, one: lab.Lab, name: str, release: str) -> None:
        banner = [*one.controller, "curl", "--silent", "--max-time", "20", "--http0.9", f"{one[name].address}:22"]
        assert subprocess.run(banner, capture_output=True, text=True).stdout.startswith("SSH-2.0-")


def test_gpus_are_seen_by_everybody(one: lab.Lab) -> None:
    eight, count = one["eight"], ["python3", "-c", COUNT_GPUS]
    assert eight.run(count).stdout == "8\n"
    assert in_unit(eight, *count, ProtectSystem="strict", DynamicUser="yes", PrivateTmp="yes").stdout == "8\n"
    assert eight.simulator
    eight.simulator("lose", 3, "--vanish")
    assert in_unit(eight, *count).stdout == "7\n"
    command = [str(ansible() / "ansible"), "eight", "-i", str(one.inventory), "-m", "ansible.builtin.command"]
    found = subprocess.run([*command, "-a", "env"], capture_output=True, text=True).stdout
    assert "NVMLSIM_STATE=/dev/nvmlsim/state" in found
    assert eight.run(["ls", "/dev"]).stdout.split().count("nvidiactl") == 1
    assert one["plain"].run(count, check=False).returncode
    assert "gpu_nodes:\n  hosts:\n    eight: {}" in one.inventory.read_text()


def test_cable_is_cut_and_joined(one: lab.Lab) -> None:
    assert "plain | SUCCESS" in ping(one.inventory, "plain")
    one["plain"].cut()
    answer = ping(one.inventory, "plain", "eight")
    assert "plain | UNREACHABLE" in answer
    assert "eight | SUCCESS" in answer
    one["plain"].join()
    assert "plain | SUCCESS" in ping(one.inventory, "plain")


def test_what_is_stopped_goes_on(one: lab.Lab) -> None:
    """As all that runs in a host when it goes down."""
    assert one["plain"].run(["sh", "-c", "kill -STOP $$; echo on"]).stdout == "on\n"


@pytest.mark.parametrize("by_itself", [False, True])
def test_reboot_keeps_the_disk_and_the_limits(one: lab.Lab, by_itself: bool) -> None:
    host = one["plain"]
    (host.root / "etc/kept").write_text("kept")
    boot = ["cat", "/proc/sys/kernel/random/boot_id"]
    before = host.run(boot).stdout

    def booted_anew() -> bool:
        try:
            return host.run(boot, check=False).stdout not in ("", before)
        except RuntimeError:  # it is off for a moment
            return False

    if by_itself:
        host.run(["systemctl", "reboot"], check=False)
        lab_slot.wait_for(booted_anew, "no reboot")
        host.wait()
    else:
        host.reboot()
    assert host.run(boot).stdout != before
    assert host.run(["cat", "/etc/kept"]).stdout == "kept"
    assert in_unit(host, "python3", "-c", TAKE_64_MB, MemoryMax="32M", MemorySwapMax="0").returncode
    assert "plain | SUCCESS" in ping(one.inventory, "plain")


def test_host_that_is_off_says_so(one: lab.Lab) -> None:
    host = one["plain"]
    host.stop()
    with pytest.raises(RuntimeError, match="plain is off"):
        host.run(["true"])
    host.start()


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([lab.Spec("a"), lab.Spec("a")], "two hosts have one name"),
        ([lab.Spec("a", "sid")], "no recipe for .*sid"),
        ([lab.Spec("A_1")], "A_1"),
        ([], "no host"),
    ],
)
def test_impossible_lab_is_refused(specs: list[lab.Spec], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.Lab("refused", specs)


def test_nothing_is_left_however_a_lab_ends() -> None:
    """Three processes have a lab at a time: one is interrupted, one terminated, one killed."""
    program = [sys.executable, str(Path(__file__).with_name("killable.py"))]
    ends = {signal.SIGINT: "bookworm", signal.SIGTERM: "trixie", signal.SIGKILL: "bookworm"}
    running = {end: subprocess.Popen([*program, release], stdout=subprocess.PIPE) for end, release in ends.items()}
    try:
        slots = {
            end: Path((process.stdout or sys.stdin.buffer).readline().decode().strip())
            for end, process in running.items()
        }
        assert len(set(slots.values())) == 3
        networks = {end: [network_of(slot / "net"), network_of(slot / "node1/net")] for end, slot in slots.items()}
        assert all(left(slots[end], networks[end]) for end in ends)
        lab_slot.sweep()
        assert all(lab_slot.members(f"esnode-lab-{slot.name}-node1") for slot in slots.values()), "they live"
        for end, process in running.items():
            process.send_signal(end)
        for process in running.values():
            process.wait()
        for end in (signal.SIGINT, signal.SIGTERM):
            assert left(slots[end], networks[end]) == []
        assert left(slots[signal.SIGKILL], networks[signal.SIGKILL])
        lab_slot.sweep()
        assert left(slots[signal.SIGKILL], networks[signal.SIGKILL]) == []
    finally:
        for process in running.values():
            process.kill()
            process.wait()
        lab_slot.sweep()


def test_failing_test_takes_its_lab_down() -> None:
    one = lab.Lab("fails", [lab.Spec("node1")])
    networks = []

    def test() -> None:
        with one:
            networks.extend([network_of(one.slot.path / "net"), network_of(one.slot.path / "node1/net")])
            assert "node1 | SUCCESS" in ping(one.inventory, "node1")  # leaves a connection of ssh's behind
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test()
    assert left(one.slot.path, networks) == []


def test_lab_that_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What make lab, make lab-shell and make lab-down do."""
    try:
        standing.main(tmp_path, ["up", "2"])
        slot = standing.find(tmp_path)
        assert slot
        networks = [network_of(slot.path / "net"), network_of(slot.path / "node1/net")]
        first = capsys.readouterr().out
        lab_slot.sweep()
        standing.main(tmp_path, ["up", "2"])
        assert capsys.readouterr().out == first
        with pytest.raises(RuntimeError, match="2 of its 2 hosts are up: make lab-down first"):
            standing.main(tmp_path, ["up", "3"])
        inventory = tmp_path / "inventory/lab"
        assert "node2 | SUCCESS" in ping(inventory, "node2")
        command = standing.main(tmp_path, ["shell", "node2"]) or []
        assert subprocess.run([*command, "-c", "hostname"], capture_output=True, text=True).stdout == "node2\n"
        with pytest.raises(RuntimeError, match="HOST=node1 or node2"):
            standing.main(tmp_path, ["shell", "node9"])
    finally:
        standing.main(tmp_path, ["down"])
    assert left(slot.path, networks) == []
    assert not inventory.exists()
    assert standing.find(tmp_path) is None
