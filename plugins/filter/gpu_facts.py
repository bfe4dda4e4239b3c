# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: gpu_facts
short_description: What to target hosts by, from what NVML says
version_added: 1.0.0
author: The esnode authors (@esnode)
description:
  - Makes facts and names of inventory groups of what M(esnode.core.nvml_info) has returned. The playbook
    C(esnode.core.facts) sets them as the fact C(esnode_gpu).
options:
  _input:
    description: The result of M(esnode.core.nvml_info).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Look at the GPUs
  esnode.core.nvml_info:
    missing_ok: true
  register: nvml

- name: Go on with hosts in groups such as gpu_h100
  ansible.builtin.group_by:
    key: "{{ item }}"
  loop: "{{ (nvml | esnode.core.gpu_facts).groups }}"
"""

RETURN = r"""
_value:
  description: The facts.
  type: dict
  contains:
    count:
      description: Number of GPUs.
      type: int
      sample: 8
    models:
      description: Short names of the models, each once.
      type: list
      elements: str
      sample: [h100]
    names:
      description: The models as NVML names them.
      type: list
      elements: str
      sample: [NVIDIA H100 80GB HBM3]
    memory_bytes:
      description: Memory of all GPUs.
      type: int
      sample: 684166479872
    mig:
      description: Whether MIG mode is on in one of them.
      type: bool
      sample: false
    unwell:
      description: Number of GPUs that can't be used.
      type: int
      sample: 0
    driver_version:
      description: Version of the driver. Empty without a GPU.
      type: str
      sample: 580.105.08
    groups:
      description: V(gpu) or V(gpu_none), V(gpu_x8) by their number, V(gpu_h100) and so on by model, V(gpu_mig) and
        V(gpu_unwell) if one is.
      type: list
      elements: str
      sample: [gpu, gpu_x8, gpu_h100]
"""

import re
import typing as t

_VENDOR = {"nvidia", "tesla", "geforce", "quadro"}
_SERIES = {"rtx", "gtx", "titan", "pro"}  # says little without the word that follows
_GENERATION = {"ada", "ti", "super"}  # tells it from another of the same number


def model(name: str) -> str:
    """C(NVIDIA H100 80GB HBM3) is C(h100), C(NVIDIA GeForce RTX 4090) is C(rtx_4090)."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _VENDOR]
    taken: list[str] = []
    for word in words:
        if taken and taken[-1] not in _SERIES and word not in _GENERATION:
            break
        taken.append(word)
    return "_".join(taken) or "unknown"


def gpu_facts(result: dict[str, t.Any]) -> dict[str, t.Any]:
    gpus = result.get("gpus", [])
    names = sorted({gpu["name"] for gpu in gpus if gpu.get("name")})
    models = sorted({model(name) for name in names})
    mig = any(gpu.get("modes", {}).get("mig") for gpu in gpus)
    unwell = sum(gpu.get("state", "ok") != "ok" for gpu in gpus)
    groups = ["gpu", f"gpu_x{len(gpus)}"] if gpus else ["gpu_none"]
    groups += [f"gpu_{each}" for each in models]
    groups += ["gpu_mig"] if mig else []
    groups += ["gpu_unwell"] if unwell else []
    return {
        "count": len(gpus),
        "models": models,
        "names": names,
        "memory_bytes": sum(gpu.get("memory", {}).get("total_bytes", 0) for gpu in gpus),
        "mig": mig,
        "unwell": unwell,
        "driver_version": result.get("driver_version", ""),
        "groups": groups,
    }


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"gpu_facts": gpu_facts}
