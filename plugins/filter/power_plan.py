# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: power_plan
short_description: What a run of the playbook esnode.core.power does
version_added: 1.0.0
author: The esnode authors (@esnode)
description:
  - For that playbook. To divide one budget use P(esnode.core.power_budget#filter).
  - Sees that each budget is computed from all hosts of its group, and collects everything that is wrong.
options:
  _input:
    description: By host what it has answered, as the role C(esnode.core.esnode_power) makes it.
    type: dict
    required: true
  groups:
    description: The groups of the inventory.
    type: dict
    required: true
  held:
    description: Hosts that should have lowered limits and have not.
    type: list
    elements: str
    default: []
  skip_unreachable:
    description: Leave out unreachable hosts that share no budget.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Plan
  ansible.builtin.set_fact:
    plan: "{{ answers | esnode.core.power_plan(groups) }}"
"""

RETURN = r"""
_value:
  description: The plan.
  type: dict
  contains:
    stops:
      description: What is impossible. Nothing may be changed unless it is empty.
      type: list
      elements: str
      sample: []
    hosts:
      description: Hosts that were asked.
      type: list
      elements: str
      sample: [gpu01, gpu02, login01]
    gpus:
      description: Hosts with a GPU.
      type: list
      elements: str
      sample: [gpu01, gpu02]
    budgeted:
      description: Those of them that share a budget.
      type: list
      elements: str
      sample: [gpu01]
    budgets:
      description: By group the value of P(esnode.core.power_budget#filter).
      type: dict
      sample: {}
    steps:
      description: By host its part of that.
      type: dict
      sample: {}
"""

import typing as t

from ansible_collections.esnode.core.plugins.plugin_utils.power_run import plan_run


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"power_plan": plan_run}
