# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options that say where the agent lives on a host; module_utils/host.py has their argument spec."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  scope:
    description:
      - With V(system) the agent lives in C(/opt/esnode) and C(/etc/esnode); this needs root.
      - With V(user) it lives below the home of the user who runs the module.
      - With V(auto) it is V(system) for root and V(user) for everybody else.
    type: str
    choices: [auto, system, user]
    default: auto
  prefix:
    description: Folder of the releases. Empty means C(/opt/esnode) or C(~/.local/share/esnode).
    type: str
    default: ""
  data_dir:
    description: Folder of the agent's data. Empty means C(/var/lib/esnode) or C(<prefix>/data).
    type: str
    default: ""
"""
