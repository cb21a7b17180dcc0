"""What a keeper does beside requests: activity within its bounds, tidying, the deadline's warning, the last write."""

import asyncio
import math
from datetime import UTC, datetime, timedelta

import pytest

from client.errors import ExollamaError
from client.exchange import Refusal
from client.source import Place
from tests.keeping import Kept, Script, place, run

QUARTER_S = 100  # of the idle timeout of 400 s that a place has here


def records(kept: Kept) -> int:
    return kept.script.count("record")


# -- activity


@pytest.mark.parametrize("load", [1, 1000])
def test_there_is_one_write_per_quarter_of_the_idle_timeout_at_most_whatever_the_load(load: int) -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()

        def requests() -> None:
            for _ in range(load):
                kept.keeper.used(1)
                kept.keeper.used(-1)

        await kept.passes(10 * QUARTER_S, between=requests)
        assert 9 <= records(kept) <= 11
        assert {one for one in kept.script.asked if one[0] == "record"} == {("record", "an-id", False)}

    run(scene)


def test_the_first_use_is_written_within_a_second_or_so() -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.used(1)
        await kept.passes(1)
        assert records(kept) == 1

    run(scene)


def test_a_write_that_comes_late_tells_of_the_last_use_and_not_of_itself() -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.used(1)
        kept.keeper.used(-1)
        await kept.passes(3600)
        assert kept.script.used_ago_s[0] < 5
        assert kept.script.used_ago_s[-1] > 3500, "writes failed for an hour, in which nobody used it"

    run(scene, Script(record=[ExollamaError("down")] * 59 + [None], look=[place()]))


def test_a_stream_that_runs_for_long_is_written_each_quarter_and_its_end_once() -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.used(1)
        await kept.passes(5.5 * QUARTER_S)
        assert records(kept) == 6
        assert kept.keeper.idle_s == 0.0
        kept.keeper.used(-1)
        await kept.passes(QUARTER_S)
        assert records(kept) == 7, "that it ended between two writes"
        assert kept.keeper.idle_s >= QUARTER_S
        await kept.passes(5 * QUARTER_S)
        assert records(kept) == 7

    run(scene)


def test_nothing_is_written_where_nobody_used_anything_or_nothing_runs() -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        await kept.passes(3 * QUARTER_S)
        assert kept.keeper.pool
        kept.keeper.suspect(kept.keeper.pool, "it is gone")
        kept.keeper.used(1)
        kept.keeper.used(-1)
        await kept.passes(3 * QUARTER_S)
        assert records(kept) == 0

    run(scene, Script(look=[place()]))


def test_a_write_that_fails_is_tried_again_after_a_minute_and_fails_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(kept: Kept) -> None:
        pool = await kept.ready()
        kept.keeper.used(1)
        kept.keeper.used(-1)
        await kept.passes(59)
        assert records(kept) == 1
        await kept.passes(63)
        assert records(kept) == 3
        assert await kept.asks() is pool
        await kept.passes(3 * QUARTER_S)
        assert records(kept) == 3, "it stands"

    trouble = ExollamaError("the API is down")
    run(scene, Script(record=[trouble, trouble, None]))
    said = [one.getMessage() for one in caplog.records if one.name == "exollama.keeper"]
    assert said == ["activity not recorded: the API is down"] * 2


@pytest.mark.parametrize("name", ["record", "tidy"])
def test_a_mistake_in_a_chore_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture, name: str) -> None:
    async def scene(kept: Kept) -> None:
        pool = await kept.ready()
        kept.keeper.used(1)
        await kept.passes(3)
        assert await kept.asks() is pool
        assert kept.script.count(name) == 1

    script = Script()
    script.answers[name] = [RuntimeError("a bug")]
    run(scene, script)
    assert "a chore failed" in caplog.text


def test_a_request_that_is_refused_was_no_use() -> None:
    async def scene(kept: Kept) -> None:
        kept.keeper.used(1)
        with pytest.raises(Refusal):
            await kept.asks()
        kept.keeper.used(-1)
        assert kept.keeper.idle_s == math.inf
        assert await kept.keeper.there()
        await kept.passes(3)
        await kept.keeper.finish()
        assert records(kept) == 0

    run(scene, Script(wake=[ExollamaError("quota exceeded")], look=[place()]))


def test_a_request_that_woke_its_instance_is_a_use_while_it_runs_and_at_the_end() -> None:
    async def scene(kept: Kept) -> None:
        kept.keeper.used(1)
        await kept.ready()
        await kept.passes(2)
        assert records(kept) == 1
        await kept.keeper.finish()
        assert records(kept) == 2

    run(scene)


# -- the last write


@pytest.mark.parametrize("swept", [False, True])
def test_at_the_end_a_use_that_is_not_written_yet_is_written_once_and_whatever_the_label_says(swept: bool) -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.used(1)
        if swept:
            await kept.passes(2)
        kept.keeper.used(-1)
        for _ in range(2):
            await kept.keeper.finish()
        assert not kept.keeper.in_use
        assert [one for one in kept.script.asked if one[0] == "record"] == [
            *[("record", "an-id", False)] * swept,
            ("record", "an-id", True),
        ]

    run(scene)


def test_at_the_end_nothing_is_written_of_what_nobody_used() -> None:
    async def scene(kept: Kept) -> None:
        await kept.keeper.finish()
        await kept.ready()
        await kept.keeper.finish()
        assert records(kept) == 0

    run(scene)


def test_a_last_write_that_fails_fails_nothing() -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        kept.keeper.used(1)
        kept.keeper.used(-1)
        await kept.keeper.finish()
        assert records(kept) == 1

    run(scene, Script(record=[ExollamaError("the API is down")]))


# -- tidying


def spared(kept: Kept) -> list[str]:
    return [one[1] for one in kept.script.asked if one[0] == "tidy"]


def test_what_is_overdue_is_looked_for_at_the_start_and_every_ten_minutes() -> None:
    async def scene(kept: Kept) -> None:
        await kept.passes(1)
        assert spared(kept) == [""]
        await kept.passes(590)
        assert spared(kept) == [""]
        await kept.passes(20)
        assert spared(kept) == [""] * 2
        await kept.passes(1200)
        assert spared(kept) == [""] * 4

    run(scene)


@pytest.mark.parametrize(
    ("in_use", "idle_for_s", "spares"),
    [(True, 5000, True), (False, 0, True), (False, 300, True), (False, 401, False), (False, 5000, False)],
    ids=["in use", "just used", "used", "idle", "idle for long"],
)
def test_the_instance_in_use_is_spared_and_one_that_is_idle_is_not(
    in_use: bool, idle_for_s: float, spares: bool
) -> None:
    async def scene(kept: Kept) -> None:
        await kept.passes(1)
        await kept.ready()
        kept.keeper.used(1)
        if not in_use:
            kept.keeper.used(-1)
        kept.loop.ahead += idle_for_s
        kept.keeper._tidy_due = kept.loop.time()
        await kept.passes(1)
        assert spared(kept) == ["", "an-id" if spares else ""]

    run(scene)


def test_an_instance_that_was_found_and_never_used_from_here_is_not_spared() -> None:
    async def scene(kept: Kept) -> None:
        await kept.keeper.there()
        await kept.passes(1)
        assert spared(kept) == [""]

    run(scene, Script(look=[place()]))


def test_while_one_is_woken_nothing_is_tidied_up_since_nobody_knows_yet_what_to_spare() -> None:
    async def scene(kept: Kept) -> None:
        kept.script.gate.clear()
        asking = kept.asks()
        await kept.until(lambda: kept.keeper.held, "it is held")
        await kept.passes(20)
        assert spared(kept) == []
        kept.script.gate.set()
        await asking
        kept.keeper.used(1)
        await kept.passes(1)
        assert spared(kept) == ["an-id"]

    run(scene, hold_s=900)


def test_a_pass_that_fails_fails_nothing_and_comes_again() -> None:
    async def scene(kept: Kept) -> None:
        await kept.passes(1201)
        assert len(spared(kept)) == 3

    run(scene, Script(tidy=[ExollamaError("Forbidden by role policy")]))


# -- an instance that others removed


def remembered(kept: Kept) -> tuple[str, bool]:
    return kept.keeper.state, kept.keeper.place is not None


@pytest.mark.parametrize("told", ["a record", "a pass", "a look at the status"])
@pytest.mark.parametrize(
    ("found", "state"),
    [(None, ("asleep", False)), (place(), ("ready", True)), (ExollamaError("The API is down."), ("ready", True))],
    ids=["gone", "there", "not known"],
)
def test_one_that_is_gone_is_dropped_as_soon_as_that_can_be_told(
    told: str, found: Place | Exception | None, state: tuple[str, bool]
) -> None:
    async def scene(kept: Kept) -> None:
        await kept.ready()
        if told == "a record":
            kept.script.written = False
            kept.keeper._tidy_due = math.inf
            kept.keeper.used(1)
            kept.keeper.used(-1)
        elif told == "a look at the status":
            kept.keeper._tidy_due = math.inf
            kept.keeper.looked_at()
        await kept.passes(1)
        assert remembered(kept) == state
        assert (kept.script.count("look"), kept.script.count("wake")) == (1, 1)
        assert kept.keeper.last_use > -math.inf or told != "a record", "looking is no use"

    run(scene, Script(look=[found]))


def test_however_often_somebody_looks_it_is_made_sure_of_twice_a_minute_at_most_and_no_look_waits() -> None:
    async def scene(kept: Kept) -> None:
        kept.keeper.looked_at()
        await kept.ready()
        kept.keeper._tidy_due = math.inf
        await kept.passes(60, between=kept.keeper.looked_at)
        assert kept.script.count("look") == 2
        kept.script.gate.clear()
        kept.loop.ahead += 60
        kept.keeper.looked_at()
        await kept.until(lambda: kept.script.count("look") == 3, "it is looked for")
        assert remembered(kept) == ("ready", True)

    run(scene, Script(look=[place()]))


def test_one_whose_use_began_while_it_was_looked_for_is_kept() -> None:
    async def scene(kept: Kept) -> None:
        pool = await kept.ready()
        kept.script.gate.clear()
        kept.keeper.looked_at()
        await kept.until(lambda: kept.script.count("look"), "it is looked for")
        kept.keeper.used(1)
        kept.script.gate.set()
        await kept.until(lambda: not kept.keeper._chores, "that is over")
        assert kept.keeper.pool is pool

    run(scene)


# -- the deadline


@pytest.mark.parametrize(
    ("left", "warned"),
    [
        (timedelta(hours=23), True),
        (timedelta(hours=-1), True),
        (timedelta(hours=25), False),
        (None, False),
    ],
)
def test_of_a_deadline_less_than_a_day_away_a_person_is_told_once(left: timedelta | None, warned: bool) -> None:
    deadline = None if left is None else datetime.now(UTC) + left

    async def scene(kept: Kept) -> None:
        await kept.ready()
        await kept.passes(30)
        told = [note for note in kept.notes if "reaches the end of its lifetime" in note]
        assert len(told) == warned
        if told:
            assert deadline
            assert f"{deadline:%Y-%m-%d %H:%M} UTC" in told[0]
            assert "the next use makes a fresh one" in told[0]

    run(scene, Script(wake=[place(deadline=deadline)]))


def test_of_another_instances_deadline_they_are_told_as_well() -> None:
    near = datetime.now(UTC) + timedelta(hours=1)

    async def scene(kept: Kept) -> None:
        kept.keeper.suspect(await kept.ready(), "before it was swept")
        for _ in range(2):
            pool = await kept.asks()
            await kept.passes(2)
            kept.keeper.suspect(pool, "it is gone")
            await asyncio.sleep(0)
        assert sum("reaches the end of its lifetime" in note for note in kept.notes) == 2

    run(scene, Script(wake=[place("a", deadline=near), place("a", deadline=near), place("b", deadline=near)]))
