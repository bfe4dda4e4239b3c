# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Which GPUs a module takes, and what it says when there are none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ansible  # type: ignore[import-untyped]
import pynvml  # type: ignore[import-untyped]
import pytest
from ansible_collections.esnode.core.plugins.module_utils import nvml
from nvml_host import MODULES, ROOT

LIMIT = {"limit": "300W"}


def chosen(result) -> list[int]:
    return [gpu["index"] for gpu in result["gpus"]]


def test_every_way_to_name_a_gpu(host):
    h = host("h100:2,l4:2")
    gpus = h.sim.state()["gpus"]
    short = gpus[1]["pci_bus_id"].partition(":")[2].lower()
    for words, expected in (
        ("all", [0, 1, 2, 3]),
        (["0", 3], [0, 3]),
        ([gpus[2]["uuid"]], [2]),
        ([gpus[2]["uuid"].upper()], [2]),
        ([gpus[1]["pci_bus_id"]], [1]),
        ([f"0000:{short}"], [1]),
        ([short], [1]),
        (["*h100*"], [0, 1]),
        (["NVIDIA L4"], [2, 3]),
        (["*L4", "3", gpus[3]["uuid"]], [2, 3]),
    ):
        assert chosen(h.ok("nvml_info", gpus=words)) == expected, words


def test_an_unknown_gpu_fails_lists_what_is_there_and_changes_nothing(host):
    h = host("h100:2")
    before = h.settings()
    for word in ("2", "GPU-00000000-0000-0000-0000-000000000000", "00:1f.0", "*A100*", ""):
        result = h.fails("nvml_power_limit", gpus=["0", word], **LIMIT)
        assert repr(word) in result["msg"]
        assert all(gpu["uuid"] in result["msg"] and gpu["name"] in result["msg"] for gpu in h.sim.state()["gpus"])
        assert result["changed"] is False
    assert h.settings() == before
    assert "`gpus` is empty" in h.fails("nvml_power_limit", gpus=[], **LIMIT)["msg"]


def test_a_mig_device_is_refused_with_what_to_name_instead(host):
    h = host("h100:1")
    h.sim("mig", "mode", 0, "on")
    h.sim("mig", "create", 0, "3g.40gb")
    uuid = h.ok("nvml_info")["gpus"][0]["mig_devices"][0]["uuid"]
    assert "name the GPU it is part of" in h.fails("nvml_power_limit", gpus=[uuid], **LIMIT)["msg"]


def test_a_lost_gpu_is_named_and_keeps_the_others_as_they_are(host):
    h = host("h100:4")
    h.sim("lose", 2)
    before = h.settings()
    result = h.fails("nvml_power_limit", gpus="all", **LIMIT)
    assert "GPU 2" in result["msg"] and "fallen off the bus" in result["msg"]
    assert h.settings() == before
    assert h.ok("nvml_power_limit", gpus=["0", "1", "3"], **LIMIT)["changed"]
    assert h.limits() == [300000, 300000, 700000, 300000]


def test_the_address_of_a_lost_gpu_is_found_by_elimination(host, tmp_path):
    h = host("h100:3")
    addresses = [gpu["pci_bus_id"].lower()[4:] for gpu in h.sim.state()["gpus"]]
    for address in addresses:
        device = tmp_path / "bus" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text("0x030200\n")
    code = (
        "from ansible_collections.esnode.core.plugins.module_utils import nvml, _nvml_select\n"
        f"nvml.nvidia_devices.__defaults__ = ({str(tmp_path / 'bus')!r},)\n"
        "with nvml.Session() as session:\n"
        "    print(*[gpu.error for gpu in session.gpus()], sep='\\n')\n"
        f"    print([gpu.index for gpu in session.gpus() if _nvml_select._matches({addresses[1]!r}, gpu)])\n"
    )

    def said() -> list[str]:
        done = subprocess.run([sys.executable, "-c", code], env=h.env, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    h.sim("lose", 1)
    lost = f"GPU 1 (at 0000{addresses[1].upper()}): the GPU has fallen off the bus"
    first, second, third, matching = said()
    assert (first, third, matching) == ("None", "None", "[1]") and second.startswith(lost)
    h.sim("lose", 2)  # which is which, nobody knows
    assert "GPU 1 (UUID unknown)" in said()[1] and "GPU 2 (UUID unknown)" in said()[2]


def test_a_host_without_a_driver_fails_or_skips(host):
    h = host("h100:2")
    h.sim("unload-driver", "--force")
    result = h.fails("nvml_power_limit", gpus="all", **LIMIT)
    assert "driver is not loaded" in result["msg"] and result["changed"] is False
    result = h.ok("nvml_power_limit", gpus="all", missing_ok=True, **LIMIT)
    assert result["skipped"] and not result["changed"] and result["gpus"] == []


def test_a_gpu_that_is_there_without_a_driver_is_never_skipped(tmp_path):
    card = tmp_path / "0000:1b:00.0"
    card.mkdir()
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030200\n")
    audio = tmp_path / "0000:1b:00.1"
    audio.mkdir()
    (audio / "vendor").write_text("0x10de\n")
    (audio / "class").write_text("0x040300\n")
    assert nvml.nvidia_devices(str(tmp_path)) == ["0000:1b:00.0"]


def test_no_driver_library(host):
    h = host("h100:1")
    h.sim.__class__.env, kept = property(lambda self: {"NVMLSIM_STATE": str(self.path)}), h.sim.__class__.env
    try:
        assert "libnvidia-ml.so.1 is not installed" in h.fails("nvml_power_limit", gpus="all", **LIMIT)["msg"]
        assert h.ok("nvml_info", missing_ok=True)["skipped"]
    finally:
        h.sim.__class__.env = kept


def test_missing_ok_skips_where_no_gpu_has_the_name_but_not_where_an_address_is_wrong(host):
    h = host("l4:1")
    assert h.ok("nvml_power_limit", gpus="*H100*", missing_ok=True, **LIMIT)["skipped"]
    assert h.fails("nvml_power_limit", gpus="*H100*", **LIMIT)
    assert h.fails("nvml_power_limit", gpus="7", missing_ok=True, **LIMIT)


def bare(tmp_path: Path, env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    """A Python with ansible and nothing else."""
    packages = tmp_path / "packages"
    packages.mkdir(exist_ok=True)
    if not (packages / "ansible").exists():
        (packages / "ansible").symlink_to(Path(ansible.__file__).parent)
    paths = f"{ROOT / 'collections'}:{packages}"
    return subprocess.run(
        [sys.executable, "-S", *command],
        env={**env, "PYTHONPATH": paths},
        input='{"ANSIBLE_MODULE_ARGS": {"gpus": "all", "limit": "300W", "run_dir": "/nonexistent"}}',
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_binding_the_package_is_named(host, tmp_path):
    done = bare(tmp_path, host("h100:1").env, "-m", f"{MODULES}.nvml_power_limit")
    assert "nvidia-ml-py" in done.stdout and "pip install" in done.stdout and '"failed": true' in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")
def test_the_agents_binding_is_taken_when_it_belongs_to_us(host, tmp_path):
    folder = tmp_path / "current/lib/python3.11/site-packages"
    folder.mkdir(parents=True)
    copy = folder / "pynvml.py"
    copy.write_bytes(Path(pynvml.__file__).read_bytes())
    code = (
        "import sys; from ansible_collections.esnode.core.plugins.module_utils import nvml;"
        f"nvml.AGENT_PACKAGES = {str(tmp_path / 'current/lib/python*/site-packages')!r};"
        "before = list(sys.path); s = nvml.Session().__enter__(); print(s.type('__file__'), len(s.gpus()));"
        "assert sys.path == before"
    )
    h = host("h100:3")
    done = bare(tmp_path, h.env, "-c", code)
    assert done.stdout.split() == [str(copy), "3"], done.stderr
    os.chown(copy, 65534, 65534)
    assert "nvidia-ml-py" in bare(tmp_path, h.env, "-c", code).stderr
