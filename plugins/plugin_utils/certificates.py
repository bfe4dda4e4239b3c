# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a certificate says, and what speaks against serving it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

try:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
except ImportError:  # reported by the action; ansible-core itself needs it
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = hasattr(x509.Certificate, "verify_directly_issued_by")

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"


class CertificateError(Exception):
    """Something that the operator has to mend; the message says what and where."""


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)


def read(pem: bytes, where: str) -> list[x509.Certificate]:
    """The certificates of a PEM file, in their order."""
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        found = []
    if not found:
        raise CertificateError(f"{where}: holds no PEM certificate")
    return found


def ends(certificate: x509.Certificate) -> datetime.datetime:
    return _utc(certificate, "not_valid_after")


def begins(certificate: x509.Certificate) -> datetime.datetime:
    return _utc(certificate, "not_valid_before")


def _utc(certificate: x509.Certificate, name: str) -> datetime.datetime:
    """cryptography older than 42 has only the naive form."""
    aware: datetime.datetime | None = getattr(certificate, f"{name}_utc", None)
    return aware or getattr(certificate, name).replace(tzinfo=datetime.timezone.utc)


def day(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d")


def public(key: Any) -> bytes:
    """A public key, comparable."""
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def names(one: x509.Certificate | x509.CertificateSigningRequest) -> set[str]:
    """As DNS:... and IP:..."""
    try:
        found = one.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {f"DNS:{n.lower()}" for n in found.get_values_for_type(x509.DNSName)} | {
        f"IP:{a}" for a in found.get_values_for_type(x509.IPAddress)
    }


def normal(wanted: Iterable[str]) -> list[str]:
    """Names as `names` spells them; CertificateError names what is none."""
    found = []
    for text in wanted:
        kind, _colon, value = text.partition(":")
        try:
            if kind == "IP":
                found.append(f"IP:{ipaddress.ip_address(value)}")
            elif kind == "DNS" and value and value.isascii() and not set(value) & set(" ,/\\\n"):
                found.append(f"DNS:{value.lower()}")
            else:
                raise ValueError
        except ValueError:
            raise CertificateError(
                f'esnode_tls_subject_alt_names: "{text}" is no name; right are DNS:gpu-01.example.com and IP:10.0.0.1'
            ) from None
    return list(dict.fromkeys(found))


def lacks(certificate: x509.Certificate, wanted: Iterable[str]) -> list[str]:
    """Those of the names that it is not for; a wildcard stands for one label."""
    has = names(certificate)

    def there(name: str) -> bool:
        kind, _colon, value = name.partition(":")
        return name in has or (kind == "DNS" and "." in value and f"DNS:*.{value.partition('.')[2]}" in has)

    return [name for name in wanted if not there(name)]


def trouble(
    chain: Sequence[x509.Certificate], key: bytes | None, wanted: Iterable[str], trusted: Sequence[x509.Certificate]
) -> list[str]:
    """Why the chain must not be served with the public key, a line each. An empty `trusted` is not asked."""
    leaf, moment = chain[0], now()
    lines = []
    if key is None or public(leaf.public_key()) != key:
        lines.append("it does not belong to the private key")
    if ends(leaf) <= moment:
        lines.append(f"it has expired on {day(ends(leaf))}")
    if begins(leaf) > moment:
        lines.append(f"it is not valid before {begins(leaf):%Y-%m-%d %H:%M} UTC")
    if missing := lacks(leaf, wanted):
        lines.append(f"it does not name {', '.join(missing)}")
    if not _serves(leaf):
        lines.append("it is not for servers (extended key usage serverAuth, key usage digitalSignature)")
    if trusted and not chains(chain, trusted):
        lines.append(f"it does not chain to the CA {', '.join(c.subject.rfc4514_string() for c in trusted)}")
    return lines


def _serves(leaf: x509.Certificate) -> bool:
    def extension(kind: Any) -> Any:
        try:
            return leaf.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None

    usage, extended = extension(x509.KeyUsage), extension(x509.ExtendedKeyUsage)
    return (usage is None or usage.digital_signature) and (
        extended is None or any(u.dotted_string == SERVER_AUTH for u in extended)
    )


def chains(chain: Sequence[x509.Certificate], trusted: Sequence[x509.Certificate]) -> bool:
    """Whether each is signed by the next one that fits, up to one that is trusted."""
    current, seen = chain[0], 0
    if any(current == one for one in trusted):
        return True
    while seen <= len(chain):
        if any(_issued(current, one) for one in trusted):
            return True
        above = next((one for one in chain[1:] if one != current and _issued(current, one)), None)
        if above is None:
            return False
        current, seen = above, seen + 1
    return False


def _issued(one: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
        is_ca = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except Exception:  # cryptography raises ValueError, TypeError, InvalidSignature and ExtensionNotFound here
        return False
    return bool(is_ca) and begins(issuer) <= now() < ends(issuer)


def describe(certificate: x509.Certificate | None) -> str:
    """For a diff; nothing in it is secret."""
    if certificate is None:
        return "certificate: absent\n"
    return told(certificate.issuer.rfc4514_string(), names(certificate), ends(certificate))


def told(issuer: str, alt_names: Iterable[str], until: datetime.datetime) -> str:
    return f"issuer: {issuer}\nnames: {', '.join(sorted(alt_names))}\nvalid until: {day(until)}\n"
