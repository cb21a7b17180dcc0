"""Faults over real sockets: each that makes sense, in every single call of the API and of the endpoint, in turn.

The calls of each situation are recorded from a run without faults and held against expected_faults.py, which says how
every fault in every call ends. One run meets the fault, ends in time with that exit code and its words, and leaves
nothing twice and nothing without an owner; a second one heals what it left. HTTP, signatures, TLS, nginx and the agent
are real; waits take no time, and calls that hang are given up soon.

By default, one of those faults that are alike for a call (ALIKE: all that one loop repeats, say) stands for the others,
each in its turn, and calls that the same code makes in two situations (SHARED) are made to fail in one of them;
EXOLLAMA_FAULTS=all has every fault befall every call. With -s the table is printed at the end.
"""

import os
import re
import time
from collections.abc import Iterator

import pytest

from tests.system.expected_faults import (
    ALIKE,
    API_WORDS,
    AS_EVER,
    ENDPOINT_WORDS,
    KINDS,
    OTHER_WORDS,
    SHARED,
    TABLE,
    Case,
    cases,
    outcomes,
    sort_of,
)
from tests.system.situations import SITUATIONS, Impatient, World, keeps_secret
from tests.tally import TALLY

IN_TIME_S = 30
"""A run takes a fraction of a second, on a machine that has nothing else to do, since no wait takes time."""
WAITS_S = 700
"""What a run would have slept at most: ten minutes for an operation that never ends, and some retries."""
CASES = list(cases(every=os.environ.get("EXOLLAMA_FAULTS") == "all"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as world:
        yield world


@pytest.fixture
def clerk(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Impatient]:
    yield Impatient(world, monkeypatch)
    assert world.simulator.violations == []


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_call_of_a_run_without_faults_stands_in_the_table(world: World, clerk: Impatient, name: str) -> None:
    situation = SITUATIONS[name]
    situation.begin(world)
    done = clerk.run(*situation.argv, **situation.env)
    assert world.calls() == list(TABLE[name])
    assert f"{done.code} {world.left()}" == situation.ends
    assert situation.says in done.err
    assert situation.heal(world, clerk) == situation.heals[world_left(situation.ends)]


@pytest.mark.parametrize("case", CASES, ids="; ".join)
def test_a_fault_in_any_call_ends_in_time_as_expected_and_the_next_run_heals(
    world: World, clerk: Impatient, case: Case
) -> None:
    situation = SITUATIONS[case.situation]
    situation.begin(world)
    operation, nth = case.call.split()
    options = {"retry_after": 7} if case.fault == "429+" else {}
    world.simulator.fault(operation, case.fault.rstrip("+"), skip=int(nth) - 1, **options)
    began, clerk.slept_s = time.monotonic(), 0.0
    done = clerk.run(*situation.argv, **situation.env)
    assert time.monotonic() - began < IN_TIME_S
    assert clerk.slept_s < WAITS_S
    # A call that hangs may be given up before it is there.
    world.simulator.wait(lambda: any(call.fault for call in world.simulator.calls), "it meets the fault")
    assert [call.fault for call in world.simulator.calls if call.fault] == [case.fault.rstrip("+")]

    ends = situation.ends if case.ends == AS_EVER else case.ends
    left = world_left(ends)
    done.ended(int(ends.split()[0]))
    assert world.left() == left, done.said
    if case.ends == AS_EVER:
        assert situation.says in done.err
    elif done.code:
        words = _words(case)
        assert re.search(words, done.err), f"{words!r} is missing in\n{done.said}"
    keeps_secret(done)

    world.simulator.clear_faults()
    world.lodging.light()
    healed = situation.heal(world, clerk)
    assert healed == situation.heals[left]
    TALLY.faults.append((case.situation, case.call, case.fault, f"{ends.replace(' ', ', ')}; then {healed}"))


def _words(case: Case) -> str:
    table = ENDPOINT_WORDS if case.call.startswith(("agent", "ollama")) else API_WORDS
    return OTHER_WORDS.get(case.situation, {}).get(case.call, {}).get(case.fault) or table[case.fault]


def world_left(ends: str) -> str:
    """What is left, of an ending."""
    return ends.split()[1]


def test_the_table_has_each_fault_that_makes_sense_for_each_call() -> None:
    assert list(TABLE) == list(SITUATIONS)
    for situation, rows in TABLE.items():
        for call, row in rows.items():
            assert sorted(outcomes(row)) == sorted(KINDS[sort_of(call, KINDS)].split()), (situation, call)
            assert sum(len(faults.split()) for faults in row.values()) == len(outcomes(row)), (situation, call)


def test_faults_that_are_alike_for_a_call_end_alike_in_the_table() -> None:
    for situation, rows in TABLE.items():
        for call, row in rows.items():
            for group in ALIKE[sort_of(call, ALIKE)]:
                assert len({outcomes(row)[fault] for fault in group.split()}) == 1, (situation, call, group)


def test_calls_that_two_situations_share_end_alike_in_the_table() -> None:
    for situation, (other, calls) in SHARED.items():
        for call in calls:
            assert TABLE[situation][call] == TABLE[other][call], (situation, call)


def test_every_fault_befalls_each_sort_of_call_by_default_too() -> None:
    every, dealt = ({(sort_of(c.call, KINDS), c.fault) for c in cases(every=e)} for e in (True, False))
    assert dealt == every
