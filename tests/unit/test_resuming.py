"""Provisioning in many short runs, as a function that is asked until it is ready: each goes on where one ended."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from client.errors import (
    BootFailed,
    Conflict,
    ExollamaError,
    NotFound,
    OperationFailed,
    OutOfTime,
    Unreachable,
    Vanished,
)
from functions.budget import Budget
from tests.fakes import NOW, Machine, Run, World, a_day_old, label_map

TOTAL_S, PATIENCE_S, ASKED_EVERY_S = 24.0, 2.0, 5.0


class Slow(World):
    """A world whose operations take their time, by the call that began them."""

    def __init__(self, *machines: Machine, **takes_s: float) -> None:
        super().__init__(*machines)
        self.takes_s = takes_s
        self.fails: dict[str, str] = {}

    def _operation(self, call: str, instance_id: str) -> Mapping[str, Any]:
        return {**super()._operation(call, instance_id), "call": call, "until": self.elapsed_s + self.takes(call)}

    def takes(self, call: str) -> float:
        return self.takes_s.get(call, 0.0)

    def delete_instance(self, instance_id: str) -> Mapping[str, Any]:
        machine = self.machines.get(instance_id)
        operation = super().delete_instance(instance_id)
        if machine and self.takes("delete_instance"):
            machine.state = "destroying"
            self.machines[instance_id] = machine
            self.at(operation["until"], lambda: self.machines.pop(instance_id, None))
        return operation

    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]:
        while self.elapsed_s < operation["until"]:
            self.sleep(1.0)
        if why := self.fails.get(operation["call"]):
            self.machines.pop(operation["reference"]["id"], None)
            raise OperationFailed(what, "failure", why, None)
        return super().wait(operation, what, timeout_s)


class Asked:
    """A world that is asked again and again, each time with two seconds of patience."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._sleep = world.sleep

    def once(self) -> str | None:
        """The id that is ready, or None where it was not waited for."""
        budget = Budget(TOTAL_S, sleep=self._sleep, monotonic=self.world.monotonic)
        self.world.sleep = budget.sleep
        run = Run(self.world, patience_s=PATIENCE_S)
        try:
            return run().instance.id
        except OutOfTime:
            return None
        finally:
            self.world.sleep = self._sleep

    def until_ready(self, most: int = 99) -> str:
        for _ in range(most):
            if ready := self.once():
                return ready
            self.world.sleep(ASKED_EVERY_S)
        raise AssertionError(f"not ready after {most} runs")

    def polled(self, times: int) -> list[str]:
        """What it was told in so many runs, whatever that was."""
        told = []
        for _ in range(times):
            try:
                told.append(self.once() or "202")
            except ExollamaError as error:
                told.append(str(error))
            self.world.sleep(ASKED_EVERY_S)
        return told


def test_however_often_it_is_asked_one_instance_is_made_and_handed_out_once_ready() -> None:
    world = World()
    world.new = {"ready_at": 200.0}
    assert Asked(world).until_ready() == "new-1"
    assert len(world.named("create_instance")) == 1
    assert 200 <= world.elapsed_s < 215
    assert world.machines["new-1"].touches == 1, "asking during the boot is no use of it"


def test_a_run_waits_no_longer_than_its_patience() -> None:
    world = World(a_day_old(created=NOW, ready_at=600.0))
    assert Asked(world).once() is None
    assert PATIENCE_S <= world.elapsed_s <= PATIENCE_S + 1


def test_a_failed_boot_is_told_once_and_ended_and_the_next_run_makes_another() -> None:
    world = World()
    world.new = {"failed": "docker", "ready_at": 20.0}
    asked = Asked(world)
    with pytest.raises(BootFailed, match=r"(?s)phase docker: it broke.*was destroyed\. Asking again makes another"):
        asked.until_ready()
    assert world.machines == {}
    world.new = {}
    assert asked.until_ready() == "new-2"


def test_a_failed_boot_whose_end_takes_its_time_is_told_all_the_same() -> None:
    world = Slow(delete_instance=60.0)
    world.new = {"failed": "docker", "ready_at": 20.0}
    with pytest.raises(BootFailed, match=r"(?s)phase docker: it broke.*is being destroyed\. Asking again"):
        Asked(world).until_ready()
    assert len(world.named("create_instance")) == 1


def test_a_boot_that_never_ends_is_told_and_ended_once_its_time_is_over() -> None:
    world = World(a_day_old(created=NOW, ready_at=1e9, labels=label_map(boot="s60")))
    with pytest.raises(BootFailed, match=r"(?s)last seen in phase model.*was destroyed"):
        Asked(world).until_ready()
    assert 60 <= world.elapsed_s < 90
    assert world.machines == {}


@pytest.mark.parametrize(
    ("becomes", "words"), [("error", "is in state error soon after"), ("stopped", "is off soon after it was made")]
)
def test_an_instance_that_breaks_in_its_boot_is_told_and_ended_each_time(becomes: str, words: str) -> None:
    world = World()
    world.new = {"ready_at": 1e9}
    asked = Asked(world)
    assert asked.once() is None
    for number in (1, 2):
        world.machines[f"new-{number}"].state = becomes
        with pytest.raises(BootFailed, match=rf"Instance new-{number} {words}.*was destroyed\. Asking again"):
            asked.once()
        assert world.machines == {}
        assert asked.once() is None
    assert len(world.named("create_instance")) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "error", "created": NOW - timedelta(hours=1)},
        {"state": "stopped", "created": NOW - timedelta(hours=1)},
        {"state": "stopped", "created": NOW, "labels": label_map(action="stop", activity=NOW - timedelta(days=2))},
        # It may have been used and have powered itself off: 60 s idle, and the watchdog's 10 minutes.
        {"state": "stopped", "created": NOW - timedelta(minutes=20), "labels": label_map(idle="s60")},
    ],
    ids=["error", "stopped", "stopped, its disk kept", "stopped, of a short idle timeout"],
)
def test_one_that_may_have_been_ready_once_is_left_to_the_reaper_and_replaced(changes: dict[str, Any]) -> None:
    world = World(a_day_old(**changes))
    assert Asked(world).until_ready() == "new-1"
    assert "a" in world.machines


@pytest.mark.parametrize("state", ["error", "stopped"])
def test_one_that_broke_is_in_nobodys_way_where_another_is_ready(state: str) -> None:
    world = World(
        Machine(id="broken", state=state, created=NOW - timedelta(minutes=5)),
        Machine(id="good", created=NOW - timedelta(minutes=1)),
    )
    assert Asked(world).once() == "good"
    assert "broken" in world.machines


@pytest.mark.parametrize("obstacle", ["protected", "somebody else's"])
def test_one_that_broke_and_cannot_be_ended_is_in_nobodys_way(obstacle: str) -> None:
    world = World(Machine(id="broken", state="error"))
    if obstacle == "protected":
        world.fail("delete_instance", *[Conflict("DELETE", "/instance/broken", 409, "protected")] * 9)
    else:
        world.machines["broken"].request = None
    assert Asked(world).until_ready() == "new-1"
    assert "broken" in world.machines


def test_a_failed_boot_that_may_not_be_ended_is_told_with_both_reasons() -> None:
    world = World(a_day_old(failed="docker", created=NOW))
    world.fail("delete_instance", *[Conflict("DELETE", "/instance/a", 409, "protected")] * 9)
    with pytest.raises(BootFailed, match=r"(?s)phase docker.*protected"):
        Asked(world).once()
    assert not world.named("create_instance")


def test_a_boot_that_gets_ready_while_it_is_to_be_ended_is_used() -> None:
    world = World(a_day_old(created=NOW, ready_at=1e9, labels=label_map(boot="s60")))
    world.at(60, lambda: None)
    world.before["fence"] = lambda: setattr(world.machines["a"], "ready_at", 0.0)
    assert Asked(world).until_ready() == "a"
    assert not world.named("create_instance", "delete_instance")


def test_a_create_that_fails_late_is_told() -> None:
    world = Slow(create_instance=12.0)
    world.fails = {"create_instance": "unavailable"}
    told = Asked(world).polled(3)
    assert ["unavailable" in words for words in told] == [True] * 3
    assert len(world.named("create_instance")) == 3


def test_one_that_is_kept_to_be_looked_at_stays_and_another_is_made_once() -> None:
    world = World(a_day_old(failed="docker", keep_failed=True))
    world.new = {"ready_at": 30.0}
    assert Asked(world).until_ready() == "new-1"
    assert "a" in world.machines
    assert len(world.named("create_instance")) == 1


@pytest.mark.parametrize("fault", ["fenced", "silent"])
def test_a_failed_boot_that_cannot_be_ended_now_is_told_and_no_second_one_made(fault: str) -> None:
    world = World(a_day_old(failed="docker", created=NOW))
    if fault == "fenced":
        world.machines["a"].fence = {"owner": "another's", "lease_s": 60.0, "committed": False}
    else:
        world.fail("fence", *[Unreachable("silent")] * 3)
    with pytest.raises(BootFailed, match=r"(?s)phase docker.*left to the reaper"):
        Asked(world).once()
    assert world.deeds() == []


@pytest.mark.parametrize("name", ["fence", "get_instance"])
def test_a_failed_boot_that_somebody_else_ends_meanwhile_is_no_error(name: str) -> None:
    world = World(a_day_old(failed="docker"))
    looks = 0

    def gone() -> None:
        nonlocal looks
        looks += 1
        if name != "get_instance" or looks == 2:
            world.machines.pop("a", None)
            raise NotFound("GET", "/instance/a", 404, "gone")

    world.before[name] = gone
    assert Asked(world).until_ready() == "new-1"


def test_one_that_cannot_be_reached_is_told_within_one_run_and_left_alone() -> None:
    world = World(a_day_old(reachable=False))
    with pytest.raises(Unreachable, match="port 11435 cannot be reached from here"):
        Asked(world).once()
    assert world.elapsed_s <= 6
    assert world.deeds() == []


def test_a_short_silence_of_an_instance_that_was_ready_long_ago_is_borne() -> None:
    world = World(a_day_old(reachable=False))
    world.at(3.0, lambda: setattr(world.machines["a"], "reachable", True))
    assert Asked(world).once() == "a"


def test_without_patience_the_same_failed_boot_is_left_to_the_reaper() -> None:
    world = World(a_day_old(failed="docker"))
    assert Run(world)().instance.id == "new-1"
    assert "a" in world.machines


def prepared_stopped(world: World) -> None:
    world.machines["a"].state, world.machines["a"].ready_at = "stopped", 30.0
    world.machines["a"].labels = label_map(activity=NOW - timedelta(hours=1), action="stop")


def prepared_fenced(world: World) -> None:
    world.machines["a"].fence = {"lease_s": 60.0, "committed": False}
    world.at(60, lambda: setattr(world.machines["a"], "fence", None))


@pytest.mark.parametrize(
    ("prepare", "deeds"),
    [(prepared_stopped, {"put_labels", "start_instance"}), (prepared_fenced, {"put_labels"})],
    ids=["stopped", "fenced"],
)
def test_what_takes_longer_than_a_run_is_gone_on_with(prepare: Callable[[World], None], deeds: set[str]) -> None:
    world = World(a_day_old())
    prepare(world)
    assert Asked(world).until_ready() == "a"
    assert {name for name, _ in world.deeds()} == deeds


# -- several who ask at once, none of whom comes back to what it made


def made_at_once(number: int, **changes: Any) -> World:
    """So many booting instances of one name, a second apart."""
    machines = [
        Machine(
            id=f"twin-{index}", created=NOW - timedelta(seconds=30 - index), request=f"{index:032x}",
            labels=label_map(request=f"r{index:032x}"), ready_at=40.0, **changes,
        )
        for index in range(number)
    ]  # fmt: skip
    return World(*machines)


def test_of_several_that_were_made_at_once_the_oldest_stays_and_the_others_are_ended_before_they_are_ready() -> None:
    world = made_at_once(3)
    assert Asked(world).until_ready() == "twin-0"
    assert list(world.machines) == ["twin-0"]
    assert not world.named("create_instance")


@pytest.mark.parametrize("changes", [{"reachable": False}, {"ready_at": 0.0}, {"failed": "docker"}])
def test_one_that_is_silent_ready_or_failed_is_not_taken_for_surplus(changes: dict[str, Any]) -> None:
    world = made_at_once(2)
    for name, value in changes.items():
        setattr(world.machines["twin-1"], name, value)
    if "failed" in changes:
        world.machines["twin-1"].ready_at = 0.0
    assert Asked(world).until_ready() == "twin-0"
    assert "twin-1" in world.machines


@pytest.mark.parametrize(
    "changes",
    [{"created": NOW - timedelta(hours=1)}, {"fence": {"owner": "a reaper's", "lease_s": 60.0, "committed": False}}],
    ids=["overdue", "fenced"],
)
def test_nothing_is_ended_beside_one_that_may_be_about_to_go(changes: dict[str, Any]) -> None:
    world = made_at_once(2)
    for name, value in changes.items():
        setattr(world.machines["twin-0"], name, value)
    if "created" in changes:
        world.machines["twin-0"].labels = label_map(request=f"r{0:032x}", activity=NOW - timedelta(hours=1))
        world.machines["twin-0"].ready_at = 1e9
    Asked(world).polled(1)
    assert "twin-1" in world.machines


def test_nothing_is_ended_beside_one_that_is_kept_failed() -> None:
    world = made_at_once(2)
    world.machines["twin-0"].failed, world.machines["twin-0"].keep_failed = "docker", True
    world.machines["twin-0"].ready_at = 0.0
    assert Asked(world).until_ready() == "twin-1"
    assert set(world.machines) == {"twin-0", "twin-1"}


def test_a_run_that_waits_for_its_own_uses_the_older_one_where_its_own_was_ended_as_surplus() -> None:
    world = World(a_day_old(id="older", listed_at=6.0, created=NOW - timedelta(seconds=5), ready_at=20.0))
    world.new = {"ready_at": 1e9}
    world.at(8.0, lambda: world.machines.pop("new-1"))
    assert Run(world)().instance.id == "older"
    assert len(world.named("create_instance")) == 1


def test_a_run_whose_own_instance_is_deleted_by_hand_makes_no_other_beside_one_that_is_of_no_use() -> None:
    world = World(a_day_old(failed="docker", keep_failed=True))
    world.new = {"ready_at": 1e9}
    world.at(8.0, lambda: world.machines.pop("new-1"))
    with pytest.raises(Vanished, match="removed by somebody else"):
        Run(world)()
    assert len(world.named("create_instance")) == 1
