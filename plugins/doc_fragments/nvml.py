# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of the action group esnode.core.nvml have in common."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  missing_ok:
    description:
      - Skip a host without NVIDIA GPU, and one where no GPU has a name that O(gpus) asks for.
      - A host that has an NVIDIA GPU but no working driver fails all the same.
    type: bool
    default: false
attributes:
  platform:
    description: Linux with the NVIDIA driver.
    platforms: linux
    support: full
  action_group:
    description: Use C(group/esnode.core.nvml) in C(module_defaults) to set options of all of these modules at once.
    support: full
    membership:
      - esnode.core.nvml
requirements:
  - >-
    nvidia-ml-py in the Python that runs the module. Without it the copy that comes with the agent is used, from
    C(/opt/esnode/current).
  - The NVIDIA driver.
author:
  - The esnode authors (@esnode)
seealso:
  - module: esnode.core.nvml_info
"""

    # Modules that set something.
    SETTING = r"""
options:
  gpus:
    description:
      - Which GPUs are meant, V(all) or any of UUID, PCI bus id, index and name. A name may have wildcards, as in
        V(*H100*).
      - All of them must be there. When one is not, or can't be set, nothing is changed.
      - An index can mean another GPU after a reboot. Use UUIDs where that matters.
    type: list
    elements: str
    required: true
  run_dir:
    description: Where the lock is that lets one process at a time change GPUs, and the note of clock locks.
    type: path
    default: /run/esnode-gpu
attributes:
  check_mode:
    description: Reads and validates as always; writes nothing, neither to a GPU nor to a file.
    support: full
  diff_mode:
    description: For each GPU that changes, the values that change; and the desired-state file.
    support: full
notes:
  - Setting takes root (C(become)), and in a container C(CAP_SYS_ADMIN).
  - All GPUs get the setting or none does. Each is read back after it was set. When one fails, those that were set
    before are put back in reverse; RV(ignore:rolled_back) and RV(ignore:rollback_failed) of the failed task say how
    that went, and RV(ignore:errors) which GPU it was.
"""

    # Settings that can be kept.
    PERSIST = r"""
options:
  persist:
    description:
      - With V(true) the setting is recorded in O(state_file), to be applied again after a reboot or a reload of the
        driver by what M(esnode.core.gpu_state_service) installs.
      - With V(false) it is removed from there. What holds at the moment is up to the other options.
      - Unset, the file stays as it is. There is a warning when it says something else than this task.
    type: bool
  state_file:
    description: The desired state of the GPUs of a host. The file belongs to root.
    type: path
    default: /etc/esnode/gpu-state.json
"""

    # Read, nothing set.
    READ = r"""
attributes:
  check_mode:
    description: Only reads.
    support: full
  diff_mode:
    description: Changes nothing.
    support: N/A
  idempotent:
    description: Only reads.
    support: full
"""
