#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: esnode_service
short_description: Run a release of the esnode agent and see that it is healthy
version_added: 1.0.0
description:
  - Points C(<prefix>/current) at a release, starts the agent or restarts or reloads it as far as needed, and waits
    until it is healthy.
  - What is needed is decided from what runs and not from what a play has changed. So a play that was interrupted
    between a change and the restart is completed by the next one.
  - The agent is restarted when another release runs than the wanted one, when the definition of its service is newer
    than its process, or when it does not answer. It is reloaded when its configuration is newer than what it has
    read.
  - Healthy means that C(/healthz) and C(/readyz) answer 200, the wanted version is served, at least one collector
    reads, and no collector and no GPU that was fine before the change is missing after it. When the agent does not get
    there in time the module fails with what is wrong and the last lines of its log.
author:
  - The esnode authors (@esnode)
options:
  state:
    description:
      - With V(started) the release runs.
      - With V(absent) the agent is stopped and its service is removed.
    type: str
    choices: [started, absent]
    default: started
  scope:
    description: As for M(esnode.core.esnode_release).
    type: str
    choices: [auto, system, user]
    default: auto
  prefix:
    description: As for M(esnode.core.esnode_release).
    type: str
    default: ""
  data_dir:
    description: As for M(esnode.core.esnode_release).
    type: str
    default: ""
  release:
    description: Name of the installed release that shall run. Required with O(state=started).
    type: str
  config:
    description: Path of C(esnode.toml). Required with O(state=started).
    type: path
  listen_address:
    description: C(host:port) that the agent listens on. Required with O(state=started).
    type: str
  certificate:
    description: Path of the certificate that the agent serves. Empty when it serves plain HTTP.
    type: path
  allow_fewer_gpus:
    description: Take it for healthy when the agent sees fewer GPUs than before, since some were taken out.
    type: bool
    default: false
  keep_releases:
    description: How many releases stay installed. Older ones are removed once the new one is healthy.
    type: int
    default: 3
  timeout:
    description: Seconds that the agent has to become healthy.
    type: int
    default: 45
  pending:
    description:
      - What the changes of earlier tasks call for. Looked at in check mode alone, where those tasks have changed
        nothing that could be seen.
    type: str
    choices: [none, reload, restart]
    default: none
attributes:
  check_mode:
    description: Says what would be done; nothing is.
    support: full
  diff_mode:
    description: Shows release and action.
    support: full
  idempotent:
    description: A healthy agent of the wanted release with the wanted configuration is left alone.
    support: full
  platform:
    description: Linux with systemd, or with the supervisor that the release brings.
    platforms: linux
    support: full
seealso:
  - module: esnode.core.esnode_release
"""

EXAMPLES = r"""
- name: Run the release
  esnode.core.esnode_service:
    release: "{{ release.name }}"
    config: /etc/esnode/esnode.toml
    listen_address: 0.0.0.0:9100

- name: Stop the agent and remove its service
  esnode.core.esnode_service:
    state: absent
"""

RETURN = r"""
action:
  description: What was done, or would be in check mode, V(none), V(start), V(restart), V(reload) or V(remove).
  returned: success
  type: str
  sample: restart
reason:
  description: Why.
  returned: success
  type: str
  sample: release 0.9.0-ba9876543210 runs
url:
  description: Where the agent answers on this host.
  returned: when O(state=started)
  type: str
  sample: http://127.0.0.1:9100
listen_address:
  description: Address that it listens on.
  returned: when O(state=started)
  type: str
  sample: 0.0.0.0:9100
manager:
  description: What runs the agent, V(systemd) or V(supervisor).
  returned: when O(state=started)
  type: str
  sample: systemd
agent:
  description: What the healthy agent says of itself. Not in check mode when the agent is not running.
  returned: when O(state=started)
  type: dict
  contains:
    version:
      description: Version served.
      type: str
      sample: 1.0.0
    gpus:
      description: Models of the GPUs that the agent sees.
      type: list
      elements: str
      sample: [NVIDIA H100 80GB HBM3]
    collectors:
      description: State of each collector.
      type: dict
      sample: {cpu: ok, gpu: not_present}
layout:
  description: Where the agent and its things live on this host, as M(esnode.core.esnode_release) returns it.
  returned: success
  type: dict
  sample: {scope: system, manager: systemd, prefix: /opt/esnode}
pruned:
  description: Old and half-installed releases that were removed.
  returned: when O(state=started)
  type: list
  elements: str
  sample: []
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils import command, health, host, release, service

if t.TYPE_CHECKING:
    Manager = t.Union[service.Systemd, service.Supervisor]
    Status = dict[str, t.Any]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "absent"], "default": "started"},
            "scope": {"type": "str", "choices": ["auto", "system", "user"], "default": "auto"},
            "prefix": {"type": "str", "default": ""},
            "data_dir": {"type": "str", "default": ""},
            "release": {"type": "str"},
            "config": {"type": "path"},
            "listen_address": {"type": "str"},
            "certificate": {"type": "path"},
            "allow_fewer_gpus": {"type": "bool", "default": False},
            "keep_releases": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 45},
            "pending": {"type": "str", "choices": ["none", "reload", "restart"], "default": "none"},
        },
        required_if=[("state", "started", ("release", "config", "listen_address"))],
        supports_check_mode=True,
    )
    work = _absent if module.params["state"] == "absent" else _started
    try:
        layout = host.layout(module.params["scope"], module.params["prefix"], module.params["data_dir"])
        result = work(module, layout)
    except (command.Failed, service.ServiceError, release.ReleaseError, host.HostError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result, layout=layout)


def _absent(module: AnsibleModule, layout: dict[str, str]) -> dict[str, t.Any]:
    manager = service.manager(layout, module.run_command)
    running = host.agents(layout["prefix"])
    there = manager.exists() or bool(running)
    if there and not module.check_mode:
        if manager.exists():
            manager.remove()
        # Whatever still runs from our releases: a supervised agent whose supervisor was killed, say.
        service.end(list(host.agents(layout["prefix"])))
    result: dict[str, t.Any] = {"changed": there, "action": "remove" if there else "none"}
    result["reason"] = "the service is installed" if there else "no service is installed"
    if module._diff and there:
        result["diff"] = {"before": "esnode-core: installed\n", "after": "esnode-core: absent\n"}
    return result


def _started(module: AnsibleModule, layout: dict[str, str]) -> dict[str, t.Any]:
    options, prefix = module.params, layout["prefix"]
    wanted = options["release"]
    manager = service.manager(layout, module.run_command)
    url = health.base_url(options["listen_address"], bool(options["certificate"]))
    pid = manager.pid()
    before = health.Client(url).status() if pid else None
    action, reason = _needed(options, prefix, manager, pid, before)
    if module.check_mode and options["pending"] != "none" and action in ("none", "reload"):
        action, reason = options["pending"], "earlier tasks would change its files"
    relink = release.current(prefix) != wanted
    doomed = release.prunable(prefix, options["keep_releases"], wanted)
    result: dict[str, t.Any] = {
        "action": action,
        "reason": reason,
        "url": url,
        "pruned": doomed,
        "manager": layout["manager"],
    }
    result["listen_address"] = options["listen_address"]
    result["changed"] = action != "none" or relink or bool(doomed)
    if module._diff and result["changed"]:
        result["diff"] = {
            "before": f"release: {release.current(prefix)}\nagent: {'running' if pid else 'stopped'}\n",
            "after": f"release: {wanted}\nagent: running\naction: {action} ({reason})\n",
        }
    if module.check_mode:
        return {**result, "agent": health.summary(before) if before else {}}
    if relink:
        release.flip(prefix, wanted)
    if action == "start":
        service.end(list(host.agents(prefix)))  # an agent without its supervisor would hold the port
    status = _carry_out(module, manager, action, url, before)
    if action == "reload" and status["config"]["restart_needed_for"]:
        result["action"] = "restart"
        result["reason"] = ", ".join(status["config"]["restart_needed_for"]) + " can't be reloaded"
        status = _carry_out(module, manager, "restart", url, before)
    for name in doomed:
        release.remove(prefix, name)
    return {**result, "agent": health.summary(status)}


def _needed(
    options: dict[str, t.Any], prefix: str, manager: Manager, pid: int | None, status: Status | None
) -> tuple[str, str]:
    """(action, reason): what brings the running agent to what the host's files say."""
    if pid is None:
        return "start", "the agent does not run"
    running = host.agents(prefix).get(pid)
    if running != options["release"]:
        return "restart", f"release {running} runs"
    if status is None or status["pid"] != pid:
        return "restart", "the agent does not answer there"
    stale = manager.stale(status["started"])
    if stale:
        return "restart", stale
    if status["config"]["restart_needed_for"]:
        return "restart", ", ".join(status["config"]["restart_needed_for"]) + " can't be reloaded"
    unread = health.unread(status, (options["config"], options["certificate"]))
    if unread:
        return "reload", f"{unread} changed after the agent has read it"
    return "none", "the agent runs as wanted"


def _carry_out(module: AnsibleModule, manager: Manager, action: str, url: str, before: Status | None) -> Status:
    """Do it, then wait. Returns the JSON of /status of the healthy agent, or fails the module with what is wrong."""
    options = module.params
    version = release.version_of(options["release"])
    since = time.time()
    if action == "reload":
        manager.reload()
    elif action != "none":
        manager.restart()
    client = health.Client(url, options["certificate"] or "")
    known = before["config"]["reload_errors"] if before else []
    until = time.monotonic() + options["timeout"]
    while True:
        lines = health.trouble(client, version, before, options["allow_fewer_gpus"])
        status = client.status()
        refused = status["config"]["reload_errors"] if status else []
        if refused and refused != known:
            module.fail_json(msg=f"the agent refused the new configuration and keeps the old one: {'; '.join(refused)}")
        lines += refused
        if status and action == "reload" and status["config"]["loaded"] < since:
            lines.append("the new configuration is not read yet")
        if status and not lines:
            return status
        if time.monotonic() > until:
            module.fail_json(msg=_late(module, manager, lines))
        time.sleep(0.2)


def _late(module: AnsibleModule, manager: Manager, lines: list[str]) -> str:
    return "esnode-core {0} is not healthy after {1} s: {2}\nLast lines of its log:\n{3}".format(
        module.params["release"],
        module.params["timeout"],
        "; ".join(lines),
        manager.log_tail().strip() or "(none)",
    )


if __name__ == "__main__":
    main()
