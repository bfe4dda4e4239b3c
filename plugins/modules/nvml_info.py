#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: nvml_info
short_description: Read what NVIDIA GPUs are, do and suffer from
version_added: 1.0.0
description:
  - Returns identity, memory, power, clocks, temperatures, modes, links, health and processes of GPUs. Nothing is set.
  - What a board or its driver has no answer to is absent, never 0.
  - A GPU that can't be read does not fail the task. RV(gpus[].state) and RV(gpus[].error) say what is wrong with it.
extends_documentation_fragment:
  - esnode.core.nvml
  - esnode.core.nvml.read
options:
  gpus:
    description:
      - Which GPUs are meant, V(all) or any of UUID, PCI bus id, index and name. A name may have wildcards, as in
        V(*H100*).
    type: list
    elements: str
    default: [all]
  supported_clocks:
    description: Return the clocks that can be locked, too. There are some hundreds.
    type: bool
    default: false
  draw_seconds:
    description: Measure the mean draw of the next so many seconds, at most 3600, while the task waits.
    type: float
    default: 0
  run_dir:
    description: Where M(esnode.core.nvml_clock_lock) notes what it has locked.
    type: path
    default: /run/esnode-gpu
  state_file:
    description: The desired state of the GPUs of a host.
    type: path
    default: /etc/esnode/gpu-state.json
"""

EXAMPLES = r"""
- name: Look at the GPUs
  esnode.core.nvml_info:
    missing_ok: true
  register: nvml

- name: Stop when one of them is not well
  ansible.builtin.assert:
    that: nvml.gpus | rejectattr('state', 'equalto', 'ok') | length == 0
"""

RETURN = r"""
driver_version:
  description: Version of the NVIDIA driver.
  returned: success, unless skipped
  type: str
  sample: 580.105.08
nvml_version:
  description: Version of the NVML library.
  returned: success, unless skipped
  type: str
  sample: 13.580.105.08
cuda_version:
  description: Highest version of CUDA that the driver supports.
  returned: success, unless skipped
  type: str
  sample: "13.0"
gpus:
  description: The selected GPUs by index. Everything but C(index) and C(state) only where there is an answer.
  returned: success
  type: list
  elements: dict
  contains:
    index:
      description: Index at this moment.
      type: int
      sample: 0
    uuid:
      description: UUID. Absent when the GPU can't be asked.
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
    state:
      description: V(ok), V(lost) (off the bus), V(reset_required) or V(error).
      type: str
      sample: ok
    error:
      description: What is wrong. Absent when RV(gpus[].state=ok).
      type: str
      sample: "GPU 2 (GPU-96381856): the GPU has fallen off the bus"
    serial:
      description: Serial number of the board.
      type: str
      sample: "1652719938155"
    part_number:
      description: Part number of the board.
      type: str
      sample: 692-2G520-0200-000
    vbios_version:
      description: Version of the VBIOS.
      type: str
      sample: 96.00.99.00.01
    inforom_version:
      description: Version of the board's InfoROM.
      type: str
      sample: G520.0200.00.05
    gsp_firmware_version:
      description: Version of the firmware that runs on the GPU's own processor, Turing and newer.
      type: str
      sample: 580.105.08
    virtualization:
      description: V(none), V(passthrough) in a VM that has the whole GPU, V(vgpu) in one that has a part,
        V(host_vgpu) or V(host_vsga) on the host of such.
      type: str
      sample: none
    minor_number:
      description: The number of C(/dev/nvidiaN).
      type: int
      sample: 0
    architecture:
      description: Generation of the GPU.
      type: str
      sample: Hopper
    compute_capability:
      description: CUDA compute capability.
      type: str
      sample: "9.0"
    memory:
      description: Memory of the board.
      type: dict
      contains:
        total_bytes:
          description: All of it.
          type: int
          sample: 85520809984
        used_bytes:
          description: What is in use or reserved.
          type: int
          sample: 504365056
        free_bytes:
          description: What is free.
          type: int
          sample: 85016444928
        bar1_total_bytes:
          description: Size of the window that the host maps.
          type: int
          sample: 137438953472
    power:
      description: Power and limits, in mW.
      type: dict
      contains:
        usage_mw:
          description: Draw at the moment; the driver's mean of a second on most boards.
          type: int
          sample: 68500
        draw_mw:
          description: Mean draw over O(draw_seconds), from the energy counter. Absent without that option, and on
            boards before Volta.
          type: int
          sample: 412300
        energy_mj:
          description: Energy since the driver was loaded, in mJ.
          type: int
          sample: 18579
        limit_mw:
          description: Requested limit.
          type: int
          sample: 700000
        enforced_limit_mw:
          description: Limit in force.
          type: int
          sample: 700000
        default_limit_mw:
          description: Limit after a reboot.
          type: int
          sample: 700000
        min_limit_mw:
          description: Lowest limit that it takes.
          type: int
          sample: 200000
        max_limit_mw:
          description: Highest limit that it takes.
          type: int
          sample: 700000
        module_limit_mw:
          description: Requested limit of the module that it is part of.
          type: int
          sample: 1000000
        module_enforced_limit_mw:
          description: Limit in force of that module.
          type: int
          sample: 1000000
    clocks:
      description: Clocks in MHz.
      type: dict
      contains:
        graphics_mhz:
          description: Graphics clock.
          type: int
          sample: 345
        max_graphics_mhz:
          description: Highest graphics clock.
          type: int
          sample: 1980
        sm_mhz:
          description: Clock of the streaming multiprocessors.
          type: int
          sample: 345
        max_sm_mhz:
          description: Highest of these.
          type: int
          sample: 1980
        memory_mhz:
          description: Memory clock.
          type: int
          sample: 2619
        max_memory_mhz:
          description: Highest memory clock.
          type: int
          sample: 2619
        video_mhz:
          description: Clock of encoder and decoder.
          type: int
          sample: 765
        max_video_mhz:
          description: Highest of these.
          type: int
          sample: 1545
        event_reasons:
          description: What keeps the clocks down.
          type: list
          elements: str
          sample: [sw_power_cap]
        supported_mhz:
          description: By memory clock the graphics clocks that can be locked. With O(supported_clocks).
          type: dict
          sample: {"2619": [345, 360, 1980]}
    temperature:
      description: Temperatures in degrees Celsius.
      type: dict
      contains:
        gpu_celsius:
          description: Of the GPU.
          type: int
          sample: 30
        memory_celsius:
          description: Of the memory.
          type: int
          sample: 34
        margin_celsius:
          description: How far it is from slowing down.
          type: int
          sample: 57
        shutdown_celsius:
          description: Where it switches off.
          type: int
          sample: 92
        slowdown_celsius:
          description: Where it slows down.
          type: int
          sample: 89
        memory_max_celsius:
          description: Where it slows down for its memory.
          type: int
          sample: 95
        gpu_max_celsius:
          description: Highest that it should work at.
          type: int
          sample: 85
    utilization:
      description: How busy it is.
      type: dict
      contains:
        gpu_percent:
          description: Share of time that something computed.
          type: int
          sample: 0
        memory_percent:
          description: Share of time that memory was read or written.
          type: int
          sample: 0
        encoder_percent:
          description: Of the encoders.
          type: int
          sample: 0
        decoder_percent:
          description: Of the decoders.
          type: int
          sample: 0
    fans_percent:
      description: Speed of each fan that is the board's own.
      type: list
      elements: int
      sample: [30, 30]
    modes:
      description: Modes.
      type: dict
      contains:
        persistence:
          description: Persistence mode.
          type: bool
          sample: true
        compute:
          description: Compute mode.
          type: str
          sample: default
        accounting:
          description: Whether finished processes are accounted for.
          type: bool
          sample: false
        ecc:
          description: Whether ECC is in force.
          type: bool
          sample: true
        ecc_pending:
          description: Whether it is after the next reset.
          type: bool
          sample: true
        mig:
          description: Whether MIG mode is in force.
          type: bool
          sample: false
        mig_pending:
          description: Whether it is after the next reset.
          type: bool
          sample: false
    mig_instances:
      description: GPU instances, while MIG mode is on.
      type: list
      elements: dict
      contains:
        profile:
          description: Profile.
          type: str
          sample: 3g.40gb
        compute:
          description: Profiles of its compute instances.
          type: list
          elements: str
          sample: [3g.40gb]
        start:
          description: Its first memory slice.
          type: int
          sample: 0
    mig_devices:
      description: MIG devices, while MIG mode is on.
      type: list
      elements: dict
      contains:
        uuid:
          description: UUID.
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
    pcie:
      description: PCI Express link.
      type: dict
      contains:
        generation:
          description: Generation at the moment.
          type: int
          sample: 5
        max_generation:
          description: Highest that board and slot can do.
          type: int
          sample: 5
        width:
          description: Lanes at the moment.
          type: int
          sample: 16
        max_width:
          description: Most that board and slot can do.
          type: int
          sample: 16
        replays:
          description: Packets sent again.
          type: int
          sample: 0
    nvlink:
      description: NVLinks. Absent on boards without.
      type: dict
      contains:
        links:
          description: How many there are.
          type: int
          sample: 18
        up:
          description: How many are up.
          type: int
          sample: 18
        down:
          description: Numbers of those that are down.
          type: list
          elements: int
          sample: []
    fabric:
      description: Whether it has joined the fabric of NVSwitches. On boards that have one CUDA works only after that.
      type: dict
      contains:
        state:
          description: V(completed), V(in_progress), V(not_started) or V(not_supported).
          type: str
          sample: completed
        status:
          description: NVML's code for how joining ended. 0 is success.
          type: int
          sample: 0
        clique_id:
          description: GPUs of one number reach each other.
          type: int
          sample: 0
    health:
      description: Errors of memory and what the driver recommends.
      type: dict
      contains:
        ecc_volatile:
          description: ECC errors since the driver was loaded.
          type: dict
          sample: {corrected: 0, uncorrected: 0}
        ecc_aggregate:
          description: ECC errors over the life of the board.
          type: dict
          sample: {corrected: 0, uncorrected: 0}
        remapped_rows:
          description: Rows of memory put out of use, Ampere and newer.
          type: dict
          contains:
            correctable:
              description: For correctable errors.
              type: int
              sample: 0
            uncorrectable:
              description: For uncorrectable errors.
              type: int
              sample: 0
            pending:
              description: Whether some wait for a reset.
              type: bool
              sample: false
            failed:
              description: Whether there was no spare row left.
              type: bool
              sample: false
        retired_pages:
          description: Pages of memory put out of use, Volta and Turing.
          type: int
          sample: 0
        recovery_action:
          description: V(none), V(reset), V(reboot), V(drain_p2p) or V(drain_and_reset).
          type: str
          sample: none
    processes:
      description: Processes that compute or draw on it.
      type: list
      elements: dict
      contains:
        pid:
          description: Process id, as the host counts.
          type: int
          sample: 4711
        kind:
          description: V(compute), V(graphics) or V(mps).
          type: str
          sample: compute
        name:
          description: Name of the program.
          type: str
          sample: python3
        memory_bytes:
          description: What it has of the memory. Absent when the driver does not say.
          type: int
          sample: 1073741824
        gpu_instance:
          description: Number of the GPU instance that it uses.
          type: int
          sample: 1
        compute_instance:
          description: Number of the compute instance that it uses.
          type: int
          sample: 0
    clock_lock:
      description: Locked clocks, as far as M(esnode.core.nvml_clock_lock) has noted them and they still hold.
      type: dict
      sample: {graphics: {min_mhz: 1200, max_mhz: 1500}}
    desired:
      description: What O(state_file) says of this GPU.
      type: dict
      sample: {power_limit: {limit: 300W, percent_of: default, scope: gpu}}
"""

import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils._nvml_info import Reader, mean_draw_mw
from ansible_collections.esnode.core.plugins.module_utils._nvml_module import RUN_DIR_OPTION, SELECTION, on_gpus
from ansible_collections.esnode.core.plugins.module_utils._nvml_records import STATE_FILE, AppliedLocks, DesiredState
from ansible_collections.esnode.core.plugins.module_utils.nvml import Gpu, NvmlError, Session, text

if t.TYPE_CHECKING:
    Result = dict[str, t.Any]

_MOST_SECONDS = 3600
_ANY_ERROR = range(1, 1000)  # a GPU that can't be talked to is described, too


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **SELECTION,
            **RUN_DIR_OPTION,
            "gpus": {"type": "list", "elements": "str", "default": ["all"]},
            "supported_clocks": {"type": "bool", "default": False},
            "draw_seconds": {"type": "float", "default": 0},
            "state_file": {"type": "path", "default": STATE_FILE},
        },
        supports_check_mode=True,
    )
    on_gpus(module, lambda session, gpus: _read(module, session, gpus), module.params["gpus"], _ANY_ERROR)


def _read(module: AnsibleModule, session: Session, gpus: list[Gpu]) -> Result:
    cuda = session.call("nvmlSystemGetCudaDriverVersion")
    seconds = module.params["draw_seconds"]
    if not 0 <= seconds <= _MOST_SECONDS:
        module.fail_json(msg=f"draw_seconds: {seconds:g} must be 0 to {_MOST_SECONDS}", changed=False)
    draw = mean_draw_mw(gpus, seconds) if seconds else {}
    supported = module.params["supported_clocks"]
    result: Result = {
        "changed": False,
        "driver_version": session.driver_version,
        "nvml_version": text(session.call("nvmlSystemGetNVMLVersion")),
        "cuda_version": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpus": [Reader(gpu, supported, draw.get(gpu.index)).facts() for gpu in gpus],
    }
    try:
        desired: DesiredState | None = DesiredState(module.params["state_file"])
    except NvmlError as error:
        module.warn(str(error))
        desired = None
    applied = AppliedLocks(module.params["run_dir"])
    for gpu, facts in zip(gpus, result["gpus"]):
        if desired and desired.settings(gpu.uuid):
            facts["desired"] = desired.settings(gpu.uuid)
        locks = applied.lookup(gpu)[0] if facts["state"] == "ok" else {}
        if locks:
            facts["clock_lock"] = locks
    return result


if __name__ == "__main__":
    main()
