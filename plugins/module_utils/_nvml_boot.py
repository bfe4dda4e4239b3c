# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that have the desired state of GPUs applied at boot and after a reload of the driver.

A program of this collection's own modules in one file, a service that runs it, and a timer that looks once a minute
whether the driver or the record is another one than was applied.
"""

from __future__ import annotations

import fnmatch
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import typing as t
import zipfile

from . import _nvml_apply, nvml
from ._nvml_records import RUN_DIR, STATE_FILE
from .nvml import NvmlError

PROGRAM = "/usr/local/sbin/esnode-gpu-state"
UNITS = "/etc/systemd/system"
SERVICE = "esnode-gpu-state.service"
WATCH = "esnode-gpu-state-watch.service"
TIMER = "esnode-gpu-state-watch.timer"

_PACKAGE = "esnode_gpu_state"
_BINDING = "pynvml.py"
# What _nvml_apply is made of.
_PARTS = (
    "_nvml_apply",
    "_nvml_change",
    "_nvml_clocks",
    "_nvml_instances",
    "_nvml_mig",
    "_nvml_modes",
    "_nvml_power",
    "_nvml_records",
    "nvml",
)
_MAIN = f"from {_PACKAGE}._nvml_apply import main\n\nraise SystemExit(main())\n"

_SERVICE = """\
# Installed by esnode.core.gpu_state_service.
[Unit]
Description=Recorded settings of the GPUs
ConditionPathExists={state_file}
After=nvidia-persistenced.service systemd-modules-load.service
RequiresMountsFor={run_path}

[Service]
Type=oneshot
RemainAfterExit=yes
# The driver may come up later than this.
ExecStart={command} apply --wait 60
TimeoutStartSec=180
# Clock locks have no getter: what was set is noted there, and must outlive the service.
{run_dir}
# NVML takes root. What it needs besides: to set (SYS_ADMIN), and to make device nodes where nothing else has.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_MKNOD CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_SETUID CAP_SETGID
NoNewPrivileges=yes
LockPersonality=yes
PrivateNetwork=yes
PrivateTmp=yes
# Not ProtectControlGroups: in a container it shows another boot_id, by which notes are told from those of other boots.
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0022

[Install]
WantedBy=multi-user.target
"""

_WATCH = """\
# Installed by esnode.core.gpu_state_service.
[Unit]
Description=Look whether the GPUs' driver was loaded anew
ConditionPathExists={state_file}
# Not while the record is being applied: to restart that would end it half way, again each minute where it takes longer.
After={service}

[Service]
Type=oneshot
# 75: nothing is new.
SuccessExitStatus=75
ExecStart=/bin/sh -c '"$$@" is-new && exec systemctl restart --no-block {service}' sh {command}
# A line a minute says nothing.
LogLevelMax=notice
"""

_TIMER = """\
# Installed by esnode.core.gpu_state_service.
[Unit]
Description=Look each minute whether the GPUs' driver was loaded anew

[Timer]
# By the calendar: after a look that its condition has skipped there is no end to count from.
OnCalendar=minutely
AccuracySec=10s

[Install]
WantedBy=timers.target
"""


def program() -> str:
    """The program as text with surrogates for its bytes: the same bytes for the same sources and Python."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN.encode())
        _add(archive, f"{_PACKAGE}/__init__.py", b"")
        for name in _PARTS:
            _add(archive, f"{_PACKAGE}/{name}.py", _source(name).encode())
        interpreter, binding = _runs_with()
        if binding:
            _add(archive, _BINDING, binding)
    return (f"#!{interpreter}\n".encode() + content.getvalue()).decode(errors="surrogateescape")


def _source(name: str) -> str:
    """Of a sibling, wherever it was loaded from: Ansible brings modules in a zip file."""
    # By the import of _nvml_apply Ansible knows that all of them have to be in that zip.
    module = importlib.import_module(f".{name}", _nvml_apply.__package__)
    source: str | None = t.cast("t.Any", module.__spec__).loader.get_source(module.__name__)
    if source is None:
        raise RuntimeError(f"the source of {module.__name__} can't be read")
    return source


def _runs_with() -> tuple[str, bytes | None]:
    """The Python, and the source of pynvml if that is the agent's: the program must outlive the agent."""
    try:
        path = str(nvml.binding().__file__)
    except NvmlError:
        return _installed_with()
    if not fnmatch.fnmatch(path, f"{nvml.AGENT_PACKAGES}/*"):
        return sys.executable, None
    with open(path, "rb") as stream:
        return sys.executable, stream.read()


def _installed_with() -> tuple[str, bytes | None]:
    """The same of the program that is there: a worse one must not take its place where the agent has gone."""
    try:
        with open(PROGRAM, "rb") as stream:
            interpreter = stream.readline().decode(errors="replace").removeprefix("#!").strip()
            with zipfile.ZipFile(stream) as archive:
                if _BINDING in archive.namelist():
                    return sys.executable, archive.read(_BINDING)
        # There is no module here whose run_command could be used.
        found = subprocess.run(  # pylint: disable=ansible-bad-function
            [interpreter, "-I", "-c", "import pynvml"], capture_output=True, check=False
        )
    except (OSError, zipfile.BadZipFile):
        return sys.executable, None
    return sys.executable if found.returncode else interpreter, None


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def texts(state_file: str, run_dir: str) -> dict[str, tuple[str, int]]:
    """{path: (text, mode)} of all the files."""
    arguments = []
    if state_file != STATE_FILE:
        arguments += ["--state-file", state_file]
    if run_dir != RUN_DIR:
        arguments += ["--run-dir", run_dir]
    command = " ".join(shlex.quote(a) for a in (PROGRAM, *arguments)).replace("%", "%%")
    known = {
        "state_file": state_file.replace("%", "%%"),
        "command": command,
        "run_dir": _folder(run_dir),
        "run_path": run_dir.replace("%", "%%"),
        "service": SERVICE,
    }
    return {
        PROGRAM: (program(), 0o755),
        f"{UNITS}/{SERVICE}": (_SERVICE.format(**known), 0o644),
        f"{UNITS}/{WATCH}": (_WATCH.format(**known), 0o644),
        f"{UNITS}/{TIMER}": (_TIMER, 0o644),
    }


def _folder(run_dir: str) -> str:
    """The lines of the service that have this folder there and writable: /run is empty after a boot."""
    below_run = re.fullmatch(r"(?:/var)?/run/([\w.-]+(?:/[\w.-]+)*)", os.path.normpath(run_dir))
    if below_run:
        return f"RuntimeDirectory={below_run[1]}\nRuntimeDirectoryPreserve=yes"
    # Made when this was installed. Where it has gone the program says so, and not systemd with 226/NAMESPACE.
    return f"ReadWritePaths=-{run_dir.replace('%', '%%')}"


def wanted(state_file: str, run_dir: str) -> dict[str, t.Any]:
    """The files as module_utils/files.py takes them."""
    return {
        path: {"text": text, "mode": mode, "uid": 0, "gid": 0}
        for path, (text, mode) in texts(state_file, run_dir).items()
    }
