# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Memory of processes, and whose they are."""

from __future__ import annotations

from collections.abc import Callable

import nvmlsim
import pytest
from esnode.collect import Roots, gpu
from esnode.collect._gpu_processes import sanitized, unit_of
from reading import given

POD = "3f2c1a9e-0b7d-4c11-9a55-1d2e3f405162"
ID = "ab12cd34ef56" + "0" * 52


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/vllm.service\n", "vllm.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "session-3.scope"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/train.service\n", "train.service"),
        ("0::/system.slice/slurmstepd.scope/job_4242/step_0/user/task_0\n", "slurm-job-4242"),
        ("0::/system.slice/node3_slurmstepd.scope/job_7/step_batch/user/task_0\n", "slurm-job-7"),
        (
            "4:memory:/slurm/uid_1000/job_42/step_0/task_1\n1:name=systemd:/system.slice/slurmd.service\n",
            "slurm-job-42",
        ),
        (
            f"0::/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n",
            f"pod-{POD}",
        ),
        (f"0::/kubepods/besteffort/pod{POD}/{ID}\n", f"pod-{POD}"),
        (f"11:devices:/kubepods/pod{POD}/{ID}\n1:name=systemd:/kubepods/pod{POD}/{ID}\n", f"pod-{POD}"),
        (f"0::/system.slice/docker-{ID}.scope\n", "container-ab12cd34ef56"),
        (f"12:cpuset:/docker/{ID}\n1:name=systemd:/docker/{ID}\n", "container-ab12cd34ef56"),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", "container-ab12cd34ef56"),
        ("0::/lxc.payload.web1/system.slice/app.service\n", "lxc-web1"),
        ("0::/init.scope\n", "init.scope"),
        ("0::/\n", ""),
        ("", ""),
        ("nonsense\n", ""),
    ],
)
def test_whose_a_process_is(cgroup: str, unit: str) -> None:
    assert unit_of(cgroup) == unit


def test_a_name_is_printable_and_short() -> None:
    assert sanitized("py\x1b[31m\n") == "py?[31m"
    assert len(sanitized("x" * 500)) == 64


def test_memory_of_processes(
    machine: Callable[..., nvmlsim.Simulator], collector: Callable[..., gpu.Gpu], roots: Roots
) -> None:
    sim = machine("h100:1")
    for pid, name in ((999_001, "python3"), (999_002, "Xorg")):
        (roots.proc / str(pid)).mkdir()
        (roots.proc / str(pid) / "comm").write_text(f"{name}\n")
        (roots.proc / str(pid) / "cgroup").write_text(f"0::/system.slice/{name}.service\n")
    sim("process", "add", 0, 999_001, "--memory", 1000)
    sim("process", "add", 0, 999_002, "--memory", 50, "--kind", "graphics")
    sim("process", "add", 0, 999_003, "--memory", 7)  # of a PID namespace that is not ours
    sim("process", "add", 0, 999_004, "--memory", "unknown")
    uuid = sim.gpu()["uuid"]
    values = given(collector(gpu_process_memory=True).collect().samples, uuid)
    assert {k[1:]: v for k, v in values.items() if k[0] == "gpu_process_memory_bytes"} == {
        ("999001", "python3", "python3.service"): 1000 << 20,
        ("999002", "Xorg", "Xorg.service"): 50 << 20,
        ("999003", "", ""): 7 << 20,
    }
    assert values["gpu_processes", "compute"] == 3
    values = given(collector().collect().samples, uuid)
    assert not [k for k in values if k[0] == "gpu_process_memory_bytes"]
