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

from esnode.config import SECRETS, Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GPU_STATE = "gpu-state.json"
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_REFERENCE = re.compile(r"\$\{\w+\}")
_CREDENTIALS = re.compile(r"""(://)(?!\$\{\w+\}@)[^/\s"']*@""")


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
    """The configuration with references to the environment in the place of secrets; None when that can't be done."""
    try:
        text = data.decode()
        document = tomllib.loads(text)
        for secret in sorted(SECRETS):
            section, _unused, key = secret.partition(".")
            value = document.get(section, {}).get(key)
            text = re.sub(rf"(?m)^\s*#.*\b{key}\b\s*=.*\n?", "", text)  # one that was used before
            if isinstance(value, str) and value and not _REFERENCE.fullmatch(value):
                text = re.sub(rf"(?m)^(\s*{key}\s*=\s*).*$", rf'\1"${{ESNODE_{key.upper()}}}"', text)
                if value in text:
                    return None
        text = _CREDENTIALS.sub(r"\1${ESNODE_URL_CREDENTIALS}@", text)
        cleaned = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        return None
    for secret in SECRETS:
        section, _unused, key = secret.partition(".")
        value = cleaned.get(section, {}).get(key)
        if value and not (isinstance(value, str) and _REFERENCE.fullmatch(value)):
            return None
    return text.encode()
