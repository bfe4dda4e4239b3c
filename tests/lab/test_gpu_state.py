# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of GPUs on a real systemd host: set over ssh, and there again after a reboot and a reload of the driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import lab
import nvmlsim
import pynvml  # type: ignore[import-untyped]
import pytest
from lab_playbook import ansible

PROFILE = {"persistence_mode": True, "power_limit": "300W", "clock_lock": {"graphics": "1200-1500"}}
SERVICE = "esnode-gpu-state.service"
WATCH = "esnode-gpu-state-watch.timer"
DAEMON = "nvidia-persistenced.service"
RECORD = "etc/esnode/gpu-state.json"


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    with lab.Lab("gpustate", [lab.Spec("gpu1", gpus="h100:2")]) as booted:
        done = booted.playbook("esnode-deploy.yml")  # its release brings the binding to NVML
        assert done.code == 0, done.output
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["gpu1"]


@pytest.fixture(scope="module")
def sim(host: lab.Host) -> nvmlsim.Simulator:
    assert host.simulator
    host.simulator("persistenced", "on")
    return host.simulator


def power(one: lab.Lab, *options: str, **variables: Any) -> lab.Run:
    return one.playbook("esnode-power.yml", *options, **{"esnode_power_profile": PROFILE, **variables})


def adhoc(one: lab.Lab, *options: str) -> str:
    command = [str(ansible() / "ansible"), "all", "-i", str(one.inventory), *options]
    environment = {
        **os.environ,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_COLLECTIONS_PATH": str(one.collections),
        "ANSIBLE_HOME": str(one.slot.path / "adhoc"),
    }
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout


def limits(sim: nvmlsim.Simulator) -> list[int]:
    return [gpu["power_limit_mw"] // 1000 for gpu in sim.state()["gpus"]]


def locks(sim: nvmlsim.Simulator) -> list[Any]:
    return [gpu["gpu_locked_clocks"] for gpu in sim.state()["gpus"]]


def wait_until(what: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it has not become so"
        time.sleep(0.2)


def test_root_may_and_others_are_told_what_it_takes(one: lab.Lab, host: lab.Host, sim: nvmlsim.Simulator) -> None:
    host.run(["sh", "-c", "useradd -m -p '*' -s /bin/sh ops && cp -r /root/.ssh ~ops/ && chown -R ops: ~ops/.ssh"])
    call = ["-m", "esnode.core.nvml_power_limit", "-a", "gpus=all limit=400W"]
    refused = adhoc(one, "-e", "ansible_user=ops", *call)
    assert "FAILED" in refused and "it takes root (become: true)" in refused and limits(sim) == [700, 700]
    assert "CHANGED" in adhoc(one, *call) and limits(sim) == [400, 400]
    assert "SUCCESS" in adhoc(one, *call)
    read = adhoc(one, "-e", "ansible_user=ops", "-m", "esnode.core.nvml_info")
    assert "SUCCESS" in read and "H100" in read
    # As the README has it, by somebody who has to become root.
    (host.root / "etc/sudoers.d/ops").write_text("ops ALL=(ALL) NOPASSWD: ALL\n")
    became = [*call[:-1], "gpus=all limit=300W", "--become", "-e", "ansible_user=ops"]
    assert "CHANGED" in adhoc(one, *became) and limits(sim) == [300, 300]
    assert "CHANGED" in adhoc(one, *call) and limits(sim) == [400, 400]


def simulator_with_binding(host: lab.Host) -> nvmlsim.Simulator:
    """For a host without the agent, whose release would bring the binding."""
    packages = host.root / "usr/lib/python3/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    shutil.copy(pynvml.__file__, packages)
    assert host.simulator
    return host.simulator


def test_every_board_over_ssh() -> None:
    boards = [line.split()[0] for line in nvmlsim.run("profiles").splitlines()]
    with lab.Lab("boards", [lab.Spec("boards1", gpus=",".join(boards))]) as one:
        sim = simulator_with_binding(one["boards1"])
        before = sim.state()["gpus"]
        for module, options in (
            ("nvml_power_limit", "gpus=all limit=90%"),
            ("nvml_clock_lock", "gpus=all graphics=900-1200"),
            ("nvml_compute_mode", "gpus=all mode=exclusive_process"),
        ):
            call = ["-m", f"esnode.core.{module}", "-a", options]
            assert "CHANGED" in adhoc(one, *call, "--check")
            assert "CHANGED" in adhoc(one, *call)
            assert "SUCCESS" in adhoc(one, *call)
        for was, gpu in zip(before, sim.state()["gpus"], strict=True):
            assert gpu["power_limit_mw"] == was["default_limit_mw"] * 9 // 10 and gpu["compute_mode"] == 3, gpu["name"]
            assert was["gpu_locked_clocks"] == [] and gpu["gpu_locked_clocks"] != [], gpu["name"]


def test_a_budget_of_all_hosts_over_ssh_is_kept() -> None:
    with lab.Lab("rack", [lab.Spec("large", gpus="h100:1"), lab.Spec("small", gpus="l40s:2")]) as rack:
        sims = [simulator_with_binding(host) for host in (rack["large"], rack["small"])]
        budget = {"esnode_power_budgets": {"all": "900W"}}
        done = rack.playbook("esnode-power.yml", **budget)
        assert done.changed > 0 and "all: 1400 -> 900 W" in done.output, done.output
        assert [limits(sim) for sim in sims] == [[300], [300, 300]]
        for host, sim in zip((rack["large"], rack["small"]), sims, strict=True):
            assert host.run(["systemctl", "is-active", SERVICE]).stdout.strip() == "active"
            sim("persistenced", "on")
            sim("reload-driver", "--force")
            host.run(["systemctl", "restart", SERVICE])
        assert [limits(sim) for sim in sims] == [[300], [300, 300]]
        profile = {"esnode_power_profile": {"power_limit": "90%"}}
        assert rack.playbook("esnode-power.yml", **budget, **profile).changed == 0


def test_a_profile_is_set_and_kept(one: lab.Lab, host: lab.Host, sim: nvmlsim.Simulator) -> None:
    check = power(one, "--check", "--diff")
    assert check.changed == 4 and limits(sim) == [400, 400] and not (host.root / RECORD).exists()
    assert "+ExecStart=/usr/local/sbin/esnode-gpu-state apply --wait 60" in check.output
    assert power(one).changed == 4
    assert limits(sim) == [300, 300]
    assert host.run(["systemctl", "is-active", SERVICE]).stdout.strip() == "active"
    again = power(one, "--diff")
    assert again.changed == 0, again.output
    assert "warning" not in host.run(["systemd-analyze", "verify", SERVICE], check=False).stderr.lower()


def test_the_agent_says_what_holds(host: lab.Host, sim: nvmlsim.Simulator) -> None:
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/metrics', timeout=20).read().decode())"

    def told() -> list[str]:
        lines = host.run(["python3", "-c", ask]).stdout.splitlines()
        return [line for line in lines if line.startswith("esnode_gpu_setting_as_recorded") and "power_limit" in line]

    wait_until(lambda: len(told()) == 2 and all(line.endswith((" 1.0", " 1")) for line in told()))


def test_all_of_it_is_there_after_a_reboot(one: lab.Lab, host: lab.Host, sim: nvmlsim.Simulator) -> None:
    before = locks(sim)
    # What keeps persistence mode on real hosts, and takes its time.
    daemon = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sleep 3\n[Install]\nWantedBy=multi-user.target\n"
    (host.root / f"etc/systemd/system/{DAEMON}").write_text(daemon)
    host.run(["systemctl", "enable", DAEMON])
    host.stop()
    sim("reboot")
    assert limits(sim) == [700, 700] and locks(sim) != before
    host.start()
    wait_until(lambda: limits(sim) == [300, 300] and locks(sim) == before)
    # Only then it notes what it has done.
    wait_until(lambda: host.run(["systemctl", "is-active", SERVICE], check=False).stdout == "active\n")
    host.run(["journalctl", "--sync"])
    assert moment(host, SERVICE, "ExecMainStart") >= moment(host, DAEMON, "ExecMainExit") > 0
    said = host.run(["journalctl", "--boot", "--output=cat", f"--unit={SERVICE}"]).stdout
    assert len([line for line in said.splitlines() if line.startswith("GPU-") and "power_limit changed" in line]) == 2
    assert power(one).changed == 0, "the lock is known to be there, not set again"


def test_and_after_a_reload_of_the_driver(host: lab.Host, sim: nvmlsim.Simulator) -> None:
    before = locks(sim)
    drop_in = host.root / "etc/systemd/system/esnode-gpu-state-watch.timer.d/often.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nAccuracySec=100ms\n")
    # The directory of the loaded kernel module, which is another one after each load.
    host.run(["sh", "-c", "mount -o remount,rw /sys && mkdir -p /sys/module/nvidia"])
    host.run(["systemctl", "daemon-reload"])
    host.run(["systemctl", "restart", WATCH])
    began = started(host)
    wait_until(lambda: started(host) != began)  # the driver's directory was not there before
    load_driver_anew(host, sim)
    wait_until(lambda: limits(sim) == [300, 300] and locks(sim) == before)
    is_new = ["/usr/local/sbin/esnode-gpu-state", "is-new"]
    wait_until(lambda: host.run(is_new, check=False).returncode == 75)
    began = started(host)
    time.sleep(3)  # several looks of the timer
    assert started(host) == began, "nothing is new, so nothing is set"


def load_driver_anew(host: lab.Host, sim: nvmlsim.Simulator) -> None:
    # Nobody may set the limits before they were seen to be gone.
    host.run(["systemctl", "stop", WATCH])
    units = [SERVICE, "esnode-gpu-state-watch.service"]
    wait_until(lambda: "activating" not in host.run(["systemctl", "is-active", *units], check=False).stdout)
    sim("reload-driver", "--force")
    assert limits(sim) == [700, 700]
    host.run(["systemctl", "start", WATCH])
    host.run(["sh", "-c", "mkdir /sys/module/new && rmdir /sys/module/nvidia && mv /sys/module/new /sys/module/nvidia"])


def started(host: lab.Host) -> int:
    return moment(host, SERVICE, "ExecMainStart")


def moment(host: lab.Host, unit: str, what: str) -> int:
    """Microseconds since the boot."""
    return int(host.run(["systemctl", "show", "--value", f"--property={what}TimestampMonotonic", unit]).stdout)


def test_a_lost_gpu_keeps_no_other_from_its_limit(host: lab.Host, sim: nvmlsim.Simulator) -> None:
    lost = sim.gpu(0)["uuid"]
    sim("reload-driver", "--force")
    sim("lose", 0)
    host.run(["systemctl", "restart", SERVICE], check=False)
    assert limits(sim)[1] == 300
    assert host.run(["systemctl", "is-failed", SERVICE], check=False).stdout.strip() == "failed"
    assert lost in host.run(["journalctl", "--output=cat", "--lines=20", f"--unit={SERVICE}"]).stdout
    sim("restore", 0)
    host.run(["systemctl", "restart", SERVICE])
    assert limits(sim) == [300, 300]


def test_what_is_no_longer_declared_is_forgotten_and_the_service_can_go(
    one: lab.Lab, host: lab.Host, sim: nvmlsim.Simulator
) -> None:
    assert power(one, esnode_power_profile={}).changed == 1
    assert not (host.root / RECORD).exists() and limits(sim) == [300, 300]
    host.run(["systemctl", "restart", WATCH])
    time.sleep(3)  # several looks that find no record
    adhoc(one, "-m", "esnode.core.nvml_power_limit", "-a", "gpus=all limit=350W persist=true")
    load_driver_anew(host, sim)
    wait_until(lambda: limits(sim) == [350, 350])
    call = ["-m", "esnode.core.gpu_state_service", "-a", "state=absent"]
    assert "CHANGED" in adhoc(one, *call)
    find = "find /etc/systemd /usr/local/sbin -name '*gpu-state*' ! -name '*.d' ! -name often.conf"
    assert host.run(["sh", "-c", find]).stdout == ""
    assert "SUCCESS" in adhoc(one, *call)


def test_a_run_dir_of_ones_own_is_there_after_a_reboot() -> None:
    with lab.Lab("elsewhere", [lab.Spec("elsewhere1", gpus="h100:1")]) as one:
        host = one["elsewhere1"]
        sim = simulator_with_binding(host)
        sim("persistenced", "on")
        for run_dir in ("/run/site/gpus", "/srv/gpus"):
            options = f"run_dir={run_dir}"
            call = ["-m", "esnode.core.nvml_power_limit", "-a", f"gpus=all limit=300W persist=true {options}"]
            assert "FAILED" not in adhoc(one, *call)
            assert "CHANGED" in adhoc(one, "-m", "esnode.core.gpu_state_service", "-a", options)
            host.stop()
            sim("reboot")
            host.start()
            wait_until(lambda: limits(sim) == [300])
            wait_until(lambda: host.run(["systemctl", "is-active", SERVICE], check=False).stdout.strip() == "active")
