"""Destroying and stopping: looked up before it is asked for again, done when the API says so, refused or unknown."""

from typing import Any

import pytest

from client.errors import ApiError, ClockError, Conflict, Denied, ExollamaError, NotFound
from client.model import Instance
from functions.deeds import CONFIRM_S, LOST_S, Refused, destroy, stop
from tests.fakes import World
from tests.reaping import BUSY, DENIED, LOST, UNSENT, idle


def listed(world: World) -> Instance:
    return world.get_instance("a")


def test_a_destruction_whose_answer_was_lost_is_looked_up_and_not_repeated() -> None:
    world = World(idle())
    world.fail("delete_instance", LOST, after=True)
    destroy(world, listed(world))
    assert len(world.named("delete_instance")) == 1


def test_a_destruction_that_did_not_happen_is_repeated_once_after_reading_the_instance_again() -> None:
    world = World(idle())
    world.fail("delete_instance", LOST)
    destroy(world, listed(world))
    between = [name for name, _ in world.calls[world.calls.index(("delete_instance", "a")) + 1 :]]
    assert between[0] == "get_instance"
    assert between.count("delete_instance") == 1
    assert world.machines == {}


def test_a_destruction_that_goes_on_failing_is_given_up_after_the_second() -> None:
    world = World(idle())
    world.fail("delete_instance", *[ApiError("DELETE", "/instance/a", 500, "broken")] * 9)
    with pytest.raises(ExollamaError, match="broken"):
        destroy(world, listed(world))
    assert len(world.named("delete_instance")) == 2


@pytest.mark.parametrize("refusal", [BUSY, DENIED], ids=["409", "403"])
def test_a_definite_refusal_is_reported_in_its_words_with_what_may_be_behind_it_and_not_repeated(
    refusal: Exception,
) -> None:
    world = World(idle())
    world.fail("delete_instance", refusal)
    with pytest.raises(ExollamaError, match=r"It still runs and costs\. Delete protection") as told:
        destroy(world, listed(world))
    assert str(refusal) in str(told.value)
    assert len(world.named("delete_instance")) == 1


def test_one_that_is_gone_already_is_destroyed() -> None:
    world = World(idle())
    instance = listed(world)
    world.machines.clear()
    destroy(world, instance)
    assert len(world.named("delete_instance")) == 1


@pytest.mark.parametrize("state", ["destroying", "destroyed", "expunging"])
def test_one_that_is_irrevocably_going_is_gone(state: str) -> None:
    world = World(idle())
    world.operations["delete_instance"] = {"id": "op", "state": "pending"}
    world.at(20, lambda: setattr(world.machines["a"], "state", state))
    destroy(world, listed(world))
    assert 20 <= world.elapsed_s < 30


def test_one_that_stays_though_its_destruction_was_accepted_is_reported_after_a_bounded_time() -> None:
    world = World(idle())
    world.operations["delete_instance"] = {"id": "op", "state": "pending"}
    with pytest.raises(ExollamaError, match="destruction of a"):
        destroy(world, listed(world))
    assert CONFIRM_S <= world.elapsed_s <= CONFIRM_S + 60
    assert len(world.named("delete_instance")) == 1


@pytest.mark.parametrize("told", [{"reason": "conflict"}, {}], ids=["with a reason", "without a reason"])
@pytest.mark.parametrize("deed", ["delete_instance", "stop_instance"])
def test_an_operation_that_failed_is_reported_as_that_and_not_waited_for(deed: str, told: dict[str, Any]) -> None:
    world = World(idle())
    world.operations[deed] = {"id": "op", "state": "failure"} | told
    with pytest.raises(ExollamaError, match=told.get("reason", "no reason given")):
        (destroy if deed == "delete_instance" else stop)(world, listed(world))
    assert world.elapsed_s < 60


def test_a_destruction_whose_answer_was_lost_is_not_repeated_where_the_instance_cannot_be_read_again() -> None:
    world = World(idle())
    world.fail("delete_instance", LOST)
    instance = listed(world)
    world.fail("get_instance", *[ApiError("GET", "/instance/a", 500, "broken")] * 9)
    with pytest.raises(ExollamaError, match="was not answered") as told:
        destroy(world, instance)
    assert not isinstance(told.value, Refused)  # it may be carried out yet, so nothing is opened again
    assert len(world.named("delete_instance")) == 1


def test_an_operation_that_cannot_be_read_is_no_failure_where_the_instance_is_gone() -> None:
    world = World(idle())
    world.fail("wait", ApiError("GET", "/operation/op", 200, "the answer is no JSON object"))
    destroy(world, listed(world))
    assert world.machines == {}


def test_a_stop_whose_answer_was_lost_is_looked_up_and_not_repeated() -> None:
    world = World(idle())
    world.fail("stop_instance", LOST, after=True)
    stop(world, listed(world))
    assert len(world.named("stop_instance")) == 1


def test_a_stop_whose_answer_was_lost_and_that_takes_its_time_is_waited_for_and_not_repeated() -> None:
    world = World(idle())
    world.operations["stop_instance"] = {"id": "op", "state": "pending"}
    world.before["stop_instance"] = lambda: setattr(world.machines["a"], "state", "stopping")
    world.fail("stop_instance", LOST, after=True)
    world.at(25, lambda: setattr(world.machines["a"], "state", "stopped"))
    stop(world, world.list_instances()[0])
    assert len(world.named("stop_instance")) == 1
    assert 25 <= world.elapsed_s < 35


def test_a_stop_that_did_not_happen_is_repeated_once() -> None:
    world = World(idle())
    world.fail("stop_instance", LOST)
    stop(world, listed(world))
    assert len(world.named("stop_instance")) == 2


def test_stopping_what_is_stopped_already_is_no_failure() -> None:
    world = World(idle(state="stopped"))
    world.fail("stop_instance", ApiError("PUT", "/instance/a:stop", 400, "Only running instances can be stopped"))
    stop(world, listed(world))
    assert len(world.named("stop_instance")) == 1


def test_a_deed_that_does_not_happen_is_told_with_why_its_operation_could_not_be_read() -> None:
    world = World(idle())
    world.operations["delete_instance"] = {"id": "op", "state": "pending"}
    world.fail("wait", Denied("GET", "/operation/op", 403, "add get-operation to its policy."))
    with pytest.raises(ExollamaError, match=r"has not happened.*Why is not known: .*add get-operation to its policy"):
        destroy(world, listed(world))


def test_a_refused_stop_is_not_repeated() -> None:
    world = World(idle())
    world.fail("stop_instance", DENIED)
    with pytest.raises(ExollamaError, match="Forbidden by role policy"):
        stop(world, listed(world))
    assert len(world.named("stop_instance")) == 1


def test_a_stop_that_takes_its_time_is_waited_for_and_one_that_never_ends_is_reported() -> None:
    world = World(idle())
    world.operations["stop_instance"] = {"id": "op", "state": "pending"}
    world.at(500, lambda: setattr(world.machines["a"], "state", "stopped"))
    stop(world, listed(world))
    assert 500 <= world.elapsed_s < 510
    world.machines["a"].state = "stopping"
    with pytest.raises(ExollamaError, match="stopping of a"):
        stop(world, listed(world))


# -- refused for certain, or nobody knows

BROKEN = ApiError("DELETE", "/instance/a", 500, "broken")
REJECTED = ApiError("DELETE", "/instance/a", 400, "no such thing")
SLOW_DOWN = ApiError("DELETE", "/instance/a", 429, "slow down")
CLOCK = ClockError("the clock is 1:00:00 behind")

ANSWERS: dict[str, tuple[list[Exception], bool, int]] = {
    "409": ([BUSY], True, 1),
    "412": ([Conflict("DELETE", "/instance/a", 412, "not so")], True, 1),
    "403": ([DENIED], True, 1),
    "400": ([REJECTED], True, 1),
    "429 to the end": ([SLOW_DOWN], True, 1),
    "a wrong clock": ([CLOCK], True, 1),
    "never sent": ([UNSENT, UNSENT], True, 2),
    "never sent, then refused": ([UNSENT, DENIED], True, 2),
    "lost twice": ([LOST, LOST], False, 2),
    "500 twice": ([BROKEN, BROKEN], False, 2),
    "lost, then refused": ([LOST, BUSY], False, 2),
    "500, then never sent": ([BROKEN, UNSENT], False, 2),
    "never sent, then lost": ([UNSENT, LOST], False, 2),
    "lost, then a wrong clock": ([LOST, CLOCK], False, 2),
}


@pytest.mark.parametrize(("answers", "certain", "asked"), ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("deed", ["delete_instance", "stop_instance"])
def test_only_what_no_attempt_can_have_done_is_refused_for_certain(
    deed: str, answers: list[Exception], certain: bool, asked: int
) -> None:
    world = World(idle())
    world.fail(deed, *answers)
    with pytest.raises(ExollamaError, match="still runs and costs") as told:
        (destroy if deed == "delete_instance" else stop)(world, listed(world))
    assert isinstance(told.value, Refused) is certain
    assert len(world.named(deed)) == asked
    assert world.machines["a"].state == "running"


OPERATIONS: dict[str, tuple[dict[str, Any], bool]] = {
    **{reason: ({"reason": reason}, True) for reason in "busy conflict forbidden incorrect unsupported".split()},
    **{reason: ({"reason": reason}, False) for reason in "fault partial interrupted unavailable unknown".split()},
    "no reason": ({}, False),
    "timed out, busy": ({"state": "timeout", "reason": "busy"}, False),
    "timed out": ({"state": "timeout"}, False),
    "without an end": ({"state": "pending"}, False),
}


@pytest.mark.parametrize(("told", "certain"), OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_that_failed_is_a_refusal_only_for_a_reason_with_which_nothing_was_done(
    told: dict[str, Any], certain: bool
) -> None:
    world = World(idle())
    world.operations["delete_instance"] = {"id": "op", "state": "failure"} | told
    with pytest.raises(ExollamaError, match="look at a in the portal") as error:
        destroy(world, listed(world))
    assert isinstance(error.value, Refused) is certain
    assert len(world.named("delete_instance")) == 1


@pytest.mark.parametrize("reason", ["busy", "fault"])
def test_an_operation_that_failed_on_what_is_gone_all_the_same_is_no_failure(reason: str) -> None:
    world = World(idle())
    instance = listed(world)
    world.operations["delete_instance"] = {"id": "op", "state": "failure", "reason": reason}
    world.before["wait"] = world.machines.clear
    destroy(world, instance)


def test_a_refusal_is_one_though_the_instance_cannot_be_read_again() -> None:
    world = World(idle())
    instance = listed(world)
    world.operations["delete_instance"] = {"id": "op", "state": "failure", "reason": "busy"}
    world.fail("get_instance", ApiError("GET", "/instance/a", 500, "broken"))
    with pytest.raises(Refused, match="busy"):
        destroy(world, instance)


def test_a_deed_whose_answer_was_lost_is_given_a_while_to_show_and_never_asked_for_twice_then() -> None:
    world = World(idle())
    instance = listed(world)
    world.operations["delete_instance"] = {"id": "op", "state": "pending"}
    world.fail("delete_instance", LOST, after=True)
    world.at(LOST_S - 1, world.machines.clear)
    destroy(world, instance)
    assert len(world.named("delete_instance")) == 1


def test_what_vanished_between_the_reading_and_the_deed_needs_no_second_one() -> None:
    world = World(idle())
    instance = listed(world)
    world.fail("delete_instance", NotFound("DELETE", "/instance/a", 404, "Not Found"))
    world.before["delete_instance"] = world.machines.clear
    destroy(world, instance)
    assert len(world.named("delete_instance")) == 1
