#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_reset
short_description: Reset NVIDIA GPUs that nothing uses
version_added: 1.0.0
description:
  - Resets GPUs by the driver's own tool, C(nvidia-smi --gpu-reset), in one call for all of them.
  - Refuses, naming the processes, while anything uses one of them. Programs that only watch count, too, such as a
    monitoring agent or DCGM.
  - By default only GPUs that wait for a reset are reset, so that a second run does nothing.
  - A reset puts power limits, locked clocks and MIG instances back to the defaults of the driver. What is recorded in
    O(state_file) is applied again afterwards, for these GPUs.
extends_documentation_fragment:
  - esnode.core.nvml
options:
  gpus:
    description:
      - Which GPUs are meant, V(all) or any of UUID, PCI bus id, index and name. A name may have wildcards, as in
        V(*H100*).
    type: list
    elements: str
    required: true
  when:
    description:
      - With V(required) the GPUs that can't be used before a reset, that the driver recommends to reset, whose
        pending ECC or MIG mode differs from the current one, or that have rows or pages of memory to put out of use.
      - With V(always) all that are selected.
    type: str
    choices: [required, always]
    default: required
  nvidia_smi:
    description: Path of C(nvidia-smi). Looked for in C(PATH) when it is not given.
    type: path
  state_file:
    description: The desired state of the GPUs of a host.
    type: path
    default: /etc/esnode/gpu-state.json
  run_dir:
    description: Where the lock is that lets one process at a time change GPUs, and the note of clock locks.
    type: path
    default: /run/esnode-gpu
attributes:
  check_mode:
    description: Says which GPUs would be reset and why, and refuses as it would otherwise. Nothing is reset.
    support: full
  diff_mode:
    description: There is nothing to compare but RV(gpus[].reasons).
    support: none
  idempotent:
    description: Not with O(when=always).
    support: partial
notes:
  - A reset can't be undone, so there is no roll-back. When the tool fails its output is returned.
"""

EXAMPLES = r"""
- name: Reset what waits for it
  esnode.core.nvml_reset:
    gpus: all
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
      description: UUID. Absent when the GPU could not be asked.
      type: str
      sample: GPU-96381856-290c-ae6b-8206-374242020f5e
    name:
      description: Model. Absent when the GPU could not be asked.
      type: str
      sample: NVIDIA H100 80GB HBM3
    pci_bus_id:
      description: Address. Absent when the GPU could not be asked.
      type: str
      sample: "00000000:1B:00.0"
    changed:
      description: Whether it was reset, or would be in check mode.
      type: bool
      sample: true
    reasons:
      description: Why it waits, or waited, for a reset.
      type: list
      elements: str
      sample: [ECC mode is to be switched on]
reapplied:
  description: What was applied again from the desired-state file.
  returned: success and a GPU was reset
  type: list
  elements: dict
  contains:
    uuid:
      description: UUID of the GPU.
      type: str
      sample: GPU-96381856-290c-ae6b-8206-374242020f5e
    setting:
      description: Name of the setting.
      type: str
      sample: power_limit
    changed:
      description: Whether it had to be set.
      type: bool
      sample: true
errors:
  description: What was refused or failed, and by which GPU.
  returned: failure
  type: list
  elements: dict
  contains:
    index:
      description: Index of the GPU.
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
      description: What was wrong.
      type: str
      sample: "GPU 2 (GPU-96381856-290c-ae6b-8206-374242020f5e): in use by python3 (pid 4711, train.service)"
    processes:
      description: Who uses it.
      type: list
      elements: dict
      sample: [{pid: 4711, name: python3}]
"""

import os
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils._nvml_apply import apply
from ansible_collections.esnode.core.plugins.module_utils._nvml_mig import named
from ansible_collections.esnode.core.plugins.module_utils._nvml_module import RUN_DIR_OPTION, SELECTION, on_gpus
from ansible_collections.esnode.core.plugins.module_utils._nvml_records import STATE_FILE, DesiredState, exclusive
from ansible_collections.esnode.core.plugins.module_utils._nvml_reset import reasons, users
from ansible_collections.esnode.core.plugins.module_utils.nvml import RESET_REQUIRED, Gpu, NvmlError, Session

if t.TYPE_CHECKING:
    Result = dict[str, t.Any]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **SELECTION,
            **RUN_DIR_OPTION,
            "when": {"type": "str", "choices": ["required", "always"], "default": "required"},
            "nvidia_smi": {"type": "path"},
            "state_file": {"type": "path", "default": STATE_FILE},
        },
        supports_check_mode=True,
    )
    on_gpus(module, lambda session, gpus: _reset(module, session, gpus), module.params["gpus"], (RESET_REQUIRED,))


def _reset(module: AnsibleModule, session: Session, gpus: list[Gpu]) -> Result:
    why = {gpu.index: reasons(gpu) for gpu in gpus}
    doomed = [gpu for gpu in gpus if why[gpu.index] or module.params["when"] == "always"]
    entries = [{**gpu.identity(), "changed": gpu in doomed, "reasons": why[gpu.index]} for gpu in gpus]
    result: Result = {"driver_version": session.driver_version, "gpus": entries, "changed": bool(doomed)}
    _refuse_used(module, doomed)
    tool = _tool(module) if doomed else ""
    if doomed and not module.check_mode:
        with exclusive(module.params["run_dir"]):
            _refuse_used(module, doomed)
            result["reapplied"] = _carry_out(module, session, doomed, tool)
    return result


def _tool(module: AnsibleModule) -> str:
    given: str | None = module.params["nvidia_smi"]
    tool: str | None = given or module.get_bin_path("nvidia-smi")
    if not tool:
        module.fail_json(
            msg="nvidia-smi is not in PATH: install the package of the driver that has it (nvidia-utils, "
            "nvidia-driver-cuda), or give its path as nvidia_smi. Nothing was reset",
            changed=False,
        )
    if not os.access(str(tool), os.X_OK):
        module.fail_json(msg=f"nvidia_smi: {tool} is no program. Nothing was reset", changed=False)
    return str(tool)


def _refuse_used(module: AnsibleModule, gpus: list[Gpu]) -> None:
    errors = []
    for gpu in gpus:
        using = users(gpu)
        if using:
            errors.append({**gpu.identity(), "msg": f"{gpu}: in use by {named(using)}", "processes": using})
    if errors:
        text = "; ".join(error["msg"] for error in errors)
        module.fail_json(msg=f"{text}. Stop them first. Nothing was reset", changed=False, errors=errors)


def _carry_out(module: AnsibleModule, session: Session, gpus: list[Gpu], tool: str) -> list[Result]:
    where = ",".join(gpu.pci_bus_id or str(gpu.index) for gpu in gpus)
    before = {gpu.index: _energy(gpu) for gpu in gpus}
    session.close()  # this process is a client of the driver, too
    code, out, err = module.run_command([tool, "--gpu-reset", "-i", where])
    said = (err.strip() or out.strip() or "nothing").replace("\n", " ")
    session.rescan()
    there = {gpu.index: gpu for gpu in session.gpus()}
    if code:
        done = [
            gpu for gpu in gpus if gpu.index not in there or _started_over(before[gpu.index], _energy(there[gpu.index]))
        ]
        text = f"{tool} --gpu-reset -i {where} ended with {code} and said: {said}"
        if done:
            text += f". It did reset {', '.join(str(gpu) for gpu in done)}"
        module.fail_json(msg=text, changed=bool(done), errors=[])
    errors: list[Result] = []
    for gpu in gpus:
        try:
            left = reasons(there[gpu.index]) if gpu.index in there else ["it is not there any more"]
        except NvmlError as error:
            left = [str(error)]
        if left:
            errors.append({**gpu.identity(), "msg": f"{gpu}: after the reset {'; '.join(left)}"})
    uuids = {there[gpu.index].uuid for gpu in gpus if gpu.index in there}
    outcomes = apply(session, DesiredState(module.params["state_file"]), module.params["run_dir"], uuids=uuids)
    errors += [{"uuid": each.uuid, "msg": f"{each.setting}: {each.error}"} for each in outcomes if each.error]
    if errors:
        text = "; ".join(error["msg"] for error in errors)
        module.fail_json(msg=text, changed=True, errors=errors)
    return [{"uuid": each.uuid, "setting": each.setting, "changed": each.changed} for each in outcomes]


def _energy(gpu: Gpu) -> int | None:
    """Energy counter in mJ, which starts over with the GPU; None when the GPU does not tell."""
    try:
        return t.cast("int | None", gpu.ask("nvmlDeviceGetTotalEnergyConsumption"))
    except NvmlError:
        return None


def _started_over(before: int | None, after: int | None) -> bool:
    return after is not None and (before is None or after < before)


if __name__ == "__main__":
    main()
