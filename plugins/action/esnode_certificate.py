# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's side of esnode_certificate: ask the host what it has, decide and sign here, send what it lacks."""

from __future__ import annotations

import datetime
import ipaddress
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.plugin_utils import authority, certificates
from ansible_collections.esnode.core.plugins.plugin_utils.certificates import CertificateError

if certificates.HAS_CRYPTOGRAPHY:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import NameOID

MODULE = "esnode.core.esnode_certificate"
_ON_HOST = ("dir", "owner", "group", "key_type")
_ATTRIBUTES = {
    "C": "COUNTRY_NAME",
    "ST": "STATE_OR_PROVINCE_NAME",
    "L": "LOCALITY_NAME",
    "O": "ORGANIZATION_NAME",
    "OU": "ORGANIZATIONAL_UNIT_NAME",
    "CN": "COMMON_NAME",
    "emailAddress": "EMAIL_ADDRESS",
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Arguments are those of the module; what the controller needs of them is taken out before it runs on the host."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        self._vars = task_vars or {}
        self._options = {"renew_days": 30, "days": 397, "ca_days": 3650, **self._task.args}
        if not certificates.HAS_CRYPTOGRAPHY:
            raise AnsibleActionFail("the controller's Python needs the package cryptography, 40 or newer: pip install")
        try:
            if self._option("cert_src"):
                return self._given()
            self._check_options()  # before the host has so much as a key
            found = self._ask(make_key=True, public_key=True)
            if found.get("failed") or found.get("unreachable"):
                return found
            return self._signed_elsewhere(found) if self._option("csr_dir") else self._own(found)
        except (CertificateError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _option(self, name: str, default: str = "") -> str:
        return str(self._options.get(name) or default)

    def _ask(self, key: str = "", **work: Any) -> dict[str, Any]:
        arguments = {name: self._options[name] for name in _ON_HOST if name in self._options}
        arguments.update(work=work, key=key)
        done = dict(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=self._vars))
        done.pop("invocation", None)
        return done

    @property
    def _host(self) -> str:
        return str(self._vars["inventory_hostname"])

    def _wanted(self, found: dict[str, Any]) -> list[str]:
        """The names that the certificate shall have: the given ones, or what the inventory and the host call it."""
        given = [str(name) for name in self._options.get("subject_alt_names") or []]
        if given:
            return certificates.normal(given)
        known = [self._host]
        if self._vars.get("ansible_host"):
            known.append(str(self._vars["ansible_host"]))
        return certificates.normal([*(_kind(name) for name in known), *found["names"]])

    def _renew_at(self) -> datetime.datetime:
        return certificates.now() + datetime.timedelta(days=int(self._options["renew_days"]))

    def _check_options(self) -> None:
        certificates.normal(str(name) for name in self._options.get("subject_alt_names") or [])
        subject_of(self._option("subject"), self._host)
        if not self._option("csr_dir"):
            self._authority().certificate()
            if int(self._options["days"]) <= int(self._options["renew_days"]):
                raise CertificateError(
                    "esnode_tls_days must be more than esnode_tls_renew_days, or each run would renew"
                )
        elif not self._option("ca_src"):
            raise CertificateError("esnode_tls_csr_dir needs esnode_tls_ca_src: the CA that the certificates chain to")
        elif "/" in self._host:
            raise CertificateError(f"{self._host}: a host whose name has a slash can have no file of that name")
        else:
            certificates.read(self._read(self._option("ca_src"), "esnode_tls_ca_src"), self._option("ca_src"))

    # An authority of one's own.

    def _authority(self) -> authority.Authority:
        return authority.Authority(
            Path(self._option("ca_dir", "~/.config/esnode/ca")).expanduser(),
            self._option("ca_name", "esnode CA"),
            int(self._options["ca_days"]),
            self._option("ca_passphrase"),
            self._decrypted,
        )

    def _own(self, found: dict[str, Any]) -> dict[str, Any]:
        own = self._authority()
        days, wanted = int(self._options["days"]), self._wanted(found)
        root = own.certificate()
        served = _served(found)
        reason = self._due(served, found, wanted, root)
        # Near its own end the authority can't give a longer one: then what is there stays.
        ending = served and root and certificates.ends(root) - certificates.ends(served) < datetime.timedelta(days=1)
        if reason.startswith("it ends on") and ending:
            reason = ""
        result = self._result(found, served, reason)
        if root and own.until(days, root) == certificates.ends(root):
            end = certificates.day(certificates.ends(root))
            text = f"the authority {own.path} ends on {end}, and with it every certificate that it signs"
            result["warnings"] = [f"{text}: docs/tls.md tells how to change to another"]
        if not reason:
            return result
        if not self._task.check_mode:
            signed = own.sign(found["public_key"].encode(), self._host, wanted, days)
            files = {"server.crt": signed.decode(), "ca.crt": own.path.read_text()}
            done = self._ask(files=files)
            if done.get("failed") or done.get("unreachable"):
                return done
            result["valid_until"] = certificates.day(own.until(days, own.certificate()))
        issuer = root.subject.rfc4514_string() if root else f"CN={own.name}"
        return self._changed(result, served, certificates.told(issuer, wanted, own.until(days, root)), found)

    def _due(
        self, served: x509.Certificate | None, found: dict[str, Any], wanted: list[str], root: x509.Certificate | None
    ) -> str:
        """Why another certificate is needed; nothing when the present one is as wanted."""
        if served is None:
            return "there is none"
        lines = certificates.trouble([served], _key(found), wanted, [root] if root else [])
        if root is None or found["files"]["ca.crt"].strip() != _pem(root).strip():
            lines.append("the authority is another one")
        if self._options.get("subject_alt_names") and certificates.names(served) - set(wanted):
            lines.append(f"it names {', '.join(sorted(certificates.names(served) - set(wanted)))}")
        if not lines and certificates.ends(served) < self._renew_at():
            lines.append(f"it ends on {certificates.day(certificates.ends(served))}")
        return "; ".join(lines)

    def _decrypted(self, path: Path) -> bytes:
        """A file of the controller, also one that Ansible Vault has encrypted."""
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        real = self._loader.get_real_file(str(path))
        try:
            return Path(real).read_bytes()
        finally:
            self._loader.cleanup_tmp_file(real)

    # A corporate CA.

    def _signed_elsewhere(self, found: dict[str, Any]) -> dict[str, Any]:
        folder = Path(self._option("csr_dir")).expanduser()
        request, signed = folder / f"{self._host}.csr", folder / f"{self._host}.crt"
        trusted_pem = self._read(self._option("ca_src"), "esnode_tls_ca_src")
        trusted = certificates.read(trusted_pem, self._option("ca_src"))
        wanted, served = self._wanted(found), _served(found)
        chain = certificates.read(found["files"]["server.crt"].encode(), "server.crt") if served else []
        bad = certificates.trouble(chain, _key(found), wanted, trusted) if chain else ["there is none"]
        serving = bool(chain) and not certificates.trouble(chain, _key(found), [], [])
        result = self._result(found, served, "")

        if signed.exists():
            offered = certificates.read(signed.read_bytes(), str(signed))
            wrong = certificates.trouble(offered, _key(found), wanted, trusted)
            new = served is None or offered[0] != served
            # One of the past, or of a host that was installed again, is no offer.
            stale = (
                not new or found["key_made"] or (served and certificates.ends(offered[0]) < certificates.ends(served))
            )
            if wrong and not stale:
                raise CertificateError(f"{signed}: is not installed: {'; '.join(wrong)}. Nothing has been changed")
            if not wrong and ((new and not stale) or trusted_pem.decode() != found["files"]["ca.crt"]):
                result = self._result(found, offered[0], "a signed certificate has come")
                if not self._task.check_mode:
                    done = self._ask(files={"server.crt": signed.read_text(), "ca.crt": trusted_pem.decode()})
                    if done.get("failed") or done.get("unreachable"):
                        return done
                return self._changed(result, served, certificates.describe(offered[0]), found)
        if not bad and served and certificates.ends(served) >= self._renew_at():
            return result
        reason = "; ".join(bad) or f"it ends on {certificates.day(certificates.ends(chain[0]))}"
        return self._request(found, result, reason, wanted, request, signed, served, serving)

    def _request(
        self,
        found: dict[str, Any],
        result: dict[str, Any],
        reason: str,
        wanted: list[str],
        path: Path,
        signed: Path,
        served: x509.Certificate | None,
        serving: bool,
    ) -> dict[str, Any]:
        """Have the request on host and controller, and say that it waits."""
        subject = subject_of(self._option("subject"), self._host)
        pem = found["files"]["server.csr"]
        changed = False
        if not _asks_for(pem, _key(found), wanted):
            changed = True
            if not self._task.check_mode:
                done = self._ask(request={"subject": subject, "names": wanted})
                if done.get("failed") or done.get("unreachable"):
                    return done
                pem = done["files"]["server.csr"]
        if not path.exists() or path.read_text() != pem:
            changed = True
            if not self._task.check_mode:
                authority.write(path, pem.encode(), 0o644)
        statement = (
            f"{self._host}: the request {path} waits to be signed ({reason}). Put the signed certificate, followed by "
            f"intermediate ones, into {signed} and run again. esnode-certificates.yml fetches the requests of all hosts"
        )
        result.update(state="waiting", reason=reason, request=str(path), changed=result["changed"] or changed)
        if self._task.diff and changed:
            result["diff"] = {"before": "", "after": f"request: {path}\nnames: {', '.join(wanted)}\n"}
        if serving:
            result["warnings"] = [f"{statement}; until then the old certificate is served"]
        elif self._option("unsigned", "fail") == "fail" and not self._task.check_mode:
            result.update(failed=True, msg=statement)
        result["msg"] = statement
        return result

    # Given files.

    def _given(self) -> dict[str, Any]:
        cert_src, key_src = self._option("cert_src"), self._option("key_src")
        if not key_src:
            raise CertificateError("esnode_tls_cert_src needs esnode_tls_key_src: the private key of the certificate")
        pem, key_pem = self._read(cert_src, "esnode_tls_cert_src"), self._read(key_src, "esnode_tls_key_src")
        chain = certificates.read(pem, cert_src)
        try:
            key: Any = serialization.load_pem_private_key(key_pem, None)
        except (TypeError, ValueError) as error:
            raise CertificateError(f"{key_src}: is no private key in PEM without a passphrase: {error}") from None
        ca_src = self._option("ca_src")
        ca = self._read(ca_src, "esnode_tls_ca_src") if ca_src else pem
        trusted = certificates.read(ca, ca_src) if ca_src else []
        explicit = certificates.normal(str(n) for n in self._options.get("subject_alt_names") or [])
        if wrong := certificates.trouble(chain, certificates.public(key.public_key()), explicit, trusted):
            raise CertificateError(f"{cert_src}: is not installed: {'; '.join(wrong)}. Nothing has been changed")
        found = self._ask(public_key=True)
        if found.get("failed") or found.get("unreachable"):
            return found
        served = _served(found)
        files = {"server.crt": pem.decode(), "ca.crt": ca.decode()}
        same = _key(found) == certificates.public(key.public_key())
        due = not same or any(found["files"][name] != text for name, text in files.items())
        result = self._result(found, chain[0], "the given files are others" if due else "")
        if certificates.ends(chain[0]) < self._renew_at():
            result["warnings"] = [f"{cert_src} ends on {certificates.day(certificates.ends(chain[0]))}"]
        if not due:
            return result
        if not self._task.check_mode:
            done = self._ask(key="" if same else key_pem.decode(), files=files)
            if done.get("failed") or done.get("unreachable"):
                return done
        return self._changed(result, served, certificates.describe(chain[0]), found)

    def _read(self, source: str, option: str) -> bytes:
        try:
            return self._decrypted(Path(self._loader.path_dwim(source)))
        except FileNotFoundError:
            raise CertificateError(f"{option}: there is no file {source} on the controller") from None

    # What is told.

    def _result(self, found: dict[str, Any], certificate: x509.Certificate | None, reason: str) -> dict[str, Any]:
        return {
            "changed": bool(found["changed"]),
            "state": "issued" if reason else "kept",
            "reason": reason,
            "valid_until": certificates.day(certificates.ends(certificate)) if certificate else "",
        }

    def _changed(
        self, result: dict[str, Any], served: x509.Certificate | None, after: str, found: dict[str, Any]
    ) -> dict[str, Any]:
        result["changed"] = True
        if self._task.diff:
            before = certificates.describe(served)
            made = "private key: made on the host\n" if found["key_made"] else ""
            header = f"{self._option('dir', '/etc/esnode/certs')}/server.crt"
            result["diff"] = {"before": before, "after": made + after, "before_header": header, "after_header": header}
        return result


def _kind(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _served(found: dict[str, Any]) -> x509.Certificate | None:
    """What lies on the host, None when it is no certificate."""
    try:
        return certificates.read(found["files"]["server.crt"].encode(), "server.crt")[0]
    except CertificateError:
        return None


def _key(found: dict[str, Any]) -> bytes | None:
    if not found.get("public_key"):
        return None
    return certificates.public(serialization.load_pem_public_key(found["public_key"].encode()))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _asks_for(pem: str, key: bytes | None, wanted: list[str]) -> bool:
    """Whether a request is of that key and names all of it; one that somebody made by hand counts, too."""
    try:
        request = x509.load_pem_x509_csr(pem.encode())
    except ValueError:
        return False
    return key == certificates.public(request.public_key()) and set(wanted) <= certificates.names(request)


def subject_of(text: str, host: str) -> list[list[str]]:
    """[OID, value] pairs of /C=US/O=YourCorp, the form of openssl req -subj; \\/ is a slash in a value."""
    pairs = []
    parts = re.split(r"(?<!\\)/", text) if text else [""]
    if parts.pop(0):
        raise CertificateError(f'esnode_tls_subject: "{text}" must begin with a slash, as in /C=US/O=YourCorp')
    for part in parts:
        name, equals, value = part.partition("=")
        value = value.replace("\\/", "/")
        if name not in _ATTRIBUTES or not equals or not value or (name == "C" and len(value) != 2):
            raise CertificateError(
                f'esnode_tls_subject: "{part}" is none of {", ".join(_ATTRIBUTES)} with a value; C has two letters'
            )
        pairs.append([getattr(NameOID, _ATTRIBUTES[name]).dotted_string, value])
    common = NameOID.COMMON_NAME.dotted_string
    return pairs if any(oid == common for oid, _value in pairs) else [*pairs, [common, host[:64]]]
