# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules that set something on GPUs have in common: selection, plan, check mode, diff, result, the record.

A module is its options, a `setting()` made of them, and its documentation.
"""

from __future__ import annotations

import typing as t

from ansible.module_utils.basic import AnsibleModule  # type: ignore[import-untyped]

from ._nvml_change import Change, Failed, Setting, carry_out, prepare
from ._nvml_records import RUN_DIR, STATE_FILE, DesiredState, exclusive
from ._nvml_select import NothingSelected, select
from .nvml import Gpu, NoGpuError, NvmlError, Session, nvidia_devices

Result = dict[str, t.Any]

SELECTION: Result = {
    "gpus": {"type": "list", "elements": "str", "required": True},
    "missing_ok": {"type": "bool", "default": False},
}
RUN_DIR_OPTION: Result = {"run_dir": {"type": "path", "default": RUN_DIR}}
_PERSIST: Result = {"persist": {"type": "bool"}, "state_file": {"type": "path", "default": STATE_FILE}}


def on_gpus(
    module: AnsibleModule,
    work: t.Callable[[Session, list[Gpu]], Result],
    wanted: list[str],
    broken_ok: t.Container[int | None] = (),
) -> t.NoReturn:
    """Do the work on the selected GPUs and end the module: with its result, skipped, or failed."""
    try:
        with Session() as session:
            if not session.gpus():
                raise NoGpuError("the NVIDIA driver runs but it finds no GPU")
            result = work(session, select(session, wanted, broken_ok))
    except NoGpuError as error:
        there = nvidia_devices()
        if module.params["missing_ok"] and not there:
            module.exit_json(changed=False, skipped=True, gpus=[], msg=f"skipped, there is no NVIDIA GPU here: {error}")
        present = f" This host has an NVIDIA GPU at {', '.join(there)}." if there else ""
        module.fail_json(msg=f"{error}.{present}", changed=False)
    except NothingSelected as error:
        if module.params["missing_ok"]:
            module.exit_json(changed=False, skipped=True, gpus=[], msg=f"skipped: {error}")
        module.fail_json(msg=str(error), changed=False)
    except Failed as failed:
        module.fail_json(**failure(failed))
    except NvmlError as error:
        module.fail_json(msg=str(error), changed=False)
    module.exit_json(**result)
    raise AssertionError  # exit_json has ended the process


def failure(failed: Failed) -> Result:
    """What a module returns that could not do all of it."""
    message = str(failed)
    if failed.rollback_failed:
        message += f". NOT PUT BACK: {'; '.join(failed.rollback_failed.values())}"
    elif failed.rolled_back:
        message += f". What had been set was put back on {len(failed.rolled_back)} GPU(s)"
    else:
        message += ". Nothing was changed"
    return {
        "msg": message,
        "changed": failed.changed,
        "errors": [
            {
                **(gpu.identity() if gpu else {}),
                "msg": str(error),
                **({} if error.code is None else {"code": error.code}),
            }
            for gpu, error in failed.errors
        ],
        "rolled_back": failed.rolled_back,
        "rollback_failed": failed.rollback_failed,
    }


class SettingModule:
    """Derive, give `options` and `setting()`, call `run()`."""

    options: t.ClassVar[Result] = {}
    constraints: t.ClassVar[Result] = {}  # required_if and the like
    persistable = True

    def setting(self, params: Result) -> Setting:
        """Raises ValueError when the options make no sense."""
        raise NotImplementedError

    def run(self) -> t.NoReturn:
        spec = {**SELECTION, **RUN_DIR_OPTION, **(_PERSIST if self.persistable else {}), **self.options}
        self._module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **self.constraints)
        self._params: Result = self._module.params
        try:
            self._setting = self.setting(self._params)
        except ValueError as error:
            self._module.fail_json(msg=str(error), changed=False)
        on_gpus(self._module, self._work, self._params["gpus"])

    def _work(self, session: Session, gpus: list[Gpu]) -> Result:
        changes, desired, notes = self._prepare(gpus)
        needed = any(change.plan.needed for change in changes) or (desired and desired.changed)
        if needed and not self._module.check_mode:
            with exclusive(self._params["run_dir"]):
                # Somebody else may have set something before it was our turn.
                changes, desired, notes = self._prepare(gpus)
                notes += carry_out(session, self._setting, changes, desired.save if desired else None)
        for note in dict.fromkeys(notes):
            self._module.warn(note)
        return self._result(session, changes, desired)

    def _prepare(self, gpus: list[Gpu]) -> tuple[list[Change], DesiredState | None, list[str]]:
        changes = prepare(self._setting, gpus)
        notes = [note for change in changes for note in change.notes()]
        if not self.persistable:
            return changes, None, notes
        desired = DesiredState(self._params["state_file"])
        for gpu in gpus:
            recorded = desired.settings(gpu.uuid).get(self._setting.name)
            if self._params["persist"]:
                desired.put(gpu, self._setting.name, self._setting.record())
            elif self._params["persist"] is False:
                desired.drop(gpu.uuid, self._setting.name)
            elif recorded is not None and recorded != self._setting.record():
                notes.append(
                    f"{gpu}: {desired.path} says {recorded}, which is applied again at the next boot; "
                    "persist: true changes it, persist: false removes it"
                )
        return changes, desired, notes

    def _result(self, session: Session, changes: list[Change], desired: DesiredState | None) -> Result:
        gpus, before, after = [], {}, {}
        for change in changes:
            changed = self._setting.differs(change.before, change.after)
            entry = {**change.gpu.identity(), "changed": changed, "before": change.before, "after": change.after}
            if change.plan.reason:
                entry["reason"] = change.plan.reason
            gpus.append({**entry, **change.plan.details})
            if changed:
                keys = [key for key in change.after if change.before.get(key) != change.after[key]]
                before[str(change.gpu)] = {key: change.before[key] for key in keys if key in change.before}
                after[str(change.gpu)] = {key: change.after[key] for key in keys}
        result: Result = {"driver_version": session.driver_version, "gpus": gpus}
        result["changed"] = any(entry["changed"] for entry in gpus)
        diff: list[Result] = [{"before": before, "after": after}] if before or after else []
        if desired and self._params["persist"] is not None:
            result["record"] = {"path": desired.path, "changed": desired.changed}
            result["changed"] |= desired.changed
            if desired.changed:
                header = {"before_header": desired.path, "after_header": desired.path}
                diff.append({**header, "before": desired.before, "after": desired.after})
        if self._module._diff and diff:
            result["diff"] = diff
        return result
