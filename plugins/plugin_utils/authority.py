# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate authority of one's own in a folder on the controller: ca.key and ca.crt."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ansible_collections.esnode.core.plugins.plugin_utils import certificates
from ansible_collections.esnode.core.plugins.plugin_utils.certificates import CertificateError

if certificates.HAS_CRYPTOGRAPHY:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HOUR = datetime.timedelta(hours=1)  # clocks of clients may be behind


@dataclass
class Authority:
    """`decrypt` gives the content of a file that Ansible Vault may have encrypted."""

    folder: Path
    name: str
    days: int
    passphrase: str
    decrypt: Callable[[Path], bytes]

    @property
    def key_path(self) -> Path:
        return self.folder / "ca.key"

    @property
    def path(self) -> Path:
        return self.folder / "ca.crt"

    def certificate(self) -> x509.Certificate | None:
        """None when the authority is not made yet. One that can sign nothing any more is refused."""
        if not self.path.exists():
            return None
        found = certificates.read(self.path.read_bytes(), str(self.path))[0]
        if certificates.ends(found) <= certificates.now():
            raise CertificateError(
                f"{self.path}: the authority has expired on {certificates.day(certificates.ends(found))}. Move the "
                f"folder {self.folder} away and deploy: another one is made; give its ca.crt to Prometheus"
            )
        return found

    def ensure(self) -> x509.Certificate:
        """Made by one process at a time, complete or not there: forks and other controllers find the same one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        with self._locked():
            found = self.certificate()
            if found is not None:
                return found
            if self.key_path.exists():  # cut off between the two files, or ca.crt was lost
                key = self._key()
            else:
                key = ec.generate_private_key(ec.SECP384R1())
                way = (
                    serialization.BestAvailableEncryption(self.passphrase.encode())
                    if self.passphrase
                    else serialization.NoEncryption()
                )
                form = serialization.PrivateFormat.PKCS8
                write(self.key_path, key.private_bytes(serialization.Encoding.PEM, form, way), 0o600)
            made = self._self_signed(key)
            write(self.path, made.public_bytes(serialization.Encoding.PEM), 0o644)
            return made

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self.folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _key(self) -> Any:
        try:
            pem = self.decrypt(self.key_path)
            password = self.passphrase.encode() if b"ENCRYPTED" in pem else None
            return serialization.load_pem_private_key(pem, password or None)
        except FileNotFoundError:
            raise CertificateError(
                f"{self.key_path}: the authority's key is not there; ca.crt alone can sign nothing"
            ) from None
        except (TypeError, ValueError, OSError) as error:
            raise CertificateError(
                f"{self.key_path}: cannot be read ({error}); a passphrase is given by esnode_tls_ca_passphrase, "
                "a vault's password by --ask-vault-pass"
            ) from None

    def _self_signed(self, key: Any) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = _builder(subject, subject, key.public_key(), datetime.timedelta(days=self.days))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA384())

    def until(self, days: int, own: x509.Certificate | None) -> datetime.datetime:
        """When a certificate of so many days would end: no later than the authority does."""
        last = certificates.now() + datetime.timedelta(days=days)
        return min(last, certificates.ends(own)) if own else last

    def sign(self, public_key: bytes, common_name: str, alt_names: list[str], days: int) -> bytes:
        """A certificate for a server, PEM."""
        own, signer = self.ensure(), self._key()
        if certificates.public(own.public_key()) != certificates.public(signer.public_key()):
            raise CertificateError(f"{self.key_path} does not belong to {self.path}; bring back the key of it")
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
        key: Any = serialization.load_pem_public_key(public_key)
        builder = _builder(subject, own.subject, key, self.until(days, own) - certificates.now())
        for extension, critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.SubjectAlternativeName([_general(n) for n in alt_names]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, lasts: datetime.timedelta) -> x509.CertificateBuilder:
    moment = certificates.now()
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(moment - _HOUR).not_valid_after(moment + lasts)


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})


def _general(name: str) -> x509.GeneralName:
    kind, _colon, value = name.partition(":")
    return x509.IPAddress(ip_address(value)) if kind == "IP" else x509.DNSName(value)


def write(path: Path, content: bytes, mode: int) -> None:
    """Complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(handle)
    temporary.replace(path)
