# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be configured: one struct a section of esnode.toml, with types, bounds and defaults.

Reading the file is `config_file`. The `description` of a field is what a mistake's message says would be right.
This module must not import ssl, directly or not: `tls.restrict_handshake` has to run before.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

Text = Annotated[str, Meta(description="a text in quotes")]
Path = Annotated[str, Meta(pattern="^/", description="an absolute path in quotes")]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s/]+", description='an "http://" or "https://" URL')]
Switch = Annotated[bool, Meta(description="true or false")]
Texts = Annotated[dict[str, Text], Meta(description='a table of texts, such as { name = "value" }')]


class Agent(Struct, frozen=True, kw_only=True):
    """[agent]"""

    listen_address: Annotated[
        str,
        Meta(
            pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]*):\d{1,5}$",
            description='"host:port", such as "0.0.0.0:9100" or "[::]:9100"',
        ),
    ] = "0.0.0.0:9100"
    """Where HTTP is served. An empty host is every address; `[::]` is those of IPv6 alone."""
    scrape_interval_seconds: Annotated[
        float, Meta(ge=0.1, le=3600, description="a number of seconds from 0.1 to 3600")
    ] = 15.0
    """Seconds from one snapshot to the next; a scrape is served the last one."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description='"debug", "info", "warning" or "error"')
    ] = "info"
    """The quietest level that is still logged."""
    log_format: Annotated[Literal["json", "text"], Meta(description='"json" or "text"')] = "json"
    """How a line of the log on standard error looks."""

    @property
    def host(self) -> str:
        """Host part of `listen_address`, without brackets; empty means every address."""
        return self.listen_address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port part of `listen_address`."""
        return int(self.listen_address.rpartition(":")[2])


class Security(Struct, frozen=True, kw_only=True):
    """[security]"""

    enable_tls: Switch = False
    """Serve HTTPS instead of HTTP."""
    tls_cert_path: Path | None = None
    """Certificate of the server in PEM, followed by the intermediate ones; needed for TLS."""
    tls_key_path: Path | None = None
    """Private key of it in PEM, without passphrase; needed for TLS."""
    tls_ca_path: Path | None = None
    """CA of the certificate in PEM, with which `esnode-core status` and `metrics` check it."""
    min_tls_version: Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')] = "1.3"
    """Clients that offer nothing newer are refused."""
    cipher_suites: Annotated[
        list[Text],
        Meta(description='a list of suites as OpenSSL names them, such as ["TLS_AES_256_GCM_SHA384"]'),
    ] = field(default_factory=list)
    """Only these are offered. An empty list leaves it to OpenSSL."""


class Collectors(Struct, frozen=True, kw_only=True):
    """[collectors]"""

    enable_cpu: Switch = True
    """CPU times, frequencies, load, pressure, interrupts, clock."""
    enable_memory: Switch = True
    """Memory, swap, NUMA, out-of-memory kills, ECC of the host (EDAC)."""
    enable_disk: Switch = True
    """Block devices and file systems."""
    enable_network: Switch = True
    """Network devices, TCP, InfiniBand."""
    enable_gpu: Switch = True
    """GPUs through NVML, MIG instances and processes too."""
    enable_power: Switch = True
    """Power and energy of the host: RAPL, hwmon, IPMI."""
    enable_gpu_events: Switch = True
    """XID errors counted as they happen; ECC and throttling logged."""
    enable_gpu_settings: Switch = True
    """Whether GPUs have the settings recorded for them in /etc/esnode/gpu-state.json."""
    enable_backup: Switch = True
    """Whether the node's backups succeed, where it takes any."""
    gpu_process_memory: Switch = False
    """One series per GPU process: off, since pids make many series."""
    gpu_pcie_throughput: Switch = False
    """PCIe rates: off, since each reading takes the driver 20 ms."""
    node_power_envelope_watts: Annotated[float, Meta(gt=0, description="a number of watts above 0")] | None = None
    """What the node may draw at most; the metrics then say whether it does."""


class Tsdb(Struct, frozen=True, kw_only=True):
    """[tsdb]"""

    enable_local_tsdb: Switch = True
    """Keep what is collected on the node."""
    local_tsdb_path: Path = "/var/lib/esnode/tsdb"
    """Folder of the store."""
    retention_hours: Annotated[int, Meta(ge=1, description="a whole number of hours from 1 up")] = 168
    """Older samples are deleted."""
    max_disk_mb: Annotated[int, Meta(ge=16, description="a whole number of MB from 16 up")] = 10240
    """The store never takes more; the oldest samples go first."""
    compression: Annotated[Literal["zstd"], Meta(description='"zstd"')] = "zstd"
    """How samples are packed."""
    encryption_key_path: Path | None = None
    """File with the key (or, first the new, then the old ones) that the store is encrypted with; none: it is not."""


class RemoteWrite(Struct, frozen=True, kw_only=True):
    """[remote_write]"""

    url: Url | None = None
    """Where the store's samples are sent to, such as https://prometheus.example.com/api/v1/write; not set: nowhere."""
    bearer_token_path: Path | None = None
    """File with the token that is sent as `Authorization: Bearer`. Read again when it changes."""
    username: Text | None = None
    """User of basic authentication."""
    password_path: Path | None = None
    """File with the password of `username`. Read again when it changes."""
    tls_ca_path: Path | None = None
    """Certificates in PEM of the authorities that the receiver's may come from; not set: those of the system."""
    tls_cert_path: Path | None = None
    """Certificate in PEM that is shown to the receiver. Read again when it changes."""
    tls_key_path: Path | None = None
    """Private key of it in PEM, without passphrase."""
    min_tls_version: Annotated[Literal["1.2", "1.3"], Meta(description='"1.2" or "1.3"')] = "1.3"
    """Receivers that speak nothing newer are not sent to."""
    headers: Texts = field(default_factory=dict)
    """Further headers, such as X-Scope-OrgID. No secrets: those have files."""
    labels: Texts = field(default_factory=dict)
    """Added to each series that has not this label itself, besides job = "esnode" and instance = the host's name."""
    max_samples_per_second: Annotated[int, Meta(ge=100, description="a whole number from 100 up")] = 10_000
    """The most that is sent, also after an outage."""
    timeout_seconds: Annotated[float, Meta(ge=1, le=300, description="a number of seconds from 1 to 300")] = 30.0
    """After so long without an answer a request is given up and sent again."""


class Orchestrator(Struct, frozen=True, kw_only=True):
    """[orchestrator]"""

    enabled: Switch = False
    """Take orders, such as power limits, by HTTP."""
    allow_public: Switch = False
    """Take them on addresses other than loopback, too."""
    token: Text | None = None
    """Bearer token that an order must carry."""
    token_secret_path: Path | None = None
    """File that holds the token, instead of `token`."""
    require_client_cert: Switch = True
    """An order must come with a client certificate of `tls_ca_path`."""


class Audit(Struct, frozen=True, kw_only=True):
    """[audit]"""

    enable_audit_log: Switch = True
    """Write down who ordered what, and the result."""
    audit_log_path: Path = "/var/log/esnode/audit.log"
    """The file."""
    audit_log_format: Annotated[Literal["json"], Meta(description='"json"')] = "json"
    """How its lines look."""
    max_audit_file_size_mb: Annotated[int, Meta(ge=1, description="a whole number of MB from 1 up")] = 100
    """A larger file is rotated."""
    audit_retention_days: Annotated[int, Meta(ge=1, description="a whole number of days from 1 up")] = 365
    """Older files are deleted."""


class Alerts(Struct, frozen=True, kw_only=True):
    """[alerts]"""

    enable_prometheus_alerts: Switch = True
    """Send alerts."""
    alert_manager_url: Url | None = None
    """Alertmanager that gets them."""


class App(Struct, frozen=True, kw_only=True):
    """[app]"""

    enable_app: Switch = False
    """Read the metrics of an inference server on this node."""
    app_metrics_url: Url = "http://localhost:8000/metrics"
    """Its page: vLLM, TGI, SGLang or Triton."""


class Config(Struct, frozen=True, kw_only=True):
    """The whole of esnode.toml. `Config()` is what an empty file means."""

    agent: Agent = Agent()
    security: Security = Security()
    collectors: Collectors = Collectors()
    tsdb: Tsdb = Tsdb()
    remote_write: RemoteWrite = RemoteWrite()
    orchestrator: Orchestrator = Orchestrator()
    audit: Audit = Audit()
    alerts: Alerts = Alerts()
    app: App = App()


SECRETS = frozenset({"orchestrator.token"})
"""Keys whose value is never shown."""

SECRET_NAME = re.compile(
    r"[\w-]*(?:token|passw|secret|api[_-]?key|credential|cookie|authorization)[\w-]*(?<!_path)",
    re.ASCII | re.IGNORECASE,
)
"""Names under which a secret may be written by mistake, or into `headers`: their values are not shown either."""

NOT_ACTIVE_YET = ("orchestrator", "audit", "alerts")
"""Sections that are checked and kept but that no part of the agent acts on yet."""

RESTART_ONLY = (
    "agent.listen_address",
    "security.enable_tls",
    "security.cipher_suites",
)
"""Keys that a reload cannot change: the socket is open and OpenSSL is configured once a process."""
