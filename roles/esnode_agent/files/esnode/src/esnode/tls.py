# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""TLS of the HTTP face: which versions and suites are offered, with which certificate.

Python's ssl has no way to choose TLS 1.3 suites; OpenSSL's own configuration has, and reads it once, when ssl or
hashlib is first imported. So `restrict_handshake` runs before anything imports one of them, and ssl is imported inside
functions here.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from esnode.config import RemoteWrite, Security
from esnode.config_file import TLS13_SUITES

if TYPE_CHECKING:
    import ssl

# Where distributions keep OpenSSL's configuration; it may hold what must stay in force, such as the FIPS provider.
_SYSTEM_CONFIGS = ("/etc/pki/tls/openssl.cnf", "/etc/ssl/openssl.cnf", "/usr/lib/ssl/openssl.cnf")


def restrict_handshake(security: Security) -> None:
    """Make OpenSSL offer only the TLS 1.3 suites of `cipher_suites`; nothing to do when the list is empty.

    Raises RuntimeError when ssl or hashlib has been imported already, since the choice would silently not count.
    """
    suites = [s for s in security.cipher_suites if s in TLS13_SUITES]
    if not (security.enable_tls and suites):
        return
    # Whichever comes first has OpenSSL read its configuration.
    if early := {"_ssl", "_hashlib"} & sys.modules.keys():
        raise RuntimeError(f"{', '.join(sorted(early))} was imported before the cipher suites were chosen")
    before = os.environ.get("OPENSSL_CONF")
    fd = os.memfd_create("esnode-openssl.cnf")
    os.write(fd, _openssl_config(suites, before).encode())
    os.environ["OPENSSL_CONF"] = f"/proc/self/fd/{fd}"
    try:
        import ssl

        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # reads the configuration now
    finally:
        os.close(fd)
        if before is None:
            del os.environ["OPENSSL_CONF"]  # a child process has no such file
        else:
            os.environ["OPENSSL_CONF"] = before


def _openssl_config(suites: list[str], named: str | None) -> str:
    """The system's configuration, if there is one, with the suites added where its TLS defaults stand."""
    base = next((p for p in ([named] if named else _SYSTEM_CONFIGS) if os.access(p, os.R_OK)), None)
    text = Path(base).read_text("utf-8", "replace") if base else ""
    init = _value(text, "", "openssl_conf")
    ssl_conf = _value(text, init, "ssl_conf") if init else None
    defaults = _value(text, ssl_conf, "system_default") if ssl_conf else None
    lines = [
        "" if init else "openssl_conf = esnode_init",
        f".include {base}" if base else "",
        f"[{init or 'esnode_init'}]",
        f"ssl_conf = {ssl_conf or 'esnode_ssl'}",
        f"[{ssl_conf or 'esnode_ssl'}]",
        f"system_default = {defaults or 'esnode_tls'}",
        f"[{defaults or 'esnode_tls'}]",
        f"Ciphersuites = {':'.join(suites)}",
    ]
    return "\n".join(lines) + "\n"


def _value(text: str, section: str, key: str) -> str | None:
    """The value of a key in a section of an OpenSSL configuration; section "" is what stands before the first."""
    for name, body in re.findall(r"(?:\A|^\s*\[\s*(\w+)\s*\])(.*?)(?=^\s*\[|\Z)", text, re.MULTILINE | re.DOTALL):
        if name == section and (found := re.search(rf"^\s*{key}\s*=\s*(\w+)", body, re.MULTILINE)):
            return str(found[1])
    return None


def check(security: Security) -> list[str]:
    """Every mistake in the certificate, key, CA and suites, as "key: what is wrong"; empty when TLS would start."""
    if not security.enable_tls:
        return []
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    mistakes = _check_files(context, "security", security)
    for suite in security.cipher_suites:
        if suite not in TLS13_SUITES:
            try:
                context.set_ciphers(suite)
            except ssl.SSLError:
                mistakes.append(f'security.cipher_suites: OpenSSL does not know "{suite}"; see "openssl ciphers -s"')
    return mistakes


def check_client(settings: RemoteWrite) -> list[str]:
    """The same for the files with which the agent is a client."""
    import ssl

    return _check_files(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "remote_write", settings)


def _check_files(context: ssl.SSLContext, section: str, files: Security | RemoteWrite) -> list[str]:
    mistakes: list[str] = []
    for key in ("tls_cert_path", "tls_key_path", "tls_ca_path"):
        path = getattr(files, key)
        if path is None:
            continue
        try:
            Path(path).read_bytes()
        except OSError as error:
            mistakes.append(f'{section}.{key} = "{path}": cannot be read by user {user()}: {error.strerror}')
    return mistakes or _check_pair(context, section, files)


def _check_pair(context: ssl.SSLContext, section: str, files: Security | RemoteWrite) -> list[str]:
    import ssl

    mistakes = []
    if files.tls_cert_path and files.tls_key_path:
        try:
            context.load_cert_chain(files.tls_cert_path, files.tls_key_path, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error)
            mistakes.append(
                f'{section}.tls_cert_path = "{files.tls_cert_path}" and tls_key_path = "{files.tls_key_path}": '
                f"{_explain(reason)}"
            )
    if files.tls_ca_path:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(files.tls_ca_path)
        except ssl.SSLError:
            mistakes.append(f'{section}.tls_ca_path = "{files.tls_ca_path}": holds no PEM certificate')
    return mistakes


def _no_password() -> str:
    raise ValueError("the key is encrypted; the agent starts unattended and needs an unencrypted one, mode 0600")


def _explain(reason: str) -> str:
    """OpenSSL's reason in an operator's words, its own where there are none."""
    for sign, words in (
        ("KEY_VALUES_MISMATCH", "the key does not belong to the certificate"),
        ("NO_START_LINE", "expected PEM files: a certificate (chain) and its private key"),
        ("PEM lib", "expected PEM files: a certificate (chain) and its private key"),
        ("KEY_TOO_SMALL", "the key is too short; use at least RSA 2048 or EC P-256"),
    ):
        if sign in reason:
            return words
    return reason


def user() -> str:
    """The name of the user that this process runs as."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def server_context(security: Security) -> ssl.SSLContext:
    """The context of the listening socket. Raises ssl.SSLError or OSError for what `check` would have named."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls13 = [s for s in security.cipher_suites if s in TLS13_SUITES]
    tls12 = [s for s in security.cipher_suites if s not in TLS13_SUITES]
    configure(context, security)
    if tls12:
        context.set_ciphers(":".join(tls12))
    offered = {c["name"] for c in context.get_ciphers() if c["name"] in TLS13_SUITES}
    if tls13 and offered != set(tls13):
        raise RuntimeError(f"OpenSSL offers {sorted(offered)} instead of the configured {sorted(tls13)}")
    return context


def configure(context: ssl.SSLContext, security: Security) -> None:
    """Give a context the certificate and the lowest version; works on one that is in use, for new connections."""

    context.minimum_version = _lowest(security)
    assert security.tls_cert_path is not None  # config_file refuses enable_tls without it
    context.load_cert_chain(security.tls_cert_path, security.tls_key_path, password=_no_password)


def client_context(settings: RemoteWrite) -> ssl.SSLContext:
    """The context of connections that the agent opens. Raises ssl.SSLError or OSError as `server_context` does."""
    import ssl

    context = ssl.create_default_context(cafile=settings.tls_ca_path)
    # Python 3.13 alone refuses authorities that lack certain extensions, which Prometheus and curl take.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = _lowest(settings)
    if settings.tls_cert_path is not None:
        context.load_cert_chain(settings.tls_cert_path, settings.tls_key_path, password=_no_password)
    return context


def _lowest(settings: Security | RemoteWrite) -> ssl.TLSVersion:
    import ssl

    return {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[settings.min_tls_version]
