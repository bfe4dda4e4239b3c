#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_compute_mode
short_description: Set the compute mode of NVIDIA GPUs
version_added: 1.0.0
description:
  - Says whether several processes, one, or none may compute on a GPU. Processes that run already are not touched.
  - The driver forgets it as it forgets a power limit, see M(esnode.core.nvml_power_limit).
  - While MIG mode is on it is V(default) and can't be changed.
extends_documentation_fragment:
  - esnode.core.nvml
  - esnode.core.nvml.setting
  - esnode.core.nvml.persist
options:
  mode:
    description: The mode.
    type: str
    choices: [default, exclusive_process, prohibited]
    required: true
attributes:
  idempotent:
    description: The mode is compared.
    support: full
"""

EXAMPLES = r"""
- name: One process a GPU
  esnode.core.nvml_compute_mode:
    gpus: all
    mode: exclusive_process
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
        mode:
          description: The mode.
          type: str
          sample: exclusive_process
    after:
      description: How it is, read back; in check mode how it would be. With the same keys as RV(gpus[].before).
      type: dict
      contains:
        mode:
          description: The mode.
          type: str
          sample: exclusive_process
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

from ansible_collections.esnode.core.plugins.module_utils._nvml_modes import ComputeMode
from ansible_collections.esnode.core.plugins.module_utils._nvml_module import SettingModule


class Module(SettingModule):
    options: t.ClassVar[dict[str, t.Any]] = {
        "mode": {"type": "str", "choices": ["default", "exclusive_process", "prohibited"], "required": True},
    }

    def setting(self, params: dict[str, t.Any]) -> ComputeMode:
        return ComputeMode(params["mode"])


def main() -> None:
    Module().run()


if __name__ == "__main__":
    main()
