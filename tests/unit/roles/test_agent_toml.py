# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role writes esnode.toml so that the agent reads what was declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import msgspec
from esnode.config_file import load

TEMPLATE = Path(__file__).resolve().parents[3] / "roles/esnode_agent/templates/esnode.toml.j2"


def rendered(settings: dict[str, Any]) -> str:
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)  # as Ansible templates
    environment.filters["to_json"] = lambda value, **options: json.dumps(value, **options)
    return environment.from_string(TEMPLATE.read_text()).render(ansible_managed="x", esnode_agent__settings=settings)


def test_every_kind_of_value_arrives(tmp_path: Path) -> None:
    settings = {
        "agent": {"listen_address": "[::]:9100", "scrape_interval_seconds": 2.5},
        "security": {"cipher_suites": ["TLS_AES_256_GCM_SHA384"], "enable_tls": False, "tls_ca_path": None},
        "remote_write": {
            "url": "https://h/x",
            "headers": {"X-Scope-OrgID": 'a "quoted" \\ tenant', "X-Two": "é"},
            "labels": {"rack": 7, "job": ""},
            "max_samples_per_second": 500,
        },
        "tsdb": {},
    }
    path = tmp_path / "esnode.toml"
    path.write_text(rendered(settings), encoding="utf-8")
    config = load(path).config
    settings["remote_write"]["labels"] = {"rack": "7", "job": ""}
    for section, keys in settings.items():
        for key, value in keys.items():
            if value is not None:
                assert getattr(getattr(config, section), key) == value
    assert config.security.tls_ca_path is None


def test_an_empty_table_is_one(tmp_path: Path) -> None:
    path = tmp_path / "esnode.toml"
    path.write_text(rendered({"remote_write": {"headers": {}}}))
    assert msgspec.structs.asdict(load(path).config.remote_write)["headers"] == {}
