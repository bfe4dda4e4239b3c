#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_power_limit
short_description: Set the power limit of NVIDIA GPUs
version_added: 1.0.0
description:
  - Sets the limit that the driver is asked to keep, and reads it back. What is enforced can be lower, since a BMC or
    the board may cap it further. Both are returned, and there is a warning when they differ.
  - The driver forgets the limit on a reboot, on a reload, and, without persistence mode, when the last process lets
    go of the GPU. O(persist) has it applied again. Without persistence mode the task fails if the limit is gone at
    once.
extends_documentation_fragment:
  - esnode.core.nvml
  - esnode.core.nvml.setting
  - esnode.core.nvml.persist
options:
  limit:
    description:
      - Watts (V(300), V(300W), V(0.3kW)), a percentage (V(70%)), V(default), V(min) or V(max).
      - Percentages are of what the GPU itself tells, so they fit in mixed fleets, too. They are not rounded to watts.
    type: str
    required: true
  percent_of:
    description: What a percentage is of.
    type: str
    choices: [default, max]
    default: default
  scope:
    description: The GPU, or the whole module of a Grace Hopper or Grace Blackwell superchip.
    type: str
    choices: [gpu, module]
    default: gpu
  ceiling:
    description: Watts that O(limit) is lowered to where it comes out higher, with a warning. For what a site allows
      at most.
    type: str
attributes:
  idempotent:
    description: The requested limit is compared, in mW.
    support: full
"""

EXAMPLES = r"""
- name: Limit all GPUs to 300 W
  esnode.core.nvml_power_limit:
    gpus: all
    limit: 300W

- name: Keep 70 % of what each board has by default, also after a reboot, but never above 500 W
  esnode.core.nvml_power_limit:
    gpus: all
    limit: 70%
    ceiling: 500W
    persist: true
    missing_ok: true

- name: Back to the default, and forget what was recorded
  esnode.core.nvml_power_limit:
    gpus: ["0000:1b:00.0", GPU-96381856-290c-ae6b-8206-374242020f5e]
    limit: default
    persist: false
"""

RETURN = r"""
driver_version:
  description: Version of the NVIDIA driver.
  returned: success
  type: str
  sample: 580.105.08
gpus:
  description: The selected GPUs by index. Empty when the host was skipped.
  returned: success
  type: list
  elements: dict
  contains:
    index:
      description: Index at this moment.
      type: int
      sample: 0
    uuid:
      description: UUID.
      type: str
      sample: GPU-96381856-290c-ae6b-8206-374242020f5e
    name:
      description: Model.
      type: str
      sample: NVIDIA H100 80GB HBM3
    pci_bus_id:
      description: Address.
      type: str
      sample: "00000000:1B:00.0"
    changed:
      description: Whether this GPU was changed, or would be in check mode.
      type: bool
      sample: true
    before:
      description: How it was.
      type: dict
      contains:
        limit_mw:
          description: Requested limit in mW.
          type: int
          sample: 300000
        enforced_limit_mw:
          description: Limit in force in mW. Lower than the requested one when a BMC or the board caps it. Absent
            where it is not told, or can't be foreseen in check mode.
          type: int
          sample: 300000
        default_limit_mw:
          description: Limit after a reboot, in mW. Absent where it is not told.
          type: int
          sample: 700000
        min_limit_mw:
          description: Lowest limit that the GPU takes, in mW.
          type: int
          sample: 200000
        max_limit_mw:
          description: Highest limit that the GPU takes, in mW.
          type: int
          sample: 700000
    after:
      description: How it is, read back; in check mode how it would be. With the same keys as RV(gpus[].before).
      type: dict
      contains:
        limit_mw:
          description: Requested limit in mW.
          type: int
          sample: 300000
        enforced_limit_mw:
          description: Limit in force in mW. Lower than the requested one when a BMC or the board caps it. Absent
            where it is not told, or can't be foreseen in check mode.
          type: int
          sample: 300000
        default_limit_mw:
          description: Limit after a reboot, in mW. Absent where it is not told.
          type: int
          sample: 700000
        min_limit_mw:
          description: Lowest limit that the GPU takes, in mW.
          type: int
          sample: 200000
        max_limit_mw:
          description: Highest limit that the GPU takes, in mW.
          type: int
          sample: 700000
record:
  description: The desired-state file.
  returned: success and O(persist) is given
  type: dict
  contains:
    path:
      description: Where it is.
      type: str
      sample: /etc/esnode/gpu-state.json
    changed:
      description: Whether it was changed, or would be in check mode.
      type: bool
      sample: true
rolled_back:
  description: UUIDs of the GPUs that had been set and were put back.
  returned: when a GPU could not be set
  type: list
  elements: str
  sample: [GPU-96381856-290c-ae6b-8206-374242020f5e]
rollback_failed:
  description: By UUID, why a GPU could not be put back.
  returned: when a GPU could not be set
  type: dict
  sample: {}
errors:
  description: What was refused, and by which GPU.
  returned: when a GPU can not or could not be set
  type: list
  elements: dict
  contains:
    index:
      description: Index of the GPU. Not there when it was not one GPU's doing.
      type: int
      sample: 2
    uuid:
      description: UUID of the GPU.
      type: str
      sample: GPU-96381856-290c-ae6b-8206-374242020f5e
    name:
      description: Model of the GPU.
      type: str
      sample: NVIDIA H100 80GB HBM3
    pci_bus_id:
      description: Address of the GPU.
      type: str
      sample: "00000000:1B:00.0"
    msg:
      description: What was wrong and what to do.
      type: str
      sample: "GPU 2 (GPU-96381856-290c-ae6b-8206-374242020f5e): the GPU has fallen off the bus"
    code:
      description: Return code of NVML. Not there when the driver was not even asked.
      type: int
      sample: 15
"""

import typing as t

from ansible_collections.esnode.core.plugins.module_utils._nvml_module import SettingModule
from ansible_collections.esnode.core.plugins.module_utils._nvml_power import PowerLimit


class Module(SettingModule):
    options: t.ClassVar[dict[str, t.Any]] = {
        "limit": {"type": "str", "required": True},
        "percent_of": {"type": "str", "choices": ["default", "max"], "default": "default"},
        "scope": {"type": "str", "choices": ["gpu", "module"], "default": "gpu"},
        "ceiling": {"type": "str"},
    }

    def setting(self, params: dict[str, t.Any]) -> PowerLimit:
        return PowerLimit(params["limit"], params["percent_of"], params["scope"], params["ceiling"])


def main() -> None:
    Module().run()


if __name__ == "__main__":
    main()
