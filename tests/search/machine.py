"""One machine of the search as an immutable value, and the agent's own code run on it.

The fence, the watchdog and what stands around them are the classes of cloudinit/ themselves, on values instead of
files. Times are whole seconds since `fakes.NOW`. Neighbours: world.py makes a zone of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NamedTuple

from tests.agent import load

IDLE_S = 1800
NEVER = -100000
Labels = tuple[tuple[str, str], ...]
agent: Any = load()
Fence = agent.Fence


class Machine(NamedTuple):
    """One instance: what the API shows of it, and what is so on it."""

    id: str
    labels: Labels
    state: str = "running"
    request: str | None = None  # the nonce in its user-data; None: somebody else's user-data
    created: int = -86400
    listed: bool = True
    op: str | None = None  # "delete" or "stop", asked for and not yet carried out
    up: bool = True
    booted: bool = True
    fence: Any = Fence()
    locked: bool = False  # the agent's lock, from the watchdog's look to its commit
    asked: int = 0
    touches: int = 0
    active_at: int = -2000
    in_flight: tuple[str, ...] = ()
    promised_at: int = NEVER  # the last touch that was answered with 204
    foreign: bool = False  # somebody took it over (or it never was ours)
    fenced_foreign: bool = False  # it was so when the present fence went up
    deadline: int | None = None
    action: str = "destroy"


class Rig(agent.Agent):  # type: ignore[misc]
    """The agent of one machine: its code, its state taken from a value and given back as one."""

    def __init__(self, machine: Machine, now: int) -> None:
        CLOCK.now = now
        self.machine = machine
        self.policy = policy(machine)
        self.watchdog = agent.Watchdog(self.policy)
        self.lock = contextlib.nullcontext()
        self.fence = machine.fence
        self.size, self.touches, self.active_at = 2 * machine.asked, machine.touches, machine.active_at

    def keep(self) -> None:
        pass

    def change(self, fence: Any, answer: Any) -> Any:
        self.fence = fence
        return answer

    def boot(self) -> dict[str, Any]:
        return boot(self.machine, CLOCK.now)

    def mark(self) -> tuple[int, int]:
        return self.size // 2, self.touches

    def in_flight(self) -> int:
        if self.machine.in_flight or not self.machine.booted:
            self.active_at = CLOCK.now
        return len(self.machine.in_flight)

    def after(self) -> Machine:
        return self.machine._replace(fence=self.fence, touches=self.touches, active_at=self.active_at)


class Clock:
    """What the agent's module takes for the time."""

    now = 0


CLOCK = Clock()
agent.boottime = lambda: CLOCK.now
agent.log_tail = lambda *_: []
agent.time = SimpleNamespace(sleep=lambda _: None, time=lambda: CLOCK.now)


def policy(machine: Machine) -> dict[str, Any]:
    """As it came in the user-data."""
    return {
        "deadline": machine.deadline, "grace_s": 3600, "idle_s": IDLE_S, "boot_s": 1800, "retention_s": 86400,
        "keep_failed": False, "version": "search", "action": machine.action,
    }  # fmt: skip


def boot(machine: Machine, now: int) -> dict[str, Any]:
    """As rules.read_boot has it."""
    phase = "ready" if machine.booted else "model"
    elapsed_s = now - machine.created
    return {"phase": phase, "percent": None, "elapsed_s": elapsed_s, "phases": [], "error": None, "failed_s": None}


def verdict(machine: Machine, now: int) -> tuple[str, bool] | None:
    """What the watchdog would say now."""
    committed = machine.fence.committed
    found: tuple[str, bool] | None = agent.Watchdog(policy(machine)).decide(
        idle_s=now - machine.active_at,
        boot=boot(machine, now),
        committed_s=None if committed is None else now - committed,
        wall=now,
    )
    return found


def normal(machine: Machine) -> Machine:
    """Equal where nothing can tell the difference: of what was asked only "since the fence went up" counts."""
    fence = machine.fence
    since = fence.owner is not None and fence.committed is None and (machine.asked, machine.touches) != fence.mark
    if fence.mark not in (None, (0, 0)):
        machine = machine._replace(fence=replace(fence, mark=(0, 0)))
    foreign = machine.fenced_foreign and bool(fence.owner)
    return machine._replace(asked=int(since), touches=0, fenced_foreign=foreign)


def bucketed(machine: Machine, now: int, horizon: int) -> Machine:
    """Of past uses counts only whether the idle timeout may be over before the clock of this search stops."""
    return machine._replace(
        active_at=now if horizon - machine.active_at < IDLE_S else machine.active_at,
        promised_at=now if horizon - machine.promised_at < IDLE_S else NEVER,
    )
