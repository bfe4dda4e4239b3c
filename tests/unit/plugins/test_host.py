# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is asked before anything is installed: real sockets, real interpreters."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.module_utils import host
from ansible_collections.esnode.core.plugins.module_utils.host import HostError

COLLECTIONS = Path(__file__).resolve().parents[3] / "collections"


def run(command: list[str]) -> tuple[int, str, str]:
    """Stands in the place of AnsibleModule.run_command."""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.mark.parametrize("shape", ["127.0.0.1:{}", "0.0.0.0:{}", ":{}", "localhost:{}"])
def test_a_taken_port_is_refused_and_its_holder_named(listener: socket.socket, shape: str) -> None:
    address = shape.format(listener.getsockname()[1])
    with pytest.raises(HostError) as caught:
        host.check_listen(address, "/opt/esnode", "system", run)
    assert f"(pid {os.getpid()})" in str(caught.value) and address in str(caught.value)


def test_a_port_of_our_own_agent_is_no_clash(tmp_path: Path) -> None:
    # The agent's command line as it is on a host: the interpreter of its release, then the script.
    script = tmp_path / "releases" / "1.0.0-aaaaaaaaaaaa" / "bin" / "esnode-core"
    script.parent.mkdir(parents=True)
    script.write_text("import socket, sys\ns = socket.create_server(('127.0.0.1', 0))\n"
                      "print(s.getsockname()[1], flush=True)\nsys.stdin.read()\n")  # fmt: skip
    python = script.with_name("python")
    python.symlink_to(sys.executable)
    command = [str(python), str(script), "run"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stdout
            address = f"127.0.0.1:{agent.stdout.readline().strip()}"
            host.check_listen(address, str(tmp_path), "system", run)
            assert host.agents(str(tmp_path)) == {agent.pid: "1.0.0-aaaaaaaaaaaa"}
            with pytest.raises(HostError, match="is taken by"):
                host.check_listen(address, "/opt/elsewhere", "system", run)
        finally:
            agent.communicate("")


@pytest.mark.parametrize(
    ("address", "said"), [("192.0.2.1:9", "has no address"), ("no-such-host.invalid:9100", "is not known on this host")]
)
def test_an_impossible_address_is_refused(address: str, said: str) -> None:
    with pytest.raises(HostError, match=said):
        host.check_listen(address, "/opt/esnode", "system", run)


def test_a_free_port_is_fine(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    listener.close()
    host.check_listen(f"127.0.0.1:{port}", "/opt/esnode", "system", run)


def interpreter(folder: Path, answer: str) -> str:
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return str(path)


def test_finds_a_python_and_tells_its_version() -> None:
    wanted = os.path.realpath(sys.executable)
    assert host.find_python(wanted, "user", run) == (wanted, "{}.{}".format(*sys.version_info))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("""echo '[[3, 9], "/usr", "cpython", false]'""", "is cpython 3.9"),
        ("""echo '[[3, 13], "/usr", "cpython", true]'""", "free-threaded"),
        ("""echo '[[3, 11], "/usr", "pypy", false]'""", "is pypy 3.11"),
        ("echo \"ModuleNotFoundError: No module named 'venv'\" >&2; exit 1", "is not complete: .*venv"),
    ],
)
def test_an_unfit_python_is_refused_with_the_reason(tmp_path: Path, answer: str, said: str) -> None:
    with pytest.raises(HostError, match=said):
        host.find_python(interpreter(tmp_path, answer), "user", run)


def test_a_host_without_the_cpp_library_is_told_what_to_install(tmp_path: Path) -> None:
    host.check_libraries(sys.executable, run)
    with pytest.raises(HostError, match=r"no libstdc\+\+.so.6.*apt-get install libstdc\+\+6"):
        host.check_libraries(interpreter(tmp_path, "echo 'OSError: libstdc++.so.6: no such file' >&2; exit 1"), run)


def test_a_python_that_the_service_user_cannot_reach_is_refused_in_system_scope(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    python = interpreter(closed, """echo '[[3, 11], "/usr", "cpython", false]'""")
    tmp_path.chmod(0o755)
    assert host.find_python(python, "user", run) == (python, "3.11")
    with pytest.raises(HostError, match="is closed to others"):
        host.find_python(python, "system", run)


def test_layout_of_a_user_lies_below_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places = host.layout("user")
    folders = [v for k, v in places.items() if k.endswith("_dir") or k in ("prefix", "unit")]
    assert len(folders) == 7 and all(f.startswith(f"{tmp_path}/") for f in folders)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_system_scope_without_root_says_what_to_do() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from ansible_collections.esnode.core.plugins.module_utils.host import HostError, layout\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: layout('system')\nexcept HostError as e: print(e)\n"
    )
    command = [sys.executable, "-c", code, str(COLLECTIONS)]
    said = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert "ansible_become: true" in said.stdout, said.stderr
    assert host.layout("auto")["scope"] == "system"


def test_too_little_space_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    host.check_space(str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setattr(host, "_FREE_BYTES", 1 << 60)
    with pytest.raises(HostError, match=f"{tmp_path} has .* MB free"):
        host.check_space(str(tmp_path / "not" / "there" / "yet"))
