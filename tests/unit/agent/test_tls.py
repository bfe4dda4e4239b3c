# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be so before TLS is set up; the handshakes themselves are tried in tests/integration."""

from __future__ import annotations

import subprocess
import sys


def test_the_command_line_leaves_openssl_alone_until_a_configuration_is_read() -> None:
    """Whoever imports one of these has OpenSSL read its configuration, and no suite can be chosen any more."""
    code = "import sys, esnode.cli; sys.exit(', '.join({'_ssl', '_hashlib'} & sys.modules.keys()) or None)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
