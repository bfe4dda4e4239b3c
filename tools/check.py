# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the project's checks: tools/check.py [all | quick | lint | NAME ...]    (--list names them)

Each check runs in an environment of tools/env.py and leaves build/logs/NAME.log. All of them run, whatever fails; those
that failed the last time come first. What is skipped is said with its reason, and the last line counts everything.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from env import ROOT, SUPPORTED, Missing, environment, interpreter, newest

LOGS = ROOT / "build/logs"
FAILED_LAST = LOGS / "failed.json"
AGENT_SOURCE = "roles/esnode_agent/files/esnode/src/esnode"
# mypy and the linter of playbooks see the collection under its full name.
COLLECTION = "collections/ansible_collections/esnode/core"
BETWEEN = ("3.11", "3.12")  # neither the oldest Python nor the newest; ansible-core 2.16 runs on them


@dataclass(frozen=True)
class Check:
    name: str
    kind: str  # lint, slow-lint, quick, only-quick or full; see `chosen`
    environment: str  # of tools/env.py
    command: tuple[str, ...]  # its first word is looked up in the environment
    python: str | None = None  # a version; None is the newest
    needs: tuple[str, ...] = ()  # paths: nothing to check without one of them
    tarball: bool = False  # reads what `build` makes
    shares: bool = False  # a pytest that leaves a core to others

    @property
    def pytest(self) -> bool:
        return self.command[0] == "pytest"

    @property
    def live(self) -> bool:
        """A pytest that takes all cores by itself, and shows what it does."""
        return self.pytest and not self.shares


@dataclass
class Outcome:
    state: str  # ok, FAILED or skipped
    note: str = ""
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)


BUILD = Check(
    "build", "full", "deploy", ("ansible-galaxy", "collection", "build", "--force", "--output-path", "build/dist")
)


def lint() -> Iterator[Check]:
    # The longest by far: the others run beside it.
    yield Check("ansible-lint", "slow-lint", "lint", ("ansible-lint",))
    yield Check("ruff", "lint", "lint", ("ruff", "check"))
    yield Check("ruff-format", "lint", "lint", ("ruff", "format", "--check", "--output-format", "concise"))
    yield Check("mypy-agent", "lint", "lint", ("mypy", AGENT_SOURCE), needs=(AGENT_SOURCE,))
    yield Check("mypy-tools", "lint", "lint", ("mypy", "tools"))
    plugins = f"{COLLECTION}/plugins"
    yield Check("mypy-plugins", "lint", "lint", ("mypy", plugins), needs=("plugins",))
    # What other tests and later work build upon; only what pytest hands to a test need not be typed.
    untyped = ("--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls", "--exclude", "/conftest.py")
    for folder in ("bench", "integration", "lab"):
        yield Check(f"mypy-{folder}", "lint", "lint", ("mypy", *untyped, f"tests/{folder}"), needs=(f"tests/{folder}",))
    yield Check("yamllint", "lint", "lint", ("yamllint", "--strict", "."))
    more = (str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("mk/*.sh")))
    scripts = (".ci/run", "tools/newest_peers", "tools/py", *more)
    yield Check("shellcheck", "lint", "lint", ("shellcheck", "--shell=bash", *scripts))
    yield Check("changelog", "lint", "lint", ("antsibull-changelog", "lint"))
    yield Check("references", "lint", "lint", ("python", "tools/references.py", "--check"))
    yield Check("docs", "slow-lint", "lint", ("antsibull-docs", "lint-collection-docs", "--plugin-docs", "."))


def tests() -> Iterator[Check]:
    version, _ = newest()
    unit = ("pytest", "-n", "2", "tests/unit")
    # Every GPU with every failing call takes minutes; the rest of the unit tests does not.
    no_gpu = (*unit, "--ignore=tests/unit/agent/gpu")
    yield Check("unit-quick", "only-quick", "test", no_gpu, version, ("tests/unit",))
    yield Check(f"unit-{version}", "full", "test", unit, version, ("tests/unit",))
    yield Check(
        "simulator-quick",
        "quick",
        "test",
        ("pytest", "-n", "2", "-m", "not slow", "tests/nvmlsim"),
        needs=("tests/nvmlsim",),
    )
    for other in SUPPORTED:
        if other != version:
            # Plugins and roles meet each Python: its ends with the newest ansible-core, the others with the oldest.
            elsewhere = ("plugins", "roles", "agent/gpu/test_gpu_calls.py") if other in BETWEEN else ()
            skipped = tuple(f"--ignore=tests/unit/{path}" for path in elsewhere)
            yield Check(f"unit-{other}", "full", "test", (*unit, *skipped), other, ("tests/unit",))
    for oldest in BETWEEN:
        name, paths = f"unit-core2.16-{oldest}", ("tests/unit/plugins", "tests/unit/roles")
        there = tuple(path for path in paths if (ROOT / path).is_dir())
        yield Check(name, "full", "test-core216", ("pytest", "-n", "2", *there), oldest, paths)
    peers = ("pytest", "-n", "2", "tests/integration")
    yield Check("integration", "full", "integration", peers, needs=("tests/integration",))
    # A booted host lives through a file. Much of the time it is waited for, so there are more of them than cores.
    yield Check("lab", "full", "test", ("pytest", "-n", "3", "--dist", "loadfile", "tests/lab"), needs=("tests/lab",))
    yield Check("e2e", "full", "test", ("pytest", "-n", "2", "--dist", "loadfile", "tests/e2e"), needs=("tests/e2e",))
    # One test after the other, which mostly wait for hosts.
    molecule = ("pytest", "tests/molecule")
    yield Check("molecule", "full", "test", molecule, needs=("extensions/molecule",), shares=True)
    slow = ("pytest", "-m", "slow", "tests/nvmlsim")
    yield Check("simulator-slow", "full", "test", slow, needs=("tests/nvmlsim",), shares=True)


def release() -> Iterator[Check]:
    """Checks of the tarball."""
    python = "python"
    yield BUILD
    script = "tools/execution_environment.py"
    yield Check("execution-environment", "full", "lint", (python, script), tarball=True)
    yield Check("importer", "full", "importer", (python, "tools/importer.py"), tarball=True)
    # 3.12 and 3.13 take the same ansible-core.
    newest_core = [("test", version) for version in ("3.10", "3.11", "3.13" if interpreter("3.13") else "3.12")]
    for name, version in [("test-core216", "3.11"), *newest_core]:
        command = (python, "tools/sanity.py", name, version)
        yield Check(f"sanity-{name.replace('test-', '')}-{version}", "full", name, command, version, tarball=True)


def checks() -> list[Check]:
    return [*lint(), *tests(), *release()]


def junit(path: Path) -> tuple[Counter[str], Counter[str]]:
    """What a run of pytest counted, and the reasons of what it skipped."""
    counts: Counter[str] = Counter()
    skips: Counter[str] = Counter()
    for case in ET.parse(path).iter("testcase"):
        if (skipped := case.find("skipped")) is not None:
            counts["skipped"] += 1
            skips[f"{case.get('classname')}: {skipped.get('message')}"] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
        else:
            counts["passed"] += 1
    return counts, skips


def run_logged(venv: Path, command: list[str], log: Path, live: bool) -> int:
    """Run with the output in a file, and on the screen as it comes when `live`."""
    # Ansible keeps its caches in build/, too.
    own = {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "ANSIBLE_HOME": str(ROOT / "build/ansible"), "NO_COLOR": "1"}
    # Two mypys that run side by side trip over one cache.
    own["MYPY_CACHE_DIR"] = str(ROOT / f"build/cache/mypy/{log.stem}")
    # What a test starts over and over must not compile the same sources each time.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(venv / "bin" / command[0]), *command[1:]],
            cwd=ROOT,
            env={**inherited, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout
        while chunk := os.read(process.stdout.fileno(), 65536):
            file.write(chunk)
            if live:
                sys.stdout.buffer.write(chunk)
                sys.stdout.flush()
        return process.wait()


def run(check: Check) -> Outcome:
    if check.needs and not any((ROOT / path).exists() for path in check.needs):
        return Outcome("skipped", f"there is no {' or '.join(check.needs)}")
    if check.python and not interpreter(check.python):
        return Outcome("skipped", f"Python {check.python} is not on this machine")
    began = time.monotonic()
    log, xml = LOGS / f"{check.name}.log", LOGS / f"{check.name}.xml"
    xml.unlink(missing_ok=True)
    try:
        venv = environment(check.environment, check.python)
    except Missing as missing:
        log.write_text(f"{missing}\n")
        return Outcome("FAILED", str(missing), counts=Counter(failed=1))
    more = ["-q", f"--junitxml={xml}"] if check.pytest else []
    code = run_logged(venv, [*check.command, *more], log, live=check.live)
    seconds = time.monotonic() - began
    counts, skips = junit(xml) if xml.exists() else (Counter(), Counter())
    if check.pytest and code == 5 and not counts:
        return Outcome("skipped", "no test was collected", seconds)
    if not check.pytest or (code and not counts["failed"]):
        counts["failed" if code else "passed"] += 1
    return Outcome("FAILED" if code else "ok", f"build/logs/{log.name}" if code else "", seconds, counts, skips)


def chosen(words: list[str]) -> list[Check]:
    known = checks()
    groups = {
        "all": ("lint", "slow-lint", "quick", "full"),
        "quick": ("lint", "only-quick", "quick"),
        "lint": ("lint", "slow-lint"),
    }
    found: list[Check] = []
    for word in words:
        named = [check for check in known if check.name == word or check.kind in groups.get(word, ())]
        if not named:
            names = ", ".join([*groups, *(check.name for check in known)])
            raise Missing(f"There is no check {word!r}. There are: {names}")
        found += [check for check in named if check not in found]
    return found


def summary(outcomes: dict[str, Outcome]) -> None:
    total: Counter[str] = Counter()
    print("\n== summary")
    for name, outcome in outcomes.items():
        counted = ", ".join(
            f"{outcome.counts[key]} {key}" for key in ("passed", "failed", "skipped") if outcome.counts[key]
        )
        print(f"{outcome.state:<8}{name:<26}{outcome.seconds:7.1f} s  {counted}{'  ' if counted else ''}{outcome.note}")
        total += outcome.counts
        total["skipped"] += outcome.state == "skipped"
    reasons = Counter(f"{reason}" for outcome in outcomes.values() for reason in outcome.skips.elements())
    for reason, times in reasons.items():
        print(f"skipped {times} x {reason}")
    print(f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped", flush=True)


def main(words: list[str]) -> int:
    if words == ["--list"]:
        print("\n".join(f"{check.kind:<12}{check.name}" for check in checks()))
        return 0
    try:
        todo = chosen(words or ["all"])
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    LOGS.mkdir(parents=True, exist_ok=True)
    failed_last = set(json.loads(FAILED_LAST.read_text())) if FAILED_LAST.exists() else set()
    todo.sort(key=lambda check: check.name not in failed_last)
    if any(check.tarball for check in todo):
        todo = [BUILD, *(check for check in todo if check is not BUILD)]
    outcomes: dict[str, Outcome] = {}
    started = iter(range(1, len(todo) + 1))
    lock = threading.Lock()

    def one(check: Check) -> None:
        with lock:
            print(f"\n== {next(started)}/{len(todo)} {check.name}: {' '.join(check.command)}", flush=True)
        outcome = run(check)
        with lock:
            outcomes[check.name] = outcome
            if outcome.state == "FAILED" and not check.live:
                print((LOGS / f"{check.name}.log").read_text(errors="replace"))
            print(f"-- {check.name}: {outcome.state} {outcome.note} ({outcome.seconds:.1f} s)", flush=True)
            failing = (failed_last - set(outcomes)) | {
                name for name, done in outcomes.items() if done.state == "FAILED"
            }
            FAILED_LAST.write_text(json.dumps(sorted(failing)))

    # What makes something that others wait for runs by itself, too.
    for alone, group in itertools.groupby(todo, lambda check: check.live or check is BUILD):
        with ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool:
            list(pool.map(one, group))
    outcomes = {check.name: outcomes[check.name] for check in todo}
    summary(outcomes)
    return int(any(outcome.state == "FAILED" for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
