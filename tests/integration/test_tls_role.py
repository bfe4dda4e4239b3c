# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where certificates come from, when they are renewed, and what is refused: the role on hosts that are folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.esnode.core.plugins.plugin_utils import certificates
from ansible_collections.esnode.core.plugins.plugin_utils.authority import Authority
from cryptography import x509
from cryptography.hazmat.primitives import serialization

ROOT = Path(__file__).parents[2]
PLAY = "- hosts: all\n  gather_facts: false\n  roles: [esnode.core.esnode_tls]\n"


class Fleet:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "play.yml").write_text(PLAY)
        self.output = ""

    def run(self, *options: str, hosts: str = "n1,", code: int = 0, **variables: object) -> int:
        """The number of changed tasks."""
        settings = {
            "esnode_tls_dir": f"{self.folder}/{{{{ inventory_hostname }}}}",
            "esnode_tls_ca_dir": str(self.folder / "ca"),
            "ansible_python_interpreter": sys.executable,
            **{f"esnode_tls_{name}": value for name, value in variables.items()},
        }
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", hosts, "-c", "local", "--diff"]
        command += ["-e", json.dumps(settings), *options, "play.yml"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "PYTHONDONTWRITE"))}
        environment |= {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_HOME": str(self.folder / ".ansible"),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        self.output = done.stdout + done.stderr
        assert done.returncode == code, self.output
        assert "PRIVATE KEY" not in self.output
        return sum(line.startswith("changed: ") for line in self.output.splitlines())

    def authority(self, name: str = "ca") -> Authority:
        return Authority(self.folder / name, "test CA", 3650, "", Path.read_bytes)

    def served(self, host: str = "n1") -> x509.Certificate:
        return certificates.read((self.folder / host / "server.crt").read_bytes(), host)[0]

    def public(self, host: str = "n1") -> bytes:
        key = serialization.load_pem_private_key((self.folder / host / "server.key").read_bytes(), None)
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def snapshot(self) -> dict[str, bytes]:
        hosts = self.folder.glob("n[0-9]/*")
        return {str(path): path.read_bytes() for path in hosts}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_many_hosts_at_once_share_one_authority_and_the_second_run_changes_nothing(fleet: Fleet) -> None:
    hosts = "n1,n2,n3,n4,"
    assert fleet.run("--check", hosts=hosts) == 4
    assert not list(fleet.folder.glob("n*")) and not (fleet.folder / "ca").exists()
    assert fleet.run("--forks", "4", hosts=hosts) == 4
    own = fleet.authority().certificate()
    assert own and all(certificates.chains([fleet.served(f"n{i}")], [own]) for i in range(1, 5))
    assert len({fleet.served(f"n{i}").serial_number for i in range(1, 5)}) == 4
    assert fleet.run(hosts=hosts) == 0


def test_renewed_before_it_ends_for_other_names_and_for_another_authority(fleet: Fleet) -> None:
    fleet.run(days=40)
    first, key = fleet.served(), fleet.public()
    assert fleet.run(renew_days=39) == 0
    assert fleet.run(renew_days=41) == 1
    renewed = fleet.served()
    assert certificates.ends(renewed) > certificates.ends(first) and renewed.serial_number != first.serial_number
    assert fleet.run(renew_days=41) == 0
    assert fleet.run(subject_alt_names=["DNS:gpu-01.example.com"]) == 1
    assert certificates.names(fleet.served()) == {"DNS:gpu-01.example.com"}
    (fleet.folder / "ca").rename(fleet.folder / "old")
    assert fleet.run() == 1
    assert (fleet.folder / "n1/ca.crt").read_bytes() == (fleet.folder / "ca/ca.crt").read_bytes()
    (fleet.folder / "n1/server.crt").write_bytes(fleet.authority().sign(fleet.public(), "n1", ["DNS:n1"], 0))
    assert fleet.run() == 1
    assert "expired" not in fleet.output and certificates.ends(fleet.served()) > certificates.now()
    (fleet.folder / "n1/server.key").chmod(0o644)
    assert fleet.run() == 1
    assert (fleet.folder / "n1/server.key").stat().st_mode & 0o777 == 0o600
    assert fleet.public() == key


def test_an_authority_near_its_end_is_told_and_one_that_has_ended_is_refused(fleet: Fleet) -> None:
    assert fleet.run(ca_days=20) == 1
    assert fleet.run() == 0, "nothing longer can be had"
    assert "docs/tls.md tells how to change" in " ".join(fleet.output.split())
    (fleet.folder / "ca/ca.crt").unlink()
    ended = fleet.authority()
    ended.days = 0
    ended.ensure()
    before = fleet.snapshot()
    fleet.run(code=2)
    assert "the authority has expired on" in fleet.output and fleet.snapshot() == before


def test_a_passphrase_guards_the_authority(fleet: Fleet) -> None:
    fleet.run(ca_passphrase="a long one")
    assert "ENCRYPTED" in (fleet.folder / "ca/ca.key").read_text()
    fleet.run(code=2, hosts="n2,")
    assert "esnode_tls_ca_passphrase" in fleet.output
    fleet.run(ca_passphrase="a long one", hosts="n2,")


def test_a_corporate_ca_signs_what_was_requested(fleet: Fleet) -> None:
    corporate = fleet.authority("corporate")
    corporate.ensure()
    options: dict[str, Any] = {
        "csr_dir": str(fleet.folder / "requests"),
        "ca_src": str(corporate.path),
        "subject": "/C=US/ST=CA/L=San Francisco/O=YourCorp",
        "subject_alt_names": ["DNS:n1.example.com"],
    }
    request, signed = fleet.folder / "requests/n1.csr", fleet.folder / "requests/n1.crt"
    assert fleet.run("--check", **options) == 1
    assert not request.exists()
    fleet.run(code=2, **options)
    assert str(request) in fleet.output and str(signed) in fleet.output
    asked = x509.load_pem_x509_csr(request.read_bytes())
    assert asked.subject.rfc4514_string() == "CN=n1,O=YourCorp,L=San Francisco,ST=CA,C=US"
    assert certificates.names(asked) == {"DNS:n1.example.com"}
    assert not list((fleet.folder / "requests").glob("*key*"))
    content = request.read_bytes()
    assert fleet.run(unsigned="report", **options) == 0
    assert request.read_bytes() == content

    mine, names = fleet.public(), ["DNS:n1.example.com"]
    before = fleet.snapshot()
    signed.write_bytes(fleet.authority("other").sign(mine, "n1", ["DNS:n9"], 90))
    fleet.run(code=2, **options)
    said = " ".join(fleet.output.split())
    assert "does not name DNS:n1.example.com; it does not chain to the CA" in said and str(signed) in said
    assert fleet.snapshot() == before

    signed.write_bytes(corporate.sign(mine, "n1", names, 90))
    assert fleet.run(**options) == 1
    assert (fleet.folder / "n1/server.crt").read_bytes() == signed.read_bytes()
    assert fleet.run(**options) == 0
    # Time to renew: the request is there again, the old certificate goes on.
    request.unlink()
    assert fleet.run(renew_days=100, **options) == 1
    assert request.exists() and (fleet.folder / "n1/server.crt").read_bytes() == signed.read_bytes()
    assert "until then the old certificate is served" in " ".join(fleet.output.split())


def test_a_key_and_a_request_made_by_hand_are_taken(fleet: Fleet) -> None:
    (fleet.folder / "n1").mkdir()
    command = ["openssl", "req", "-new", "-newkey", "rsa:4096", "-nodes", "-subj", "/C=US/ST=CA/O=YourCorp/CN=n1"]
    command += ["-keyout", "n1/server.key", "-out", "n1/server.csr", "-addext", "subjectAltName=DNS:n1"]
    subprocess.run(command, cwd=fleet.folder, check=True, capture_output=True)
    made = fleet.public()
    corporate = fleet.authority("corporate")
    corporate.ensure()
    options: dict[str, Any] = {
        "csr_dir": str(fleet.folder / "requests"),
        "ca_src": str(corporate.path),
        "subject_alt_names": ["DNS:n1"],
    }
    fleet.run(code=2, **options)
    assert (fleet.folder / "requests/n1.csr").read_bytes() == (fleet.folder / "n1/server.csr").read_bytes()
    (fleet.folder / "n1/server.crt").write_bytes(corporate.sign(made, "n1", ["DNS:n1"], 90))
    assert fleet.run(**options) == 0
    assert fleet.public() == made


def test_given_files_are_checked_before_they_are_sent(fleet: Fleet) -> None:
    fleet.run()
    options: dict[str, Any] = {
        "key_src": str(fleet.folder / "n1/server.key"),
        "cert_src": str(fleet.folder / "given.crt"),
    }
    given = Path(options["cert_src"])
    given.write_bytes(fleet.authority().sign(fleet.public(), "given", ["DNS:given"], 0))
    before = fleet.snapshot()
    fleet.run(code=2, **options)
    assert "has expired on" in fleet.output and fleet.snapshot() == before
    given.write_bytes(fleet.authority().sign(fleet.public(), "given", ["DNS:given"], 90))
    assert fleet.run(hosts="n2,", **options) == 1
    assert fleet.public("n2") == fleet.public() and fleet.run(hosts="n2,", **options) == 0
