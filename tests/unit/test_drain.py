"""The fence, step by step: what keeps an instance under it, what lifts it, what reopens a committed one, what does not.

Whatever happens before the commit ends with the fence lifted; after it only a certain refusal of the deed reopens.
"""

import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from client.errors import ApiError, ClockError, Conflict, NotFound, Unreachable
from client.model import Instance
from client.settings import Secret
from functions.policy import Decision, Gate, Verb
from functions.protocol import Outcome, drain
from tests.fakes import KEY, NOW, OTHER_NONCE, Machine, World, label_map
from tests.reaping import BUSY, DENIED, IDLE, LOST, UNSENT, idle, reap

OTHER = "f" * 32
SILENT = Unreachable("https://a:11435 gave no answer.")
BROKEN = ApiError("DELETE", "/instance/a", 500, "broken")
STEPS = ["get_instance", "status", "fence", "status", "get_instance", "commit"]
Change = Callable[[Machine], object]


def steps(world: World) -> list[str]:
    """What was asked for, without waiting."""
    return [name for name, _ in world.calls if name != "wait"]


def fenced(world: World, call: str, do: Change) -> None:
    """Have something happen before a call of that name, once the fence is up."""

    def hook() -> None:
        if "fence" in steps(world):
            do(world.machines["a"])

    world.before[call] = hook


def lifted(world: World) -> bool:
    """Whether the fence was lifted, and nothing else was changed."""
    machine = world.machines["a"]
    return machine.fence is None and steps(world)[-1] == "unfence" and world.deeds() == []


# -- before the fence


def test_one_that_another_reaper_fenced_in_between_is_kept_and_its_fence_left_alone() -> None:
    world = World(idle())
    theirs = {"owner": OTHER, "committed": False, "lease_s": 120.0}
    world.before["fence"] = lambda: setattr(world.machines["a"], "fence", theirs)
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("kept", "fenced: another reaper, or its own watchdog, is at it")
    assert world.machines["a"].fence == theirs
    assert steps(world) == STEPS[:3]


@pytest.mark.parametrize("request_seen", [None, OTHER_NONCE], ids=["somebody else's", "another nonce"])
def test_what_is_not_vouched_for_is_not_even_fenced(request_seen: str | None) -> None:
    world = World(idle(request=request_seen))
    assert reap(world, key=Secret(KEY)).outcome == "failed"
    assert steps(world) == STEPS[:2]


def test_a_dry_run_fences_nothing() -> None:
    world = World(idle())
    assert reap(world, dry_run=True).outcome == "planned"
    assert world.named("fence", "commit", "unfence") == []
    assert world.machines["a"].fence is None


def test_where_the_instance_may_not_be_read_nothing_is_fenced_and_that_is_reported() -> None:
    world = World(idle())
    world.fail("get_instance", DENIED, DENIED)
    outcome = reap(world, key=Secret(KEY))
    assert (outcome.outcome, outcome.reason) == ("failed", str(DENIED))
    assert steps(world) == ["get_instance", "status", "get_instance"]


def test_each_attempt_is_another_owner() -> None:
    world = World(idle())
    owners: list[str] = []
    fenced(world, "commit", lambda m: owners.append(m.fence["owner"]) if m.fence else None)
    for _ in range(2):
        world.fail("commit", SILENT)
        reap(world)
    first, second = owners
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert re.fullmatch(r"[0-9a-f]{32}", second)
    assert first != second


# -- under the fence


UNDER: dict[str, tuple[str, Change, str, str]] = {
    "touched before the fence": ("fence", lambda m: setattr(m, "idle_s", 1.0), "kept", "as it says itself"),
    "a request before the fence": ("fence", lambda m: setattr(m, "in_flight", 2), "kept", "2 request(s) in flight"),
    "a request seen by the commit": (
        "commit",
        lambda m: setattr(m, "in_flight", 1),
        "kept",
        "not committed: 1 in flight",
    ),
    "a touch seen by the commit": (
        "commit",
        lambda m: setattr(m, "touches", 1),
        "kept",
        "not committed: 0 in",
    ),
    "a newer label": ("get_instance", lambda m: m.labels.update(label_map(activity=NOW)), "kept", "labels or its"),
    "a foreign label": ("get_instance", lambda m: m.labels.update(team="seven"), "kept", "labels or its state changed"),
    "a later deadline": ("get_instance", lambda m: m.labels.update({"exollama-deadline": "none"}), "kept", "labels or"),
    "another state": ("get_instance", lambda m: setattr(m, "state", "migrating"), "kept", "labels or its state"),
    "going": ("get_instance", lambda m: setattr(m, "state", "destroying"), "kept", "already destroying"),
    "disowned": ("get_instance", lambda m: m.labels.clear(), "kept", "labels or its state changed"),
    "a pool's": ("get_instance", lambda m: setattr(m, "managed", True), "failed", "left alone"),
    "another nonce": ("get_instance", lambda m: setattr(m, "request", OTHER_NONCE), "failed", "left alone"),
    "not our user-data": ("get_instance", lambda m: setattr(m, "request", None), "failed", "left alone"),
}


@pytest.mark.parametrize(("call", "change", "outcome", "words"), UNDER.values(), ids=UNDER)
@pytest.mark.parametrize("action", ["destroy", "stop"])
def test_what_turns_up_before_the_commit_lifts_the_fence_and_changes_nothing(
    call: str, change: Change, outcome: str, words: str, action: str
) -> None:
    world = World(idle(labels=label_map(activity=IDLE, action=action)))
    if call == "fence":
        world.before["fence"] = lambda: change(world.machines["a"])
    else:
        fenced(world, call, change)
    told = reap(world)
    assert told.outcome == outcome
    assert words in told.reason
    if world.machines["a"].state == "running":
        assert lifted(world)
    else:  # nothing answers any more, but it was tried
        assert steps(world)[-1] == "unfence"
        assert world.deeds() == []


def test_what_is_deleted_by_hand_under_the_fence_is_no_failure() -> None:
    world = World(idle())
    fenced(world, "get_instance", lambda _: world.machines.clear())
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("kept", "gone meanwhile")
    assert world.deeds() == []


def test_a_lease_that_ran_out_and_is_anothers_now_is_not_committed_and_not_lifted() -> None:
    world = World(idle())
    theirs = {"owner": OTHER, "committed": False, "lease_s": 120.0, "mark": 0}
    world.before["commit"] = lambda: setattr(world.machines["a"], "fence", theirs)
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("kept", "not committed: no lease stands")
    assert world.machines["a"].fence == theirs
    assert world.deeds() == []


# -- answers that are lost on the way


@pytest.mark.parametrize("after", [False, True], ids=["before the deed", "after the deed"])
@pytest.mark.parametrize("call", ["fence", "commit"])
def test_a_lost_answer_of_the_fence_or_the_commit_is_reported_and_the_fence_lifted(call: str, after: bool) -> None:
    world = World(idle())
    world.fail(call, SILENT, after=after)
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("failed", str(SILENT))
    assert lifted(world)


@pytest.mark.parametrize("error", [BROKEN, DENIED, ClockError("clock is 1:00:00 behind"), LOST], ids=str)
def test_where_it_cannot_be_read_again_that_is_reported_and_the_fence_lifted(error: Exception) -> None:
    world = World(idle())
    fenced(world, "get_instance", lambda _: world.fail("get_instance", error))
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("failed", str(error))
    assert lifted(world)


def test_where_it_does_not_answer_under_the_fence_that_is_reported_and_the_fence_lifted() -> None:
    world = World(idle())
    fenced(world, "status", lambda _: world.fail("status", SILENT))
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("failed", str(SILENT))
    assert lifted(world)


@pytest.mark.parametrize(("after", "stands"), [(False, True), (True, False)], ids=["before", "after"])
def test_a_lost_answer_of_the_lifting_changes_nothing_of_the_outcome(after: bool, stands: bool) -> None:
    world = World(idle())
    fenced(world, "commit", lambda m: setattr(m, "in_flight", 1))
    world.fail("unfence", SILENT, SILENT, after=after)
    outcome = reap(world)
    assert (outcome.outcome, outcome.reason) == ("kept", "not committed: 1 in flight, or touched")
    assert len(world.named("unfence")) == 2
    assert bool(world.machines["a"].fence) is stands  # then its lease runs out


def test_a_fence_that_was_not_lifted_is_lifted_once_more() -> None:
    world = World(idle())
    world.fail("delete_instance", BUSY)
    world.fail("unfence", SILENT)
    assert reap(world).outcome == "failed"
    assert len(world.named("unfence")) == 2
    assert world.machines["a"].fence is None


# -- after the commit


DEEDS: dict[str, tuple[list[Exception], dict[str, Any] | None, bool]] = {
    "403": ([DENIED], None, True),
    "409": ([Conflict("DELETE", "/instance/a", 409, "busy")], None, True),
    "delete protection": ([BUSY], None, True),
    "a wrong clock": ([ClockError("the clock is 1:00:00 behind")], None, True),
    "never sent": ([UNSENT, UNSENT], None, True),
    "busy": ([], {"state": "failure", "reason": "busy"}, True),
    "forbidden": ([], {"state": "failure", "reason": "forbidden"}, True),
    "conflict": ([], {"state": "failure", "reason": "conflict"}, True),
    "500": ([BROKEN, BROKEN], None, False),
    "lost": ([LOST, LOST], None, False),
    "lost, then refused": ([LOST, BUSY], None, False),
    "fault": ([], {"state": "failure", "reason": "fault"}, False),
    "no reason": ([], {"state": "failure"}, False),
    "timed out": ([], {"state": "timeout", "reason": "busy"}, False),
    "without an end": ([], {"state": "pending"}, False),
}


@pytest.mark.parametrize(("answers", "operation", "reopened"), DEEDS.values(), ids=DEEDS)
@pytest.mark.parametrize("deed", ["delete_instance", "stop_instance"])
def test_a_committed_one_is_reopened_after_a_certain_refusal_only_and_either_is_reported(
    answers: list[Exception], operation: dict[str, Any] | None, reopened: bool, deed: str
) -> None:
    action = "stop" if deed == "stop_instance" else "destroy"
    world = World(idle(labels=label_map(activity=IDLE, action=action)))
    world.fail(deed, *answers)
    if operation:
        world.operations[deed] = operation
    outcome = reap(world)
    assert outcome.outcome == "failed"
    assert "the portal" in outcome.reason or "still runs and costs" in outcome.reason
    assert steps(world)[: len(STEPS)] == STEPS
    fence = world.machines["a"].fence
    if reopened:
        assert fence is None
        assert steps(world)[-1] == "unfence"
    else:  # shut, until it powers itself off
        assert fence
        assert fence["committed"]
        assert world.named("unfence") == []


def test_a_deed_that_is_done_lifts_nothing() -> None:
    world = World(idle(labels=label_map(activity=IDLE, action="stop")))
    assert reap(world).outcome == "stopped"
    assert world.named("unfence") == []


def test_a_deed_whose_answer_was_lost_but_shows_is_done() -> None:
    world = World(idle())
    world.fail("delete_instance", LOST, after=True)
    assert reap(world).outcome == "destroyed"
    assert world.named("unfence") == []


def test_a_committed_one_that_somebody_deletes_first_is_destroyed() -> None:
    world = World(idle())
    world.before["delete_instance"] = world.machines.clear
    world.fail("delete_instance", NotFound("DELETE", "/instance/a", 404, "Not Found"))
    assert reap(world).outcome == "destroyed"


def test_one_that_is_gone_under_its_fence_is_tried_to_be_opened_without_alarm(caplog: pytest.LogCaptureFixture) -> None:
    world = World(idle())

    def go() -> None:
        if world.machines["a"].fence:
            world.machines.clear()

    world.before["get_instance"] = go
    assert reap(world).reason == "gone meanwhile"
    assert len(world.named("unfence")) == 1, "another may have its address and key by now"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- Ctrl-C


@pytest.mark.parametrize(("call", "shut"), [(step, False) for step in STEPS[2:]] + [("delete_instance", True)])
def test_an_interruption_lifts_the_fence_until_the_deed_was_asked_for(call: str, shut: bool) -> None:
    world = World(idle())

    def interrupt(_: Machine) -> None:
        raise KeyboardInterrupt

    fenced(world, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        reap(world)
    fence = world.machines["a"].fence
    assert bool(fence and fence["committed"]) is shut
    assert shut or lifted(world)


# -- what needs no fence, and what does


HOUR = timedelta(hours=1)
FENCED: dict[str, tuple[Machine, Gate]] = {
    "idle": (idle(), Gate.COMMIT),
    "past its deadline": (idle(labels=label_map(deadline=NOW), idle_s=1.0), Gate.COMMIT),
    "a second before the end of the grace": (
        idle(labels=label_map(deadline=NOW - HOUR + timedelta(seconds=1)), idle_s=1.0),
        Gate.COMMIT,
    ),
    "at the end of the grace": (idle(labels=label_map(deadline=NOW - HOUR), idle_s=1.0), Gate.NONE),
    "past the grace, in use": (idle(labels=label_map(deadline=NOW - 2 * HOUR), in_flight=3), Gate.NONE),
    "a failed boot": (idle(failed="docker"), Gate.FENCE),
    "a boot without an end": (idle(ready_at=1e9), Gate.FENCE),
    "silent": (idle(reachable=False), Gate.NONE),
}


@pytest.mark.parametrize(("machine", "gate"), FENCED.values(), ids=FENCED)
def test_what_serves_has_to_commit_what_never_did_is_shut_first_and_what_is_past_its_grace_just_goes(
    machine: Machine, gate: Gate
) -> None:
    world = World(Machine(**{name: getattr(machine, name) for name in machine.__dataclass_fields__}))
    assert reap(world).outcome == "destroyed"
    passed = {Gate.NONE: [], Gate.FENCE: ["fence"], Gate.COMMIT: ["fence", "commit"]}
    assert [name for name, _ in world.named("fence", "commit")] == passed[gate]


def test_a_boot_that_gets_through_while_it_is_shut_is_opened_again() -> None:
    world = World(idle(ready_at=1e9, idle_s=0.0))
    world.before["fence"] = lambda: setattr(world.machines["a"], "ready_at", 0.0)
    assert reap(world).outcome == "kept"
    assert lifted(world)
    assert world.deeds() == []


def test_past_its_deadline_a_request_that_began_before_the_fence_is_waited_for_within_the_grace() -> None:
    world = World(idle(labels=label_map(deadline=NOW)))
    world.before["fence"] = lambda: setattr(world.machines["a"], "in_flight", 1)
    outcome = reap(world)
    assert outcome.outcome == "kept"
    assert "hour of grace" in outcome.reason
    assert lifted(world)


# -- whoever judges


def judged(world: World, judge: Callable[[dict[str, Any]], Decision]) -> Outcome:
    """Drained by a judge of its own, as `stop` does."""
    instance: Instance = world.get_instance("a")
    return drain(world, world.connect(instance, Secret(KEY)), instance, judge)


def test_the_judge_sees_the_status_without_the_fence_that_was_just_put_up() -> None:
    world = World(idle())
    shown: list[Any] = []

    def judge(status: dict[str, Any]) -> Decision:
        shown.append(status["fence"])
        return Decision(Verb.DESTROY, "as asked")

    assert judged(world, judge).outcome == "destroyed"
    assert shown == [None]


def test_a_judge_that_breaks_lifts_the_fence() -> None:
    world = World(idle())

    def judge(_: dict[str, Any]) -> Decision:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judged(world, judge)
    assert lifted(world)
