"""However the simulator ends, nothing of it is left: no process, no directory, no thread."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.machine import is_running
from tests.simulator import Simulator
from tests.simulator import __main__ as command_line
from tests.simulator.driver import launch, ready

ROOT = Path(__file__).parents[2]
# What a process under test does: bring an instance up, say who there is, and wait to be ended.
PROGRAM = """
import select, sys
from tests.simulator import Simulator
from tests.simulator import __main__ as command_line
from tests.simulator.driver import launch, ready
with Simulator() as simulator:
    seen = ready(simulator, launch(simulator))
    print(simulator.base, simulator.warden_pid, *seen.pids.values(), flush=True)
    while not select.select([sys.stdin], [], [], 0.5)[0]:  # a signal that comes just before is heard then
        pass
"""


def descendants(pid: int) -> list[int]:
    """All processes below one, itself included."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in task.read_text().split()]
    return found


def ended(pids: list[int]) -> bool:
    """Whether all of them end within some seconds."""
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(is_running(pid) for pid in pids)


def gone(pids: list[int], folder: Path) -> bool:
    """Whether all of them end, and the folder with them."""
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return ended(pids) and not folder.exists()


class Host(NamedTuple):
    """A process that runs a simulator: its folder, its warden, and every process that was there when it was ready."""

    process: subprocess.Popen[str]
    folder: Path
    warden: int
    pids: list[int]


@pytest.fixture
def host() -> Iterator[Host]:
    """One of a simulator with one instance."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        folder, warden, *pids = process.stdout.readline().split()
        everything = [pid for pid in {*descendants(int(warden)), *map(int, pids)} if is_running(pid)]
        assert len(everything) >= 5  # the warden, the agent, nginx with its workers, Ollama's stand-in
        yield Host(process, Path(folder), int(warden), everything)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_simulator_that_is_killed_leaves_nothing(host: Host) -> None:
    host.process.kill()
    assert gone(host.pids, host.folder)


def test_a_simulator_that_is_interrupted_leaves_nothing(host: Host) -> None:
    host.process.send_signal(signal.SIGINT)
    host.process.wait(20)
    assert gone(host.pids, host.folder)


def test_a_warden_that_is_killed_takes_everything_along(host: Host) -> None:
    os.kill(host.warden, signal.SIGKILL)
    assert ended(host.pids)
    assert host.process.poll() is None
    host.process.communicate(timeout=20)  # the end of its standard input lets the block end
    assert not host.folder.exists()


def test_the_with_block_ends_threads_processes_and_folder() -> None:
    before = set(threading.enumerate())
    with Simulator() as simulator:
        seen = ready(simulator, launch(simulator))
        pids = [simulator.warden_pid, *seen.pids.values()]
        folder = simulator.base
    assert gone(pids, folder)
    deadline = time.monotonic() + 10
    while not set(threading.enumerate()) <= before and time.monotonic() < deadline:
        time.sleep(0.02)  # what served its last connections
    assert set(threading.enumerate()) <= before


def test_it_ends_in_the_middle_of_a_boot() -> None:
    with Simulator() as simulator:
        simulator.boot(never="docker")
        launch(simulator)
        time.sleep(0.5)
        pids = descendants(simulator.warden_pid)
        folder = simulator.base
    assert gone(pids, folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_command_prints_what_to_paste_and_ends(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.simulator", "--zone", "de-fra-1"]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [process.stdout.readline() for _ in range(6)]
    assert lines.pop(0) == f"cd {shlex.quote(str(ROOT))}\n", "elsewhere there is no module named client"
    assert {line.split("=")[0] for line in lines} == {
        "export EXOSCALE_API_KEY",
        "export EXOSCALE_API_SECRET",
        "export EXOSCALE_API_ENDPOINT",
        "export EXOSCALE_ZONE",
        "export EXOSCALE_IDLE_TIMEOUT",
    }
    pids = descendants(process.pid)
    process.send_signal(number)
    assert process.wait(20) == (-9 if number == signal.SIGKILL else 0)
    assert ended(pids)
    process.stdout.close()
    process.stderr.close()


def test_the_command_takes_orders() -> None:
    words = ["help", "advance 2m", "fault list-instances 500", "boot fail docker", "boot", "instances", "calls"]
    orders = "\n".join([*words, "violations", "kill", "nonsense", "quit", ""])
    command = [sys.executable, "-m", "tests.simulator", "--policy", "deploy/iam/reaper.json"]
    done = subprocess.run(command, input=orders, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "no such command" in done.stderr
    assert "Traceback" not in done.stderr
    # The key to paste may only reap; the one that may do all is told beside it, so that there is something to reap.
    [pasted], [whole] = (re.findall(r"EXOSCALE_API_KEY=(\S+)", out) for out in (done.stdout, done.stderr))
    assert pasted != whole


BAD_POLICIES = {
    "no file": (None, "policy.json cannot be read: No such file or directory."),
    "no JSON": ("{", "policy.json is no JSON: "),
    "not of its shape": ("[]", "policy.json has no IAM policy: "),
    "a rule that is no CEL": (
        json.dumps(
            {
                "default-service-strategy": "deny",
                "services": {"compute": {"type": "rules", "rules": [{"action": "allow", "expression": "operaton"}]}},
            }
        ),
        "policy.json has no IAM policy: no CEL that is known here: operaton",
    ),
}


@pytest.mark.parametrize("name", BAD_POLICIES)
def test_a_policy_that_is_none_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    written, said = BAD_POLICIES[name]
    path = tmp_path / "policy.json"
    if written is not None:
        path.write_text(written)
    monkeypatch.setattr(sys, "argv", ["simulator", "--policy", str(path)])
    with pytest.raises(SystemExit) as leaving:
        command_line.main()
    assert leaving.value.code == 2
    assert said in capsys.readouterr().err


def test_a_program_can_be_run_under_the_simulators_clock(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("86400.0\n")
    program = tmp_path / "now.py"
    program.write_text("import time, datetime; print(time.time(), datetime.datetime.now().timestamp())")
    launcher = ROOT / "tests/simulator/timeshift.py"
    done = subprocess.run(
        [sys.executable, str(launcher), str(offset), str(program)], capture_output=True, text=True, check=True
    )
    for seen in done.stdout.split():
        assert abs(float(seen) - time.time() - 86400) < 5
