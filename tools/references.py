#!/usr/bin/env python3
# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write docs/metrics.md and docs/configuration.md from the agent's own tables.

`python tools/references.py` writes both; `--check` fails when one is not what it would write.
Needs the agent's dependencies on the path.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "roles/esnode_agent/files/esnode/src"))

import msgspec  # noqa: E402
from esnode import catalogue, config, config_file  # noqa: E402

_GROUPS = {
    "gpu": "GPU",
    "mig": "MIG",
    "app": "Application",
    "cpu": "CPU and kernel",
    "memory": "Memory",
    "swap": "Memory",
    "numa": "Memory",
    "edac": "Memory",
    "oom": "Memory",
    "major": "Memory",
    "filesystem": "Disk",
    "disk": "Disk",
    "network": "Network",
    "tcp": "Network",
    "infiniband": "Network",
    "node": "Power of the host",
}
_PREFIX_EXCEPTIONS = {
    "esnode_cpu_package_energy_joules_total": "Power of the host",
    "esnode_cpu_package_power_watts": "Power of the host",
    "esnode_cpu_dram_energy_joules_total": "Power of the host",
}
_KERNEL = ("load", "context", "interrupts", "procs", "pressure", "boot", "clock")


def _group(name: str) -> str:
    word = name.removeprefix("esnode_").split("_")[0]
    if word.startswith(_KERNEL):
        return "CPU and kernel"
    return _PREFIX_EXCEPTIONS.get(name) or _GROUPS.get(word, "The agent itself")


def metrics() -> Iterator[str]:
    """The page on metrics, line by line."""
    yield "# Metrics"
    yield ""
    yield "Written by `python tools/references.py` from the catalogue; every family that the agent can serve."
    yield "What cannot be read on a machine is absent, never 0. A collector that failed in part has"
    yield "`esnode_collector_up` 0 and still serves the rest; one that has nothing to read here has no series at all."
    groups: dict[str, list[catalogue.Family]] = {}
    for family in catalogue.FAMILIES.values():
        groups.setdefault(_group(family.name), []).append(family)
    for group, families in groups.items():
        yield ""
        yield f"## {group}"
        yield ""
        yield "| family | type | unit | labels | |"
        yield "| --- | --- | --- | --- | --- |"
        for family in families:
            labels = ", ".join(family.labels)
            yield f"| `{family.name}` | {family.kind} | {family.unit} | {labels} | {family.help} |"


def _described(section: type) -> dict[str, str]:
    """What each key of a section does: the string below it in the source."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(section)).body if isinstance(node, ast.ClassDef))
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = str(text.value.value)
    return found


def configuration() -> Iterator[str]:
    """The page on the configuration, line by line."""
    yield "# Configuration"
    yield ""
    yield "Written by `python tools/references.py` from the structs that read the file."
    yield ""
    restart = ", ".join(f"`{key}`" for key in config.RESTART_ONLY)
    inactive = ", ".join(f"`[{name}]`" for name in config.NOT_ACTIVE_YET)
    yield f"""\
`/etc/esnode/esnode.toml` is read strictly: an unknown key, a wrong type, a certificate that cannot be read or keys that
cannot be together stop the start, all mistakes at once, each with file, key, value and what would be right. Try a file
with `esnode-core check-config --config FILE`. `${{NAME}}` in a text is replaced by that environment variable.

`SIGHUP` (or `systemctl reload esnode-core`) reads the file again. A file with a mistake is refused and the old
configuration stays. A renewed certificate or key is taken by a reload. These keys need a restart, and a reload says so:
{restart}.

The sections {inactive} are checked but not active in this version; the agent says so when it starts."""
    for section in msgspec.structs.fields(config.Config):
        yield ""
        yield f"## [{section.name}]"
        yield ""
        yield "| key | default | right is | |"
        yield "| --- | --- | --- | --- |"
        does = _described(section.type)
        for key in msgspec.structs.fields(section.type):
            default = key.default if key.default is not msgspec.NODEFAULT else key.default_factory()
            shown = f"`{config_file.show(default)}`" if default is not None else "not set"
            yield f"| `{key.name}` | {shown} | {config_file.expected(key.type)} | {does[key.name]} |"


def main(arguments: list[str]) -> int:
    """Write or check the pages; the exit code."""
    stale = []
    for name, lines in (("metrics", metrics()), ("configuration", configuration())):
        path = ROOT / f"docs/{name}.md"
        text = "\n".join(lines) + "\n"
        if arguments == ["--check"]:
            if not path.exists() or path.read_text() != text:
                stale.append(str(path.relative_to(ROOT)))
        else:
            path.write_text(text)
    if stale:
        print(f"{', '.join(stale)}: not what the code says; run python tools/references.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
