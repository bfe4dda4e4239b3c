# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host: systemd-nspawn boots systemd on an overlay over the release's root file system, in a network namespace."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import lab_slot
import nvmlsim
from lab_rootfs import rootfs

STATE = "/dev/nvmlsim/state"  # below /dev, which ProtectSystem= leaves writable, as the driver's nodes are
_LOOK_S = 5.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# nspawn mounts the hierarchies read-only on machines with cgroup v1: without this no limit of a unit would hold.
INIT = """#!/bin/sh
for controller in memory pids cpu cpuacct devices; do
    [ ! -d /sys/fs/cgroup/$controller ] || mount -o remount,bind,rw /sys/fs/cgroup/$controller
done
{nodes}
exec /lib/systemd/systemd
"""


@dataclass(frozen=True)
class Spec:
    name: str
    release: str = "bookworm"
    gpus: str | None = None  # what the simulator takes: "h100:8"


def ip(namespace: Path, *lines: str) -> None:
    """Run a batch of `ip` in a network namespace."""
    command = ["nsenter", f"--net={namespace}", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip in {namespace}: {done.stderr.strip()}: {'; '.join(lines)}")


def make_namespace(path: Path) -> None:
    path.touch()
    subprocess.run(["unshare", f"--net={path}", "true"], check=True)


class Host:
    """`root` is its root file system as this machine sees it, also while it is off; without /run, /tmp and /dev."""

    def __init__(self, slot: lab_slot.Slot, spec: Spec, number: int, controller: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.address = slot.address(10 + number)
        self.simulator: nvmlsim.Simulator | None = None
        self._number = number
        self._gateway = slot.address(1)
        self._folder = slot.path / spec.name
        self.root = self._folder / "root"
        self._group = f"{slot.prefix}{spec.name}"
        self._network = self._folder / "net"
        self._controller = controller
        self._nspawn: subprocess.Popen[bytes] | None = None

    def create(self, authorized_key: str, etc_hosts: str) -> None:
        """The disk and the network; `start` boots it."""
        lower = rootfs(self.spec.release)
        for name in ("up", "work", "root"):
            (self._folder / name).mkdir(parents=True)
        layers = f"lowerdir={lower},upperdir={self._folder / 'up'},workdir={self._folder / 'work'}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        (self.root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (self.root / "etc/hostname").write_text(f"{self.name}\n")
        (self.root / "etc/hosts").write_text(etc_hosts)
        keys = self.root / "root/.ssh/authorized_keys"
        keys.write_text(authorized_key)
        nodes = self._put_simulator_in() if self.spec.gpus else []
        init = self.root / "sbin/lab-init"
        init.write_text(INIT.format(nodes="\n".join(nodes)))
        init.chmod(0o755)
        make_namespace(self._network)
        cable = f"host{self._number}"
        ip(
            self._controller,
            f"link add {cable} type veth peer name host0 netns {self._network}",
            f"link set {cable} master lab up",
        )
        ip(
            self._network,
            "link set lo up",
            f"addr add {self.address}/24 dev host0",
            "link set host0 up",
            f"route add default via {self._gateway}",
        )

    def _put_simulator_in(self) -> list[str]:
        """What init has to do so that the host looks like one with GPUs."""
        folder = self._folder / "nvmlsim"
        folder.mkdir()
        self.simulator = nvmlsim.Simulator(folder / "state", self.spec.gpus or "")
        shutil.copy(self.simulator.library_dir / "libnvidia-ml.so.1", self.root / "usr/lib")
        # Services, logins by ssh, and what Host.run starts.
        units = self.root / "etc/systemd/system.conf.d/nvmlsim.conf"
        units.parent.mkdir(exist_ok=True)
        units.write_text(f"[Manager]\nDefaultEnvironment=NVMLSIM_STATE={STATE}\n")
        (self.root / "etc/ssh/sshd_config.d/nvmlsim.conf").write_text(f"SetEnv NVMLSIM_STATE={STATE}\n")
        (self.root / "etc/sudoers.d/nvmlsim").write_text("Defaults env_keep += NVMLSIM_STATE\n")
        gpus = len(self.simulator.state()["gpus"])
        return [
            "mknod -m 666 /dev/nvidiactl c 195 255",
            *(f"mknod -m 666 /dev/nvidia{n} c 195 {n}" for n in range(gpus)),
        ]

    def launch(self) -> None:
        """Switch it on, without waiting."""
        # A group of its own, which nobody else's limits or clean-up touch.
        groups = []
        for hierarchy in lab_slot.hierarchies():
            group = hierarchy / self._group
            group.mkdir(exist_ok=True)
            if (group / "cpuset.cpus").exists() and lab_slot.CGROUPS_V1:
                for name in ("cpuset.cpus", "cpuset.mems"):
                    (group / name).write_text((hierarchy / name).read_text())
            groups.append(str(group / "cgroup.procs"))
        # nspawn ends with 133 when the host reboots by itself.
        launcher = """
            while [ "$1" != -- ]; do echo 0 >"$1"; shift; done
            shift
            while :; do "$@"; [ $? = 133 ] || exit; done
        """
        nspawn = [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self._group}",
            f"--hostname={self.name}",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            "--link-journal=no",
            "--resolv-conf=off",
            "--timezone=off",
            "--capability=CAP_NET_ADMIN",
            "--system-call-filter=adjtimex clock_adjtime",  # to ask for the clock's state; to set it takes CAP_SYS_TIME
            "--kill-signal=SIGRTMIN+3",
            f"--network-namespace-path={self._network}",
            *([f"--bind={self._folder / 'nvmlsim'}:{Path(STATE).parent}"] if self.spec.gpus else []),
            "/sbin/lab-init",
        ]
        with (self._folder / "console.log").open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["/bin/sh", "-c", launcher, "sh", *groups, "--", *nspawn],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests alone
                env={"PATH": PATH, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "network"},
            )

    @property
    def init(self) -> int | None:
        """The host's process 1, as this machine sees it; None while it is off."""
        for pid, inside in lab_slot.members(self._group).items():
            with contextlib.suppress(OSError, StopIteration):
                if inside and lab_slot.pid_in_namespaces(pid)[-1] == 1:
                    return pid
        return None

    def start(self) -> None:
        """Boot it and wait until it is up; a unit may have failed."""
        self.launch()
        self.wait()

    def wait_clean(self) -> None:
        """Wait until every unit is up."""
        if (state := self.wait()) != "running":
            raise RuntimeError(f"{self.name} is {state}:\n{self.run(['systemctl', '--failed'], check=False).stdout}")

    def wait(self) -> str:
        state = ""

        def up() -> bool:
            nonlocal state
            if self._nspawn and self._nspawn.poll() is not None:
                raise RuntimeError(f"{self.name} ended while it booted:\n{self.console}")
            if self.init is None:
                return False
            state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
            return state in ("running", "degraded")

        try:
            lab_slot.wait_for(up, f"{self.name} has not booted")
        except TimeoutError as late:
            raise TimeoutError(f"{late} (it is {state or 'off'}):\n{self.console}") from None
        return state

    @property
    def console(self) -> str:
        return "\n".join((self._folder / "console.log").read_text(errors="replace").splitlines()[-40:])

    def command(self, command: list[str]) -> list[str]:
        """The command that runs one inside, as root, from this machine."""
        if (init := self.init) is None:
            raise RuntimeError(f"{self.name} is off")
        inside = ["env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
        if self.spec.gpus:
            inside.append(f"NVMLSIM_STATE={STATE}")
        return ["nsenter", f"--target={init}", "--all", *inside, *command]

    def run(
        self, command: list[str], *, check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        pipe = subprocess.PIPE
        stdin = None if input is None else pipe
        with subprocess.Popen(self.command(command), stdin=stdin, stdout=pipe, stderr=pipe, text=True) as running:
            while True:
                try:
                    out, err = running.communicate(input, timeout=_LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    # A host that goes down stops all that runs there first, and nsenter stops with it, for ever.
                    running.send_signal(signal.SIGCONT)
                    input = None
        done = subprocess.CompletedProcess(command, running.returncode, out, err)
        if check and done.returncode:
            said = (done.stdout + done.stderr).strip()
            raise RuntimeError(f"{self.name}: {shlex.join(command)} ended with {done.returncode}:\n{said}")
        return done

    def stop(self) -> None:
        """Power it off, as an operator would; the disk stays."""
        for pid, inside in lab_slot.members(self._group).items():
            if not inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            lab_slot.wait_for(lambda: self.off, "it does not power off", 60)
        self.kill()

    def kill(self) -> None:
        """Pull its plug."""
        lab_slot.end(self._group)
        if self._nspawn:
            self._nspawn.wait()
            self._nspawn = None

    @property
    def off(self) -> bool:
        if self._nspawn:
            self._nspawn.poll()  # else it would stay as a zombie
        return not lab_slot.members(self._group)

    def reboot(self) -> None:
        self.stop()
        self.start()

    def cut(self) -> None:
        """Pull the network cable."""
        # Without the flush a new connection would wait for an old entry to age first.
        ip(self._controller, f"link set host{self._number} down", f"neigh flush {self.address}")

    def join(self) -> None:
        ip(self._controller, f"link set host{self._number} up")
