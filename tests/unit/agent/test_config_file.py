# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading esnode.toml: what it means, and what is said of every mistake."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from esnode.config import Config
from esnode.config_file import ConfigError, load
from hypothesis import given
from hypothesis import strategies as st

TEMPLATE = """
[agent]
listen_address = "0.0.0.0:9100"
scrape_interval_seconds = 15
log_level = "info"
log_format = "json"
[security]
enable_tls = true
tls_cert_path = "/etc/esnode/certs/server.crt"
tls_key_path = "/etc/esnode/certs/server.key"
tls_ca_path = "/etc/esnode/certs/ca.crt"
min_tls_version = "1.3"
cipher_suites = ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
[collectors]
enable_cpu = true
enable_memory = true
enable_disk = true
enable_network = true
enable_gpu = true
enable_power = true
enable_gpu_events = true
[tsdb]
enable_local_tsdb = true
local_tsdb_path = "/var/lib/esnode/tsdb"
retention_hours = 168
max_disk_mb = 10240
compression = "zstd"
[orchestrator]
enabled = false
allow_public = false
token = "${ESNODE_BEARER_TOKEN}"
token_secret_path = "/etc/esnode/secrets/orchestrator.token"
require_client_cert = true
[audit]
enable_audit_log = true
audit_log_path = "/var/log/esnode/audit.log"
audit_log_format = "json"
max_audit_file_size_mb = 100
audit_retention_days = 365
[alerts]
enable_prometheus_alerts = true
alert_manager_url = "https://alertmanager.corp:9093"
[app]
enable_app = false
app_metrics_url = "http://localhost:8000/metrics"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "esnode.toml"
    path.write_text(text)
    return path


def mistakes(folder: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text), environment)
    return caught.value.mistakes


def test_the_whole_template_means_what_it_says(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, TEMPLATE), {"ESNODE_BEARER_TOKEN": "s3cret"})
    config = loaded.config
    assert (config.agent.host, config.agent.port, config.agent.scrape_interval_seconds) == ("0.0.0.0", 9100, 15.0)
    assert config.security.enable_tls
    assert config.security.cipher_suites == ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
    assert config.orchestrator.token == "s3cret"
    assert config.tsdb.max_disk_mb == 10240
    for section in ("orchestrator", "audit", "alerts"):
        assert any(f"[{section}]" in n and "not active yet" in n for n in loaded.notices), section
    assert not any("s3cret" in n for n in loaded.notices)


def test_the_template_parses_without_the_token_while_the_orchestrator_is_off(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, TEMPLATE), {})
    assert any("ESNODE_BEARER_TOKEN" in n for n in loaded.notices)


def test_an_unset_variable_stops_a_part_that_needs_it(tmp_path: Path) -> None:
    [mistake] = mistakes(tmp_path, '[orchestrator]\nenabled = true\ntoken = "${NO_SUCH}"\ntoken_secret_path = "/x"')
    assert "orchestrator.token" in mistake and "NO_SUCH is not set" in mistake


def test_references_are_replaced_in_any_text(tmp_path: Path) -> None:
    text = '[agent]\nlisten_address = "${HOST}:${PORT}"'
    assert load(write(tmp_path, text), {"HOST": "127.0.0.1", "PORT": "1"}).config.agent.listen_address == "127.0.0.1:1"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, ""), {})
    assert loaded.config == Config()
    assert loaded.notices == ()


def test_all_mistakes_come_at_once_with_file_key_value_and_what_is_right(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        """
scrape_interval_seconds = 30
[agent]
listen_address = "9100"
scrape_interval_seconds = "fast"
log_level = "loud"
[collectors]
enable_gpus = true
enable_cpu = 1
[tsdb]
local_tsdb_retention_hours = 24
[securty]
enable_tls = true
[app]
app_metrics_url = "localhost:8000"
[security]
enable_tls = true
""",
    )
    path = tmp_path / "esnode.toml"
    assert all(m.startswith(f"{path}: ") for m in found)
    for expected in (
        "scrape_interval_seconds: unknown key; it belongs in [agent]",
        'agent.listen_address = "9100": expected "host:port"',
        'agent.scrape_interval_seconds = "fast": expected a number of seconds from 0.1 to 3600',
        'agent.log_level = "loud": expected "debug", "info", "warning" or "error"',
        "collectors.enable_gpus = true: unknown key; did you mean enable_gpu?",
        "collectors.enable_cpu = 1: expected true or false",
        "tsdb.local_tsdb_retention_hours = 24: unknown key; did you mean retention_hours?",
        "securty: unknown section; did you mean [security]?",
        'app.app_metrics_url = "localhost:8000": expected an "http://" or "https://" URL',
        "security.tls_cert_path: is not set but enable_tls = true needs it",
        "security.tls_key_path: is not set but enable_tls = true needs it",
    ):
        assert sum(expected in m for m in found) == 1, f"{expected}\n" + "\n".join(found)
    assert len(found) == 11, found


@pytest.mark.parametrize("value", ["0.09", "3600.1", "0", "-1", "nan", "inf", "true"])
def test_an_interval_out_of_range_is_refused(tmp_path: Path, value: str) -> None:
    [mistake] = mistakes(tmp_path, f"[agent]\nscrape_interval_seconds = {value}")
    assert "from 0.1 to 3600" in mistake


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ('cipher_suites = ["TLS_NO_SUCH"]', "is no TLS 1.3 suite"),
        ('cipher_suites = ["ECDHE-RSA-AES256-GCM-SHA384"]', "no use with min_tls_version"),
        ('min_tls_version = "1.2"\ncipher_suites = ["TLS_AES_256_GCM_SHA384"]', "no TLS 1.2 suite is named"),
        ('min_tls_version = "1.1"', 'expected "1.2" or "1.3"'),
    ],
)
def test_suites_and_versions_that_cannot_be_together_are_refused(tmp_path: Path, security: str, expected: str) -> None:
    assert any(expected in m for m in mistakes(tmp_path, f"[security]\n{security}"))


REFUSED_HEADER = (
    'remote_write.headers: "authorization" is set by the agent; use bearer_token_path, or username and password_path'
)
REMOTE = '[remote_write]\nurl = "https://prometheus/api/v1/write"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[tsdb]\nenable_local_tsdb = false\n" + REMOTE,
            "remote_write.url: needs the store that it is sent from; set tsdb.enable_local_tsdb = true or remove it",
        ),
        (
            '[remote_write]\nurl = "https://user:secret@prometheus/api/v1/write"\n',
            "remote_write.url: holds a user or password; use username and password_path",
        ),
        (REMOTE + 'username = "esnode"', "remote_write.password_path: is not set but username needs it"),
        (REMOTE + 'tls_key_path = "/k"', "remote_write.tls_cert_path: is not set but tls_key_path needs it"),
        (
            REMOTE + 'username = "esnode"\npassword_path = "/p"\nbearer_token_path = "/t"',
            "remote_write.username: and bearer_token_path exclude each other; remove one",
        ),
        (
            REMOTE + 'headers = { authorization = "Bearer x" }',
            REFUSED_HEADER,
        ),
        (
            REMOTE + 'headers = { X-Scope-OrgID = "a\\nb" }',
            'remote_write.headers: "X-Scope-OrgID" can\'t be sent: a header is one line, its name has no spaces',
        ),
        (
            REMOTE + 'labels = { "data-center" = "x" }',
            'remote_write.labels: "data-center" is no name for a label; use letters, digits and _',
        ),
        (
            REMOTE + "labels = { rack = 7 }",
            'remote_write.labels = {...}: expected a table of texts, such as { name = "value" }',
        ),
    ],
)
def test_what_remote_write_can_not_be_done_with_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert mistakes(tmp_path, text) == [f"{tmp_path / 'esnode.toml'}: {expected}"]


def test_tables_of_texts_take_references(tmp_path: Path) -> None:
    path = write(tmp_path, REMOTE + 'labels = { rack = "${RACK}" }')
    assert load(path, {"RACK": "r7"}).config.remote_write.labels == {"rack": "r7"}


@pytest.mark.parametrize(
    "text",
    [
        '[remote_write]\nbearer_token = "hush"\n',
        '[remote_write]\npassword = "hush"\n',
        '[tsdb]\nApiKey = ["hush"]\n',
        'token = "hush"\n',
        '[remote_write]\nurl = "htps://me:hush@host/x"\n',
        '[remote_write]\nurl = "me:hush@host/x"\n',
        '[alerts]\nalert_manager_url = "ftp://host/x?token=hush"\n',
        '[alerts]\nadmin = ["http://host/?hush", "http://hush@host"]\n',
    ],
)
def test_what_may_be_secret_is_not_shown_under_any_name(tmp_path: Path, text: str) -> None:
    assert [one for one in mistakes(tmp_path, text) if "hush" in one] == []


def test_a_secret_is_not_shown_in_a_mistake(tmp_path: Path) -> None:
    found = mistakes(tmp_path, '[orchestrator]\ntoken = ["hunter2"]\ntokn = "hunter2"\n[agent]\ntoken = "hunter2"')
    assert len(found) == 3
    assert not any("hunter2" in m for m in found), found


@pytest.mark.parametrize(("text", "expected"), [("[agent", "not valid TOML"), ("agent = 3", "expected a section")])
def test_a_file_that_is_no_configuration_says_so(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in mistakes(tmp_path, text)[0]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml", {})


def test_every_key_can_say_what_would_be_right() -> None:
    for section in msgspec.structs.fields(Config):
        for key in msgspec.structs.fields(section.type):
            assert "description" in str(key.type) and key.default is not msgspec.UNSET, key.name


toml_scalars = st.one_of(
    st.booleans().map(lambda b: str(b).lower()),
    st.integers(-(2**40), 2**40).map(str),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(lambda f: repr(float(f))),
    st.text(st.characters(codec="ascii", exclude_characters='"\\\x7f', exclude_categories=["Cc"])).map(
        lambda t: f'"{t}"'
    ),
)
keys = [(s.name, k.name) for s in msgspec.structs.fields(Config) for k in msgspec.structs.fields(s.type)]


@given(st.dictionaries(st.sampled_from(keys), toml_scalars, max_size=8))
def test_any_values_are_either_taken_or_named(
    tmp_path_factory: pytest.TempPathFactory, values: dict[tuple[str, str], str]
) -> None:
    sections: dict[str, list[str]] = {}
    for (section, key), value in values.items():
        sections.setdefault(section, []).append(f"{key} = {value}")
    text = "\n".join(f"[{s}]\n" + "\n".join(lines) for s, lines in sections.items())
    path = write(tmp_path_factory.mktemp("c"), text)
    try:
        load(path, {})
        found = []
    except ConfigError as error:
        found = error.mistakes or ["no mistake is named"]
    for mistake in found:
        assert any(f"{s}.{k}" in mistake for s, k in keys), mistake
