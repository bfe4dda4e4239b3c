# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each role says the same in defaults/main.yml and in meta/argument_specs.yml, and its variables carry its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROLES = sorted(path for path in (Path(__file__).parents[3] / "roles").iterdir() if path.is_dir())


def defaults(role: Path) -> dict[str, Any]:
    path = role / "defaults/main.yml"
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def options(role: Path) -> dict[str, Any]:
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text())
    return dict(spec["argument_specs"]["main"].get("options", {}))


@pytest.fixture(params=ROLES, ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_every_default_has_a_specification_with_the_same_value(role: Path) -> None:
    specified = {name: option["default"] for name, option in options(role).items() if "default" in option}
    assert specified == defaults(role)


def test_what_has_no_default_is_required_or_may_be_absent(role: Path) -> None:
    both = [name for name, option in options(role).items() if option.get("required") and "default" in option]
    assert both == []


def test_variables_carry_the_name_of_the_role(role: Path) -> None:
    strangers = [name for name in {*options(role), *defaults(role)} if not name.startswith(f"{role.name}_")]
    assert strangers == []


def test_every_option_is_typed_and_described(role: Path) -> None:
    def gaps(found: dict[str, Any], path: str) -> list[str]:
        here = [f"{path}{name}" for name, option in found.items() if not {"type", "description"} <= option.keys()]
        lists = [
            f"{path}{name}"
            for name, option in found.items()
            if option.get("type") == "list" and "elements" not in option
        ]
        below = [gap for name, option in found.items() for gap in gaps(option.get("options", {}), f"{path}{name}.")]
        return here + lists + below

    assert gaps(options(role), "") == []
