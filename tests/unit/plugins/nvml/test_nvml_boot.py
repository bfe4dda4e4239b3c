# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is run at boot: one file that needs nothing of Ansible, and knows whether there is something to do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
import zipfile
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import _nvml_boot, _nvml_records, files, nvml
from nvml_host import Host

NOTHING_NEW = 75


def test_the_program_is_one_file_that_applies_the_record(host, tmp_path: Path) -> None:
    h: Host = host("h100:2")
    h.ok("nvml_persistence_mode", gpus="all", persist=True)
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim("reboot")
    assert h.limits() == [700000] * 2
    program = tmp_path / "esnode-gpu-state"
    assert _nvml_boot.program() == _nvml_boot.program()
    content = {"text": _nvml_boot.program(), "mode": 0o755, "uid": os.geteuid(), "gid": os.getegid()}
    files.put({str(program): content})
    assert files.differing({str(program): content}) == [], "what is read back is what was written, byte for byte"
    environment = {name: value for name, value in h.env.items() if name != "PYTHONPATH"}
    where = ["--state-file", str(h.state_file), "--run-dir", str(h.run_dir)]
    done = subprocess.run([str(program), *where, "apply"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert h.limits() == [300000] * 2 and len(done.stdout.splitlines()) == 2


def runs_with(program: Path) -> tuple[str, bool]:
    """Its Python, and whether it brings pynvml."""
    with zipfile.ZipFile(program) as archive:
        brings = "pynvml.py" in archive.namelist()
    return program.read_bytes().splitlines()[0].decode(), brings


def test_it_goes_on_working_when_the_agent_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> None:
        raise nvml.NoGpuError("nvidia-ml-py is not there")

    def install() -> tuple[str, bool]:
        content = {"text": _nvml_boot.program(), "mode": 0o755, "uid": os.geteuid(), "gid": os.getegid()}
        files.put({str(program): content})
        return runs_with(program)

    program = tmp_path / "esnode-gpu-state"
    here = f"#!{sys.executable}"
    monkeypatch.setattr(_nvml_boot, "PROGRAM", str(program))
    monkeypatch.setattr(nvml, "AGENT_PACKAGES", f"{tmp_path}/agent")
    agents = tmp_path / "agent/pynvml.py"
    agents.parent.mkdir()
    agents.write_text("# the agent's")
    monkeypatch.setattr(nvml, "binding", gone)
    assert install() == (here, False), "there has never been one"
    monkeypatch.setattr(nvml, "binding", lambda: types.SimpleNamespace(__file__=str(agents)))
    assert install() == (here, True)
    monkeypatch.setattr(nvml, "binding", gone)
    assert install() == (here, True)
    # Installed with a Python that has the binding, looked at again with one that has not.
    for code, kept in (0, True), (1, False):
        other = tmp_path / f"python{code}"
        other.write_text(f"#!/bin/sh\nexit {code}\n")
        other.chmod(0o755)
        monkeypatch.setattr(nvml, "binding", lambda: types.SimpleNamespace(__file__="/usr/lib/python3/pynvml.py"))
        monkeypatch.setattr(sys, "executable", str(other))
        assert install() == (f"#!{other}", False)
        monkeypatch.undo()
        monkeypatch.setattr(_nvml_boot, "PROGRAM", str(program))
        monkeypatch.setattr(nvml, "binding", gone)
        assert install() == (f"#!{other}" if kept else here, False)


def test_only_another_driver_or_record_is_new(host) -> None:
    h: Host = host("h100:1")
    h.sim("persistenced", "on")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    assert h.apply("is-new").returncode == 0, "nothing was applied since the boot"
    assert h.apply("apply", "--check").returncode == 0
    assert h.apply("is-new").returncode == 0, "check has applied nothing"
    assert h.apply("apply").returncode == 0
    assert h.apply("is-new").returncode == NOTHING_NEW
    h.ok("nvml_power_limit", gpus="all", limit="400W", persist=True)
    assert h.apply("is-new").returncode == 0
    seen = _nvml_records.signs(str(h.state_file))
    _nvml_records.note_applied(str(h.run_dir), seen, True)
    assert not _nvml_records.is_new(str(h.run_dir), seen)
    assert _nvml_records.is_new(str(h.run_dir), {**seen, "driver": 4711})
    (h.run_dir / "applied.json").write_text("{")
    assert _nvml_records.is_new(str(h.run_dir), seen), "a damaged note is none"


def test_what_failed_is_tried_again_after_a_while(host, monkeypatch) -> None:
    h: Host = host("h100:2")
    h.sim("persistenced", "on")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim("lose", 1)
    assert h.apply("apply").returncode == 1
    assert h.apply("is-new").returncode == NOTHING_NEW
    monkeypatch.setattr(_nvml_records, "_RETRY_S", 0)
    assert _nvml_records.is_new(str(h.run_dir), _nvml_records.signs(str(h.state_file)))


def test_it_waits_for_the_driver(host) -> None:
    h: Host = host("h100:1")
    h.sim("persistenced", "on")
    h.ok("nvml_power_limit", gpus="all", limit="300W", persist=True)
    h.sim("unload-driver", "--force")
    at_once = h.apply("apply")
    assert at_once.returncode == 1 and "driver is not loaded" in at_once.stderr
    timer = threading.Timer(1.5, lambda: h.sim("load-driver"))
    timer.start()
    try:
        done = h.apply("apply", "--wait", "60")
    finally:
        timer.join()
    assert done.returncode == 0, done.stderr
    assert h.limits() == [300000]


def test_units_name_other_places_and_keep_percent_signs() -> None:
    usual = _nvml_boot.texts(_nvml_records.STATE_FILE, _nvml_records.RUN_DIR)
    service = usual[f"{_nvml_boot.UNITS}/{_nvml_boot.SERVICE}"][0]
    assert "ExecStart=/usr/local/sbin/esnode-gpu-state apply --wait 60\n" in service
    assert "RuntimeDirectory=esnode-gpu\nRuntimeDirectoryPreserve=yes\n" in service
    watch = usual[f"{_nvml_boot.UNITS}/{_nvml_boot.WATCH}"][0]
    assert f"After={_nvml_boot.SERVICE}\n" in watch, "an apply that takes a minute must not be restarted"
    odd = _nvml_boot.texts("/etc/50%/state.json", "/run/gpus")
    service = odd[f"{_nvml_boot.UNITS}/{_nvml_boot.SERVICE}"][0]
    assert "--state-file '/etc/50%%/state.json'" in service or "--state-file /etc/50%%/state.json" in service
    assert "ConditionPathExists=/etc/50%%/state.json\n" in service


def lines_of(run_dir: str) -> list[str]:
    service = _nvml_boot.texts("/etc/esnode/gpu-state.json", run_dir)[f"{_nvml_boot.UNITS}/{_nvml_boot.SERVICE}"][0]
    return [line for line in service.splitlines() if line.startswith(("Runtime", "ReadWrite"))]


def test_the_service_makes_the_folder_that_it_writes_to() -> None:
    """A sandbox with a path to write to that is not there ends with 226/NAMESPACE."""
    for below_run in ("/run/gpus", "/var/run/gpus", "/run/gpus/"):
        assert lines_of(below_run) == ["RuntimeDirectory=gpus", "RuntimeDirectoryPreserve=yes"]
    assert lines_of("/run/site/gpus")[0] == "RuntimeDirectory=site/gpus"
    for elsewhere in ("/srv/gpus", "/run", "/run/../srv/gpus", "/runs/gpus"):
        assert lines_of(elsewhere) == [f"ReadWritePaths=-{elsewhere}"]
    assert lines_of("/srv/50%/gpus") == ["ReadWritePaths=-/srv/50%%/gpus"]
