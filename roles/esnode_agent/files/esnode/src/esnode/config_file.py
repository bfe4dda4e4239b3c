# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read esnode.toml strictly: every mistake is found in one go, each with file, key, value and what would be right.

Must not import ssl (see `config`).
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from esnode import config as structs
from esnode.config import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PLAIN = {
    "bool": "a boolean",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "a table",
}
# The five suites of TLS 1.3 (RFC 8446); every other name is one of TLS 1.2.
TLS13_SUITES = (
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_128_CCM_SHA256",
    "TLS_AES_128_CCM_8_SHA256",
)
_NOT_FOR_HEADERS = (
    "accept-encoding",
    "authorization",
    "proxy-authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
)


class ConfigError(Exception):
    """The configuration can't be used.

    `mistakes`: one line each, ready to print. `config`: what could be read all the same, for further checks.
    """

    def __init__(self, mistakes: list[str], config: Config | None = None) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes
        self.config = config


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, and what its reader should know: one line a notice."""

    path: Path
    config: Config
    notices: tuple[str, ...]


def load(path: Path, environment: Mapping[str, str] | None = None) -> Loaded:
    """Read and check the file; raise `ConfigError` with every mistake that is in it.

    `environment`: where ${NAME} is looked up, the process's own when None.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not valid TOML: {error}"]) from error
    mistakes: list[str] = []
    sections: dict[str, Any] = {}
    references = _References(os.environ if environment is None else environment)
    kinds = {f.name: f.type for f in msgspec.structs.fields(Config)}
    for name, table in document.items():
        if name not in kinds:
            mistakes.append(f"{path}: {name}: unknown {_what(table)}{_hint(name, is_section=isinstance(table, dict))}")
        elif not isinstance(table, dict):
            mistakes.append(f"{path}: {name} = {show(table)}: expected a section: [{name}]")
        else:
            sections[name] = _read_section(path, name, table, kinds[name], references, mistakes)
    config = Config(**sections)
    for key, rule in _combinations(config, references):
        mistakes.append(f"{path}: {key}: {rule}")
    if mistakes:
        raise ConfigError(mistakes, config)
    return Loaded(path, config, tuple(_notices(config, sections, references)))


def _what(value: object) -> str:
    return "section" if isinstance(value, dict) else "key"


def _read_section(
    path: Path,
    section: str,
    table: dict[str, Any],
    kind: type[msgspec.Struct],
    references: _References,
    mistakes: list[str],
) -> Any:
    fields = {f.name: f for f in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for key, raw in table.items():
        where = f"{section}.{key}"
        if key not in fields:
            mistakes.append(f"{path}: {where} = {show(raw, where)}: unknown key{_hint(key, section)}")
            continue
        try:
            values[key] = msgspec.convert(references.resolve(where, raw), fields[key].type)
        except msgspec.ValidationError:
            mistakes.append(f"{path}: {where} = {show(raw, where)}: expected {expected(fields[key].type)}")
    return kind(**values)


def expected(kind: Any) -> str:
    """The `description` of an annotated type, also inside a union with None."""
    for part in (kind, *getattr(kind, "__args__", ())):
        for meta in getattr(part, "__metadata__", ()):
            if meta.description:
                return str(meta.description)
    raise TypeError(f"{kind} has no description")


def show(value: object, key: str = "") -> str:
    """A value as it stands in TOML; a secret is not shown, also under a misspelled key, in a wrong section or a URL."""
    name = key.partition(".")[2]
    if structs.SECRET_NAME.fullmatch(name) or difflib.get_close_matches(
        name, [secret.partition(".")[2] for secret in structs.SECRETS]
    ):
        return '"***"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + re.sub(r"(\w://[^?\s]*\?)\S+", r"\1***", re.sub(r"[^/\s]+@", "***@", value)) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return "{...}" if isinstance(value, dict) else str(value)


def _hint(name: str, section: str | None = None, *, is_section: bool = False) -> str:
    """What was probably meant: a key of this section, the section that has the key, or a name that looks alike."""
    sections = {f.name: f.type for f in msgspec.structs.fields(Config)}
    if is_section:
        close = difflib.get_close_matches(name, sections, 1)
        return f"; did you mean [{close[0]}]?" if close else f"; known are {', '.join(f'[{s}]' for s in sections)}"
    homes = {s: [f.name for f in msgspec.structs.fields(kind)] for s, kind in sections.items()}
    for home, keys in homes.items():
        if name in keys and home != section:
            return f"; it belongs in [{home}]"
    near = homes[section] if section else [k for keys in homes.values() for k in keys]
    close = [k for k in near if name.endswith(k)] or difflib.get_close_matches(name, near, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(near)}" if section else ""


class _References:
    """Replaces ${NAME} in texts by the environment and remembers what was not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.unset: dict[str, list[str]] = {}

    def resolve(self, where: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self.resolve(where, v) for v in value]
        if isinstance(value, dict):
            return {name: self.resolve(where, v) for name, v in value.items()}
        return _REFERENCE.sub(lambda m: self._lookup(where, m[1]), value) if isinstance(value, str) else value

    def _lookup(self, where: str, name: str) -> str:
        if name not in self._environment:
            self.unset.setdefault(where, []).append(name)
        return self._environment.get(name, "")


def _combinations(config: Config, references: _References) -> list[tuple[str, str]]:
    """What is right in each key but can't be together: (key, what is wrong and what would be right)."""
    wrong: list[tuple[str, str]] = []
    for where, names in references.unset.items():
        # A disabled orchestrator needs no token; everything else would run with a value that nobody meant.
        if where.startswith("orchestrator.") and not config.orchestrator.enabled:
            continue
        wrong.append((where, f"environment variable {names[0]} is not set; set it or write the value itself"))
    security = config.security
    if not 0 <= config.agent.port <= 65535:
        wrong.append(("agent.listen_address", f"port {config.agent.port} does not exist; use 1 to 65535"))
    if security.enable_tls:
        for key in ("tls_cert_path", "tls_key_path"):
            if getattr(security, key) is None:
                wrong.append((f"security.{key}", "is not set but enable_tls = true needs it"))
    tls13 = [s for s in security.cipher_suites if s in TLS13_SUITES]
    tls12 = [s for s in security.cipher_suites if s not in TLS13_SUITES]
    for suite in tls12:
        if suite.startswith("TLS_"):
            wrong.append(
                ("security.cipher_suites", f'"{suite}" is no TLS 1.3 suite; those are {", ".join(TLS13_SUITES)}')
            )
    if security.cipher_suites and not tls13:
        wrong.append(("security.cipher_suites", f"names no TLS 1.3 suite; add one of {', '.join(TLS13_SUITES)}"))
    if security.min_tls_version == "1.2" and security.cipher_suites and not tls12:
        wrong.append(
            (
                "security.cipher_suites",
                'min_tls_version = "1.2" but no TLS 1.2 suite is named; add "ECDHE-ECDSA-AES256-GCM-SHA384" or such',
            )
        )
    if security.min_tls_version == "1.3" and any(not s.startswith("TLS_") for s in tls12):
        useless = ", ".join(s for s in tls12 if not s.startswith("TLS_"))
        wrong.append(("security.cipher_suites", f'{useless}: no use with min_tls_version = "1.3"; remove it'))
    wrong += _remote_write(config)
    orchestrator = config.orchestrator
    if orchestrator.enabled and not (orchestrator.token or orchestrator.token_secret_path):
        wrong.append(("orchestrator.enabled", "true needs token or token_secret_path"))
    return wrong


def _remote_write(config: Config) -> list[tuple[str, str]]:
    remote, wrong = config.remote_write, []
    if remote.url is not None and not config.tsdb.enable_local_tsdb:
        wrong.append(
            ("remote_write.url", "needs the store that it is sent from; set tsdb.enable_local_tsdb = true or remove it")
        )
    if remote.url is not None and not _reachable(remote.url):
        wrong.append(("remote_write.url", "names no host and port that can be asked"))
    if remote.url is not None and "@" in remote.url.split("/")[2]:
        wrong.append(("remote_write.url", "holds a user or password; use username and password_path"))
    for one, other in (
        ("username", "password_path"),
        ("password_path", "username"),
        ("tls_cert_path", "tls_key_path"),
        ("tls_key_path", "tls_cert_path"),
    ):
        if getattr(remote, one) is not None and getattr(remote, other) is None:
            wrong.append((f"remote_write.{other}", f"is not set but {one} needs it"))
    if remote.bearer_token_path is not None and remote.username is not None:
        wrong.append(("remote_write.username", "and bearer_token_path exclude each other; remove one"))
    for name, value in remote.headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not value.isprintable():
            wrong.append(
                ("remote_write.headers", f'"{name}" can\'t be sent: a header is one line, its name has no spaces')
            )
        elif name.lower() in _NOT_FOR_HEADERS:
            secret = name.lower() in ("authorization", "proxy-authorization")
            instead = "use bearer_token_path, or username and password_path" if secret else "remove it"
            wrong.append(("remote_write.headers", f'"{name}" is set by the agent; {instead}'))
    for name in remote.labels:
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
            wrong.append(("remote_write.labels", f'"{name}" is no name for a label; use letters, digits and _'))
    return wrong


def _reachable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _notices(config: Config, sections: Mapping[str, Any], references: _References) -> list[str]:
    notices = [
        f"[{name}] is checked but not active yet in this version" for name in structs.NOT_ACTIVE_YET if name in sections
    ]
    for where, unset in references.unset.items():
        notices.append(f"{where}: environment variable {unset[0]} is not set; not needed while the part is disabled")
    security = config.security
    paths = (security.tls_cert_path, security.tls_key_path, security.tls_ca_path)
    if not security.enable_tls and any(paths):
        notices.append("security: certificate paths are set but enable_tls = false: /metrics is served in the clear")
    remote = config.remote_write
    if remote.url is None and "remote_write" in sections and sections["remote_write"] != type(remote)():
        notices.append("remote_write: url is not set: nothing is sent")
    if remote.url is not None and remote.url.startswith("http:") and (remote.bearer_token_path or remote.username):
        notices.append("remote_write: the url is http: token or password are sent in the clear")
    if config.orchestrator.token and config.orchestrator.token_secret_path:
        notices.append("orchestrator: both token and token_secret_path are set; token wins")
    return notices
