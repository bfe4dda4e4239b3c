# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host offers to the agent: where it may live there, who runs services, which Python fits, is the port free."""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import pwd
import socket
import stat

from ansible_collections.esnode.core.plugins.module_utils.command import Run, attempt

PYTHONS = ("3.13", "3.12", "3.11", "3.10")
MACHINES = ("x86_64", "aarch64")
GLIBC = (2, 28)  # the oldest that the locked wheels are built for
SOCKET = "esnode-core.socket"
# Argument spec of the options that doc_fragments/place.py describes.
PLACE: dict[str, dict[str, object]] = {
    "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
    "prefix": {"type": "str", "default": ""},
    "data_dir": {"type": "str", "default": ""},
}
_FREE_BYTES = 300 * 1000 * 1000  # a release takes 190 MB, the bundle twice 44 MB while it is unpacked


class HostError(Exception):
    """Why the agent can't be installed on this host, and what to do."""


def layout(scope: str, prefix: str = "", data_dir: str = "") -> dict[str, str]:
    """Who runs the agent and where its things are: {scope, manager, prefix, ..._dir, unit, socket}.

    `scope`: "system", "user", or "auto" (system for root). Empty paths get the scope's own. `log_dir` is the agent's;
    `service_log_dir` is where a supervisord keeps what the agent says, out of the agent's reach when it runs as root.
    """
    root = os.geteuid() == 0
    if scope == "auto":
        scope = "system" if root else "user"
    if scope == "system" and not root:
        raise HostError(
            f"a system-wide agent needs root, but this is {_name(os.geteuid())}: set ansible_become: true for these "
            "hosts, or esnode_agent_scope: user for an agent of this user alone"
        )
    if scope == "system":
        places = {
            "prefix": prefix or "/opt/esnode",
            "config_dir": "/etc/esnode",
            "data_dir": data_dir or "/var/lib/esnode",
            "log_dir": "/var/log/esnode",
            "service_log_dir": "/var/log/esnode-core",
            "run_dir": "/run/esnode",
            "unit": "/etc/systemd/system/esnode-core.service",
            "socket": "/etc/systemd/system/esnode-core.socket",
        }
    else:
        home = os.path.expanduser("~")
        base = prefix or os.path.join(home, ".local/share/esnode")
        places = {
            "prefix": base,
            "config_dir": os.path.join(home, ".config/esnode"),
            "data_dir": data_dir or os.path.join(base, "data"),
            "log_dir": os.path.join(base, "log"),
            "service_log_dir": os.path.join(base, "log"),
            "run_dir": os.path.join(base, "run"),
            "unit": os.path.join(home, ".config/systemd/user/esnode-core.service"),
            "socket": os.path.join(home, ".config/systemd/user/esnode-core.socket"),
        }
    return {"scope": scope, "manager": _manager(scope), **places}


def _manager(scope: str) -> str:
    """C(systemd) where one runs that takes services of this scope, else C(supervisor)."""
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return "supervisor"
    if scope == "system":
        return "systemd"
    bus = os.path.join("/run/user", str(os.geteuid()), "systemd/private")
    return "systemd" if os.path.exists(bus) else "supervisor"


def machine() -> str:
    """The architecture as wheels name it; raises HostError when there are no wheels for this host."""
    if platform.system() != "Linux":
        raise HostError(f"the agent runs on Linux; this is {platform.system()}")
    if platform.machine() not in MACHINES:
        raise HostError(f"no release for {platform.machine()}; there is one for {' and '.join(MACHINES)}")
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    number = (libc or "").partition(" ")[2]
    if not number or tuple(int(n) for n in number.split(".")[:2]) < GLIBC:
        raise HostError("the release needs glibc {0}.{1} or newer; this host has {2}".format(*GLIBC, libc or "another"))
    return platform.machine()


def find_python(wanted: str, scope: str, run: Run) -> tuple[str, str]:
    """(path, "3.11") of the Python that the agent shall run with.

    `wanted` is a path, or empty for the newest suitable one. In system scope the service's own user must be able to
    execute it.
    """
    if wanted:
        found, why = _inspect(wanted, scope, run)
        if why:
            raise HostError(f"esnode_agent_python: {wanted} {why}")
        return wanted, found
    places = [f"{d}/python{v}" for v in PYTHONS for d in ("/usr/bin", "/usr/local/bin")]
    places += ["/usr/bin/python3", "/usr/local/bin/python3", *sorted(glob.glob("/opt/python*/bin/python3"))]
    if scope == "user":
        places += [os.path.join(d, "python3") for d in os.environ.get("PATH", "").split(":") if d.startswith("/")]
    tried = []
    for path in places:
        if not os.path.exists(path):
            continue
        found, why = _inspect(path, scope, run)
        if not why:
            return path, found
        tried.append(f"{path} {why}")
    raise HostError(
        "no Python for the agent: it needs {0} to {1} (Debian 12, Ubuntu 22.04: apt install python3; RHEL 8, 9: dnf "
        "install python3.11), or esnode_agent_python as the path of one. {2}".format(
            PYTHONS[-1], PYTHONS[0], "; ".join(tried) or "None is here"
        )
    )


def _inspect(path: str, scope: str, run: Run) -> tuple[str, str]:
    """(version, "") of a usable interpreter, or ("", why it is of no use)."""
    code = "import json, ssl, sys, sysconfig, venv; print(json.dumps([sys.version_info[:2], sys.base_prefix, "
    code += "sys.implementation.name, bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
    status, said = attempt(run, [path, "-I", "-c", code], limit_s=30)
    if status:
        return "", "is not complete: " + (said.strip().splitlines() or ["?"])[-1]
    number, base, implementation, free_threaded = json.loads(said)
    version = ".".join(str(n) for n in number)
    if version not in PYTHONS or implementation != "cpython" or free_threaded:
        return "", f"is {implementation} {version}{' (free-threaded)' if free_threaded else ''}"
    if scope == "system":
        for place in (os.path.realpath(path), base):
            closed = _closed_to_others(place)
            if closed:
                return "", f"can't be executed by a service's own user: {closed} is closed to others"
    return version, ""


def _closed_to_others(path: str) -> str | None:
    """The first directory on the way to `path`, or the path, that other users may not enter or execute."""
    parts = path.strip("/").split("/")
    for count in range(1, len(parts) + 1):
        place = "/" + "/".join(parts[:count])
        if not os.stat(place).st_mode & stat.S_IXOTH:
            return place
    return None


def has_kernel_log() -> bool:
    """Whether the service manager can open the kernel log for the agent: root can, but not in most containers."""
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def check_libraries(python: str, run: Run) -> None:
    """Raise HostError when this Python finds no C++ library, which no wheel brings and numpy needs."""
    status, _said = attempt(run, [python, "-I", "-c", "import ctypes; ctypes.CDLL('libstdc++.so.6')"], limit_s=30)
    if status:
        raise HostError(
            "this host has no libstdc++.so.6, which the agent's numpy needs: apt-get install libstdc++6 (Debian, "
            "Ubuntu) or dnf install libstdc++. Nothing was installed."
        )


def check_space(prefix: str) -> None:
    """Raise HostError when a release would not fit below the prefix."""
    place = prefix
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if free < _FREE_BYTES:
        raise HostError(
            f"{place} has {free // 1000000} MB free; a release beside the running one needs {_FREE_BYTES // 1000000} MB"
        )


def check_listen(address: str, own: str, scope: str, run: Run) -> list[str]:
    """What a systemd socket has to listen on for "host:port": ["9100"], ["127.0.0.1:9100", "[::1]:9100"].

    Raises HostError when the agent could not listen there; it names who does. `own`: the prefix of the agent's own
    releases; a process that runs from there is no clash, nor is the agent's own socket unit.
    """
    host, _colon, port_text = address.rpartition(":")
    port = int(port_text)
    try:
        infos = socket.getaddrinfo(
            host.strip("[]") or None, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, socket.AI_PASSIVE
        )
    except OSError as error:
        raise HostError(f"listen address {address}: {host} is not known on this host: {error}") from error
    streams = []
    for family, kind, protocol, _name, where in infos:
        streams.append(f"[{where[0]}]:{port}" if family == socket.AF_INET6 else f"{where[0]}:{port}")
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(where)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                _refuse_unless_own(address, port, own, scope, run)
            elif error.errno == errno.EADDRNOTAVAIL:
                raise HostError(f"listen address {address}: this host has no address {host}") from error
            elif error.errno == errno.EACCES:
                raise HostError(
                    f"listen address {address}: ports below 1024 are for root, and the agent does not run as root; "
                    "choose another"
                ) from error
            elif error.errno == errno.EAFNOSUPPORT:
                streams.pop()
            else:
                raise HostError(f"listen address {address}: {error}") from error
    return sorted(set(streams)) if host else [port_text]


def _refuse_unless_own(address: str, port: int, own: str, scope: str, run: Run) -> None:
    holders, users = _listeners(port)
    others = []
    for pid in holders:
        if _runs_from(pid, own):
            continue
        unit = _socket_unit(port, scope, run) if _is_systemd(pid) else ""
        if unit != SOCKET:
            others.append(unit or f"{_command(pid)} (pid {pid})")
    if holders and not others:
        return
    if not others:
        others = ["a process of user " + ", ".join(sorted(users))] if users else ["another program"]
    raise HostError(
        f"listen address {address}: port {port} is taken by {', '.join(others)}. Stop it, or let the agent listen "
        "elsewhere with esnode_agent_listen_address (node_exporter's port is 9100 too). Nothing was installed."
    )


def _is_systemd(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip() == "systemd"
    except OSError:
        return False


def _socket_unit(port: int, scope: str, run: Run) -> str:
    """Name of the socket unit that listens on a TCP port; empty when there is none."""
    manager = ["systemctl", *(["--user"] if scope == "user" else [])]
    _code, said = attempt(run, [*manager, "list-sockets", "--no-legend", "--no-pager", "--full"])
    rows = [line.split() for line in said.splitlines()]
    return next((row[1] for row in rows if len(row) > 1 and row[0].rpartition(":")[2] == str(port)), "")


def _listeners(port: int) -> tuple[set[int], set[str]]:
    """({pid}, {user name}) that listen on a TCP port; pids as far as this user may see them."""
    inodes, users = set(), set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = [line.split() for line in stream.readlines()[1:]]
        except OSError:
            continue
        for row in rows:
            if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{row[9]}]")
                users.add(_name(int(row[7])))
    pids = set()
    for link in glob.iglob("/proc/[0-9]*/fd/[0-9]*"):
        try:
            if os.readlink(link) in inodes:
                pids.add(int(link.split("/")[2]))
        except OSError:
            continue
    return pids, users


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _arguments(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return [a.decode(errors="replace") for a in stream.read().split(b"\0") if a]
    except OSError:
        return []


def _command(pid: int) -> str:
    """Name of a process and its program, such as C(prometheus-node: /usr/bin/prometheus-node-exporter)."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            name = stream.read().strip()
    except OSError:
        name = "?"
    arguments = _arguments(pid)
    return f"{name}: {' '.join(arguments[:2])}" if arguments else name


def _runs_from(pid: int, prefix: str) -> bool:
    return any(
        a.startswith((os.path.join(prefix, "releases/"), os.path.join(prefix, "current/"))) for a in _arguments(pid)[:2]
    )


def agents(prefix: str) -> dict[int, str]:
    """{pid: release name} of the agents that run out of a prefix, whoever started them."""
    found = {}
    base = os.path.join(prefix, "releases") + "/"
    for directory in glob.iglob("/proc/[0-9]*"):
        pid = int(directory.rpartition("/")[2])
        arguments = _arguments(pid)
        # argv of a script is [interpreter of its release, script, ...].
        is_agent = len(arguments) > 2 and arguments[1].endswith("/bin/esnode-core") and "run" in arguments[2:]
        if is_agent and arguments[0].startswith(base):
            found[pid] = arguments[0][len(base) :].split("/")[0]
    return found
