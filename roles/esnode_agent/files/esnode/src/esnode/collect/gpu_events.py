# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the GPUs' driver reports by itself: XID errors as counters, ECC, throttling and the like as log lines.

XID errors come from NVML's event set and from the kernel log where it can be read, and are counted once. ECC errors
and throttling have counters of their own in the GPU (collector gpu); their events are logged as they come, and make
that collector read the GPU's health at its next run instead of some seconds later.

Sources: nvmlEventSetWait, /dev/kmsg.
"""

from __future__ import annotations

import logging

from esnode.collect import NotPresent, Settings, _nvml
from esnode.collect._gpu_event_set import TYPES, XID, EventSet, log
from esnode.collect._gpu_kernel_log import KernelLog
from esnode.collect._gpu_xids import Gpu, Xids
from esnode.snapshot import Reading


def create(settings: Settings) -> GpuEvents:
    """Make the collector."""
    return GpuEvents(settings)


class GpuEvents:
    """Counts what its two streams tell; a run takes what there is and never waits for an event."""

    name = "gpu_events"

    def __init__(self, settings: Settings) -> None:
        self._part_deadline_s = settings.part_deadline_s
        self._xids = Xids()
        self._events = EventSet(settings.roots, self._xids, self._notice)
        self._kernel_log = KernelLog(settings.roots.dev / "kmsg")
        self._started = False

    def collect(self) -> Reading:
        """Read once."""
        if not self._started:
            self._started = True
            self._events.start()
            self._events.wait_ready(self._part_deadline_s)
        self._read_kernel_log()
        events = self._events
        if events.not_present is not None:
            raise NotPresent(events.not_present)
        reading = Reading(samples=self._xids.samples())
        if events.error is not None:
            reading.errors.append(events.error)
        if events.scan_hangs:
            reading.errors.append(
                "NVML does not answer when asked for the GPUs: events of GPUs that are not yet known are missed; look"
                " for NVRM and Xid lines in the kernel log"
            )
        reading.detail = {
            "event_gpus": events.registered,
            "kernel_log": self._kernel_log.trouble or "read",
            "kernel_log_overruns": self._kernel_log.lost,
        }
        return reading

    def _read_kernel_log(self) -> None:
        kernel = self._kernel_log
        if not self._xids.listens("kernel"):
            if not kernel.open():
                return
            self._xids.begin("kernel")
        lost = kernel.lost
        for line in kernel.read():
            gpu = self._xids.at(line.pci)
            if gpu is None:
                log.warning(
                    "XID %d in the kernel log for %s, which NVML has not shown as a GPU: %s",
                    line.xid,
                    line.pci,
                    line.text,
                    extra={"gpu": line.pci, "xid": line.xid},
                )
                continue
            _nvml.SESSION.touch(gpu.uuid)
            if self._xids.count("kernel", gpu.uuid, line.xid, line.timestamp):
                _log_xid(gpu, line.xid, line.text)
        if kernel.lost > lost:
            log.warning("the kernel dropped log records before they were read: XID errors in them are not counted")
        if kernel.trouble is not None:
            self._xids.end("kernel")

    def _notice(self, gpu: Gpu, kind: int, data: int, timestamp: float) -> None:
        """Take an event of the set; on its thread."""
        if kind == XID:
            if self._xids.count("nvml", gpu.uuid, data, timestamp):
                _log_xid(gpu, data, "")
            return
        what, level = TYPES.get(kind, (f"event 0x{kind:x}", logging.INFO))
        log.log(level, "%s: %s", gpu.label, what, extra={"gpu": gpu.uuid, "event": what, "data": data})

    def close(self) -> None:
        """Let the thread end within a second; never waits."""
        self._events.close()
        self._kernel_log.close()


def _log_xid(gpu: Gpu, xid: int, text: str) -> None:
    tail = f": {text}" if text else ""
    log.warning("%s: XID %d%s", gpu.label, xid, tail, extra={"gpu": gpu.uuid, "xid": xid})
