# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply the desired-state file: at boot, after the driver was loaded anew, on drift.

Unlike a module, which does all of it or nothing, each setting of each GPU stands for itself here: one broken GPU must
not keep the others from their limits. Run as `python -m <package>._nvml_apply apply`; the exit code is 1 when
anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
import typing as t

from ._nvml_change import Failed, Setting, State, carry_out, prepare
from ._nvml_clocks import ClockLock
from ._nvml_mig import Mig
from ._nvml_modes import ComputeMode, PersistenceMode
from ._nvml_power import PowerLimit
from ._nvml_records import (
    RUN_DIR,
    STATE_FILE,
    DesiredState,
    exclusive,
    is_new,
    note_applied,
    signs,
)
from .nvml import DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, NoGpuError, NvmlError, Session

_NOTHING_NEW = 75

# In this order: a mode first that others depend on.
_MAKERS: dict[str, t.Callable[..., Setting]] = {
    "persistence_mode": PersistenceMode,
    "mig": Mig,
    "compute_mode": ComputeMode,
    "power_limit": PowerLimit,
    "module_power_limit": PowerLimit,
    "clock_lock": ClockLock,
}


@dataclasses.dataclass
class Outcome:
    """What became of one setting of one GPU; `error` is empty when it holds now."""

    uuid: str
    setting: str
    changed: bool = False
    before: State = dataclasses.field(default_factory=dict)
    after: State = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str = ""


def make(name: str, record: State, run_dir: str = RUN_DIR) -> Setting:
    """The setting that an entry of the file describes; raises NvmlError when it describes none."""
    if name not in _MAKERS:
        raise NvmlError(f"there is no setting {name!r}; there are {', '.join(_MAKERS)}")
    more = {"run_dir": run_dir} if name == "clock_lock" else {}
    try:
        return _MAKERS[name](**record, **more)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise NvmlError(f"{name} {record} makes no sense: {error}") from error


def apply(
    session: Session,
    desired: DesiredState,
    run_dir: str = RUN_DIR,
    check: bool = False,
    uuids: t.Container[str] | None = None,
) -> list[Outcome]:
    """Bring GPUs (all, or those of `uuids`) to what is recorded. The caller holds `exclusive()`, unless `check`."""
    known = {gpu.uuid: gpu for gpu in session.gpus() if gpu.uuid}
    outcomes = []
    for uuid, entry in desired.after.items():
        if uuids is not None and uuid not in uuids:
            continue
        records = entry.get("settings", {})
        names = [name for name in _MAKERS if name in records] + sorted(set(records) - set(_MAKERS))
        for name in names:
            outcome = Outcome(uuid, name)
            outcomes.append(outcome)
            try:
                if uuid not in known:
                    raise NvmlError(f"{uuid} ({entry.get('name', 'unnamed')}) is not in this host, or is lost")
                setting = make(name, records[name], run_dir)
                changes = prepare(setting, [known[uuid]])
                outcome.notes = changes[0].notes()
                if not check:
                    outcome.notes += carry_out(session, setting, changes)
                outcome.before, outcome.after = changes[0].before, changes[0].after
                outcome.changed = setting.differs(outcome.before, outcome.after)
            except (NvmlError, Failed) as error:
                outcome.error = str(error)
                outcome.changed = isinstance(error, Failed) and error.changed
    return outcomes


def main(arguments: t.Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Apply the desired state of the GPUs of this host.")
    parser.add_argument("--state-file", default=STATE_FILE)
    parser.add_argument("--run-dir", default=RUN_DIR)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("apply", help="bring all GPUs to what is recorded")
    verb.add_argument("--check", action="store_true", help="only say what would be done")
    verb.add_argument("--wait", type=float, default=0, metavar="S", help="seconds to wait for the driver")
    verbs.add_parser("is-new", help="exit code 0 if driver or record are others than were applied last, else 75")
    verb = verbs.add_parser("forget", help="remove the entry of a GPU, one that was taken out, say")
    verb.add_argument("uuid")
    options = parser.parse_args(arguments)
    try:
        return {"apply": _apply, "forget": _forget, "is-new": _is_new}[options.verb](options)
    except (NvmlError, OSError) as error:
        _say(f"error: {error}", sys.stderr)
        return 1


def _say(line: str, stream: t.TextIO | None = None) -> None:
    (stream or sys.stdout).write(f"{line}\n")


def _apply(options: argparse.Namespace) -> int:
    if not DesiredState(options.state_file).after:
        _say(f"{options.state_file} asks for nothing")
        return 0
    seen = signs(options.state_file)
    with _session(options.wait) as session:
        if options.check:
            outcomes = apply(session, DesiredState(options.state_file), options.run_dir, check=True)
        else:
            with exclusive(options.run_dir):
                outcomes = apply(session, DesiredState(options.state_file), options.run_dir)
                good = not any(outcome.error for outcome in outcomes)
                note_applied(options.run_dir, seen, good)
    by_gpu: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_gpu.setdefault(outcome.uuid, []).append(outcome)
    for uuid, its in by_gpu.items():
        for note in dict.fromkeys(note for outcome in its for note in outcome.notes):
            _say(f"note: {note}", sys.stderr)
        for outcome in its:
            if outcome.error:
                _say(f"error: {outcome.setting}: {outcome.error}", sys.stderr)
        done = [_words(outcome) for outcome in its if not outcome.error]
        if done:
            _say(f"{uuid}: {'; '.join(done)}")
    return int(any(outcome.error for outcome in outcomes))


def _words(outcome: Outcome) -> str:
    what = ", ".join(f"{key} {value}" for key, value in sorted(outcome.after.items()))
    return f"{outcome.setting} {'changed' if outcome.changed else 'ok'} ({what})"


@contextlib.contextmanager
def _session(wait_s: float) -> t.Iterator[Session]:
    """A session, once the driver is there."""
    session = Session()
    until = time.monotonic() + wait_s
    while True:
        try:
            session.__enter__()
            break
        except NoGpuError as error:
            if error.code not in (DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND) or time.monotonic() > until:
                raise
        time.sleep(1)
    with contextlib.closing(session):
        yield session


def _is_new(options: argparse.Namespace) -> int:
    return 0 if is_new(options.run_dir, signs(options.state_file)) else _NOTHING_NEW


def _forget(options: argparse.Namespace) -> int:
    with exclusive(options.run_dir):
        desired = DesiredState(options.state_file)
        if options.uuid not in desired.after:
            known = ", ".join(desired.after) or "nothing"
            raise NvmlError(f"{options.state_file} has no entry of {options.uuid}; it has {known}")
        desired.forget(options.uuid)
        desired.save()
    _say(f"forgotten: {options.uuid}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
