#!/usr/bin/python
# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: esnode_certificate
short_description: Give a host a private key and a certificate for the esnode agent
version_added: 1.0.0
description:
  - The key is made on the host and never leaves it. Its certificate is signed by an authority of one's own on the
    controller, or by a corporate one that is given a request (O(csr_dir)). Or both are given (O(cert_src)).
  - Everything is checked on the controller before anything changes on the host.
  - Writes C(server.key), C(server.crt) and C(ca.crt). A key that is there is kept.
  - Needs the Python package cryptography on the host when a key is made, and 40 or newer on the controller.
author:
  - The esnode authors (@esnode)
options:
  dir:
    description: Folder on the host.
    type: path
    default: /etc/esnode/certs
  owner:
    description: Owner of the key. Empty leaves it to the user who runs the module.
    type: str
    default: ""
  group:
    description: Group of the key. Empty leaves it to that user's.
    type: str
    default: ""
  key_type:
    description: Kind of a key that is made.
    type: str
    choices: [ecdsa-p256, ecdsa-p384, rsa-4096]
    default: ecdsa-p384
  subject_alt_names:
    description: Names and addresses of the certificate as C(DNS:name) and C(IP:address). Empty means the host's own.
    type: list
    elements: str
    default: []
  renew_days:
    description: A certificate that ends in fewer days is renewed.
    type: int
    default: 30
  days:
    description: Days that a certificate of the own authority is valid.
    type: int
    default: 397
  ca_dir:
    description: Folder on the controller of the own authority. It is made when it is needed.
    type: str
    default: ~/.config/esnode/ca
  ca_name:
    description: Common name of the own authority.
    type: str
    default: esnode CA
  ca_days:
    description: Days that the own authority is valid.
    type: int
    default: 3650
  ca_passphrase:
    description: Passphrase of its key. Empty means that the key has none.
    type: str
    default: ""
  csr_dir:
    description:
      - Folder on the controller where a request of each host is put as C(<host>.csr), and where its signed certificate
        (chain) is expected as C(<host>.crt). Needs O(ca_src).
    type: str
    default: ""
  subject:
    description: Subject of a request in the form of C(openssl req -subj). The host's name is added when it has no CN.
    type: str
    default: ""
  unsigned:
    description: Whether a host without a usable certificate, whose request waits to be signed, fails.
    type: str
    choices: [fail, report]
    default: fail
  cert_src:
    description: Certificate (chain) on the controller to use instead of making one, PEM.
    type: str
    default: ""
  key_src:
    description: Its private key on the controller, PEM; may be encrypted by Ansible Vault.
    type: str
    default: ""
  ca_src:
    description: Certificates on the controller that a given or signed certificate must chain to, and clients trust.
    type: str
    default: ""
  work:
    description: What the host shall do. The controller's side of this module sets it.
    type: dict
    default: {}
  key:
    description: A given private key. The controller's side of this module sets it.
    type: str
    default: ""
attributes:
  check_mode:
    description: Says what would be made, and refuses what would be refused.
    support: full
  diff_mode:
    description: Shows what the certificates say; never a key.
    support: full
  idempotent:
    description: A certificate that is as wanted is left alone until it is time to renew it.
    support: full
  platform:
    description: Linux.
    platforms: linux
    support: full
"""

EXAMPLES = r"""
- name: Have a certificate of an authority of one's own
  esnode.core.esnode_certificate:
    owner: esnode
    group: esnode

- name: Have a request for the corporate CA, and its certificate once it is signed
  esnode.core.esnode_certificate:
    csr_dir: certificates
    ca_src: corporate-ca.crt
    subject: /C=US/ST=CA/L=San Francisco/O=YourCorp
    key_type: rsa-4096
"""

RETURN = r"""
state:
  description: V(kept), V(issued), or V(waiting) when a request waits to be signed.
  returned: success
  type: str
  sample: kept
reason:
  description: Why a certificate is issued or requested.
  returned: success
  type: str
  sample: it ends on 2026-03-01
request:
  description: Path on the controller of the request that waits to be signed.
  returned: when RV(state=waiting)
  type: str
  sample: /srv/certificates/gpu-01.csr
valid_until:
  description: Day on which the certificate ends; empty when there is none.
  returned: success
  type: str
  sample: "2027-03-01"
"""

import grp
import os
import pwd
import socket
import stat
import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

MODES = {"server.key": 0o600, "server.crt": 0o644, "ca.crt": 0o644, "server.csr": 0o644}


def main() -> None:
    strings = ("owner", "group", "ca_name", "ca_passphrase", "csr_dir", "subject", "cert_src", "key_src", "ca_src")
    defaults = {"ca_name": "esnode CA"}
    numbers = {"renew_days": 30, "days": 397, "ca_days": 3650}
    module = AnsibleModule(
        argument_spec={
            "dir": {"type": "path", "default": "/etc/esnode/certs"},
            "key_type": {"type": "str", "choices": ["ecdsa-p256", "ecdsa-p384", "rsa-4096"], "default": "ecdsa-p384"},
            "subject_alt_names": {"type": "list", "elements": "str", "default": []},
            "ca_dir": {"type": "str", "default": "~/.config/esnode/ca"},
            "unsigned": {"type": "str", "choices": ["fail", "report"], "default": "fail"},
            "work": {"type": "dict", "default": {}},
            "key": {"type": "str", "default": "", "no_log": True},
            **{n: {"type": "int", "default": d} for n, d in numbers.items()},
            **{n: {"type": "str", "default": defaults.get(n, ""), "no_log": n == "ca_passphrase"} for n in strings},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**_carry_out(module))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['dir']}: {error.strerror}")
    except ImportError:
        module.fail_json(msg="a private key is made with the Python package cryptography, which the host lacks")


def _carry_out(module: AnsibleModule) -> dict[str, t.Any]:
    """First the key, when one is to be made; then the files; then what is there is told."""
    options, folder = module.params, module.params["dir"]
    work, changes = options["work"], not module.check_mode
    changed = False
    if not os.path.isdir(folder):
        changed = True
        if changes:
            os.makedirs(folder, 0o755)
            os.chmod(folder, 0o755)
    key_path = os.path.join(folder, "server.key")
    made = False
    if work.get("make_key") and not os.path.exists(key_path):
        changed = made = True
        if changes:
            _write(module, "server.key", _private_key(options["key_type"]))
    files = dict(work.get("files", {}))
    if options["key"]:
        files = {"server.key": options["key"], **files}
    if files and changes:
        _write_all(module, files)
        changed = True
    elif files:
        changed = True
    if work.get("request"):
        _write(module, "server.csr", _request(key_path, **work["request"]))
        changed = True
    found = {name: _text(os.path.join(folder, name)) for name in ("server.crt", "ca.crt", "server.csr")}
    result: dict[str, t.Any] = {"files": found, "key_made": made, "names": _names()}
    result["key_there"] = os.path.exists(key_path)
    if result["key_there"] and work.get("public_key"):
        result["public_key"] = _public(module, key_path)
    result["wrong_rights"] = _rights(module, changes)
    result["changed"] = changed or bool(result["wrong_rights"])
    return result


def _private_key(kind: str) -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key: t.Any
    if kind == "rsa-4096":
        key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    else:
        key = ec.generate_private_key(ec.SECP256R1() if kind == "ecdsa-p256" else ec.SECP384R1())
    form = serialization.PrivateFormat.PKCS8
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _load(path: str) -> t.Any:
    from cryptography.hazmat.primitives import serialization

    with open(path, "rb") as file:
        return serialization.load_pem_private_key(file.read(), None)


def _public(module: AnsibleModule, path: str) -> str:
    from cryptography.hazmat.primitives import serialization

    try:
        key = _load(path).public_key()
    except (TypeError, ValueError) as error:
        module.fail_json(
            msg=f"{path}: is no private key in PEM without a passphrase ({error}). Remove it to have another one made"
        )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_bytes(serialization.Encoding.PEM, form).decode())


def _request(path: str, subject: list[list[str]], names: list[str]) -> bytes:
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    attributes = [x509.NameAttribute(x509.ObjectIdentifier(oid), value) for oid, value in subject]
    general: list[x509.GeneralName] = []
    for name in names:
        kind, _colon, value = name.partition(":")
        general.append(x509.IPAddress(ip_address(value)) if kind == "IP" else x509.DNSName(value))
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    usage = [ExtendedKeyUsageOID.SERVER_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
    signed = builder.sign(_load(path), hashes.SHA384())
    return bytes(signed.public_bytes(serialization.Encoding.PEM))


def _ids(module: AnsibleModule) -> tuple[int, int]:
    """Owner and group of the key; -1 leaves it. A user that is not made yet owns nothing."""
    options = module.params
    try:
        owner = pwd.getpwnam(options["owner"]).pw_uid if options["owner"] else -1
        group = grp.getgrnam(options["group"]).gr_gid if options["group"] else -1
    except KeyError:
        return -1, -1
    return owner, group


def _temporary(module: AnsibleModule, name: str, content: bytes) -> str:
    path = os.path.join(module.params["dir"], f".{name}.{os.getpid()}")
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        if name == "server.key":
            os.fchown(handle, *_ids(module))
        os.fchmod(handle, MODES[name])
        file.write(content)
        file.flush()
        os.fsync(handle)
    return path


def _write(module: AnsibleModule, name: str, content: bytes) -> None:
    _write_all(module, {name: content})


def _write_all(module: AnsibleModule, files: dict[str, t.Any]) -> None:
    """All are on the disk before the first takes its place. The certificate is last: its age decides on a reload."""
    content = {n: c if isinstance(c, bytes) else c.encode() for n, c in files.items()}
    order = sorted(content, key=lambda name: name == "server.crt")
    ready = [(_temporary(module, name, content[name]), name) for name in order]
    for path, name in ready:
        os.replace(path, os.path.join(module.params["dir"], name))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _rights(module: AnsibleModule, mend: bool) -> list[str]:
    """Files whose mode or owner is not right."""
    wrong = []
    owner, group = _ids(module)
    for name, mode in MODES.items():
        path = os.path.join(module.params["dir"], name)
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        ids = (owner, group) if name == "server.key" else (-1, -1)
        mine = ids[0] in (-1, found.st_uid) and ids[1] in (-1, found.st_gid)
        if stat.S_IMODE(found.st_mode) != mode or not mine:
            wrong.append(name)
            if mend:
                os.chown(path, *ids)
                os.chmod(path, mode)
    return wrong


def _names() -> list[str]:
    """The names of this host, and the addresses from which it reaches others."""
    found = [f"DNS:{name}" for name in (socket.getfqdn(), socket.gethostname()) if name and ":" not in name]
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as one:
                one.connect((far, 9))  # sends nothing: it asks for the route
                found.append(f"IP:{one.getsockname()[0].partition('%')[0]}")
        except OSError:
            continue
    return [*found, "DNS:localhost", "IP:127.0.0.1", "IP:::1"]


if __name__ == "__main__":
    main()
