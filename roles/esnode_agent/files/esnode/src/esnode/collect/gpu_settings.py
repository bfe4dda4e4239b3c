# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether GPUs have the settings that the collection's modules have recorded for them, and somebody should know if not.

Source: /etc/esnode/gpu-state.json, compared by the very code that applies it, which only reads here.
"""

from __future__ import annotations

import time

from esnode.catalogue import GPU_SETTING_AS_RECORDED
from esnode.collect import NotPresent, Settings
from esnode.collect._aside import Aside
from esnode.snapshot import Reading
from esnode.worker import Late

EVERY_S = 30.0
_PATIENCE_S = 10.0
_HUNG = "recorded settings can't be compared: NVML does not answer; look for NVRM and Xid lines in the kernel log"


def create(settings: Settings) -> GpuSettings:
    """Make the collector."""
    return GpuSettings(settings)


class GpuSettings:
    """Compares now and then, on a thread of its own: NVML may hang."""

    name = "gpu_settings"

    def __init__(self, settings: Settings) -> None:
        root = settings.roots.root
        self._record = root / "etc/esnode/gpu-state.json"
        self._run_dir = root / "run/esnode-gpu"
        self._deadline_s = settings.part_deadline_s
        self._aside: Aside[Reading] | None = None

    def collect(self) -> Reading:
        """Read once."""
        if not self._record.exists():
            raise NotPresent(f"nothing is recorded in {self._record}")
        if self._aside is None:
            self._aside = Aside("gpu-settings", self._compare, every_s=EVERY_S, patience_s=_PATIENCE_S)
        self._aside.start()
        try:
            return self._aside.get(time.monotonic() + self._deadline_s) or Reading()
        except Late:
            return Reading(errors=[_HUNG])

    def _compare(self) -> Reading:
        # Not needed on the many hosts that have no record.
        from esnode.gpu_state._nvml_apply import apply
        from esnode.gpu_state._nvml_records import DesiredState
        from esnode.gpu_state.nvml import NvmlError, Session

        reading = Reading()
        try:
            with Session() as session:
                outcomes = apply(session, DesiredState(str(self._record)), str(self._run_dir), check=True)
        except NvmlError as error:
            reading.errors.append(f"recorded settings can't be compared: {error}")
            return reading
        for outcome in outcomes:
            holds = not outcome.error and not outcome.changed
            reading.samples[GPU_SETTING_AS_RECORDED.series(outcome.uuid, outcome.setting)] = float(holds)
            if outcome.error:
                reading.errors.append(f"{outcome.setting}: {outcome.error}")
        return reading

    def close(self) -> None:
        """Let the thread end; never waits."""
        if self._aside is not None:
            self._aside.close()
