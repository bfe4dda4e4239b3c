# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the agent's configuration goes into a backup: never a secret, never a private key."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from esnode.config import SECRET_NAME, Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GPU_STATE = "gpu-state.json"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REFERENCE = re.compile(r"\$\{\w+\}")
_NAME = rf"(?<![\w?&-]){SECRET_NAME.pattern}"
_ASSIGNED = re.compile(rf"""({_NAME})(["']?\s*=\s*)("(?:[^"\\\n]|\\.)*"|'[^'\n]*')""", re.ASCII | re.IGNORECASE)
_SAID = rf"(?<!\$\{{){_NAME}"  # a reference tells nothing
_BEFORE = re.compile(rf"^[ \t]*#.*{_SAID}.*\n?", re.ASCII | re.IGNORECASE | re.MULTILINE)
# After a value, so after as many quotes of each kind as open and close.
_BESIDE = re.compile(
    rf"""^((?:[^"'#\n]|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')*)\#.*{_SAID}.*$""", re.ASCII | re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the node: its path there, mode and content."""

    path: Path
    mode: int
    data: bytes


def collect(config_file: Path, config: Config | None) -> tuple[list[Kept], list[str]]:
    """The files, and a line for each that could not be taken. `config`: what was read of the file, None: nothing."""
    kept: list[Kept] = []
    notes: list[str] = []
    for path in dict.fromkeys([config_file, config_file.with_name(GPU_STATE), *_certificates(config)]):
        try:
            data, mode = path.read_bytes(), path.stat().st_mode & 0o777
        except FileNotFoundError:
            if path.name != GPU_STATE:
                notes.append(f"{path} is not there")
            continue
        except OSError as error:
            notes.append(f"{path} can't be read: {error.strerror}")
            continue
        if path == config_file:
            cleaned = _without_secrets(data)
            if cleaned is None:
                notes.append(f"{path} was left out: it holds a secret that can't be told from the rest")
                continue
            data = cleaned
        elif path.name != GPU_STATE:
            data = b"".join(found + b"\n" for found in _CERTIFICATE.findall(data))
            if not data:
                notes.append(f"{path} holds no certificate in PEM")
                continue
        kept.append(Kept(path, mode, data))
    return kept, notes


def _certificates(config: Config | None) -> list[Path]:
    """Every path that a key ending in cert_path or ca_path names."""
    found: list[Path] = []

    def look(table: Any) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                look(value)
            elif isinstance(value, str) and key.endswith(("cert_path", "ca_path")):
                found.append(Path(value))

    if config is not None:
        look(msgspec.to_builtins(config))
    return found


def _without_secrets(data: bytes) -> bytes | None:
    """The configuration with references to the environment in the place of secrets; None when that can't be done.

    Secrets are values of keys that are named like one, users with passwords and values of the query in URLs.
    """
    try:
        text = data.decode()
        secrets: list[str] = []
        wanted = _cleaned(tomllib.loads(text), secrets)
        text = _BESIDE.sub(r"\1", _BEFORE.sub("", text))  # what was used before, and what is said of it
        text = _ASSIGNED.sub(_assigned, text)
        text = _clean_urls(text, r"\s\"'")
        if tomllib.loads(text) != wanted or any(secret in text for secret in secrets):
            return None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    return text.encode()


def _cleaned(value: Any, secrets: list[str], key: str = "") -> Any:
    """The value of a key as it should be in the backup; what must be nowhere in it is added to `secrets`."""
    named = SECRET_NAME.fullmatch(key)
    if isinstance(value, dict) and not named:
        return {name: _cleaned(some, secrets, name) for name, some in value.items()}
    if isinstance(value, str):
        if named and value and not _REFERENCE.fullmatch(value):
            secrets.append(value)
            return _reference(key)
        return _clean_urls(value, r"\s")
    if named and not isinstance(value, bool):
        return object()  # which no text is equal to
    return [_cleaned(one, secrets) for one in value] if isinstance(value, list) else value


def _assigned(found: re.Match[str]) -> str:
    key, between, value = found.groups()
    kept = len(value) == 2 or _REFERENCE.fullmatch(value[1:-1])
    return found[0] if kept else f'{key}{between}"{_reference(key)}"'


def _clean_urls(text: str, end: str) -> str:
    """The text with its URLs without secrets; `end`: characters, as in a regular expression, that end one."""
    text = re.sub(rf"(://)(?!(?:\$\{{\w+\}}:?)+@)[^/{end}]*@", r"\1${ESNODE_URL_CREDENTIALS}@", text)
    return re.sub(rf"(\w://[^?#{end}]*\?)([^#{end}]+)", lambda found: found[1] + _clean_query(found[2]), text)


def _clean_query(query: str) -> str:
    parts = []
    for part in query.split("&"):
        name, equals, value = part.rpartition("=")
        if value and not _REFERENCE.fullmatch(value):
            value = _reference(f"url_{name or 'query'}")
        parts.append(name + equals + value)
    return "&".join(parts)


def _reference(key: str) -> str:
    return f"${{ESNODE_{re.sub('[^A-Z0-9]', '_', key.upper())}}}"
