#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: esnode_release
short_description: Install a release of the esnode agent beside the others
version_added: 1.0.0
description:
  - Asks the host for its Python, architecture and running services, and refuses what can't work before anything is
    installed.
  - Builds the release for that kind of host once on the controller (the agent's wheel and all its dependencies,
    locked and hashed), sends it when the host lacks it, and installs it offline in a virtual environment of its own,
    C(<prefix>/releases/<version>-<digest>/).
  - A release that was installed only half way is wiped and installed again.
  - Nothing is activated; M(esnode.core.esnode_service) does that.
author:
  - The esnode authors (@esnode)
extends_documentation_fragment:
  - esnode.core.place
options:
  state:
    description:
      - With V(present) the release that this collection ships is installed.
      - With V(absent) every release is removed, and what the role has configured. Files of others in the folder of the
        configuration stay. Stop the service before.
    type: str
    choices: [present, absent]
    default: present
  python:
    description:
      - Path of the Python on the host that the agent shall run with, 3.10 to 3.13.
      - Empty means the newest suitable one.
    type: str
    default: ""
  listen_address:
    description:
      - C(host:port) that the agent will listen on. Refused before anything is installed when another program has it;
        the program is named.
      - Empty means no check.
    type: str
    default: ""
  version:
    description:
      - Version that is expected. The collection ships one version of the agent, and refuses another.
      - Empty means the one that is shipped.
    type: str
    default: ""
  cache_dir:
    description: Folder on the controller where built releases are kept. Empty means C(~/.cache/esnode/releases).
    type: str
    default: ""
  wheelhouse:
    description:
      - Folder on the controller with the locked wheels, for a controller that reaches no Python package index.
    type: str
    default: ""
  name:
    description: Name of the release. The controller's side of this module sets it.
    type: str
    default: ""
  bundle:
    description: Path on the host of the bundle to install. The controller's side of this module sets it.
    type: str
    default: ""
attributes:
  check_mode:
    description: The host is asked and checked; nothing is built, sent or installed.
    support: full
  diff_mode:
    description: Lists the releases before and after.
    support: full
  idempotent:
    description: A release that is completely installed is left alone.
    support: full
  platform:
    description: Linux with glibc 2.28 or newer on x86_64 or aarch64.
    platforms: linux
    support: full
seealso:
  - module: esnode.core.esnode_service
"""

EXAMPLES = r"""
- name: Install the release that this collection ships
  esnode.core.esnode_release:
    listen_address: 0.0.0.0:9100
  register: release

- name: Remove every release
  esnode.core.esnode_release:
    state: absent
"""

RETURN = r"""
name:
  description: Name of the release, C(<version>-<digest>).
  returned: when O(state=present)
  type: str
  sample: 1.0.0-0123456789ab
version:
  description: Version of the agent in the release.
  returned: when O(state=present)
  type: str
  sample: 1.0.0
installed:
  description: Releases that were completely installed before, the oldest first.
  returned: success
  type: list
  elements: str
  sample: ["0.9.0-ba9876543210"]
current:
  description: Release that was active; empty when there was none.
  returned: success
  type: str
  sample: 0.9.0-ba9876543210
python:
  description: Python on the host that the release is made with.
  returned: when O(state=present)
  type: str
  sample: /usr/bin/python3.11
python_version:
  description: Its version.
  returned: when O(state=present)
  type: str
  sample: "3.11"
machine:
  description: Architecture of the host.
  returned: when O(state=present)
  type: str
  sample: x86_64
kept:
  description: Paths in the folder of the configuration that belong to others and stay.
  returned: when O(state=absent)
  type: list
  elements: str
  sample: [/etc/esnode/gpu-state.json]
kernel_log:
  description: Whether C(/dev/kmsg) can be opened by the user who deploys. The unit hands it to the agent then.
  returned: when O(state=present)
  type: bool
  sample: true
layout:
  description: Where the agent and its things live on this host.
  returned: success
  type: dict
  contains:
    scope:
      description: V(system) or V(user).
      type: str
      sample: system
    manager:
      description: What runs the service, V(systemd) or V(supervisor).
      type: str
      sample: systemd
    prefix:
      description: Folder of the releases.
      type: str
      sample: /opt/esnode
    config_dir:
      description: Folder of the configuration.
      type: str
      sample: /etc/esnode
    data_dir:
      description: Folder of the data.
      type: str
      sample: /var/lib/esnode
    log_dir:
      description: Folder of the logs that the agent writes.
      type: str
      sample: /var/log/esnode
    service_log_dir:
      description: Folder where a supervisor keeps the agent's standard error.
      type: str
      sample: /var/log/esnode-core
    run_dir:
      description: Folder of sockets and pid files.
      type: str
      sample: /run/esnode
    unit:
      description: Path of the systemd unit.
      type: str
      sample: /etc/systemd/system/esnode-core.service
    socket:
      description: Path of the systemd socket unit that holds the port.
      type: str
      sample: /etc/systemd/system/esnode-core.socket
listen_streams:
  description: What the socket unit listens on for O(listen_address); names are resolved on the host.
  returned: when O(listen_address) is given
  type: list
  elements: str
  sample: ["0.0.0.0:9100"]
"""

import contextlib
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils import host, release


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            **host.PLACE,
            "python": {"type": "str", "default": ""},
            "listen_address": {"type": "str", "default": ""},
            # The action plugin on the controller takes these three out.
            "version": {"type": "str", "default": ""},
            "cache_dir": {"type": "str", "default": ""},
            "wheelhouse": {"type": "str", "default": ""},
            # Set by it.
            "name": {"type": "str", "default": ""},
            "bundle": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_answer(module))
    except (host.HostError, release.ReleaseError) as error:
        module.fail_json(msg=str(error))


def _answer(module: AnsibleModule) -> dict[str, t.Any]:
    options = module.params
    layout = host.layout(options["scope"], options["prefix"], options["data_dir"])
    prefix = layout["prefix"]
    found: dict[str, t.Any] = {
        "layout": layout,
        "installed": release.installed(prefix),
        "current": release.current(prefix) or "",
    }
    if options["state"] == "absent":
        return {**found, **_absent(module, layout)}
    python, version = host.find_python(options["python"], layout["scope"], module.run_command)
    if options["bundle"]:
        release.install(prefix, options["name"], options["bundle"], python, module.run_command)
        return {"changed": True}
    found.update(python=python, python_version=version, machine=host.machine(), kernel_log=host.has_kernel_log())
    host.check_libraries(python, module.run_command)
    host.check_space(prefix)
    if options["listen_address"]:
        found["listen_streams"] = host.check_listen(
            options["listen_address"], prefix, layout["scope"], module.run_command
        )
    return {"changed": False, **found}


def _absent(module: AnsibleModule, layout: dict[str, str]) -> dict[str, t.Any]:
    prefix, folder = layout["prefix"], layout["config_dir"]
    there = release.leftovers(prefix) + release.configuration(folder)
    if os.path.isdir(folder) and not os.listdir(folder):
        there.append(folder)  # others kept files in it at an earlier removal
    if there and not module.check_mode:
        with release.locked(prefix) if release.leftovers(prefix) else contextlib.nullcontext():
            release.remove_all(prefix)
            release.remove_configuration(folder)
    ours = {os.path.basename(path) for path in release.configuration(folder)}
    kept = (
        [os.path.join(folder, n) for n in sorted(os.listdir(folder)) if n not in ours] if os.path.isdir(folder) else []
    )
    result: dict[str, t.Any] = {"changed": bool(there), "kept": kept}
    if module._diff and there:
        result["diff"] = {"before": "".join(f"{p}\n" for p in there), "after": ""}
    return result


if __name__ == "__main__":
    main()
