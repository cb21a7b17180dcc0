"""Kill -9 in every gap between two calls of every function: the next run, or the machine itself, heals what is left.

The gaps are those of a recorded run: before the k-th call is served, for each k, and where that call changes something
also after it was served, before its answer arrives. (A process keeps nothing, so that one killed after a read was
served has left what one killed before it has left; EXOLLAMA_FAULTS=all kills there, too.) In each gap one process is
killed; then the verb runs again, with nothing in its way, and after a provision a reaper once the instance is idle.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.machine import is_running
from tests.system.expected_faults import TABLE, sort_of
from tests.system.situations import IDLE_S, SITUATIONS, Impatient, Situation, World
from tests.system.verbs import ROOT, User
from tests.tally import TALLY

READS = {"GET proof status show": "", "POST PUT DELETE touch fence commit unfence": "changes"}


class Gap(NamedTuple):
    """Before or after the deed of one call."""

    call: str
    moment: str


class Nursery:
    """Forks one process per verb, and tells how each ended."""

    def __init__(self, user: User) -> None:
        self._process = subprocess.Popen(
            user.command("tests.system.nursery"),
            cwd=ROOT,
            env=user.environment(EXOLLAMA_SIMULATED_PATIENCE_S="0"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0
        self.born = threading.Event()

    def run(self, situation: Situation) -> tuple[int, str]:
        """The exit status of one process, and what it wrote."""
        assert self._process.stdin
        self.born.clear()
        order = {"argv": situation.argv, "env": dict(situation.env)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.pid = self._said()
        self.born.set()
        return self._said(), self._said()

    def kill(self) -> None:
        """Kill the one that runs, wherever it is."""
        assert self.born.wait(30)
        os.kill(self.pid, signal.SIGKILL)
        while is_running(self.pid):
            time.sleep(0.001)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _said(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture(scope="module")
def nursery(world: World) -> Iterator[Nursery]:
    nursery = Nursery(User(world.simulator))
    yield nursery
    nursery.close()


@pytest.fixture
def clerk(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Impatient]:
    yield Impatient(world, monkeypatch)
    assert world.simulator.violations == []


def gaps(calls: list[str]) -> Iterator[Gap]:
    """The gaps of a recorded run."""
    for call in calls:
        yield Gap(call, "before")
        if READS[sort_of(call, READS)] or os.environ.get("EXOLLAMA_FAULTS") == "all":
            yield Gap(call, "after")


@pytest.mark.parametrize("name", SITUATIONS)
def test_whatever_a_process_leaves_that_is_killed_between_two_calls_is_healed(
    world: World, nursery: Nursery, clerk: Impatient, name: str
) -> None:
    situation = SITUATIONS[name]
    situation.begin(world)
    code, said = nursery.run(situation)
    assert f"{code} {world.left()}" == situation.ends, said
    recorded = world.calls()
    assert recorded == list(TABLE[name])

    killed = 0
    for gap in gaps(recorded):
        situation.begin(world)
        operation, nth = gap.call.split()
        kind = "reset" if gap.moment == "before" else "lost"
        world.simulator.fault(operation, kind, skip=int(nth) - 1, then=nursery.kill)
        code, said = nursery.run(situation)
        assert code == -signal.SIGKILL, f"{gap} was not met: {code}\n{said}"
        assert world.calls() == recorded[: recorded.index(gap.call) + 1], gap
        world.simulator.clear_faults()
        assert situation.heals[world.left()] == situation.heal(world, clerk), gap
        if situation.argv[0] == "provision":
            world.simulator.advance(IDLE_S)
            assert clerk.run("reap").ended(0).out.startswith(("destroyed", "stopped")), gap
            assert world.left() in ("gone", "stopped"), gap
        killed += 1
    assert killed >= len(recorded)
    TALLY.gaps[name] = killed
