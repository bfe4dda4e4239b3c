#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_state_service
short_description: Have recorded GPU settings applied at boot and after a reload of the driver
version_added: 1.0.0
author: The esnode authors (@esnode)
description:
  - The modules that set something on GPUs record it with C(persist). This installs what applies the record. A service
    does so at boot, after nvidia-persistenced; a timer has it done again within a minute after the driver was loaded
    anew or somebody has changed the record.
  - Each setting of each GPU stands for itself there. One broken GPU keeps no other from its limits, and makes the
    service fail, with its name in the journal. What failed is tried again every ten minutes.
  - The program is C(/usr/local/sbin/esnode-gpu-state), of the collection's own modules.
options:
  state:
    description:
      - With V(present) the service is installed and was run once.
      - With V(absent) it is removed. The record stays, and so does what is set.
    type: str
    choices: [present, absent]
    default: present
  run_dir:
    description: Where the lock is that lets one process at a time change GPUs.
    type: path
    default: /run/esnode-gpu
  state_file:
    description: The desired state of the GPUs of a host.
    type: path
    default: /etc/esnode/gpu-state.json
attributes:
  check_mode:
    description: Writes and starts nothing.
    support: full
  diff_mode:
    description: The units and what would be done.
    support: full
  idempotent:
    description: Files and the state of the units are compared.
    support: full
  platform:
    description: Linux with systemd. Elsewhere it warns and changes nothing.
    platforms: linux
    support: full
seealso:
  - module: esnode.core.nvml_power_limit
  - module: esnode.core.gpu_state_prune
"""

EXAMPLES = r"""
- name: Limit power, also after a reboot
  esnode.core.nvml_power_limit:
    gpus: all
    limit: 300W
    persist: true

- name: Have the record applied at boot
  esnode.core.gpu_state_service:
"""

RETURN = r"""
action:
  description: What was done, or would be in check mode, V(none), V(install), V(start) or V(remove).
  returned: success
  type: str
  sample: install
service:
  description: Name of the service.
  returned: success
  type: str
  sample: esnode-gpu-state.service
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils import files
from ansible_collections.esnode.core.plugins.module_utils._nvml_boot import PROGRAM, SERVICE, TIMER, WATCH, wanted
from ansible_collections.esnode.core.plugins.module_utils._nvml_records import RUN_DIR, STATE_FILE
from ansible_collections.esnode.core.plugins.module_utils.command import Failed, Run, attempt, must


def _is(run: Run, what: str, unit: str, answer: str) -> bool:
    return attempt(run, ["systemctl", what, unit])[1].strip() == answer


def _needed(module: AnsibleModule, these: files.Wanted) -> str:
    run = module.run_command
    there = any(os.path.lexists(path) for path in these)
    if module.params["state"] == "absent":
        return "remove" if there else "none"
    if files.differing(these):
        return "install"
    up = all(_is(run, "is-enabled", unit, "enabled") for unit in (SERVICE, TIMER))
    return "none" if up and _is(run, "is-active", TIMER, "active") else "start"


def _install(module: AnsibleModule, these: files.Wanted) -> None:
    run = module.run_command
    for folder in (os.path.dirname(PROGRAM), module.params["run_dir"]):
        os.makedirs(folder, mode=0o755, exist_ok=True)
    files.put(these)
    must(run, ["systemctl", "daemon-reload"])
    must(run, ["systemctl", "enable", SERVICE, TIMER])
    must(run, ["systemctl", "restart", TIMER])
    # Now, and not at the next boot, is the time to learn that it does not work.
    if attempt(run, ["systemctl", "restart", SERVICE])[0]:
        said = attempt(run, ["journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit", SERVICE])[1]
        module.warn(
            f"not all that is recorded in {module.params['state_file']} could be applied; it is tried again every ten "
            f"minutes, see `systemctl status {SERVICE}`:\n{said.strip()}"
        )


def _remove(module: AnsibleModule, these: files.Wanted) -> None:
    attempt(module.run_command, ["systemctl", "disable", "--now", TIMER, WATCH, SERVICE])
    files.put(dict.fromkeys(these))
    must(module.run_command, ["systemctl", "daemon-reload"])
    attempt(module.run_command, ["systemctl", "reset-failed", SERVICE, WATCH, TIMER])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "run_dir": {"type": "path", "default": RUN_DIR},
            "state_file": {"type": "path", "default": STATE_FILE},
        },
        supports_check_mode=True,
    )
    result: dict[str, t.Any] = {"service": SERVICE, "action": "none", "changed": False}
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        module.warn("systemd does not run here, so nothing applies recorded GPU settings after a reboot")
        module.exit_json(**result)
    if os.geteuid():
        module.fail_json(msg="units of the system can only be changed by root: set become: true")
    these: files.Wanted = wanted(module.params["state_file"], module.params["run_dir"])
    action = _needed(module, these)
    result.update(action=action, changed=action != "none")
    if module._diff and action != "none":
        goal: files.Wanted = these if action != "remove" else dict.fromkeys(these)
        said = {"before": "", "after": f"action: {action}\n"}
        result["diff"] = [*files.differences(goal), {**said, "before_header": SERVICE, "after_header": SERVICE}]
    try:
        if not module.check_mode and action != "none":
            (_remove if action == "remove" else _install)(module, these)
    except (Failed, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
