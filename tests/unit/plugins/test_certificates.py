# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against a certificate, and how an authority of one's own signs."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from ansible_collections.esnode.core.plugins.action.esnode_certificate import subject_of
from ansible_collections.esnode.core.plugins.plugin_utils import certificates
from ansible_collections.esnode.core.plugins.plugin_utils.authority import Authority
from ansible_collections.esnode.core.plugins.plugin_utils.certificates import CertificateError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

FORM = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
NAMES = ["DNS:n1.example.com", "IP:10.0.0.1"]


def authority(folder: Path) -> Authority:
    return Authority(folder, "test CA", 3650, "", Path.read_bytes)


def trouble(own: Authority, wanted: list[str], *, days: int = 90, signer: Authority | None = None) -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    chain = certificates.read((signer or own).sign(key.public_bytes(*FORM), "n1", NAMES, days), "n1.crt")
    return "; ".join(certificates.trouble(chain, certificates.public(key), wanted, [own.ensure()]))


def test_what_speaks_against_a_certificate(tmp_path: Path) -> None:
    own, other = authority(tmp_path / "own"), authority(tmp_path / "other")
    assert trouble(own, NAMES) == ""
    assert trouble(own, NAMES, days=0).startswith("it has expired on ")
    assert trouble(own, ["DNS:n9"]) == "it does not name DNS:n9"
    assert trouble(own, NAMES, signer=other) == "it does not chain to the CA CN=test CA"
    root = own.ensure()
    wrong = certificates.trouble([root], None, [], [root])
    assert "it does not belong to the private key" in wrong
    assert any("is not for servers" in line for line in wrong)


def test_junk_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"n1\.crt: holds no PEM certificate"):
        certificates.read(b"junk", "n1.crt")
    with pytest.raises(CertificateError, match=r"10\.0\.0\.256"):
        certificates.normal(["IP:10.0.0.256"])


def make(folder: Path) -> int:
    return authority(folder).ensure().serial_number


def test_controllers_that_start_at_once_make_one_authority(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(make, [tmp_path / "ca"] * 16, chunksize=1))) == 1
    assert (tmp_path / "ca/ca.key").stat().st_mode & 0o777 == 0o600


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    own = authority(tmp_path)
    own.days = 10
    root = own.ensure()
    key = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(*FORM)
    leaf = certificates.read(own.sign(key, "n1", NAMES, 397), "")[0]
    assert certificates.ends(leaf) <= certificates.ends(root)


def test_a_subject_in_the_form_of_openssl() -> None:
    assert [value for _oid, value in subject_of("/C=US/L=San Francisco/O=A\\/B", "n1")] == [
        "US",
        "San Francisco",
        "A/B",
        "n1",
    ]
    assert [value for _oid, value in subject_of("", "n1")] == ["n1"]
    for wrong in ("C=US", "/C=USA", "/XY=1", "/O="):
        with pytest.raises(CertificateError, match="esnode_tls_subject"):
            subject_of(wrong, "n1")
