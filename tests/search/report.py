"""What is searched, and what a search covered and found, in words. Neighbours: explore.py searches, casts.py names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.search.world import World

Words = tuple[Any, ...]
"""A step: who, the call or what happens, the answer, and whether that was lost."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who plays, from which world, and what must hold at the end."""

    world: World
    actors: tuple[str, ...]
    why: str = ""
    guarded: bool = False  # the first machine's watchdog may act


@dataclass(kw_only=True)
class Report:
    """What a search covered and found; `trace` is a shortest way to the violation."""

    cast: Cast
    states: int = 0
    transitions: int = 0
    ends: int = 0
    executions: int = 0
    all_executions: bool = False
    depth: int = 0
    seconds: float = 0.0
    violation: str | None = None
    trace: list[str] = field(default_factory=list)
    complete: bool = False
    worlds: frozenset[World] = frozenset()
    """All that were reached, their bounds as far as they were used up."""

    def row(self, name: str) -> str:
        """What was covered, as a line of a table."""
        world, found = self.cast.world, self.violation or ("" if self.complete else "NOT COMPLETE")
        bounds = f"{world.crashes} crash, {world.losses} lost, clock {'+'.join(map(str, world.jumps)) or '-'}"
        ways = f"{'' if self.all_executions else '> '}{self.executions:.3g}"
        return (
            f"{name:<54} {self.states:>9,} states {self.transitions:>10,} steps {ways:>10} executions "
            f"{self.ends:>4} ends, depth {self.depth:>2}; {bounds}; {self.seconds:.0f} s {found}"
        )


def shown(words: Words) -> str:
    """A step, as a line of a trace."""
    who, what, *answer = words
    if isinstance(what, str):
        return f"{who} {what}"
    call = " ".join(str(part)[:36] for part in what if not isinstance(part, tuple))
    if not answer:
        return f"{who}: {call}"
    (kind, value), *lost = answer
    return f"{who}: {call} -> {value if kind == 'error' else _short(value)}{', ' + lost[0] if lost else ''}"


def _short(value: object) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return " ".join(f"{v[0]}({v[1]})" for v in value)
    return " ".join(str(part)[:12] for part in value[:4]) if isinstance(value, tuple) else str(value)
