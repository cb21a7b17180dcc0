"""What the tests of deploy/ share: programs of the machine, a stand-in for the installed `exollama`, namespaces.

No program is passed over in silence: without one that a test needs, or that checks further, pytest's summary says "not
run", and why. Where `.ci/run` installs what is needed, that is a failure.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.machine import process_state
from tests.simulator import Simulator
from tests.system.verbs import PATIENCE_S, ROOT

DEPLOY = ROOT / "deploy"
SETTINGS = DEPLOY / "exollama.env.example"
NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def optional(program: str) -> str:
    """Where a program is; without it the test is reported as not run."""
    found = shutil.which(program, path=_SBIN)
    if not found:
        pytest.skip(f"not run: {program} is not installed")
    return found


def needed(program: str, package: str) -> str:
    """Where a program is; without it the test is reported as not run, which in CI is a failure."""
    found = shutil.which(program, path=_SBIN)
    return found or _not_run(f"{program} is not installed; as root: apt-get install {package}")


def as_root() -> None:
    """Go on only where namespaces can be made."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        _not_run("a daemon in namespaces of its own needs root, and unshare (util-linux)")


def _not_run(why: str) -> NoReturn:
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not run: {why}")


def stand_in(path: Path, simulator: Simulator, *, python: str = sys.executable, **env: str) -> Path:
    """Put a program at `path` that is this checkout's `exollama` under the simulator's clock, impatient as in tests."""
    assigned = {"PYTHONPATH": str(ROOT), "EXOLLAMA_SIMULATED_PATIENCE_S": PATIENCE_S, **env}
    words = [f"{name}={value}" for name, value in assigned.items()]
    command = shlex.join(
        ["env", *words, python, "-m", "tests.simulator.timeshift", str(simulator.offset_file), "-m", "client"]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)
    return path


def filled_in(path: Path, env: Mapping[str, str]) -> Path:
    """A copy of the example of settings with some of them filled in, as a user would."""
    lines = SETTINGS.read_text().splitlines()
    for name, value in env.items():
        (at,) = (n for n, line in enumerate(lines) if line.lstrip("#").startswith(f"{name}="))
        lines[at] = f"{name}={value}"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


@contextmanager
def in_namespaces(script: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A shell script as first process of its own PID and mount namespaces; all of it ends with the block."""
    command = [*NAMESPACES, *more, "sh", "-eu", str(script)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()  # SIGKILL: unshare passes nothing else on
        process.communicate(timeout=20)


def children(pid: int) -> list[int]:
    """The children of a process that have not ended; cron leaves its zombies until the next minute."""
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        states = {int(word): process_state(int(word)) for word in words}
    except (FileNotFoundError, ProcessLookupError):  # one has ended meanwhile
        return children(pid) if Path(f"/proc/{pid}").exists() else []
    return [child for child, state in states.items() if state != "Z"]


def until(process: subprocess.Popen[str], so: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Poll until something is so, while a process runs."""
    deadline = time.monotonic() + timeout_s
    while not so():
        if process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} before: {what}\n{process.stdout and process.stdout.read()}")
        assert time.monotonic() < deadline, f"not so after {timeout_s} s: {what}"
        time.sleep(0.02)
