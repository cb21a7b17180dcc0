"""Liveness: from where a search has come to rest, the same code runs on alone, and time passes.

Whoever still waits goes on first; then somebody uses the oldest instance, and all others of the name have to go; then
nobody does, and everything has to go. Reapers come every ten minutes, as from cron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.search import world as worlds
from tests.search.actors import Call, Context, index_of, run, substituted
from tests.search.machine import Rig, verdict
from tests.search.world import Answer, Violation, World

Recorded = tuple[tuple[Answer, int | None], ...]
Actors = Sequence[tuple[str, int, Recorded]]

EVERY_S = 600
LEASE_S = 120
ROUNDS = 9
"""Rounds of ten minutes: an idle timeout and a quarter, until the watchdog's own end, and two passes more."""


class Theatre:
    """A world in which one piece of code at a time runs to its end."""

    def __init__(self, world: World) -> None:
        self.world = world

    def perform(self, name: str, index: int, call: Call) -> tuple[Answer, int]:
        call = substituted(call, index)
        if call[0] == "sleep":
            self.pass_(max(1, round(call[1])))
            return ("slept", None), self.world.now
        if call[0] == "wait":
            self.finish()
        self.world, answer = worlds.perform(self.world, call, f"{name}{index}")
        return answer, self.world.now

    def run(self, program: str, index: int = 14, history: Recorded = (), target: str = "m1") -> object:
        context = Context(history, index_of(program, index), target=target)
        context.live = lambda call: self.perform(program, index, call)
        return run(program, context)

    def finish(self) -> None:
        """Whatever was under way ends."""
        for machine in self.world.machines:
            if machine.op:
                self.world = worlds.carried_out(self.world, machine.id)
        for machine in self.world.machines:
            found = machine._replace(listed=True, booted=True, locked=False)
            self.world = self.world.having(found)

    def pass_(self, seconds: int) -> None:
        """Time passes; the watchdogs look every ten seconds of it, or more often."""
        left = seconds
        while left > 0:
            step = min(left, 60)
            self.world = worlds.jumped(self.world, step)
            left -= step
            self.finish()
            for machine in self.world.machines:
                if machine.up and verdict(machine, self.world.now):
                    self.power_off(machine.id)

    def power_off(self, machine_id: str) -> None:
        """The watchdog's act."""
        self.run("watchdog", target=machine_id)

    def use(self) -> None:
        """Somebody uses the oldest one that runs."""
        live = [m for m in self.world.machines if _ours(m) and m.state == "running" and m.fence.owner is None]
        if live:
            oldest = min(live, key=lambda m: (m.created, m.id))
            rig = Rig(oldest, self.world.now)
            rig.touch()
            self.world = self.world.having(rig.after())


def _ours(machine: Any) -> bool:
    return dict(machine.labels).get("exollama") == "v1" and machine.request is not None


def settle(world: World, actors: Actors, *, calm: bool = False) -> str | None:
    """What does not hold in the end, in words; None where all does. `calm`: nobody died, and no answer was lost."""
    theatre = Theatre(world._replace(jumps=(), human=False, lag=False, exact=True))
    try:
        theatre.finish()
        for program, index, history in actors:
            theatre.run(program, index, history)
        if not calm:
            theatre.pass_(LEASE_S + 10)
        if shut := [m.id for m in theatre.world.machines if m.up and m.fence.owner and m.fence.committed is None]:
            return f"a fence stands for good: {', '.join(shut)}"
        for _ in range(ROUNDS):
            theatre.use()
            theatre.run("reaper")
            theatre.pass_(EVERY_S)
        live = [m.id for m in theatre.world.machines if _ours(m) and m.state == "running"]
        if len(live) > 1:
            return f"more than one instance of the name stays: {', '.join(live)}"
        for _ in range(ROUNDS):
            theatre.run("reaper")
            theatre.pass_(EVERY_S)
        theatre.world = worlds.jumped(theatre.world, 86400)  # the retention of what was stopped
        for _ in range(2):
            theatre.run("reaper")
            theatre.finish()
    except Violation as violation:
        return str(violation)
    left = [m.id for m in theatre.world.machines if _ours(m)]
    return f"nobody uses it, and it stays: {', '.join(left)}" if left else None
