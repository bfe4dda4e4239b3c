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
  - Makes the folders of the agent, writes its configuration and the definition of its service, points
    C(<prefix>/current) at a release, starts the agent or restarts or reloads it as far as needed, and waits until it
    is healthy. All of it is one change, of which other deployments of the host see nothing half.
  - A configuration that the release refuses is an error before anything has changed.
  - What is needed is decided from what runs and not from what a play has changed. So a play that was interrupted
    between a change and the restart is completed by the next one.
  - The agent is restarted when another release runs than the wanted one, when the definition of its service is newer
    than its process, or when it does not answer. It is reloaded when its configuration is newer than what it has
    read.
  - Healthy means that C(/healthz) and C(/readyz) answer 200, the wanted version is served, at least one collector
    reads, and no collector and no GPU that was fine before the change is missing after it.
  - When the agent does not get there in time the host goes back. The release that was healthy last is activated with
    the files that it was healthy with (service, environment, configuration), and the module fails with what was
    wrong, what the host went back to, and the last lines of the log. An agent that never was healthy on the host is
    stopped.
  - What a release was healthy with is kept in its folder, for root alone.
  - One deployment works on a host at a time. Another waits for it for five minutes.
author:
  - The esnode authors (@esnode)
extends_documentation_fragment:
  - esnode.core.place
options:
  state:
    description:
      - With V(started) the release runs.
      - With V(previous) the host goes back to the release that was healthy before the active one, or to
        O(release), with the files that it was healthy with. The release that it goes back from is never gone back
        to, until it was deployed and healthy again. So doing it twice changes nothing.
      - With V(absent) the agent is stopped and its service is removed.
    type: str
    choices: [started, previous, absent]
    default: started
  release:
    description:
      - Name of the installed release that shall run. Required with O(state=started).
      - With O(state=previous) one that was healthy on this host. Without it the one before the active one.
    type: str
  files:
    description:
      - Texts of the files that define the agent, by name. Without any they stay as they are.
      - They are C(esnode.toml) and C(environment), and for systemd C(esnode-core.service) and C(esnode-core.socket),
        elsewhere C(supervisord.conf). All of them must be given, here or in O(secret_files), or none.
    type: dict
    default: {}
  secret_files:
    description: Those of O(files) that hold secrets. No output and no difference shows them.
    type: dict
    default: {}
  user:
    description:
      - User that the agent runs as and who owns its data. Empty means who runs the module.
      - What a user before, with another number, has left there is given to it. Left as they are what is root's, links,
        files with a second name, and file systems that are mounted below.
    type: str
    default: ""
  group:
    description: Group of that user, which may read the configuration. Empty means that of who runs the module.
    type: str
    default: ""
  store_dir:
    description: Folder of the agent's store of time series, where it is not below its data. It is made for O(user).
    type: path
    default: ""
  listen_address:
    description: C(host:port) that the agent listens on. Required with O(state=started).
    type: str
  certificate:
    description: Path of the certificate that the agent serves. Empty when it serves plain HTTP.
    type: path
  certificate_pending:
    description:
      - An earlier task would have written another O(certificate). Looked at in check mode alone, where it has changed
        nothing that could be seen.
    type: bool
    default: false
  allow_fewer_gpus:
    description: Take it for healthy when the agent sees fewer GPUs than before, since some were taken out.
    type: bool
    default: false
  keep_releases:
    description:
      - How many releases stay installed, 2 or more. Older ones are removed once the new one is healthy, never the one
        that the host would go back to.
    type: int
    default: 3
  timeout:
    description: Seconds that the agent has to become healthy.
    type: int
    default: 45
  soak:
    description:
      - Seconds that an agent that was changed has to stay up after it was found healthy. One that ends meanwhile, or is
        not healthy at the end, is put back.
    type: int
    default: 0
attributes:
  check_mode:
    description:
      - Says what would be done; nothing is. The configuration is checked if its release is installed and a certificate
        that a deployment makes is there.
    support: full
  diff_mode:
    description: Shows the files, the release and the action.
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
    listen_address: 0.0.0.0:9100
    user: esnode
    group: esnode
    files:
      esnode-core.service: "{{ lookup('ansible.builtin.template', 'esnode-core.service.j2') }}"
      esnode-core.socket: "{{ lookup('ansible.builtin.template', 'esnode-core.socket.j2') }}"
      esnode.toml: |
        [agent]
        listen_address = "0.0.0.0:9100"
    secret_files:
      environment: "ESNODE_TOKEN={{ vault_token }}"

- name: Go back to the release before
  esnode.core.esnode_service:
    state: previous

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
  returned: when O(state=started) or O(state=previous)
  type: str
  sample: http://127.0.0.1:9100
listen_address:
  description: Address that it listens on.
  returned: when O(state=started) or O(state=previous)
  type: str
  sample: 0.0.0.0:9100
manager:
  description: What runs the agent, V(systemd) or V(supervisor).
  returned: when O(state=started) or O(state=previous)
  type: str
  sample: systemd
agent:
  description: What the healthy agent says of itself. Not in check mode when the agent is not running.
  returned: when O(state=started) or O(state=previous)
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
release:
  description: Name of the release that runs.
  returned: when O(state=started) or O(state=previous)
  type: str
  sample: 1.0.0-0123456789ab
returned_to:
  description: Release that the host went back to and is healthy with. Empty when there was none or it is not healthy.
  returned: when the agent did not become healthy
  type: str
  sample: 0.9.0-ba9876543210
pruned:
  description: Old and half-installed releases that were removed.
  returned: when O(state=started) or O(state=previous)
  type: list
  elements: str
  sample: []
"""

import contextlib
import os
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils import (
    activation,
    command,
    definition,
    files,
    health,
    host,
    record,
    release,
    service,
)

if t.TYPE_CHECKING:
    Answer = dict[str, t.Any]

_ERRORS = (
    command.Failed,
    definition.DefinitionError,
    service.ServiceError,
    release.ReleaseError,
    host.HostError,
    OSError,
)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["started", "previous", "absent"], "default": "started"},
            **host.PLACE,
            "release": {"type": "str"},
            "files": {"type": "dict", "default": {}},
            "secret_files": {"type": "dict", "default": {}, "no_log": True},
            "user": {"type": "str", "default": ""},
            "group": {"type": "str", "default": ""},
            "store_dir": {"type": "path", "default": ""},
            "listen_address": {"type": "str"},
            "certificate": {"type": "path"},
            "certificate_pending": {"type": "bool", "default": False},
            "allow_fewer_gpus": {"type": "bool", "default": False},
            "keep_releases": {"type": "int", "default": 3},
            "timeout": {"type": "int", "default": 45},
            "soak": {"type": "int", "default": 0},
        },
        required_if=[("state", "started", ("release", "listen_address"))],
        supports_check_mode=True,
    )
    options = module.params
    if options["keep_releases"] < 2:
        module.fail_json(
            msg=f"keep_releases is {options['keep_releases']}; it must be 2 or more, since the release before is what "
            "a host goes back to when the new one fails"
        )
    work = {"started": _started, "previous": _previous, "absent": _absent}[options["state"]]
    try:
        layout = host.layout(options["scope"], options["prefix"], options["data_dir"])
        # Nothing may be made in check mode, nor where nothing is to be removed.
        free = module.check_mode or (options["state"] == "absent" and not release.leftovers(layout["prefix"]))
        with contextlib.nullcontext() if free else release.locked(layout["prefix"]):
            result = work(module, layout)
    except activation.Unhealthy as bad:
        module.fail_json(msg=str(bad), returned_to=bad.returned_to)
    except _ERRORS as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result, layout=layout)


def _absent(module: AnsibleModule, layout: dict[str, str]) -> Answer:
    manager = service.manager(layout, module.run_command)
    running = host.agents(layout["prefix"])
    there = manager.exists() or bool(running)
    if there and not module.check_mode:
        if manager.exists():
            manager.remove()
        # Whatever still runs from our releases: a supervised agent whose supervisor was killed, say.
        service.end(list(host.agents(layout["prefix"])))
    result: Answer = {"changed": there, "action": "remove" if there else "none"}
    result["reason"] = "the service is installed" if there else "no service is installed"
    if module._diff and there:
        result["diff"] = {"before": "esnode-core: installed\n", "after": "esnode-core: absent\n"}
    return result


def _started(module: AnsibleModule, layout: dict[str, str]) -> Answer:
    options, prefix = module.params, layout["prefix"]
    paths = definition.paths(layout)
    config = paths[definition.CONFIG]
    agent = record.Agent(options["release"], config, options["listen_address"], options["certificate"] or "")
    if not module.check_mode:
        release.must_be_complete(prefix, agent.release)
    owner = definition.owner(options["user"], options["group"])
    if not module.check_mode and None in owner:
        raise definition.DefinitionError(f"there is no user {options['user']} or no group {options['group']} here")
    definition.check_store_dir(options["store_dir"], owner)
    texts = {**options["files"], **options["secret_files"]}
    wanted = definition.wanted(layout, texts, owner) if texts else {}
    folders = definition.folders(layout, owner, options["store_dir"]) if texts else {}
    known = release.current(prefix)
    change = activation.Change(
        layout,
        module.run_command,
        agent,
        wanted,
        options["timeout"],
        options["allow_fewer_gpus"],
        options["soak"],
    )
    action, reason = change.needed()
    if module.check_mode and options["certificate_pending"] and action == "none":
        action, reason = "reload", f"{agent.certificate} would be another one"
    doomed = release.prunable(prefix, options["keep_releases"], agent.release, change.fallback_name)
    others, without = files.differing(wanted), definition.wrong_folders(folders)
    strays = definition.strays(layout, owner, options["store_dir"]) if texts else {}
    result = {**_answer(module, layout, agent, action, reason, change), "pruned": doomed}
    result["changed"] = action != "none" or known != agent.release or bool(doomed or others or without or strays)
    if module._diff:
        secret = [paths[name] for name in options["secret_files"]]
        made = {
            "before_header": "folders",
            "after_header": "folders",
            "before": "",
            "after": "".join(f"{p}\n" for p in without),
        }
        result["diff"] = [
            *files.differences(wanted, secret),
            *([{**made, "before_header": "folders", "after_header": "folders"}] if without else []),
            *([_owners(strays, options["user"])] if strays else []),
            *result.get("diff", []),
        ]
    if _may_check(module, layout, agent) and {config, paths[definition.ENVIRONMENT]}.intersection(others):
        program = os.path.join(release.release_dir(prefix, agent.release), "bin", "esnode-core")
        definition.check(module.run_command, layout, program, wanted, module.tmpdir)
    if module.check_mode:
        return result
    definition.make_folders(folders)
    if strays:
        definition.give_strays(layout, owner, options["store_dir"])
    status = change.carry_out(action)
    for collector in health.failing(status) if record.of(prefix, agent.release) is None and known is None else []:
        module.warn(f"{collector}. The rest is served; the agent goes on trying")
    result.update(action=change.action, reason=change.reason or reason, agent=health.summary(status))
    record.keep(prefix, agent, paths.values(), status, fresh=known != agent.release)
    for name in doomed:
        release.remove(prefix, name)
    return result


def _owners(strays: dict[str, int], user: str) -> dict[str, str]:
    before = "".join(f"{path}: uid {uid}\n" for path, uid in strays.items())
    after = "".join(f"{path}: {user}\n" for path in strays)
    return {"before_header": "owners", "after_header": "owners", "before": before, "after": after}


def _may_check(module: AnsibleModule, layout: dict[str, str], agent: record.Agent) -> bool:
    """Not in check mode where the run itself would first bring the release or make the certificate."""
    if not module.check_mode:
        return True
    own = agent.certificate.startswith(layout["config_dir"] + "/") and not os.path.exists(agent.certificate)
    return release.is_complete(layout["prefix"], agent.release) and not own


def _previous(module: AnsibleModule, layout: dict[str, str]) -> Answer:
    options, prefix = module.params, layout["prefix"]
    known = release.current(prefix)
    if known is None:
        raise release.ReleaseError(f"no release is active below {prefix}: there is nothing to go back from")
    wanted = options["release"]
    if wanted is None and known in [(record.left(prefix, n) or {}).get("to") for n in release.installed(prefix)]:
        wanted = known  # it went back already
    target = record.previous(prefix, known) if wanted is None else record.of(prefix, wanted)
    if target is None:
        there = ", ".join(n for n in release.installed(prefix) if record.of(prefix, n)) or "none"
        raise release.ReleaseError(
            f"there is no release to go back to: {wanted or 'no other than ' + known} has run well on this host. "
            f"Releases that have: {there}"
        )
    change = activation.Change(
        layout, module.run_command, target.agent, target.files, options["timeout"], options["allow_fewer_gpus"]
    )
    action, reason = change.needed()
    result = {**_answer(module, layout, target.agent, action, reason, change), "pruned": []}
    others = files.differing(target.files)
    result["changed"] = action != "none" or known != target.agent.release or bool(others)
    if module.check_mode:
        return result
    status = change.carry_out(action)
    if known != target.agent.release:
        record.leave(prefix, known, target.agent.release, "it was rolled back")
        record.keep(prefix, target.agent, target.files, status, fresh=True)
    return {**result, "action": change.action, "reason": change.reason or reason, "agent": health.summary(status)}


def _answer(
    module: AnsibleModule,
    layout: dict[str, str],
    agent: record.Agent,
    action: str,
    reason: str,
    change: activation.Change,
) -> Answer:
    result: Answer = {
        "action": action,
        "reason": reason,
        "url": change.url,
        "listen_address": agent.listen_address,
        "manager": layout["manager"],
        "release": agent.release,
        "agent": health.summary(change.status) if change.status else {},
    }
    known = release.current(layout["prefix"])
    if module._diff and (action != "none" or known != agent.release):
        result["diff"] = [
            {
                "before": f"release: {known}\nagent: {'running' if change.pid else 'stopped'}\n",
                "after": f"release: {agent.release}\nagent: running\naction: {action} ({reason})\n",
            }
        ]
    return result


if __name__ == "__main__":
    main()
