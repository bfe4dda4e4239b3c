# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Apply a setting to several GPUs so that all of them have it, or none has changed.

Everything is planned and validated first. Then each GPU is written and read back, and when one fails what was done is
put back in reverse. What counts is what is read afterwards, never that a call succeeded.
"""

from __future__ import annotations

import contextlib
import signal
import typing as t

from .nvml import Gpu, NvmlError, Session

State = dict[str, t.Any]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNHELD = "persistence mode is off, so the setting is gone when the last process lets go of the GPU"
_REVERTED = (
    "{0}: the setting was gone as soon as this process let go of the driver, since persistence mode is off and nothing "
    "else holds the GPU; switch it on first (esnode.core.nvml_persistence_mode)"
)


class Setting:
    """What one module sets. `keys` are the parts of a state that it sets; the rest of a state only informs."""

    name = ""
    keys: tuple[str, ...] = ()
    # The driver forgets it when the last process lets go of a GPU that is not in persistence mode.
    volatile = False

    def read(self, gpu: Gpu) -> State:
        """How it is; raises NvmlError when the GPU has no such setting."""
        raise NotImplementedError

    def plan(self, gpu: Gpu, now: State) -> Plan:
        """How it shall be: raises NvmlError when that can't be. Nothing is written here."""
        raise NotImplementedError

    def write(self, gpu: Gpu, now: State, target: State) -> None:
        """Bring the keys from `now` to `target`; also used to put back."""
        raise NotImplementedError

    def reached(self, target: State, state: State) -> bool:
        """Whether what was read is what was wanted."""
        return all(state.get(key) == target.get(key) for key in self.keys)

    def held(self, gpu: Gpu, state: State) -> bool:
        """Whether `state` outlived a restart of the session; for what can be told that way alone."""
        return self.reached(state, self.read(gpu))

    def notes(self, gpu: Gpu, target: State, state: State) -> list[str]:
        """What an operator should know about how it came out."""
        return []

    def record(self) -> State:
        """What makes the same setting again, for the desired-state file."""
        raise NotImplementedError

    def differs(self, one: State, other: State) -> bool:
        return any(one.get(key) != other.get(key) for key in self.keys)


# Not dataclasses: these two are made by each module call, and to import and make those costs a tenth of it.
class Plan:
    """What shall become of one GPU: `target` is the whole state as predicted, `needed` whether to write at all.

    `details` are told in the result besides.
    """

    def __init__(
        self,
        target: State,
        needed: bool,
        reason: str = "",
        notes: list[str] | None = None,
        details: State | None = None,
    ) -> None:
        self.target = target
        self.needed = needed
        self.reason = reason
        self.notes = notes or []
        self.details = details or {}


class Change:
    """One GPU: planned, and later also done."""

    def __init__(self, gpu: Gpu, before: State, plan: Plan) -> None:
        self.gpu = gpu
        self.before = before
        self.plan = plan
        self.after = plan.target if plan.needed else before
        self.tried = False
        self.done = False  # its setter has said yes
        self.unheld = False  # the driver forgets it when the last process lets go

    def notes(self) -> list[str]:
        return [f"{self.gpu}: {note}" for note in self.plan.notes]


class Failed(Exception):
    """Something was refused. `errors` is [(gpu or None, error)], and by UUID what became of the GPUs written before."""

    def __init__(self, errors: list[tuple[Gpu | None, NvmlError]]) -> None:
        super().__init__("; ".join(str(error) for gpu, error in errors))
        self.errors = errors
        self.rolled_back: list[str] = []
        self.rollback_failed: dict[str, str] = {}
        self.changed = False


def prepare(setting: Setting, gpus: t.Iterable[Gpu]) -> list[Change]:
    """Read and validate all of them; raises Failed with the error of each one that can't be set."""
    changes, errors = [], []
    for gpu in gpus:
        try:
            before = setting.read(gpu)
            plan = setting.plan(gpu, before)
            persistence = gpu.ask("nvmlDeviceGetPersistenceMode")
        except NvmlError as error:
            errors.append((t.cast("Gpu | None", gpu), error))
            continue
        change = Change(gpu, before, plan)
        if setting.volatile and plan.needed and persistence == 0:
            change.unheld = True
            plan.notes.append(_UNHELD)
        changes.append(change)
    if errors:
        raise Failed(errors)
    return changes


def carry_out(
    session: Session, setting: Setting, changes: list[Change], finish: t.Callable[[], None] | None = None
) -> list[str]:
    """Write, read back, `finish()`; on any failure put back and raise Failed. Returns notes for the operator.

    A signal that would end the process waits until the GPUs are in a whole state.
    """
    with _undisturbed():
        try:
            notes = _write(session, setting, changes)
            if finish:
                finish()
        except _Stop as stop:
            raise _put_back(setting, changes, stop.gpu, stop.error) from stop
        except OSError as error:
            raise _put_back(setting, changes, None, NvmlError(f"{error.filename}: {error.strerror}")) from error
        except NvmlError as error:
            raise _put_back(setting, changes, None, error) from error
        except BaseException:
            _put_back(setting, changes, None, NvmlError("stopped"))
            raise
    return notes


class _Stop(Exception):
    """A GPU that stopped it all."""

    def __init__(self, gpu: Gpu, error: NvmlError) -> None:
        super().__init__(str(error))
        self.gpu = gpu
        self.error = error


def _write(session: Session, setting: Setting, changes: list[Change]) -> list[str]:
    needed = [change for change in changes if change.plan.needed]
    for change in needed:
        with _whose(change.gpu):
            change.tried = True
            setting.write(change.gpu, change.before, change.plan.target)
            change.done = True
            _verify(setting, change)
    unheld = [change for change in needed if change.unheld]
    if unheld:
        session.restart()
        for change in unheld:
            with _whose(change.gpu):
                if not setting.held(change.gpu, change.after):
                    raise NvmlError(_REVERTED.format(change.gpu))
    notes = []
    for change in needed:
        with _whose(change.gpu):
            _verify(setting, change)
        notes += [f"{change.gpu}: {note}" for note in setting.notes(change.gpu, change.plan.target, change.after)]
    return notes


def _verify(setting: Setting, change: Change) -> None:
    change.after = setting.read(change.gpu)
    if not setting.reached(change.plan.target, change.after):
        wanted, found = (_words(state, setting.keys) for state in (change.plan.target, change.after))
        raise NvmlError(f"{change.gpu}: the driver took {wanted} without an error, but what it reports is {found}")


def _words(state: State, keys: t.Iterable[str]) -> str:
    return ", ".join(f"{key} {state.get(key)}" for key in keys)


@contextlib.contextmanager
def _whose(gpu: Gpu) -> t.Iterator[None]:
    try:
        yield
    except NvmlError as error:
        raise _Stop(gpu, error) from error


def _put_back(setting: Setting, changes: list[Change], gpu: Gpu | None, error: NvmlError) -> Failed:
    failed = Failed([(gpu, error)])
    for change in reversed([change for change in changes if change.tried]):
        try:
            now = setting.read(change.gpu)
            if not setting.differs(now, change.before):
                if change.done:
                    failed.rolled_back.append(change.gpu.uuid)
                change.after = now
                continue
            setting.write(change.gpu, now, change.before)
            change.after = setting.read(change.gpu)
            if setting.differs(change.after, change.before):
                raise NvmlError(f"{change.gpu}: it could not be put back, it has {_words(change.after, setting.keys)}")
            failed.rolled_back.append(change.gpu.uuid)
        except NvmlError as problem:
            failed.rollback_failed[change.gpu.uuid] = str(problem)
            failed.changed |= change.done or setting.differs(change.after, change.before)
    return failed


@contextlib.contextmanager
def _undisturbed() -> t.Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
