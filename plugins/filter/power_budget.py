# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: power_budget
short_description: Divide a power budget among the GPUs of some hosts
version_added: 1.0.0
author: The esnode authors (@esnode)
description:
  - Computes the power limit of each GPU so that all of them together never are above the budget, in two passes. First
    every host lowers what has to be lowered. When all have done so, limits are raised.
  - The whole budget is given out as far as the limits that the GPUs take allow. Limits are whole watts. A larger budget
    never makes a limit lower, and the order of hosts and GPUs makes no difference.
  - Nothing is set here. The playbook C(esnode.core.power) does that.
positional: _input, budget
options:
  _input:
    description: By host the GPUs, as RV(esnode.core.nvml_info#module:gpus) has them. A list may be empty.
    type: dict
    required: true
  budget:
    description: Watts (V(30000), V(30kW)) for all of the hosts together.
    type: str
    required: true
  share:
    description:
      - How it is divided. V(equal) gives each GPU the same, V(default) as much as its default limit stands to those of
        the others, V(draw) as much as its draw does, C(power.draw_mw) or, without that, C(power.usage_mw).
      - Minimum and maximum of each GPU are kept, and others get what that leaves.
    type: str
    choices: [equal, default, draw]
    default: equal
  reserve:
    description: By host the watts that its other parts draw. They are taken off the budget.
    type: dict
    default: {}
  ceilings:
    description: By host the most that one of its GPUs may have, in watts, percent of its default (V(70%)), V(default),
      V(min) or V(max), or a list of these, of which the lowest counts.
    type: dict
    default: {}
  held:
    description:
      - Hosts that should have lowered limits and have not. What they have counts, and nothing is asked of them.
      - The limits of the others are then raised by what is left, if anything is.
    type: list
    elements: str
    default: []
  group:
    description: Named in error messages.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Look at the GPUs
  esnode.core.nvml_info:
    missing_ok: true
  register: nvml

- name: Divide 30 kW among the hosts of a rack
  ansible.builtin.set_fact:
    plan: "{{ gpus | esnode.core.power_budget('30kW', group='rack_a1') }}"
  vars:
    hosts: "{{ groups.rack_a1 }}"
    gpus: "{{ dict(hosts | zip(hosts | map('extract', hostvars, ['nvml', 'gpus']))) }}"
  run_once: true
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
  contains:
    budget_mw:
      description: The budget in mW.
      type: int
      sample: 30000000
    reserve_mw:
      description: The part of it that is not for GPUs, in mW.
      type: int
      sample: 4000000
    before_mw:
      description: What the present limits and the reserve come to, in mW.
      type: int
      sample: 48800000
    after_mw:
      description: What they will come to, in mW.
      type: int
      sample: 30000000
    hosts:
      description:
        - By host C(reserve_mw), C(before_mw) and C(after_mw), its C(gpus) with C(index), C(uuid), C(name), C(before_mw)
          and C(after_mw), and the steps of each pass, C(lower) and C(raise).
        - A step is a C(limit) with the UUIDs of the C(gpus) that get it. GPUs that keep their limit are in C(lower).
      type: dict
      sample:
        gpu01:
          reserve_mw: 0
          before_mw: 700000
          after_mw: 437000
          gpus:
            - index: 0
              uuid: GPU-96381856-290c-ae6b-8206-374242020f5e
              name: NVIDIA H100 80GB HBM3
              before_mw: 700000
              after_mw: 437000
          lower:
            - limit: 437W
              gpus: [GPU-96381856-290c-ae6b-8206-374242020f5e]
          raise: []
"""

import typing as t

from ansible.errors import AnsibleFilterError  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.plugin_utils.power import Impossible, plan


def power_budget(hosts: dict[str, t.Any], budget: str | float, **options: t.Any) -> dict[str, t.Any]:
    try:
        return plan(hosts, budget, **options)
    except Impossible as error:
        raise AnsibleFilterError(f"power_budget: {error}") from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"power_budget": power_budget}
