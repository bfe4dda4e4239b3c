# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role takes what the agent's configuration takes."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import msgspec
import yaml
from esnode.config import Config

ROLES = Path(__file__).resolve().parents[3] / "roles"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def shape(kind: Any) -> dict[str, Any]:
    """The Ansible option that takes what a field of the configuration takes."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return shape(kind.__origin__)
    if origin in (typing.Union, types.UnionType):
        return shape(next(a for a in kind.__args__ if a is not types.NoneType))
    if origin is typing.Literal:
        return {"type": "str", "choices": list(kind.__args__)}
    if origin is list:
        return {"type": "list", "elements": "str"}
    if origin is dict:
        return {"type": "dict"}
    return {"type": {str: "str", int: "int", float: "float", bool: "bool"}[kind]}


def test_the_role_takes_every_key_of_the_configuration_and_no_other() -> None:
    spec = read(ROLES / "esnode_agent/meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    sections = spec["esnode_agent_config"]["options"]
    asked = {
        section: {
            k: {n: v for n, v in o.items() if n in ("type", "choices", "elements")} for k, o in s["options"].items()
        }
        for section, s in sections.items()
    }
    known = {
        section.name: {key.name: shape(key.type) for key in msgspec.structs.fields(section.type)}
        for section in msgspec.structs.fields(Config)
    }
    assert asked == known
