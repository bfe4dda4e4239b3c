#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_state_prune
short_description: Forget recorded GPU settings that a declaration no longer has
version_added: 1.0.0
author: The esnode authors (@esnode)
description:
  - Whoever declares settings of GPUs, as the role C(esnode.core.esnode_power) does, records them with C(persist) of the
    modules, and calls this afterwards with all that it declares. What it declared the last time and no longer does is
    removed from the desired state. What others have recorded stays.
  - To note who declares is no change.
  - Nothing is set on a GPU. A setting that is forgotten holds until the next reboot or until something else is set.
options:
  owner:
    description: Who declares. Noted in the file beside the settings.
    type: str
    required: true
  settings:
    description: All that O(owner) declares now. An empty list is for nothing.
    type: list
    elements: str
    choices: [persistence_mode, compute_mode, power_limit, module_power_limit, clock_lock, mig]
    required: true
  run_dir:
    description: Where the lock is that lets one process at a time change GPUs.
    type: path
    default: /run/esnode-gpu
  state_file:
    description: The desired state of the GPUs of a host. The file belongs to root.
    type: path
    default: /etc/esnode/gpu-state.json
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: The desired-state file.
    support: full
  idempotent:
    description: The file is compared.
    support: full
  platform:
    description: Linux.
    platforms: linux
    support: full
notes:
  - Needs neither the driver nor nvidia-ml-py.
"""

EXAMPLES = r"""
- name: Limit power
  esnode.core.nvml_power_limit:
    gpus: all
    limit: 70%
    persist: true

- name: Forget what this play has declared in earlier versions
  esnode.core.gpu_state_prune:
    owner: site
    settings: [power_limit]
"""

RETURN = r"""
state_file:
  description: Where the file is.
  returned: success
  type: str
  sample: /etc/esnode/gpu-state.json
removed:
  description: By UUID the settings that were removed, or would be in check mode.
  returned: success
  type: dict
  sample: {GPU-96381856-290c-ae6b-8206-374242020f5e: [clock_lock]}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils._nvml_records import (
    RUN_DIR,
    STATE_FILE,
    DesiredState,
    exclusive,
)
from ansible_collections.esnode.core.plugins.module_utils.nvml import NvmlError

SETTINGS = ["persistence_mode", "compute_mode", "power_limit", "module_power_limit", "clock_lock", "mig"]


def prune(desired: DesiredState, owner: str, settings: list[str]) -> dict[str, list[str]]:
    """Change the desired state; what was removed, by UUID."""
    removed: dict[str, list[str]] = {}
    for uuid, entry in list(desired.after.items()):
        owners = entry.setdefault("owners", {})
        gone = [name for name in owners.pop(owner, []) if name not in settings and name in desired.settings(uuid)]
        for name in gone:
            desired.drop(uuid, name)
        if gone:
            removed[uuid] = gone
        mine = sorted(set(settings) & set(desired.settings(uuid)))
        if mine:
            owners[owner] = mine
        if not owners:
            entry.pop("owners")
    return removed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "owner": {"type": "str", "required": True},
            "settings": {"type": "list", "elements": "str", "choices": SETTINGS, "required": True},
            "run_dir": {"type": "path", "default": RUN_DIR},
            "state_file": {"type": "path", "default": STATE_FILE},
        },
        supports_check_mode=True,
    )
    params: dict[str, t.Any] = module.params

    def pruned() -> tuple[DesiredState, dict[str, list[str]]]:
        desired = DesiredState(params["state_file"])
        return desired, prune(desired, params["owner"], params["settings"])

    try:
        desired, removed = pruned()
        if desired.changed and not module.check_mode:
            with exclusive(params["run_dir"]):
                desired, removed = pruned()  # somebody else may have written before it was our turn
                desired.save()
    except NvmlError as error:
        module.fail_json(msg=str(error), changed=False)
    except OSError as error:
        module.fail_json(msg=f"{params['state_file']} can't be written: {error.strerror}", changed=False)
    # Not as "path": Ansible would add owner, mode and so on of the file.
    result: dict[str, t.Any] = {"changed": bool(removed), "state_file": desired.path, "removed": removed}
    if removed and module._diff:
        header = {"before_header": desired.path, "after_header": desired.path}
        result["diff"] = [{**header, "before": desired.before, "after": desired.after}]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
