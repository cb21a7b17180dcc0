"""The search in CI: every small cast to its end, every weakening caught, and larger casts at random."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.search import casts
from tests.search.actors import searchable
from tests.search.casts import SMALL, WEAKENINGS, Weakening
from tests.search.explore import Search
from tests.search.report import Cast, Report, shown

MOST = 2_000_000
WALKS = int(os.environ.get("EXOLLAMA_WALKS", "300"))
Told = Callable[[str], None]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.timeout(600)
def test_no_order_of_calls_cuts_a_request_touches_what_is_not_ours_or_leaves_anything_behind(
    name: str, told: Told
) -> None:
    report = Search(SMALL[name]).explore(most_states=MOST)
    told(report.row(name))
    assert report.violation is None, "\n".join(report.trace)
    assert report.complete
    assert report.ends


@pytest.mark.parametrize("name", WEAKENINGS)
def test_a_protocol_without_one_of_its_parts_is_caught_where_the_whole_one_is_not(name: str, told: Told) -> None:
    weak: Weakening = WEAKENINGS[name]
    whole = Search(weak.cast).explore(most_states=MOST)
    assert whole.complete
    assert whole.violation is None, "\n".join(whole.trace)
    with weak.weakened():
        report = Search(weak.cast).explore(most_states=MOST)
    assert report.violation == weak.violation
    told(f"{name}: {report.violation}, after {len(report.trace) - 1} steps")
    for step in report.trace[:-1]:
        told(f"    {step}")


@pytest.mark.parametrize(
    "cast",
    [
        Cast(world=casts.world(casts.idle()), actors=("reaper", "reaper", "curl", "client")),
        Cast(world=casts.world(casts.idle(), losses=1, crashes=1), actors=("reaper", "reaper", "curl")),
        Cast(world=casts.world(casts.LATE, crashes=1), actors=("reaper", "curl", "client"), guarded=True),
        Cast(world=casts.world(casts.idle(), jumps=(800,)), actors=("reaper", "client", "client")),
    ],
    ids=["plain", "lost and dead", "watchdog", "clock"],
)
def test_merging_histories_that_led_to_the_same_place_reaches_the_same_worlds(cast: Cast) -> None:
    merged, plain = (Search(cast, merge=merge).explore(most_states=MOST) for merge in (True, False))
    assert merged.complete
    assert plain.complete
    assert merged.worlds == plain.worlds
    assert merged.states <= plain.states
    assert (merged.violation, plain.violation) == (None, None)
    if merged.all_executions:
        assert merged.executions == plain.executions


@pytest.fixture(scope="module")
def reached() -> Report:
    """All that a reaper and a pipeline can come to."""
    return Search(PIPELINE).explore(most_states=MOST)


PIPELINE = Cast(world=casts.world(casts.idle(), losses=1), actors=("reaper", "curl", "provisioner"))


@given(data=st.data())
@settings(max_examples=60)
def test_no_walk_over_whole_histories_leaves_what_the_merged_search_reached(
    data: st.DataObject, reached: Report
) -> None:
    search = Search(PIPELINE, merge=False)
    for world in walk(search, data, most=80):
        assert world in reached.worlds


LARGE = {
    "a crowd": Cast(
        world=casts.world(casts.LATE, crashes=2, losses=2, jumps=(130, 700)),
        actors=("reaper",) * 3 + ("curl",) * 2 + ("client",) * 2 + ("provisioner",) * 2,
        guarded=True,
    ),
    "two instances of one name": Cast(
        world=casts.world(casts.idle(), casts.idle(id="m2", created=-4000), crashes=1, losses=2, jumps=(130,)),
        actors=("reaper",) * 2 + ("curl",) * 3 + ("client", "provisioner"),
        guarded=True,
    ),
    "pipelines, lists that lag": Cast(
        world=casts.world(lag=True, crashes=2, losses=2, jumps=(130,)), actors=("provisioner",) * 3 + ("reaper",) * 2
    ),
}
SEARCHES = {name: Search(cast) for name, cast in LARGE.items()}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.timeout(120 + WALKS)
@given(data=st.data())
@settings(max_examples=WALKS)
def test_no_walk_through_a_larger_cast_cuts_or_leaves_anything_either(name: str, data: st.DataObject) -> None:
    for _ in walk(SEARCHES[name], data, most=400, settle=True):
        pass


def walk(search: Search, data: st.DataObject, *, most: int, settle: bool = False) -> Any:
    """One schedule of at most so many steps, as Hypothesis draws it, and then what time does; yields the worlds."""
    with searchable():
        state, trace = search.start(), []
        for _ in range(most):
            steps = list(search.successors(state))
            if not steps:
                break
            words, after = steps[data.draw(st.integers(0, len(steps) - 1))]
            trace.append(shown(words))
            if isinstance(after, str):
                pytest.fail("\n".join([*trace, after]))
            state = after
            yield search.worlds[state[0]]
        if settle and (violation := search.end(state)):
            pytest.fail("\n".join([*trace, "all is quiet", violation]))
