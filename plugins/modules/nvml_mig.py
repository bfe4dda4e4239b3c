#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_mig
short_description: Set MIG mode and the MIG instances of NVIDIA GPUs
version_added: 1.0.0
description:
  - Switches MIG mode, and makes exactly the declared GPU and compute instances. Instances that are there and declared
    are left alone, with what runs in them, as long as the rest finds its place beside them.
  - Instances are refused to be destroyed, and the mode to be switched, while processes use them.
  - On Ampere every program that keeps NVML open holds the GPU when the mode is switched, a monitoring agent, too.
  - In a virtual machine the mode waits for a reboot. Then RV(gpus[].after.reset_required) is set, and the layout can
    be made by the next run.
  - Instances are gone after a reboot; so is the mode, except on Ampere. O(persist) has them made again.
  - When something fails, instances that had to go are made again in their old places. Their MIG devices may have
    other UUIDs then, and what ran in them before is not started again.
extends_documentation_fragment:
  - esnode.core.nvml
  - esnode.core.nvml.setting
  - esnode.core.nvml.persist
options:
  enabled:
    description: Whether MIG mode shall be on.
    type: bool
    default: true
  layout:
    description:
      - The instances that there shall be, no more and no less. An empty list is for none.
      - Unset, instances are left alone.
    type: list
    elements: dict
    suboptions:
      profile:
        description: Name of a profile of GPU instances, such as V(3g.40gb). A wrong one is refused with the names
          that there are.
        type: str
        required: true
      count:
        description: How many of it.
        type: int
        default: 1
      compute:
        description:
          - Profiles of the compute instances in each of them, V(1c.3g.40gb) or V(1c) for short. An empty list is for
            none.
          - Unset, one takes it whole.
        type: list
        elements: str
  terminate_processes:
    description:
      - End the processes that use what has to go, by C(SIGTERM), and by C(SIGKILL) after ten seconds.
      - That can't be put back when a later step fails.
    type: bool
    default: false
attributes:
  idempotent:
    description: Mode and instances are compared, by profile and not by place.
    support: full
"""

EXAMPLES = r"""
- name: Two halves and one quarter with two compute instances on each GPU
  esnode.core.nvml_mig:
    gpus: all
    layout:
      - profile: 3g.40gb
      - profile: 2g.20gb
        compute: [1c, 1c]
    persist: true

- name: Switch MIG mode off
  esnode.core.nvml_mig:
    gpus: all
    enabled: false
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
        enabled:
          description: Whether MIG mode is in force.
          type: bool
          sample: true
        pending:
          description: Whether it is after the next reset or reboot.
          type: bool
          sample: true
        reset_required:
          description: Whether the two differ.
          type: bool
          sample: false
        instances:
          description: The GPU instances.
          type: list
          elements: dict
          contains:
            profile:
              description: Its profile.
              type: str
              sample: 3g.40gb
            compute:
              description: Profiles of its compute instances.
              type: list
              elements: str
              sample: [3g.40gb]
            start:
              description: Its first memory slice. Absent in check mode for what is not there yet.
              type: int
              sample: 0
        devices:
          description: The MIG devices that programs use. Empty in check mode when instances would change.
          type: list
          elements: dict
          contains:
            uuid:
              description: Its UUID, for C(CUDA_VISIBLE_DEVICES).
              type: str
              sample: MIG-0b1c3d5e-1111-2222-3333-444455556666
            gpu_instance_id:
              description: Number of its GPU instance.
              type: int
              sample: 1
            compute_instance_id:
              description: Number of its compute instance within that.
              type: int
              sample: 0
    after:
      description: How it is, read back; in check mode how it would be. With the same keys as RV(gpus[].before).
      type: dict
      contains:
        enabled:
          description: Whether MIG mode is in force.
          type: bool
          sample: true
        pending:
          description: Whether it is after the next reset or reboot.
          type: bool
          sample: true
        reset_required:
          description: Whether the two differ.
          type: bool
          sample: false
        instances:
          description: The GPU instances.
          type: list
          elements: dict
          contains:
            profile:
              description: Its profile.
              type: str
              sample: 3g.40gb
            compute:
              description: Profiles of its compute instances.
              type: list
              elements: str
              sample: [3g.40gb]
            start:
              description: Its first memory slice. Absent in check mode for what is not there yet.
              type: int
              sample: 0
        devices:
          description: The MIG devices that programs use. Empty in check mode when instances would change.
          type: list
          elements: dict
          contains:
            uuid:
              description: Its UUID, for C(CUDA_VISIBLE_DEVICES).
              type: str
              sample: MIG-0b1c3d5e-1111-2222-3333-444455556666
            gpu_instance_id:
              description: Number of its GPU instance.
              type: int
              sample: 1
            compute_instance_id:
              description: Number of its compute instance within that.
              type: int
              sample: 0
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

from ansible_collections.esnode.core.plugins.module_utils._nvml_mig import Mig
from ansible_collections.esnode.core.plugins.module_utils._nvml_module import SettingModule


class Module(SettingModule):
    options: t.ClassVar[dict[str, t.Any]] = {
        "enabled": {"type": "bool", "default": True},
        "layout": {
            "type": "list",
            "elements": "dict",
            "options": {
                "profile": {"type": "str", "required": True},
                "count": {"type": "int", "default": 1},
                "compute": {"type": "list", "elements": "str"},
            },
        },
        "terminate_processes": {"type": "bool", "default": False},
    }

    def setting(self, params: dict[str, t.Any]) -> Mig:
        layout = params["layout"]
        if layout is not None:  # without what was not given
            layout = [{key: value for key, value in entry.items() if value is not None} for entry in layout]
        return Mig(params["enabled"], layout, params["terminate_processes"])


def main() -> None:
    Module().run()


if __name__ == "__main__":
    main()
