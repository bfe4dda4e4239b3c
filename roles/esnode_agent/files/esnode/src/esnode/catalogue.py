# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every metric family the agent can emit, named once: type, unit, labels, help.

Exposition, documentation and tests read this table. A series is made by its family
(`CPU_SECONDS.series("0", "user")`), so a family that is not here cannot be emitted.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import Final, Literal
from weakref import WeakValueDictionary

Kind = Literal["gauge", "counter", "histogram"]
_interning = threading.Lock()
# What Python makes of bytes that are no UTF-8, in names of files for example. No page and no protocol can hold it.
_UNWRITABLE = re.compile("[\ud800-\udfff]")


def escape_help(text: str) -> str:
    """Escape a help text for the exposition formats."""
    return text.replace("\\", r"\\").replace("\n", r"\n")


def escape_label(text: str) -> str:
    """Escape a label value for the exposition formats."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class Series:
    """One time series: a family and the values of its labels. The same labels give the same object."""

    __slots__ = ("__weakref__", "family", "labels", "name", "prefix")

    def __init__(self, family: Family, suffix: str, labels: dict[str, str]) -> None:
        self.family = family
        self.labels = labels
        self.name = family.name + suffix
        pairs = ",".join(f'{name}="{escape_label(value)}"' for name, value in labels.items())
        # The exposition line up to its value; made once, since a series outlives thousands of scrapes.
        self.prefix = f"{self.name}{{{pairs}}} " if pairs else f"{self.name} "

    def __repr__(self) -> str:
        return f"Series({self.prefix.strip()})"


@dataclass(frozen=True, eq=False)
class Family:
    """A metric family: `unit` is the unit of its samples, `labels` the label names in order."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    _made: WeakValueDictionary[tuple[str, ...], Series] = field(default_factory=WeakValueDictionary, repr=False)

    def series(self, *label_values: str) -> Series:
        """Return the one series of this family with these label values, in the order of `labels`.

        What can't be written as UTF-8 becomes U+FFFD.
        """
        return self._made.get(label_values) or self._make("", self.labels, label_values)

    def part(self, suffix: str, *label_values: str) -> Series:
        """Return one series of a histogram: suffix `_bucket` (its last value is `le`), `_sum` or `_count`."""
        labels = (*self.labels, "le") if suffix == "_bucket" else self.labels
        return self._made.get((suffix, *label_values)) or self._make(suffix, labels, label_values)

    def _make(self, suffix: str, labels: tuple[str, ...], values: tuple[str, ...]) -> Series:
        if len(values) != len(labels):
            raise ValueError(f"{self.name}{suffix} has the labels {labels}, got the values {values}")
        whole = tuple(_UNWRITABLE.sub("\ufffd", value) for value in values)
        key, asked = ((suffix, *some) if suffix else some for some in (whole, values))
        with _interning:  # two threads must not make two objects of one series
            made = self._made.setdefault(key, Series(self, suffix, dict(zip(labels, whole, strict=True))))
            return self._made.setdefault(asked, made)


FAMILIES: Final[dict[str, Family]] = {}


def _family(kind: Kind, name: str, unit: str, labels: str, help_text: str) -> Family:
    if name in FAMILIES or not re.fullmatch(r"esnode_[a-z0-9_]+", name):
        raise ValueError(f"family {name} is named twice or not an esnode_ name")
    FAMILIES[name] = Family(name, kind, unit, tuple(labels.split()), help_text)
    return FAMILIES[name]


def _gauge(name: str, unit: str, labels: str, help_text: str) -> Family:
    return _family("gauge", name, unit, labels, help_text)


def _counter(name: str, unit: str, labels: str, help_text: str) -> Family:
    return _family("counter", name, unit, labels, help_text)


def _histogram(name: str, unit: str, labels: str, help_text: str) -> Family:
    return _family("histogram", name, unit, labels, help_text)


# The agent itself
BUILD_INFO = _gauge("esnode_build_info", "1", "version python nvml_driver", "Constant 1; what is running.")
START_TIME = _gauge("esnode_start_time_seconds", "s", "", "Unix time at which the agent started.")
COLLECTOR_UP = _gauge(
    "esnode_collector_up", "0/1", "collector", "1 if the last run of this collector was whole and fresh."
)
COLLECTOR_DURATION = _gauge(
    "esnode_collector_duration_seconds", "s", "collector", "How long the last finished run of this collector took."
)
COLLECTOR_LAST_SUCCESS = _gauge(
    "esnode_collector_last_success_timestamp_seconds", "s", "collector", "Unix time of the last whole run."
)
COLLECTOR_ERRORS = _counter(
    "esnode_collector_errors_total", "count", "collector", "Runs of this collector that failed, in part or whole."
)
CONFIG_RELOADS = _counter("esnode_config_reloads_total", "count", "result", "Reloads of the configuration by result.")
SCRAPE_DURATION = _histogram(
    "esnode_scrape_duration_seconds", "s", "", "Time to answer a request of /metrics, up to the last byte written."
)
HTTP_REQUESTS = _counter(
    "esnode_http_requests_total", "count", "route method code", "HTTP requests answered, by route template."
)
TLS_NOT_AFTER = _gauge(
    "esnode_tls_certificate_not_after_timestamp_seconds", "s", "", "Unix time at which the served certificate ends."
)

# The store of the node's own history
TSDB_SAMPLES_APPENDED = _counter("esnode_tsdb_samples_appended_total", "count", "", "Samples put into the local store.")
TSDB_SAMPLES_LOST = _counter(
    "esnode_tsdb_samples_lost_total", "count", "", "Samples that the local store had to give up or never took."
)
TSDB_SERIES = _gauge("esnode_tsdb_series", "count", "", "Series in the newest row of the local store.")
TSDB_BYTES = _gauge("esnode_tsdb_bytes", "bytes", "", "Size of all files of the local store.")
TSDB_OLDEST = _gauge(
    "esnode_tsdb_oldest_timestamp_seconds", "s", "", "Unix time of the oldest sample in the local store."
)
TSDB_APPEND_DURATION = _histogram(
    "esnode_tsdb_append_duration_seconds", "s", "", "Time to put one snapshot into the local store."
)
TSDB_ERRORS = _counter(
    "esnode_tsdb_errors_total",
    "count",
    "operation",
    "What the local store could not do: open, append, write (tries), read (distinct damaged parts).",
)

# Its backups
BACKUP_LAST_SUCCESS = _gauge(
    "esnode_backup_last_success_timestamp_seconds",
    "s",
    "",
    "Unix time at which the last backup was taken that is complete everywhere it was to be brought to.",
)
BACKUP_LAST_RUN = _gauge("esnode_backup_last_run_timestamp_seconds", "s", "", "Unix time at which the last run ended.")
BACKUP_LAST_RUN_SUCCESS = _gauge("esnode_backup_last_run_success", "0/1", "", "1 if the last run did all it was to do.")
BACKUP_BYTES = _gauge("esnode_backup_size_bytes", "bytes", "", "Size of all files of the last backup that succeeded.")

# What is sent on
DELIVERY_QUEUE = _gauge(
    "esnode_delivery_queue_length", "count", "sink", "What waits to be delivered; for remote_write, samples."
)
DELIVERY_SENT = _counter(
    "esnode_delivery_sent_total", "count", "sink", "What was delivered; for remote_write, samples."
)
DELIVERY_FAILED = _counter(
    "esnode_delivery_failed_total", "count", "sink", "Tries that failed and are made again; for remote_write, requests."
)
DELIVERY_DROPPED = _counter(
    "esnode_delivery_dropped_total", "count", "sink", "What was given up; for remote_write, samples."
)
REMOTE_WRITE_DROPPED = _counter(
    "esnode_remote_write_samples_dropped_total",
    "count",
    "reason",
    "Samples given up: too_old, out_of_order, refused (by the receiver), retention (of the local store).",
)
REMOTE_WRITE_HIGHEST_SENT = _gauge(
    "esnode_remote_write_highest_sent_timestamp_seconds", "s", "", "Unix time of the newest samples delivered."
)
REMOTE_WRITE_LAG = _gauge(
    "esnode_remote_write_lag_seconds", "s", "", "From the newest samples delivered to the newest in the local store."
)
REMOTE_WRITE_DURATION = _histogram(
    "esnode_remote_write_request_duration_seconds", "s", "", "Time until the receiver had answered a request, or not."
)

# CPU
CPU_SECONDS = _counter("esnode_cpu_seconds_total", "s", "cpu mode", "Time each CPU spent in each mode.")
CPU_USAGE = _gauge("esnode_cpu_usage_percent", "%", "cpu", "Busy share of each CPU between the last two collections.")
CPU_FREQUENCY = _gauge("esnode_cpu_frequency_hertz", "Hz", "cpu", "Current clock of each CPU.")
CPU_TEMPERATURE = _gauge("esnode_cpu_temperature_celsius", "degC", "sensor", "CPU temperature by hwmon sensor.")
CPU_THROTTLES = _counter(
    "esnode_cpu_throttles_total", "count", "cpu scope", "Thermal throttle events; scope is core or package."
)
LOAD1 = _gauge("esnode_load1", "1", "", "Load average over 1 minute.")
LOAD5 = _gauge("esnode_load5", "1", "", "Load average over 5 minutes.")
LOAD15 = _gauge("esnode_load15", "1", "", "Load average over 15 minutes.")
CONTEXT_SWITCHES = _counter("esnode_context_switches_total", "count", "", "Context switches since boot.")
INTERRUPTS = _counter("esnode_interrupts_total", "count", "", "Interrupts serviced since boot.")
PROCS_RUNNING = _gauge("esnode_procs_running", "count", "", "Processes in runnable state.")
PROCS_BLOCKED = _gauge("esnode_procs_blocked", "count", "", "Processes blocked on I/O.")
PRESSURE_WAITING = _counter(
    "esnode_pressure_waiting_seconds_total", "s", "resource", "Time in which some task waited for the resource (PSI)."
)
PRESSURE_STALLED = _counter(
    "esnode_pressure_stalled_seconds_total", "s", "resource", "Time in which all tasks waited for the resource (PSI)."
)
BOOT_TIME = _gauge("esnode_boot_time_seconds", "s", "", "Unix time of the last boot.")
CLOCK_SYNCHRONIZED = _gauge(
    "esnode_clock_synchronized", "0/1", "", "1 if the kernel's clock is disciplined by a time source."
)

# Memory
MEMORY_TOTAL = _gauge("esnode_memory_total_bytes", "bytes", "", "Usable RAM.")
MEMORY_AVAILABLE = _gauge("esnode_memory_available_bytes", "bytes", "", "RAM available without swapping.")
MEMORY_USED = _gauge("esnode_memory_used_bytes", "bytes", "", "RAM that is not available: total less available.")
MEMORY_FREE = _gauge("esnode_memory_free_bytes", "bytes", "", "RAM not used for anything.")
MEMORY_BUFFERS = _gauge("esnode_memory_buffers_bytes", "bytes", "", "Block device buffers.")
MEMORY_CACHED = _gauge("esnode_memory_cached_bytes", "bytes", "", "Page cache.")
SWAP_TOTAL = _gauge("esnode_swap_total_bytes", "bytes", "", "Swap space.")
SWAP_USED = _gauge("esnode_swap_used_bytes", "bytes", "", "Swap space in use.")
SWAP_IN = _counter("esnode_swap_in_bytes_total", "bytes", "", "Bytes swapped in since boot.")
SWAP_OUT = _counter("esnode_swap_out_bytes_total", "bytes", "", "Bytes swapped out since boot.")
MAJOR_PAGE_FAULTS = _counter("esnode_major_page_faults_total", "count", "", "Page faults that needed I/O.")
OOM_KILLS = _counter("esnode_oom_kills_total", "count", "", "Processes killed for want of memory since boot.")
EDAC_CORRECTABLE = _counter(
    "esnode_edac_correctable_errors_total", "count", "controller", "Corrected RAM errors by memory controller."
)
EDAC_UNCORRECTABLE = _counter(
    "esnode_edac_uncorrectable_errors_total", "count", "controller", "Uncorrected RAM errors by memory controller."
)
NUMA_TOTAL = _gauge("esnode_numa_memory_total_bytes", "bytes", "node", "RAM of each NUMA node.")
NUMA_FREE = _gauge("esnode_numa_memory_free_bytes", "bytes", "node", "Free RAM of each NUMA node.")
NUMA_USED = _gauge("esnode_numa_memory_used_bytes", "bytes", "node", "Used RAM of each NUMA node.")

# Disk
_FS = "mountpoint device fstype"
FILESYSTEM_SIZE = _gauge("esnode_filesystem_size_bytes", "bytes", _FS, "Size of the file system.")
FILESYSTEM_AVAILABLE = _gauge(
    "esnode_filesystem_available_bytes", "bytes", _FS, "Space that an unprivileged user can still take."
)
FILESYSTEM_USED = _gauge("esnode_filesystem_used_bytes", "bytes", _FS, "Space in use: size less free.")
FILESYSTEM_FILES_FREE = _gauge("esnode_filesystem_files_free", "count", _FS, "Inodes that are free.")
FILESYSTEM_READONLY = _gauge("esnode_filesystem_readonly", "0/1", _FS, "1 if mounted read-only.")
DISK_READ_BYTES = _counter("esnode_disk_read_bytes_total", "bytes", "device", "Bytes read from the device.")
DISK_WRITTEN_BYTES = _counter("esnode_disk_written_bytes_total", "bytes", "device", "Bytes written to the device.")
DISK_READS = _counter("esnode_disk_reads_completed_total", "count", "device", "Reads completed.")
DISK_WRITES = _counter("esnode_disk_writes_completed_total", "count", "device", "Writes completed.")
DISK_READ_SECONDS = _counter("esnode_disk_read_seconds_total", "s", "device", "Time spent by all reads.")
DISK_WRITE_SECONDS = _counter("esnode_disk_write_seconds_total", "s", "device", "Time spent by all writes.")
DISK_IO_SECONDS = _counter("esnode_disk_io_seconds_total", "s", "device", "Time in which the device had I/O in flight.")
DISK_IO_IN_PROGRESS = _gauge("esnode_disk_io_in_progress", "count", "device", "I/O requests in flight.")

# Network
NETWORK_RECEIVE_BYTES = _counter("esnode_network_receive_bytes_total", "bytes", "interface", "Bytes received.")
NETWORK_TRANSMIT_BYTES = _counter("esnode_network_transmit_bytes_total", "bytes", "interface", "Bytes sent.")
NETWORK_RECEIVE_PACKETS = _counter("esnode_network_receive_packets_total", "count", "interface", "Packets received.")
NETWORK_TRANSMIT_PACKETS = _counter("esnode_network_transmit_packets_total", "count", "interface", "Packets sent.")
NETWORK_RECEIVE_ERRORS = _counter("esnode_network_receive_errors_total", "count", "interface", "Receive errors.")
NETWORK_TRANSMIT_ERRORS = _counter("esnode_network_transmit_errors_total", "count", "interface", "Transmit errors.")
NETWORK_RECEIVE_DROPS = _counter(
    "esnode_network_receive_drops_total", "count", "interface", "Received packets that were dropped."
)
NETWORK_TRANSMIT_DROPS = _counter(
    "esnode_network_transmit_drops_total", "count", "interface", "Packets dropped before they were sent."
)
NETWORK_UP = _gauge("esnode_network_up", "0/1", "interface", "1 if the interface's operstate is up.")
NETWORK_SPEED = _gauge("esnode_network_speed_bits_per_second", "bit/s", "interface", "Link speed.")
TCP_RETRANSMITTED = _counter("esnode_tcp_retransmitted_segments_total", "count", "", "TCP segments sent again.")
_IB = "device port"
INFINIBAND_LINK_STATE = _gauge("esnode_infiniband_link_state", "0/1", _IB, "1 if the port's state is ACTIVE.")
INFINIBAND_LINK_DOWNED = _counter("esnode_infiniband_link_downed_total", "count", _IB, "Times that the link went down.")
INFINIBAND_SYMBOL_ERRORS = _counter("esnode_infiniband_symbol_errors_total", "count", _IB, "Symbol errors.")
INFINIBAND_RECEIVE_BYTES = _counter("esnode_infiniband_receive_bytes_total", "bytes", _IB, "Bytes received.")
INFINIBAND_TRANSMIT_BYTES = _counter("esnode_infiniband_transmit_bytes_total", "bytes", _IB, "Bytes sent.")

# Power of the host
CPU_PACKAGE_ENERGY = _counter(
    "esnode_cpu_package_energy_joules_total", "J", "package", "Energy of each CPU package (RAPL), wraps unfolded."
)
CPU_PACKAGE_POWER = _gauge(
    "esnode_cpu_package_power_watts", "W", "package", "Mean power of each CPU package between two collections."
)
CPU_DRAM_ENERGY = _counter(
    "esnode_cpu_dram_energy_joules_total", "J", "package", "Energy of each package's DRAM (RAPL)."
)
NODE_POWER = _gauge("esnode_node_power_watts", "W", "source", "Power of the whole node as the source reads it.")
NODE_ENERGY = _counter(
    "esnode_node_energy_joules_total", "J", "source", "Node power integrated since the agent started."
)
NODE_POWER_ENVELOPE = _gauge("esnode_node_power_envelope_watts", "W", "", "Configured power envelope of the node.")
NODE_POWER_ENVELOPE_EXCEEDED = _gauge(
    "esnode_node_power_envelope_exceeded", "0/1", "", "1 while the node draws more than its envelope."
)

# GPU
_GPU = "uuid index"
GPU_INFO = _gauge(
    "esnode_gpu_info",
    "1",
    "uuid index name pci_bus_id serial vbios driver cuda arch board_part",
    "Constant 1; what the GPU is.",
)
GPU_UTILIZATION = _gauge("esnode_gpu_utilization_percent", "%", _GPU, "Time in which a kernel was running.")
GPU_MEMORY_UTILIZATION = _gauge(
    "esnode_gpu_memory_utilization_percent", "%", _GPU, "Time in which GPU memory was read or written."
)
GPU_ENCODER_UTILIZATION = _gauge("esnode_gpu_encoder_utilization_percent", "%", _GPU, "Use of the video encoder.")
GPU_DECODER_UTILIZATION = _gauge("esnode_gpu_decoder_utilization_percent", "%", _GPU, "Use of the video decoder.")
GPU_MEMORY_TOTAL = _gauge("esnode_gpu_memory_total_bytes", "bytes", _GPU, "Frame buffer memory.")
GPU_MEMORY_USED = _gauge(
    "esnode_gpu_memory_used_bytes",
    "bytes",
    _GPU,
    "Frame buffer in use, without the reserved part; drivers before 510 tell it with the reserved part.",
)
GPU_MEMORY_RESERVED = _gauge(
    "esnode_gpu_memory_reserved_bytes", "bytes", _GPU, "Frame buffer that the driver reserves."
)
GPU_BAR1_TOTAL = _gauge("esnode_gpu_bar1_total_bytes", "bytes", _GPU, "BAR1 aperture.")
GPU_BAR1_USED = _gauge("esnode_gpu_bar1_used_bytes", "bytes", _GPU, "BAR1 aperture in use.")
GPU_TEMPERATURE = _gauge(
    "esnode_gpu_temperature_celsius", "degC", f"{_GPU} sensor", "Temperature; sensor gpu or memory."
)
GPU_TEMPERATURE_MARGIN = _gauge(
    "esnode_gpu_temperature_margin_celsius", "degC", _GPU, "Degrees left until the GPU slows down (T.Limit)."
)
GPU_TEMPERATURE_THRESHOLD = _gauge(
    "esnode_gpu_temperature_threshold_celsius",
    "degC",
    f"{_GPU} threshold",
    "Absolute thresholds; T.Limit boards have none.",
)
GPU_FAN_SPEED = _gauge("esnode_gpu_fan_speed_percent", "%", f"{_GPU} fan", "Intended speed of each fan.")
GPU_POWER = _gauge("esnode_gpu_power_watts", "W", _GPU, "Power draw.")
GPU_POWER_LIMIT = _gauge(
    "esnode_gpu_power_limit_watts", "W", f"{_GPU} kind", "Power limits: requested, enforced, default, min, max."
)
GPU_ENERGY = _counter(
    "esnode_gpu_energy_joules_total", "J", _GPU, "Energy since the driver was loaded, as NVML counts it."
)
GPU_CLOCK = _gauge("esnode_gpu_clock_hertz", "Hz", f"{_GPU} domain", "Current clocks.")
GPU_CLOCK_MAX = _gauge("esnode_gpu_clock_max_hertz", "Hz", f"{_GPU} domain", "Highest clocks that the board allows.")
GPU_CLOCK_EVENT_ACTIVE = _gauge(
    "esnode_gpu_clock_event_active", "0/1", f"{_GPU} reason", "1 while this reason holds the clocks down."
)
GPU_CLOCK_EVENT_SECONDS = _counter(
    "esnode_gpu_clock_event_seconds_total", "s", f"{_GPU} reason", "Time in which this reason held the clocks down."
)
GPU_PERFORMANCE_STATE = _gauge("esnode_gpu_performance_state", "0..15", _GPU, "P-state: 0 is the fastest.")
GPU_SETTING_AS_RECORDED = _gauge(
    "esnode_gpu_setting_as_recorded",
    "0/1",
    "uuid setting",
    "1 if the GPU has what is recorded for it, looked at now and then.",
)
GPU_PERSISTENCE_MODE = _gauge("esnode_gpu_persistence_mode", "0/1", _GPU, "1 if persistence mode is on.")
GPU_COMPUTE_MODE = _gauge(
    "esnode_gpu_compute_mode", "0..3", _GPU, "0 default, 1 exclusive thread, 2 prohibited, 3 exclusive process."
)
GPU_ECC_MODE = _gauge("esnode_gpu_ecc_mode", "0/1", f"{_GPU} state", "ECC: current, and pending from the next reset.")
GPU_ECC_ERRORS = _counter(
    "esnode_gpu_ecc_errors_total", "count", f"{_GPU} kind lifetime", "ECC errors, volatile or aggregate."
)
GPU_REMAPPED_ROWS = _gauge("esnode_gpu_remapped_rows", "count", f"{_GPU} cause", "Memory rows remapped, by cause.")
GPU_ROW_REMAP_PENDING = _gauge("esnode_gpu_row_remap_pending", "0/1", _GPU, "1 if a row remap waits for a GPU reset.")
GPU_ROW_REMAP_FAILED = _gauge("esnode_gpu_row_remap_failed", "0/1", _GPU, "1 if a row could not be remapped.")
GPU_ROW_REMAP_BANKS = _gauge(
    "esnode_gpu_row_remap_banks", "count", f"{_GPU} availability", "Memory banks by spare rows left."
)
GPU_RETIRED_PAGES = _gauge("esnode_gpu_retired_pages", "count", f"{_GPU} cause", "Memory pages retired, by cause.")
GPU_RETIRED_PAGES_PENDING = _gauge(
    "esnode_gpu_retired_pages_pending", "0/1", _GPU, "1 if a page retirement waits for a reboot."
)
GPU_XID_ERRORS = _counter(
    "esnode_gpu_xid_errors_total", "count", f"{_GPU} xid", "XID errors since the agent started, by code."
)
GPU_LAST_XID = _gauge("esnode_gpu_last_xid", "code", _GPU, "Code of the last XID error seen.")
GPU_LAST_XID_TIMESTAMP = _gauge(
    "esnode_gpu_last_xid_timestamp_seconds", "s", _GPU, "Unix time of the last XID error seen."
)
GPU_RECOVERY_ACTION = _gauge(
    "esnode_gpu_recovery_action",
    "0..4",
    _GPU,
    "What the driver asks for: 0 none, 1 GPU reset, 2 reboot, 3 drain P2P, 4 drain and reset.",
)
GPU_PCIE_LINK_GENERATION = _gauge("esnode_gpu_pcie_link_generation", "1", f"{_GPU} kind", "PCIe generation.")
GPU_PCIE_LINK_WIDTH = _gauge("esnode_gpu_pcie_link_width", "lanes", f"{_GPU} kind", "PCIe link width.")
GPU_PCIE_REPLAYS = _counter("esnode_gpu_pcie_replays_total", "count", _GPU, "PCIe packets that were sent again.")
GPU_PCIE_RECEIVE = _gauge(
    "esnode_gpu_pcie_receive_bytes_per_second", "B/s", _GPU, "PCIe receive rate over a 20 ms sample."
)
GPU_PCIE_TRANSMIT = _gauge(
    "esnode_gpu_pcie_transmit_bytes_per_second", "B/s", _GPU, "PCIe transmit rate over a 20 ms sample."
)
GPU_NVLINK_UP = _gauge("esnode_gpu_nvlink_up", "0/1", f"{_GPU} link", "1 if the NVLink link is active.")
GPU_NVLINK_ERRORS = _counter("esnode_gpu_nvlink_errors_total", "count", f"{_GPU} link kind", "NVLink errors by kind.")
GPU_NVLINK_RECEIVE = _counter("esnode_gpu_nvlink_receive_bytes_total", "bytes", f"{_GPU} link", "Data bytes received.")
GPU_NVLINK_TRANSMIT = _counter("esnode_gpu_nvlink_transmit_bytes_total", "bytes", f"{_GPU} link", "Data bytes sent.")
GPU_PROCESSES = _gauge("esnode_gpu_processes", "count", f"{_GPU} type", "Processes: compute, graphics or mps.")
GPU_PROCESS_MEMORY = _gauge(
    "esnode_gpu_process_memory_bytes",
    "bytes",
    f"{_GPU} pid name unit",
    "GPU memory of a process, with its cgroup's unit.",
)
GPU_MIG_MODE = _gauge("esnode_gpu_mig_mode", "0/1", f"{_GPU} state", "MIG mode: current and pending.")
MIG_INFO = _gauge("esnode_mig_info", "1", f"{_GPU} mig_uuid gi ci profile", "Constant 1; a MIG device.")
_MIG = f"{_GPU} mig_uuid gi ci"
MIG_MEMORY_TOTAL = _gauge("esnode_mig_memory_total_bytes", "bytes", _MIG, "Memory of the MIG device.")
MIG_MEMORY_USED = _gauge("esnode_mig_memory_used_bytes", "bytes", _MIG, "Memory of the MIG device in use.")
GPU_SM_ACTIVE = _gauge("esnode_gpu_sm_active_ratio", "0..1", _GPU, "Share of cycles with a warp on an SM (GPM).")
GPU_SM_OCCUPANCY = _gauge("esnode_gpu_sm_occupancy_ratio", "0..1", _GPU, "Resident warps over the most possible (GPM).")
GPU_TENSOR_ACTIVE = _gauge(
    "esnode_gpu_tensor_active_ratio", "0..1", _GPU, "Share of cycles with tensor cores busy (GPM)."
)
GPU_DRAM_ACTIVE = _gauge("esnode_gpu_dram_active_ratio", "0..1", _GPU, "Share of cycles with DRAM busy (GPM).")

# The application on the node
APP_TOKENS = _counter("esnode_app_tokens_total", "tokens", "model", "Tokens that the inference server generated.")
APP_TOKENS_PER_JOULE = _gauge(
    "esnode_app_tokens_per_joule", "tokens/J", "", "Generated tokens per joule of all GPUs between two snapshots."
)
