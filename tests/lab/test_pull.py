# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that deploys itself out of a git repository, with Ansible and git as its image would have them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import lab
import lab_slot
import pytest
from ansible_collections.esnode.core.plugins.plugin_utils import bundle

ROOT = Path(__file__).parents[2]
# The host's Python runs the very Ansible that these tests run with, so it has to be the same one.
RELEASE = {"3.11": "bookworm", "3.13": "trixie"}.get("{}.{}".format(*sys.version_info))
ANSIBLE = ("ansible", "jinja2", "markupsafe", "yaml", "cryptography", "cffi", "packaging", "resolvelib", "pycparser")
UNIT = "esnode-pull.service"
OFTEN = {"esnode_pull_calendar": "*:*:0/2", "esnode_pull_splay": "0"}
NEVER = {"esnode_pull_calendar": "2099-01-01"}


class Repository:
    """What a fleet keeps in git, with one host in its inventory; the host reaches it as /srv/fleet.git."""

    def __init__(self, host: lab.Host, work: Path) -> None:
        self.work = work
        self.origin = host.root / "srv/fleet.git"
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", self.origin], check=True)
        core = work / "collections/ansible_collections/esnode/core"
        for part in ("meta", "plugins", "roles", "playbooks"):
            shutil.copytree(ROOT / part, core / part, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        shutil.copy(ROOT / "galaxy.yml", core)
        (work / "ansible.cfg").write_text("[defaults]\ncollections_path = collections\n")
        (work / "deploy.yml").write_text("- import_playbook: esnode.core.deploy\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.variables = {
            "ansible_python_interpreter": "/usr/bin/python3",
            "esnode_agent_scope": "system",
            "esnode_agent_cache_dir": "/srv/releases",
        }

    def git(self, *words: str | Path) -> None:
        who = ("-c", "user.name=lab", "-c", "user.email=lab@localhost", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=self.work, check=True, capture_output=True)

    def push(self, message: str, **variables: object) -> None:
        every = {**self.variables, **variables}
        hosts = {"all": {"hosts": {"puller": {}, "another": {}}, "vars": every}}
        (self.work / "inventory.yml").write_text(json.dumps(hosts))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("push", "--quiet", self.origin, "main")


def put_ansible_in(host: lab.Host) -> None:
    environment = host.root / "opt/ansible"
    packages = environment / "lib/site-packages"
    site = Path(sysconfig.get_path("platlib"))
    for found in site.iterdir():
        name = found.name.split("-")[0].lower()
        if name in (*ANSIBLE, "ansible_core", "pyyaml", "_yaml") or found.name.startswith("_cffi_backend"):
            copy = shutil.copytree if found.is_dir() else shutil.copy2
            copy(found, packages / found.name)
        packages.mkdir(parents=True, exist_ok=True)
    (environment / "bin").mkdir()
    for program in ("ansible", "ansible-playbook", "ansible-pull"):
        module = {"ansible": "adhoc", "ansible-playbook": "playbook", "ansible-pull": "pull"}[program]
        script = environment / "bin" / program
        script.write_text(
            "#!/usr/bin/python3\nimport sys\nsys.path.insert(0, '/opt/ansible/lib/site-packages')\n"
            f"from ansible.cli.{module} import main\nmain()\n"
        )
        script.chmod(0o755)


def put_git_in(host: lab.Host) -> None:
    git = shutil.which("git")
    assert git
    shutil.copy(git, host.root / "usr/bin/git")
    programs = host.root / "usr/lib/git-core"
    programs.mkdir()
    for name in ("git", "git-upload-pack"):
        (programs / name).symlink_to("/usr/bin/git")


@pytest.fixture(scope="module")
def one() -> Iterator[lab.Lab]:
    if RELEASE is None:
        pytest.skip("the hosts of the lab have Python 3.11 and 3.13, and these tests run with another")
    with lab.Lab("pull", [lab.Spec("puller", RELEASE)]) as booted:
        yield booted


@pytest.fixture(scope="module")
def host(one: lab.Lab) -> lab.Host:
    return one["puller"]


@pytest.fixture(scope="module")
def repository(host: lab.Host, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    source = bundle.Source(ROOT / "roles/esnode_agent/files")
    python = host.run(["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
    machine = host.run(["uname", "-m"]).stdout.strip()
    built = bundle.ensure(source, python, machine, ROOT / "build/releases", "", print)
    (host.root / "srv/releases").mkdir()
    shutil.copy(built, host.root / "srv/releases")
    return Repository(host, tmp_path_factory.mktemp("fleet"))


def pull(one: lab.Lab, *options: str, **variables: object) -> lab.Run:
    mine = {"esnode_pull_url": "/srv/fleet.git", "esnode_pull_inventory": "inventory.yml"}
    return one.playbook("esnode-pull.yml", *options, **{**mine, **variables})


def changed(run: lab.Run) -> int:
    assert run.code == 0, run.output
    found = re.search(r"^puller\s.*changed=(\d+)", run.output, re.MULTILINE)
    assert found, run.output
    return int(found[1])


def log(host: lab.Host) -> str:
    host.run(["journalctl", "--sync"])
    return host.run(["journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}"]).stdout


def run_now(host: lab.Host) -> None:
    started = host.run(["systemctl", "start", UNIT], check=False)
    assert started.returncode == 0, log(host)


def state(host: lab.Host, *properties: str) -> dict[str, str]:
    shown = host.run(["systemctl", "show", UNIT, *(f"--property={name}" for name in properties)]).stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def test_a_host_without_ansible_and_git_is_refused_before_anything_changes(one: lab.Lab, host: lab.Host) -> None:
    refused = pull(one)
    assert refused.code == 2
    assert "puller can't pull: it needs git, and ansible-core 2.16 or newer at /opt/ansible/bin/ansible-pull" in (
        " ".join(refused.output.split())
    )
    assert not (host.root / "etc/esnode-pull").exists()


def test_the_timer_deploys_the_host(one: lab.Lab, host: lab.Host, repository: Repository) -> None:
    put_ansible_in(host)
    put_git_in(host)
    repository.push("the fleet as it begins")
    assert changed(pull(one, "--check", "--diff", **OFTEN)) > 0
    assert not (host.root / "etc/systemd/system/esnode-pull.timer").exists()
    assert changed(pull(one, esnode_pull_vault_password="a secret", **OFTEN)) > 0
    password = host.root / "etc/esnode-pull/vault-password"
    assert password.stat().st_mode & 0o777 == 0o600
    assert changed(pull(one, esnode_pull_vault_password="a secret", **OFTEN)) == 0
    lab_slot.wait_for(lambda: "PLAY RECAP" in log(host), "the timer has run no playbook", 120)
    # From here on it is run by hand; `start` waits for a run that the timer has begun.
    assert changed(pull(one, esnode_pull_vault_password="a secret", **NEVER)) > 0
    run_now(host)
    assert host.run(["systemctl", "is-active", "esnode-core"]).stdout.strip() == "active", log(host)
    assert "another" not in re.findall(r"^(\S+)\s+: ok=", log(host), re.MULTILINE)


def test_a_run_with_nothing_new_changes_nothing(one: lab.Lab, host: lab.Host, repository: Repository) -> None:
    assert changed(pull(one, **NEVER)) > 0
    assert not (host.root / "etc/esnode-pull/vault-password").exists()
    run_now(host)
    recaps = re.findall(r"^puller\s+: ok=\d+\s+changed=(\d+)\s+unreachable=0\s+failed=0", log(host), re.MULTILINE)
    assert len(recaps) >= 2, log(host)
    assert recaps[-1] == "0", log(host)


def test_a_bad_commit_is_a_failed_unit_and_a_good_one_mends_it(host: lab.Host, repository: Repository) -> None:
    agent = host.run(["systemctl", "show", "--property=MainPID", "esnode-core"]).stdout
    repository.push("a mistake", esnode_agent_config={"agent": {"scrape_interval_secnds": 5}})
    assert host.run(["systemctl", "start", UNIT], check=False).returncode
    assert state(host, "Result", "ActiveState") == {"Result": "exit-code", "ActiveState": "failed"}
    assert "scrape_interval_secnds" in log(host)
    assert host.run(["systemctl", "show", "--property=MainPID", "esnode-core"]).stdout == agent
    repository.push("mended", esnode_agent_config={"agent": {"scrape_interval_seconds": 5}})
    run_now(host)
    assert "5" in host.run(["grep", "scrape_interval_seconds", "/etc/esnode/esnode.toml"]).stdout


def test_a_repository_that_does_not_know_the_host_fails(host: lab.Host, one: lab.Lab, repository: Repository) -> None:
    (repository.work / "inventory.yml").write_text(json.dumps({"all": {"hosts": {"another": {}}}}))
    repository.git("commit", "--quiet", "--all", "--message", "puller is gone")
    repository.git("push", "--quiet", repository.origin, "main")
    assert host.run(["systemctl", "start", UNIT], check=False).returncode, log(host)


def test_it_is_taken_away_and_the_agent_stays(one: lab.Lab, host: lab.Host, repository: Repository) -> None:
    assert changed(pull(one, esnode_pull_state="absent")) > 0
    left = [path for path in ("etc/esnode-pull", "var/lib/esnode-pull") if (host.root / path).exists()]
    assert left + list((host.root / "etc/systemd/system").rglob("esnode-pull*")) == []
    assert host.run(["systemctl", "is-active", "esnode-core"]).stdout.strip() == "active"
