# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""The desired-state file: written, kept, removed, applied again at boot."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.module_utils import _nvml_records as records
from ansible_collections.esnode.core.plugins.module_utils.nvml import NvmlError
from nvml_host import ROOT

GPU_MODULE = re.compile(r"nvml_|gpu_state_")


def kept(h) -> Any:
    return json.loads(h.state_file.read_text())["gpus"]


def test_an_entry_for_each_gpu_and_gone_when_it_is_undeclared(host):
    h = host("h100:2")
    result = h.ok("nvml_power_limit", gpus="all", limit="60%", persist=True, diff=True)
    assert result["record"] == {"path": str(h.state_file), "changed": True}
    assert result["diff"][1]["after_header"] == str(h.state_file)
    uuids = [gpu["uuid"] for gpu in h.sim.state()["gpus"]]
    wanted = {"limit": "60%", "percent_of": "default", "scope": "gpu"}
    assert kept(h) == {u: {"name": "NVIDIA H100 80GB HBM3", "settings": {"power_limit": wanted}} for u in uuids}
    assert h.state_file.stat().st_mode & 0o777 == 0o644
    assert not h.ok("nvml_power_limit", gpus="all", limit="60%", persist=True)["changed"]
    before = h.state_file.read_bytes()
    result = h.ok("nvml_power_limit", gpus="0", limit="300W")
    assert h.state_file.read_bytes() == before and "record" not in result
    assert [w for w in result["warnings"] if "applied again at the next boot" in w]
    h.ok("nvml_persistence_mode", gpus="0", persist=True)
    result = h.ok("nvml_power_limit", gpus="all", limit="default", persist=False)
    assert result["record"]["changed"]
    assert kept(h) == {uuids[0]: {"name": "NVIDIA H100 80GB HBM3", "settings": {"persistence_mode": {"enabled": True}}}}
    h.ok("nvml_persistence_mode", gpus="0", persist=False)
    assert not h.state_file.exists()


# Every module, with options that would change something.
CHANGES: dict[str, dict[str, Any]] = {
    "nvml_power_limit": {"gpus": "all", "limit": "300W", "persist": True},
    "nvml_clock_lock": {"gpus": "all", "graphics": "1200-1500", "persist": True},
    "nvml_persistence_mode": {"gpus": "all", "enabled": False, "persist": True},
    "nvml_compute_mode": {"gpus": "all", "mode": "prohibited", "persist": True},
    "nvml_ecc_mode": {"gpus": "all", "enabled": False},
    "nvml_mig": {"gpus": "all", "layout": [{"profile": "3g.40gb"}], "persist": True},
    "nvml_reset": {"gpus": "all", "when": "always", "nvidia_smi": "/bin/false"},  # fails when it is called
    "nvml_info": {"gpus": "all"},
    "gpu_state_prune": {"owner": "role", "settings": []},
}


def test_every_module_is_among_them():
    found = {path.stem for path in (ROOT / "plugins/modules").glob("*.py") if GPU_MODULE.match(path.stem)}
    assert set(CHANGES) == found - {"gpu_state_service"}, "which is tried on hosts with systemd, tests/lab"


@pytest.mark.parametrize("recorded", [False, True], ids=["nothing recorded", "recorded"])
@pytest.mark.parametrize("module", CHANGES)
def test_check_mode_writes_nothing_anywhere(host, module, recorded):
    h = host("h100:2")
    if recorded:
        h.ok("nvml_power_limit", gpus="all", limit="400W", persist=True)
        h.ok("gpu_state_prune", owner="role", settings=["power_limit"])
    settings, files = h.settings(), h.files()
    assert bool(files) == recorded
    result = h.ok(module, check=True, diff=True, **CHANGES[module])
    assert result["changed"] == (module != "nvml_info" and (recorded or module != "gpu_state_prune"))
    assert h.settings() == settings and h.files() == files


def test_all_of_it_comes_back_after_a_reboot(host):
    h = host("h100:2,l4:1")
    h.ok("nvml_persistence_mode", gpus="all", persist=True)
    h.ok("nvml_power_limit", gpus="all", limit="80%", persist=True)
    h.ok("nvml_compute_mode", gpus="2", mode="exclusive_process", persist=True)
    h.ok("nvml_clock_lock", gpus="0", graphics="1200-1500", memory="2619", persist=True)
    h.ok("nvml_mig", gpus="1", layout=[{"profile": "3g.40gb", "compute": ["1c"]}], persist=True)
    before = h.settings()
    h.sim.advance(60)
    h.sim("reboot")
    assert h.settings() != before
    predicted = h.apply("apply", "--check")
    assert predicted.returncode == 0 and h.settings() != before
    done = h.apply("apply")
    assert done.returncode == 0, done.stderr
    assert h.settings() == before
    assert done.stdout.count(" changed (") == predicted.stdout.count(" changed (") == 9
    assert len(done.stdout.splitlines()) == 3, "a line for each GPU"
    again = h.apply("apply")
    assert again.returncode == 0 and " changed (" not in again.stdout and again.stdout.count(" ok (") == 9


def test_one_broken_gpu_keeps_no_other_from_its_limit(host):
    h = host("h100:3")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    gone = h.sim.gpu(0)["uuid"]
    h.sim("reload-driver")
    h.sim("persistenced", "on")
    h.sim("reload-driver")
    h.sim("lose", 0)
    h.sim("fail", "nvmlDeviceSetPowerManagementLimit", 999, "--gpu", 1)
    done = h.apply("apply")
    assert done.returncode == 1 and h.limits()[1:] == [700000, 300000]
    assert gone in done.stderr and "returned 999" in done.stderr
    assert h.apply("forget", gone).returncode == 0 and gone not in kept(h)
    assert "has no entry of" in h.apply("forget", gone).stderr


def test_with_persistence_off_a_boot_says_that_it_did_not_hold(host):
    h = host("h100:1")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim("reload-driver")  # nothing switches persistence mode on again
    done = h.apply("apply")
    assert done.returncode == 1 and "persistence mode is off" in done.stderr


def test_a_driver_reload_between_two_runs_is_made_good(host):
    h = host("h100:2")
    h.sim("persistenced", "on")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim("reload-driver")
    assert h.limits() == [700000] * 2
    result = h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    assert result["changed"] and result["record"]["changed"] is False and h.limits() == [300000] * 2


def test_files_that_others_can_write_are_not_obeyed(host):
    h = host("h100:1")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.state_file.chmod(0o666)
    for done in (h.apply("apply").stderr, h.fails("nvml_power_limit", gpus="all", limit="400W", persist=True)["msg"]):
        assert "must belong to root" in done and "0666" in done
    assert h.limits() == [300000]
    h.state_file.chmod(0o644)
    h.state_file.write_text('{"version": 2}')
    assert "mend it, or remove it" in h.apply("apply").stderr
    h.state_file.write_text("{")
    assert "can't be read" in h.apply("apply").stderr
    h.state_file.write_text(json.dumps({"version": 1, "gpus": {h.sim.gpu()["uuid"]: {"settings": {"fan": {}}}}}))
    assert "there is no setting 'fan'" in h.apply("apply").stderr
    path = {"settings": {"power_limit": {"limit": "much"}}}
    h.state_file.write_text(json.dumps({"version": 1, "gpus": {h.sim.gpu()["uuid"]: path}}))
    assert "makes no sense" in h.apply("apply").stderr


def test_no_file_asks_for_nothing_and_needs_no_driver(host):
    h = host("h100:1")
    h.sim("unload-driver", "--force")
    done = h.apply("apply")
    assert done.returncode == 0 and "asks for nothing" in done.stdout


def test_a_record_that_can_not_be_written_puts_the_gpus_back(host):
    h = host("h100:2")
    h.state_file.parent.parent.joinpath("etc").write_text("in the way")
    before = h.settings()
    result = h.fails("nvml_power_limit", gpus="all", limit="300W", persist=True)
    assert h.settings() == before and not result["changed"], result["msg"]


def test_the_file_is_whole_at_every_moment(tmp_path):
    path = tmp_path / "state.json"
    writer = (
        "import sys; from ansible_collections.esnode.core.plugins.module_utils import _nvml_records as r\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        f"    r.store({str(path)!r}, {{'GPU-1': {{'settings': {{'power_limit': {{'limit': str(n) * 2000}}}}}}}})\n"
        "    print(flush=True) if n == 3 else None\n"
    )
    for seconds in (0.01, 0.02, 0.05):
        process = subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE, env=environment())
        assert process.stdout and process.stdout.readline()
        for number in range(int(seconds * 1000)):
            assert records.load(str(path))["version"] == 1, number
        process.kill()
        process.communicate()
        assert records.load(str(path))["gpus"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_one_writer_at_a_time(tmp_path):
    code = (
        "import sys; from ansible_collections.esnode.core.plugins.module_utils import _nvml_records as r\n"
        f"with r.exclusive({str(tmp_path)!r}): print(flush=True); input()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout and process.stdout.readline()
    with pytest.raises(NvmlError, match="another process"), records.exclusive(str(tmp_path), patience_s=0.1):
        pass
    process.communicate(b"\n")
    with records.exclusive(str(tmp_path), patience_s=0.1):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NvmlError, match="can't be opened"), records.exclusive(str(tmp_path)):
        pass
    assert not (tmp_path / "elsewhere").exists()
