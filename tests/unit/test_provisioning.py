"""The provision protocol over a fake zone: what is found is used, waited for, started or condemned."""

from datetime import timedelta
from typing import Any

import pytest

from client import labels
from client.errors import (
    Conflict,
    Denied,
    ExollamaError,
    KeyRejected,
    OperationFailed,
    Unanswered,
    Unreachable,
)
from tests.fakes import NOW, OTHER_NONCE, Machine, Run, World, a_day_old, label_map

LOST = Unanswered("POST", "/instance", "connection reset", sent=True)
BUSY = Conflict("PUT", "/instance/a", 409, "busy")


def stopped(activity_ago: timedelta, **given: str) -> Machine:
    return a_day_old(state="stopped", labels=label_map(activity=NOW - activity_ago, **{"action": "stop"} | given))


# -- found


def test_a_running_instance_is_touched_its_activity_written_and_returned() -> None:
    world = World(a_day_old())
    assert Run(world)().instance.id == "a"
    assert world.machines["a"].touches == 1
    assert world.machines["a"].labels[labels.ACTIVITY] == labels.time(NOW)
    assert world.deeds() == [("put_labels", "a")]
    names = [name for name, _ in world.calls]
    assert names.index("status") < names.index("touch") < names.index("put_labels")


def test_provisioning_twice_is_provisioning_once() -> None:
    world = World()
    first = Run(world)().instance.id
    assert Run(world)().instance.id == first
    assert len(world.machines) == 1


def test_a_booting_instance_is_waited_for() -> None:
    world = World(a_day_old(created=NOW, ready_at=120.0))
    assert Run(world)().instance.id == "a"
    assert 120 <= world.elapsed_s < 121
    assert not world.named("create_instance")


def test_without_waiting_a_found_instance_is_returned_at_once() -> None:
    world = World(a_day_old(ready_at=120.0))
    found = Run(world)(wait=False)
    assert found.instance.id == "a"
    assert found.status
    assert found.status["boot"]["phase"] == "model"
    assert world.elapsed_s == 0


def test_without_waiting_an_instance_whose_boot_failed_is_not_handed_out() -> None:
    world = World(a_day_old(failed="docker"))
    assert Run(world)(wait=False).instance.id != "a"


def test_without_waiting_an_instance_that_is_committed_to_going_is_not_handed_out() -> None:
    world = World(a_day_old(fence={"committed": True, "lease_s": 0.0}))
    assert Run(world)(wait=False).instance.id != "a"
    assert world.elapsed_s < 60


def test_an_instance_of_another_name_is_not_ours_to_take() -> None:
    world = World(a_day_old(labels=label_map(name="nother")))
    assert Run(world)().instance.id == "new-1"


def test_of_two_the_oldest_is_taken_and_the_other_left_to_the_reaper() -> None:
    world = World(a_day_old(id="young", created=NOW), a_day_old(id="old"))
    assert Run(world)().instance.id == "old"
    assert "young" in world.machines
    assert not world.named("delete_instance")


def test_a_label_write_that_fails_does_not_fail_the_run() -> None:
    world = World(a_day_old())
    world.fail("put_labels", *[BUSY] * 9)
    run = Run(world)
    assert run().instance.id == "a"
    assert any("activity label was not written" in note for note in run.notes)


# -- what is not ours to touch


@pytest.mark.parametrize("request_seen", [None, OTHER_NONCE], ids=["somebody else's", "another nonce"])
@pytest.mark.parametrize("state", ["running", "starting", "stopped"])
@pytest.mark.parametrize("wait", [True, False])
def test_one_whose_user_data_does_not_vouch_for_it_is_never_touched(
    state: str, request_seen: str | None, wait: bool
) -> None:
    machine = stopped(timedelta(hours=1))
    machine.state, machine.request = state, request_seen
    world = World(machine)
    assert Run(world)(wait=wait).instance.id == "new-1"
    assert machine.touches == 0
    assert [call for call in world.deeds() if call[1] == "a"] == []


# -- stopped


def test_a_stopped_instance_is_started_its_activity_written_first() -> None:
    world = World(stopped(timedelta(hours=5)))
    found = Run(world)()
    assert found.instance.id == "a"
    assert world.deeds() == [("put_labels", "a"), ("start_instance", "a")]
    assert found.instance.state == "running"


# Idle timeout 30 minutes, retention a day: kept until 24.5 hours after its activity, started until ten minutes before.
STOPPED = {
    "more than ten minutes of retention left": (stopped(timedelta(hours=24.5, minutes=-10, seconds=-1)), "a"),
    "ten minutes of retention left": (stopped(timedelta(hours=24.5, minutes=-10)), "new-1"),
    "retention past": (stopped(timedelta(hours=30)), "new-1"),
    "action destroy": (stopped(timedelta(hours=1), action="destroy"), "new-1"),
    "activity unreadable": (a_day_old(state="stopped", labels=label_map(action="stop", activity="x")), "new-1"),
    "past its deadline": (
        a_day_old(state="stopped", labels=label_map(action="stop", deadline=NOW - timedelta(minutes=1))),
        "new-1",
    ),
    "deadline at the beginning of time": (
        a_day_old(state="stopped", labels=label_map(action="stop", deadline="t00010101T000000Z")),
        "a",  # no such deadline was ever set: the default stands
    ),
    "deadline at the end of time": (
        a_day_old(state="stopped", labels=label_map(action="stop", deadline="t99991231T235959Z")),
        "a",
    ),
}


@pytest.mark.parametrize(("machine", "taken"), STOPPED.values(), ids=STOPPED)
def test_a_stopped_one_is_started_only_while_no_reaper_may_act_upon_it(machine: Machine, taken: str) -> None:
    world = World(Machine(**{name: getattr(machine, name) for name in machine.__dataclass_fields__}))
    assert Run(world)().instance.id == taken
    assert bool(world.named("start_instance")) is (taken == "a")
    assert not world.named("delete_instance")


def test_one_that_is_stopping_is_waited_for_and_started() -> None:
    machine = stopped(timedelta(hours=1))
    machine.state = "stopping"
    world = World(machine)
    world.at(30, lambda: setattr(machine, "state", "stopped"))
    assert Run(world)().instance.id == "a"
    assert world.elapsed_s >= 30


def test_a_start_whose_answer_was_lost_is_found_out() -> None:
    world = World(stopped(timedelta(hours=1)))
    world.fail("start_instance", LOST, after=True)
    assert Run(world)().instance.id == "a"
    assert len(world.named("start_instance")) == 1


def test_a_start_that_is_refused_is_told() -> None:
    world = World(stopped(timedelta(hours=1)))
    world.fail("start_instance", Denied("PUT", "/instance/a:start", 403, "Forbidden by role policy"))
    with pytest.raises(ExollamaError, match=r"cannot be started: PUT /instance/a:start: Forbidden.* `exollama stop`"):
        Run(world)()


def test_a_start_that_stays_busy_is_told() -> None:
    world = World(stopped(timedelta(hours=1)))
    world.fail("put_labels", *[OperationFailed("writing the labels", "failure", "busy", None)] * 9)
    with pytest.raises(OperationFailed, match="busy"):
        Run(world)()
    assert not world.named("start_instance")


def test_one_that_is_disowned_before_its_start_is_not_started() -> None:
    world = World(stopped(timedelta(hours=1)))
    looks = 0

    def disown() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:  # between the choice and the activity label
            world.machines["a"].labels = {}

    world.before["list_instances"] = disown
    assert Run(world)().instance.id == "new-1"
    assert not world.named("start_instance")


# -- fenced


def test_a_fence_is_waited_out() -> None:
    world = World(a_day_old(fence={"lease_s": 60.0, "committed": False}))
    world.at(60, lambda: setattr(world.machines["a"], "fence", None))
    assert Run(world)().instance.id == "a"
    assert 60 <= world.elapsed_s < 70


def test_a_committed_fence_condemns_and_a_new_one_is_made() -> None:
    world = World(a_day_old(fence={"lease_s": 60.0, "committed": True}))
    assert Run(world)().instance.id == "new-1"
    assert "a" in world.machines  # its reaper's


def test_a_fence_that_is_committed_while_it_is_waited_for_condemns() -> None:
    world = World(a_day_old(fence={"lease_s": 60.0, "committed": False}))
    world.at(20, lambda: setattr(world.machines["a"], "fence", {"lease_s": 60.0, "committed": True}))
    assert Run(world)().instance.id == "new-1"
    assert 20 <= world.elapsed_s < 30


# -- condemned


@pytest.mark.parametrize(
    "changes",
    [{"state": "error"}, {"failed": "docker"}, {"ready_at": 1e9}, {"state": "destroying"}],
    ids=["error", "failed boot", "boot timed out", "going"],
)
def test_one_that_is_of_no_use_is_left_to_the_reaper_and_a_new_one_is_made(changes: dict[str, Any]) -> None:
    world = World(a_day_old(**changes))
    assert Run(world)().instance.id == "new-1"
    assert world.elapsed_s < 60
    assert not world.named("delete_instance")


def test_one_that_runs_but_cannot_be_reached_is_told_and_no_second_one_paid_for() -> None:
    world = World(a_day_old(reachable=False))
    with pytest.raises(Unreachable, match="port 11435 cannot be reached from here"):
        Run(world)()
    assert world.deeds() == []


def test_a_wrong_key_ends_the_run_and_nothing_is_made() -> None:
    world = World(a_day_old())
    world.fail("status", KeyRejected("401"))
    with pytest.raises(KeyRejected):
        Run(world)()
    assert world.deeds() == []


def test_one_that_is_deleted_by_hand_while_it_is_waited_for_is_replaced() -> None:
    world = World(a_day_old(created=NOW, ready_at=600.0))
    world.at(15, lambda: world.machines.pop("a"))
    assert Run(world)().instance.id == "new-1"
    assert world.elapsed_s < 60
