# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing of the agent is left."""

from __future__ import annotations

from typing import Any

import pytest

testinfra_hosts = ["ansible://lab"]


@pytest.mark.parametrize("folder", ["opt", "etc", "var", "run", "usr", "home", "root", "tmp"])
def test_no_file_is_left(host: Any, folder: str) -> None:
    assert host.check_output(f"find /{folder} -xdev -name '*esnode*'") == ""


def test_no_user_no_unit_no_process_is_left(host: Any) -> None:
    assert not host.user("esnode").exists
    assert not host.group("esnode").exists
    assert host.check_output("systemctl list-units --all --no-legend 'esnode*'") == ""
    assert host.run("pgrep -f esnode-core").rc == 1
    assert not host.socket("tcp://0.0.0.0:9100").is_listening
    assert host.check_output("systemctl is-system-running") == "running"
