"""The exhaustive search: every order of every actor's calls, with crashes, lost answers and moves of the clock.

Breadth first, so that the first violation has a shortest trace. States are merged: a state is the world and each
unfinished actor's history of answers; equal actors are sorted, finished ones dropped, polling that saw nothing new
leaves no history. So a number in a trace is an actor's place among its equals, which may change. Worlds, histories and
answers are numbered, and what a call does to a world is worked out once.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from tests.search import world as worlds
from tests.search.actors import CREATORS, Call, Context, Pending, Place, index_of, run, searchable, substituted
from tests.search.machine import verdict
from tests.search.report import Cast, Report, Words, shown
from tests.search.settle import settle
from tests.search.world import Answer, Violation, World

EFFECTS = frozenset(
    {"put_labels", "create", "delete", "stop", "start", "touch", "fence", "commit", "unfence", "begin", "end"}
    | {"look", "guard_put", "guard_commit", "guard_delete", "guard_seize", "power_off"}
)
"""Whoever dies right after a mere look could have died before it: crashes are searched after these only."""
_OF_API = frozenset({"list", "get", "put_labels", "create", "delete", "stop", "start"})
_OF_AGENT = frozenset({"status", "touch", "fence", "commit", "unfence", "look"})
_DEAF = frozenset({"begin", "end", "failed", "wait", "sleep", "look"}) | {e for e in EFFECTS if e.startswith("guard_")}
_DEAF |= {"power_off"}
"""Calls whose answer is never lost: a request's loss is its client's matter, and the rest stays on the machine."""


class Actor(NamedTuple):
    """An unfinished actor: its program, which of several it is, and its history."""

    program: str
    number: int
    history: int = 0

    @property
    def name(self) -> str:
        return f"{self.program}{self.number}"


State = tuple[int, tuple[Actor, ...]]
Move = tuple[Words, int | str, Actor | None]
_ORDER = itemgetter(0, 2, 1)


class Search:
    """One search over one cast."""

    def __init__(self, cast: Cast, *, merge: bool = True) -> None:
        self.cast = cast
        self.merge = merge
        self.worlds: list[World] = []
        self._world_ids: dict[World, int] = {}
        self._answers: list[tuple[Answer, int | None]] = []
        self._answer_ids: dict[tuple[Answer, int | None], int] = {}
        self._histories: list[tuple[int, int]] = [(-1, -1)]  # (the history before, the last answer)
        self._history_ids: dict[tuple[int, int], int] = {}
        self._calls: dict[tuple[str, int], tuple[Call | None, bool, int, bool]] = {}
        self._places: dict[tuple[str, Place], int] = {}
        self._moved: dict[tuple[int, Actor], list[Move]] = {}
        self._events: dict[int, list[tuple[Words, int | str]]] = {}
        self._naming: dict[int, bool] = {}
        self._renamed: dict[tuple[int, tuple[tuple[str, str], ...]], int] = {}
        self._settled: dict[State, str | None] = {}

    # -- numbering

    def world_id(self, world: World) -> int:
        found = self._world_ids.get(world)
        if found is None:
            found = self._world_ids[world] = len(self.worlds)
            self.worlds.append(world)
        return found

    def _answer(self, answer: Answer, now: int | None) -> int:
        found = self._answer_ids.setdefault((answer, now), len(self._answers))
        if found == len(self._answers):
            self._answers.append((answer, now))
        return found

    def _history(self, before: int, answer: int) -> int:
        found = self._history_ids.setdefault((before, answer), len(self._histories))
        if found == len(self._histories):
            self._histories.append((before, answer))
        return found

    def recorded(self, history: int) -> tuple[tuple[Answer, int | None], ...]:
        """The answers of a history, in order."""
        found = []
        while history:
            history, answer = self._histories[history]
            found.append(self._answers[answer])
        return tuple(reversed(found))

    # -- actors

    def call(self, actor: Actor) -> Call | None:
        """What an actor calls next; None where it has finished."""
        return self._run(actor)[0]

    def _run(self, actor: Actor) -> tuple[Call | None, bool, int, bool]:
        """The next call, whether the last answer's time counted, the place's first history, whether it did much."""
        program, history = actor.program, actor.history
        name = actor.name if program in CREATORS else program
        if (name, history) not in self._calls:
            context = Context(self.recorded(history), index_of(program, actor.number))
            try:
                run(program, context)
            except Pending:
                pass
            first = history
            if context.pending and self.merge:
                first = self._places.setdefault((name, context.place), history)
            self._calls[name, history] = context.pending, context.timely, first, context.last in EFFECTS
        return self._calls[name, history]

    def _heard(self, actor: Actor, answer: Answer, now: int) -> Actor | None:
        """The actor after an answer; None where that was its last. Its time is kept only where the code looks at it."""
        after = actor._replace(history=self._history(actor.history, self._answer(answer, None)))
        call, timely, first, _ = self._run(after)
        if timely:
            after = actor._replace(history=self._history(actor.history, self._answer(answer, now)))
            call, _, first, _ = self._run(after)
        return None if call is None else after._replace(history=first)

    # -- steps

    def start(self) -> State:
        counts: dict[str, int] = {}
        actors = []
        for program in self.cast.actors:
            counts[program] = counts.get(program, -1) + 1
            actors.append(Actor(program, counts[program]))
        return self._canonical(self.world_id(self.cast.world), tuple(actors))

    def successors(self, state: State) -> Iterator[tuple[Words, State | str]]:
        """Each step that can come next, in words, with the state that it leads to or the violation that it is."""
        world_id, actors = state
        world = self.worlds[world_id]
        for place, actor in enumerate(actors):
            others = actors[:place] + actors[place + 1 :]
            for words, after, heard in self._moves(world_id, actor):
                if isinstance(after, str):
                    yield words, after
                else:
                    yield words, self._canonical(after, (*others, heard) if heard else others)
            if world.crashes and self._run(actor)[3]:
                yield (actor.name, "dies"), self._crashed(world, actor, others)
        yield from self._by_itself(world_id, actors)

    def _moves(self, world_id: int, actor: Actor) -> list[Move]:
        """What an actor's next call can come to in a world: its answer, or that this is lost; none where it waits."""
        known = (world_id, actor)
        if known not in self._moved:
            self._moved[known] = list(self._called(world_id, actor))
        return self._moved[known]

    def _called(self, world_id: int, actor: Actor) -> Iterator[Move]:
        world, call = self.worlds[world_id], self.call(actor)
        assert call
        if call[0] == "sleep":
            yield (actor.name, call), world_id, self._heard(actor, ("slept", None), world.now)
            return
        if call[0] == "wait" and not worlds.settled(world, call[1]):
            return
        machine = world.find(call[1]) if call[0] in _OF_AGENT else None
        if machine and machine.locked:
            return
        try:
            done, said = worlds.perform(world, substituted(call, actor.number), actor.name)
        except Violation as violation:
            yield (actor.name, call), str(violation), None
            return
        after = self.world_id(done)
        yield (actor.name, call, said), after, self._heard(actor, said, world.now)
        if world.losses and call[0] not in _DEAF:
            lost = ("error", "Unanswered" if call[0] in _OF_API else "Unreachable")
            deaf = self._heard(actor, lost, world.now)
            for was_done in (True, False) if call[0] in EFFECTS else (False,):
                left = done if was_done else world
                words = (actor.name, call, lost, "done" if was_done else "not done")
                yield words, self.world_id(left._replace(losses=world.losses - 1)), deaf

    def _crashed(self, world: World, actor: Actor, others: tuple[Actor, ...]) -> State | str:
        world = world._replace(crashes=world.crashes - 1)
        for machine in world.machines:
            if actor.name in machine.in_flight:  # its connection goes with it
                world, _ = worlds.perform(world, ("end", machine.id), actor.name)
            if actor.program == "watchdog" and machine.locked:
                world = world.having(machine._replace(locked=False))
        return self._canonical(self.world_id(world), others)

    def _by_itself(self, world_id: int, actors: tuple[Actor, ...]) -> Iterator[tuple[Words, State | str]]:
        if world_id not in self._events:
            self._events[world_id] = list(self._happening(self.worlds[world_id]))
        for words, after in self._events[world_id]:
            yield words, after if isinstance(after, str) else self._canonical(after, actors)
        guarded = self.worlds[world_id].find("m1") if self.cast.guarded else None
        asleep = guarded and guarded.up and not any(a.program == "watchdog" for a in actors)
        if guarded and asleep and verdict(guarded, self.worlds[world_id].now):
            yield ("the watchdog of m1", "wakes"), self._canonical(world_id, (*actors, Actor("watchdog", 0)))

    def _happening(self, world: World) -> Iterator[tuple[Words, int | str]]:
        for machine in world.machines:
            if machine.op:
                try:
                    yield (
                        (f"{machine.op} of {machine.id}", "is carried out"),
                        self.world_id(worlds.carried_out(world, machine.id)),
                    )
                except Violation as violation:
                    yield (f"{machine.op} of {machine.id}", "is carried out"), str(violation)
            if not machine.booted and machine.up:
                ready = world.having(machine._replace(booted=True, active_at=world.now))
                yield (machine.id, "is ready"), self.world_id(ready)
            if not machine.listed:
                yield (machine.id, "shows in lists"), self.world_id(world.having(machine._replace(listed=True)))
        if world.human and world.machines:
            yield ("somebody", "takes m1 over"), self.world_id(worlds.taken_over(world))
        if world.jumps:
            after = worlds.jumped(world._replace(jumps=world.jumps[1:]), world.jumps[0])
            yield (f"{world.jumps[0]} s", "pass"), self.world_id(after)

    # -- symmetry

    def _canonical(self, world_id: int, actors: tuple[Actor, ...]) -> State:
        """Equal actors sorted and numbered anew, in the world as well."""
        ordered = sorted(actors, key=_ORDER)
        plain = not self._named(world_id)
        names: list[tuple[str, str]] = []
        count, before = 0, ""
        for place, actor in enumerate(ordered):
            program, index, history = actor
            if program in CREATORS:
                continue
            count, before = (count + 1 if program == before else 0), program
            if not plain:
                names.append((f"{program}{index}", f"{program}{count}"))
            if index != count:
                ordered[place] = Actor(program, count, history)
        if plain:
            return world_id, tuple(ordered)
        known = (world_id, tuple(names))
        if known not in self._renamed:
            self._renamed[known] = self.world_id(_rename(self.worlds[world_id], dict(names)))
        return self._renamed[known], tuple(ordered)

    def _named(self, world_id: int) -> bool:
        """Whether a world knows actors by their names: as owners of fences, or by their requests."""
        if world_id not in self._naming:
            machines = self.worlds[world_id].machines
            self._naming[world_id] = any(m.fence.owner or m.in_flight for m in machines)
        return self._naming[world_id]

    # -- the search

    def explore(self, *, most_states: int = 10_000_000, settle_ends: bool = True) -> Report:
        """Go through all states. Stops at the first violation."""
        began = time.monotonic()
        report = Report(cast=self.cast)
        start = self.start()
        numbers = {start: 0}
        states, parents, depths = [start], array("l", [-1]), array("l", [0])
        edges, firsts = array("l"), array("l")
        with searchable():
            for number in range(most_states):
                if number == len(states):
                    report.complete = True
                    break
                state, firsts_here = states[number], len(edges)
                firsts.append(firsts_here)
                last = True
                for words, after in self.successors(state):
                    last = last and after == state
                    if isinstance(after, str):
                        report.violation = after
                        report.trace = [*self._trace(states, parents, number), shown(words), after]
                        break
                    there = numbers.setdefault(after, len(states))
                    if there == len(states):
                        states.append(after)
                        parents.append(number)
                        depths.append(depths[number] + 1)
                    edges.append(there)
                if (last or self._quiet(state)) and settle_ends:
                    report.ends += 1
                    report.violation = self._end(state)
                    if report.violation:
                        report.trace = [*self._trace(states, parents, number), "all is quiet", report.violation]
                if report.violation:
                    break
        report.states, report.transitions, report.depth = len(states), len(edges), max(depths)
        report.worlds = frozenset(self.worlds[world_id] for world_id in {state[0] for state in states})
        if report.complete:
            report.executions, report.all_executions = _paths(firsts, edges)
        report.seconds = time.monotonic() - began
        return report

    def _quiet(self, state: State) -> bool:
        """Whether nothing is left but pipelines that pause."""
        world_id, actors = state
        asleep = all((self.call(a) or ("",))[0] == "sleep" for a in actors)
        return asleep and not any(True for _ in self._by_itself(world_id, actors))

    def _end(self, state: State) -> str | None:
        """As `end`, of a state from which nobody else goes on."""
        stuck = [actor.name for actor in state[1] if (self.call(actor) or ("",))[0] != "sleep"]
        assert not stuck, f"the search itself is wrong, these never go on: {stuck}"
        return self.end(state)

    def end(self, state: State) -> str | None:
        """What does not hold once whoever is still at it has ended and time has passed; None where all does."""
        world_id, actors = state
        world = self.worlds[world_id]._replace(crashes=0, losses=0)
        known = (self.world_id(world), actors)
        if known not in self._settled:
            histories = [(a.program, a.number, self.recorded(a.history)) for a in actors]
            self._settled[known] = settle(
                world, histories, calm=not (self.cast.world.crashes or self.cast.world.losses)
            )
        return self._settled[known]

    def _trace(self, states: list[State], parents: array[int], number: int) -> list[str]:
        path = [number]
        while parents[path[-1]] >= 0:
            path.append(parents[path[-1]])
        path.reverse()
        words = []
        for here, there in pairwise(path):
            words.append(shown(next(w for w, after in self.successors(states[here]) if after == states[there])))
        return words


def _rename(world: World, names: dict[str, str]) -> World:
    owners = {old.removeprefix("reaper"): new.removeprefix("reaper") for old, new in names.items() if "reaper" in old}
    for machine in world.machines:
        fence, flying = machine.fence, machine.in_flight
        if fence.owner and fence.owner[0].isdigit():
            fence = replace(fence, owner=owners.get(fence.owner[0], "x") + fence.owner[1:])
        flying = tuple(sorted(names.get(one, one) for one in flying))
        world = world.having(machine._replace(fence=fence, in_flight=flying))
    return world


def _paths(firsts: array[int], edges: array[int]) -> tuple[int, bool]:
    """The number of complete executions, of ways from the first state to an end, and whether that is all of them.

    Where polling makes circles there is no end of them: the circles are cut, which leaves some of the ways.
    """
    count = len(firsts)
    before = array("l", bytes(8 * count))
    for there in edges:
        before[there] += 1
    ways, done = [0] * count, bytearray(count)
    ways[0] = 1
    ready, lowest, total, whole = [0], 0, 0, True
    while True:
        if not ready:
            lowest = done.find(0, lowest)
            if lowest < 0:
                return total, whole
            ready.append(lowest)
            whole = False
        here = ready.pop()
        done[here] = 1
        last = firsts[here + 1] if here + 1 < count else len(edges)
        if firsts[here] == last:
            total += ways[here]
        for at in range(firsts[here], last):
            there = edges[at]
            before[there] -= 1
            if not done[there]:
                ways[there] += ways[here]
                if not before[there]:
                    ready.append(there)
