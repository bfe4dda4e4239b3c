# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller's side of esnode_release: ask the host what it is, build the release for it once, send it when missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail  # type: ignore[import-untyped]
from ansible.plugins.action import ActionBase  # type: ignore[import-untyped]
from ansible.utils.display import Display  # type: ignore[import-untyped]
from ansible_collections.esnode.core.plugins.plugin_utils.bundle import BundleError, Source, ensure

MODULE = "esnode.core.esnode_release"
SHIPPED = Path(__file__).resolve().parents[2] / "roles" / "esnode_agent" / "files"
_OF_THE_CONTROLLER = ("version", "cache_dir", "wheelhouse", "name", "bundle")


class ActionModule(ActionBase):  # type: ignore[misc]
    """Arguments are those of the module; those of the controller are taken out before it runs on the host."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        options = {k: v for k, v in self._task.args.items() if k not in _OF_THE_CONTROLLER}
        try:
            if options.get("state", "present") == "absent":
                return self._on_host(options, task_vars)
            return self._present(options, task_vars)
        except BundleError as error:
            raise AnsibleActionFail(str(error)) from error
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _on_host(self, options: dict[str, Any], task_vars: dict[str, Any] | None, **private: str) -> dict[str, Any]:
        arguments = {**options, **private}
        return dict(self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars))

    def _present(self, options: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        source = Source(SHIPPED)
        wanted, shipped = str(self._task.args.get("version") or ""), source.version()
        if wanted not in ("", shipped):
            raise AnsibleActionFail(
                f"version {wanted} was asked for, but this collection ships esnode-core {shipped}. Each version of the "
                f"collection ships its own agent: ansible-galaxy collection install esnode.core:=={wanted} --force"
            )
        host = self._on_host(options, task_vars)
        if host.get("failed") or host.get("unreachable"):
            return host
        name = source.name(host["python_version"], host["machine"])
        result = {**host, "name": name, "version": shipped, "changed": name not in host["installed"]}
        if self._task.diff and result["changed"]:
            before = "".join(f"{n}\n" for n in sorted(host["installed"]))
            after = "".join(f"{n}\n" for n in sorted([*host["installed"], name]))
            result["diff"] = {"before": before, "after": after, **self._headers(host)}
        if not result["changed"] or self._task.check_mode:
            return result
        display = Display()
        cache = Path(self._task.args.get("cache_dir") or "~/.cache/esnode/releases").expanduser()
        bundle = ensure(
            source,
            host["python_version"],
            host["machine"],
            cache,
            str(self._task.args.get("wheelhouse") or ""),
            lambda step: display.display(f"  building release {name}: {step}"),
        )
        remote = self._connection._shell.join_path(self._connection._shell.tmpdir, bundle.name)
        self._transfer_file(str(bundle), remote)
        self._fixup_perms2((self._connection._shell.tmpdir, remote))
        done = self._on_host(options, task_vars, name=name, bundle=remote)
        return {**result, **done, "changed": True} if not done.get("failed") else done

    @staticmethod
    def _headers(host: dict[str, Any]) -> dict[str, str]:
        where = f"releases in {host['layout']['prefix']}"
        return {"before_header": where, "after_header": where}
