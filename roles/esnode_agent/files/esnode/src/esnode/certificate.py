# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the certificate ends that the agent serves, and who is told.

Asked of the TLS context by a handshake in memory: that is what clients get, whatever lies on the disk by now. To read
it with a library for certificates would take a fifth of the agent's memory.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

log = logging.getLogger("esnode.certificate")

SOON_S = 14 * 86400.0  # a deployment renews at 30 days: something keeps it from that
_REMIND_S = 86400.0
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, for which ssl has no name


class Served:
    """The certificate of a context, as it is now: `path` it was read from, `not_after` in Unix seconds.

    `not_after` is None when it can't be told, for instance of one that is not for servers.
    """

    def __init__(self, context: ssl.SSLContext, path: str) -> None:
        self.path = path
        self.not_after = _not_after(context, path)
        self._reminded: float | None = None

    def warning(self) -> str | None:
        """What an operator should know of it now; None when it is good for two weeks and more."""
        if self.not_after is None or (left_s := self.not_after - time.time()) > SOON_S:
            return None
        day = time.strftime("%Y-%m-%d", time.gmtime(self.not_after))
        what = f"ends on {day}, in {left_s / 86400:.0f} days" if left_s > 0 else f"has expired on {day}"
        return f'security.tls_cert_path = "{self.path}": the certificate {what}; renew it and reload the agent'

    def remind(self) -> None:
        """Log the warning, if there is one, at most once a day."""
        now = time.monotonic()
        if (text := self.warning()) and (self._reminded is None or now - self._reminded >= _REMIND_S):
            self._reminded = now
            log.warning("%s", text)


def _not_after(context: ssl.SSLContext, path: str) -> float | None:
    import ssl  # after tls.restrict_handshake

    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Trusted for being itself, expired or not: only what was verified is shown by getpeercert.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        client.load_verify_locations(path)
        server = context.wrap_bio(to_server, to_client, server_side=True)
        peer = client.wrap_bio(to_client, to_server)
        for _flight in range(4):
            for side in (peer, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue
        shown = peer.getpeercert() or {}
        return float(ssl.cert_time_to_seconds(str(shown["notAfter"])))
    except (OSError, ValueError, KeyError):  # an SSLError is an OSError
        return None
