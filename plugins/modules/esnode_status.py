#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: esnode_status
short_description: Tell how the esnode agent of a host is
version_added: 1.0.0
description:
  - Looks at the releases on the host, at its service and at what the agent says of itself, and lists what is wrong.
  - Compares with what the release was healthy with when it was deployed. So GPUs that are gone and files that were
    changed by hand since are found.
author:
  - The esnode authors (@esnode)
extends_documentation_fragment:
  - esnode.core.place
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
  idempotent:
    description: It changes nothing.
    support: full
  platform:
    description: Linux with systemd, or with the supervisor that the release brings.
    platforms: linux
    support: full
seealso:
  - module: esnode.core.esnode_service
"""

EXAMPLES = r"""
- name: Ask how the agent is
  esnode.core.esnode_status:
  register: esnode

- name: Say what is wrong
  ansible.builtin.debug:
    msg: "{{ esnode.trouble }}"
"""

RETURN = r"""
installed:
  description: Whether a release of the agent is active on the host.
  returned: success
  type: bool
  sample: true
release:
  description: Name of the active release; empty when there is none.
  returned: success
  type: str
  sample: 1.0.1-0123456789ab
previous:
  description: Name of the release that a rollback would go to; empty when there is none.
  returned: success
  type: str
  sample: 1.0.0-ba9876543210
left:
  description: Releases that the host went back from, and why.
  returned: success
  type: dict
  sample: {1.0.2-0a1b2c3d4e5f: it was rolled back}
version:
  description: Version that the running agent says; empty when it does not answer.
  returned: success
  type: str
  sample: 1.0.1
url:
  description: Where the agent answers on this host; empty when that is not known.
  returned: success
  type: str
  sample: https://127.0.0.1:9100
uptime:
  description: Seconds since the agent was started; 0 when it does not answer.
  returned: success
  type: int
  sample: 86400
gpus:
  description: Models of the GPUs that the agent sees.
  returned: success
  type: list
  elements: str
  sample: [NVIDIA H100 80GB HBM3]
certificate_ends:
  description: When the certificate ends that the agent serves, as C(YYYY-MM-DD); empty without TLS.
  returned: success
  type: str
  sample: "2027-05-01"
trouble:
  description: What is wrong, a sentence each; empty when all is well.
  returned: success
  type: list
  elements: str
  sample: ["7 GPUs are seen, and 8 were when it was deployed"]
"""

import time
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.module_utils import (
    command,
    files,
    health,
    host,
    record,
    release,
    service,
)

if t.TYPE_CHECKING:
    Answer = dict[str, t.Any]

_DAY_S = 86400
_SOON_DAYS = 14
# Its own Python has the library for certificates, the host's need not.
_ENDS = (
    "import sys; from cryptography import x509; "
    "c = x509.load_pem_x509_certificates(open(sys.argv[1], 'rb').read())[0]; "
    "print(int(c.not_valid_after_utc.timestamp()))"
)


def main() -> None:
    module = AnsibleModule(argument_spec=host.PLACE, supports_check_mode=True)
    try:
        layout = host.layout(module.params["scope"], module.params["prefix"], module.params["data_dir"])
        answer = _look(layout, module.run_command)
    except (command.Failed, service.ServiceError, release.ReleaseError, host.HostError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **answer)


def _look(layout: dict[str, str], run: command.Run) -> Answer:
    prefix = layout["prefix"]
    name = release.current(prefix) or ""
    known = record.of(prefix, name) if name else None
    before = record.previous(prefix, name)
    left = {n: record.left(prefix, n) for n in release.installed(prefix)}
    answer: Answer = {
        "installed": bool(name),
        "release": name,
        "previous": before.agent.release if before else "",
        "left": {n: (why["reason"].splitlines() or [""])[0] for n, why in left.items() if why},
        "version": "",
        "url": "",
        "uptime": 0,
        "gpus": [],
        "certificate_ends": "",
    }
    if not name:
        return {**answer, "trouble": ["the agent is not installed"]}
    trouble = []
    if known is None:
        trouble.append(f"release {name} is active and was never healthy here: deploy again")
    pid = service.manager(layout, run).pid()
    running = host.agents(prefix).get(pid) if pid else None
    if pid is None:
        trouble.append("the agent does not run")
    elif running != name:
        trouble.append(f"release {running} runs, and not the active one: deploy again")
    if known:
        answer["url"] = health.base_url(known.agent.listen_address, bool(known.agent.certificate))
        answer["certificate_ends"], worry = _certificate(prefix, known.agent.certificate, run)
        trouble += worry
        others = files.differing(known.files)
        trouble += [f"not as it was deployed: {', '.join(others)}"] if others else []
    status = health.Client(answer["url"]).status() if pid and answer["url"] else None
    if status:
        answer.update(version=status["version"], uptime=int(time.time() - status["started"]))
        answer["gpus"] = [gpu["name"] or "unknown" for gpu in status["gpus"]]
        trouble += health.failing(status) + health.broken(status)
        were = len(known.status["gpus"]) if known else 0
        if len(status["gpus"]) < were:
            trouble.append(f"{len(status['gpus'])} GPUs are seen, and {were} were when it was deployed")
    elif pid and answer["url"]:
        trouble.append(f"the agent does not answer at {answer['url']}")
    return {**answer, "trouble": trouble}


def _certificate(prefix: str, path: str, run: command.Run) -> tuple[str, list[str]]:
    """(day on which a certificate ends, what is to be said of it)."""
    if not path:
        return "", []
    code, said = command.attempt(run, [f"{prefix}/current/bin/python", "-I", "-c", _ENDS, path], limit_s=30)
    if code:
        return "", [f"{path} can't be read: {(said.strip().splitlines() or ['?'])[-1]}"]
    ends = int(said)
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    days = (ends - time.time()) / _DAY_S
    if days < 0:
        return day, [f"the certificate has expired on {day}"]
    return day, [f"the certificate ends on {day}: deploy again to renew it"] if days < _SOON_DAYS else []


if __name__ == "__main__":
    main()
