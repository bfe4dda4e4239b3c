#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_clock_lock
short_description: Lock the clocks of NVIDIA GPUs
version_added: 1.0.0
description:
  - Locks the graphics or the memory clock, or both, to a range, or unlocks them. A domain that is not given is left
    alone.
  - NVML can't be asked what is locked. So what was set is noted in O(run_dir), together with signs by which a reboot,
    a reload of the driver or a restart of the GPU is noticed. Where there is no valid note, or the clock runs where
    the lock would not let it, the lock is set again and RV(gpus[].reason) says why.
  - A lock is what the driver was asked for. Heat and power limits still bring clocks below it.
extends_documentation_fragment:
  - esnode.core.nvml
  - esnode.core.nvml.setting
  - esnode.core.nvml.persist
options:
  graphics:
    description:
      - Range in MHz (V(1200-1500)), one clock for both ends (V(1500)), or V(unlocked). Volta and newer.
      - Each end is set to the nearest clock that the GPU has, with a warning. What lies outside of them is refused.
    type: str
  memory:
    description: Likewise for the memory clock. Ampere and newer.
    type: str
attributes:
  idempotent:
    description:
      - A lock that is noted and whose note is valid is left alone.
      - Locks that were set or taken away by something else (C(nvidia-smi -lgc)) are noticed only when the clock shows
        it.
    support: partial
"""

EXAMPLES = r"""
- name: Lock the graphics clock of all GPUs, also after a reboot
  esnode.core.nvml_clock_lock:
    gpus: all
    graphics: 1200-1500
    persist: true

- name: Unlock both
  esnode.core.nvml_clock_lock:
    gpus: all
    graphics: unlocked
    memory: unlocked
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
    reason:
      description: >-
        Why a lock had to be set although it may have held, V(state_unknown), V(rebooted), V(driver_reloaded),
        V(gpu_restarted), V(persistence_off) or V(drift).
      returned: when what was locked before is not known
      type: str
      sample: driver_reloaded
    rounded_from:
      description: By domain, what was asked for where the GPU has no such clock.
      returned: when an end was rounded
      type: dict
      sample: {graphics: {min_mhz: 1207, max_mhz: 1500}}
    before:
      description: How it was.
      type: dict
      contains:
        graphics:
          description: >-
            The lock of the graphics clock, a dictionary of C(min_mhz) and C(max_mhz), or V(unlocked), V(unknown),
            V(unsupported).
          type: raw
          sample: {min_mhz: 1200, max_mhz: 1500}
        memory:
          description: The lock of the memory clock, likewise.
          type: raw
          sample: unlocked
    after:
      description: How it is, read back; in check mode how it would be. With the same keys as RV(gpus[].before).
      type: dict
      contains:
        graphics:
          description: >-
            The lock of the graphics clock, a dictionary of C(min_mhz) and C(max_mhz), or V(unlocked), V(unknown),
            V(unsupported).
          type: raw
          sample: {min_mhz: 1200, max_mhz: 1500}
        memory:
          description: The lock of the memory clock, likewise.
          type: raw
          sample: unlocked
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

from ansible_collections.esnode.core.plugins.module_utils._nvml_clocks import ClockLock
from ansible_collections.esnode.core.plugins.module_utils._nvml_module import SettingModule


class Module(SettingModule):
    options: t.ClassVar[dict[str, t.Any]] = {"graphics": {"type": "str"}, "memory": {"type": "str"}}
    constraints: t.ClassVar[dict[str, t.Any]] = {"required_one_of": [("graphics", "memory")]}

    def setting(self, params: dict[str, t.Any]) -> ClockLock:
        return ClockLock(params["graphics"], params["memory"], params["run_dir"])


def main() -> None:
    Module().run()


if __name__ == "__main__":
    main()
