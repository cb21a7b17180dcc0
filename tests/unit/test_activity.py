"""The activity label: written seldom, forward only, never over somebody else's, and what is lost in its window."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from client import activity, labels
from client.errors import ApiError, Conflict, OperationFailed
from tests.fakes import NOW, Machine, World, label_map

OLD = NOW - timedelta(minutes=20)
BUSY = Conflict("PUT", "/instance/a", 409, "busy")


def old(**changes: str) -> Machine:
    return Machine(id="a", labels=label_map(activity=OLD, **changes))


def written(world: World) -> datetime | None:
    return labels.read_time(world.machines["a"].labels.get(labels.ACTIVITY))


def test_activity_is_written_as_the_apis_present_time_and_read_again() -> None:
    world = World(old())
    world.elapsed_s = 90.7
    assert activity.record(world, "a")
    assert written(world) == NOW + timedelta(seconds=90)
    assert [name for name, _ in world.calls] == ["list_instances", "put_labels", "list_instances"]


def test_every_other_label_is_kept_the_foreign_ones_too() -> None:
    machine = old()
    machine.labels |= {"team": "seven", "exollama-later": "x"}
    before = dict(machine.labels)
    activity.record(World(machine), "a")
    assert machine.labels == before | {labels.ACTIVITY: labels.time(NOW)}


@pytest.mark.parametrize(
    ("age_s", "idle", "writes"),
    [(449, "s1800", 0), (450, "s1800", 1), (14, "s60", 0), (15, "s60", 1), (449, "", 0), (450, "", 1)],
)
def test_one_write_per_quarter_of_the_idle_timeout(age_s: int, idle: str, writes: int) -> None:
    world = World(Machine(id="a", labels=label_map(activity=NOW - timedelta(seconds=age_s), idle=idle)))
    assert activity.record(world, "a") is bool(writes)
    assert len(world.named("put_labels")) == writes


def test_a_whole_hour_of_use_costs_no_more_than_one_write_per_quarter() -> None:
    world = World(Machine(id="a"))
    for _ in range(3600 // 20):
        activity.record(world, "a")
        world.sleep(20)
    assert len(world.named("put_labels")) <= 3600 // 450


def test_a_young_label_is_written_all_the_same_where_that_is_asked_for() -> None:
    world = World(Machine(id="a", labels=label_map(activity=NOW - timedelta(seconds=5))))
    assert activity.record(world, "a", always=True)
    assert written(world) == NOW


@pytest.mark.parametrize(
    ("used_ago_s", "always", "expected"),
    [
        (700.0, False, NOW - timedelta(seconds=700)),  # 500 s after the label's
        (1000.0, False, None),  # 200 s after it, which is less than a quarter of 1800
        (1000.0, True, NOW - timedelta(seconds=1000)),
        (5000.0, True, OLD),  # never backward
        (5000.0, False, None),
    ],
)
def test_what_is_written_is_when_it_was_used_however_late(
    used_ago_s: float, always: bool, expected: datetime | None
) -> None:
    world = World(old())
    assert activity.record(world, "a", used_ago_s=used_ago_s, always=always) is (expected is not None)
    assert written(world) == (expected or OLD)


@pytest.mark.parametrize("label", ["", "rubbish", "t99991231T235959Z"], ids=["missing", "unreadable", "far future"])
def test_a_label_that_counts_for_nothing_is_replaced(label: str) -> None:
    world = World(Machine(id="a", labels=label_map(activity=label)))
    assert activity.record(world, "a")
    assert written(world) == NOW


def test_a_label_that_is_a_little_ahead_never_goes_back() -> None:
    ahead = NOW + timedelta(seconds=40)
    world = World(Machine(id="a", labels=label_map(activity=ahead)))
    activity.record(world, "a", always=True)
    assert written(world) == ahead


@pytest.mark.parametrize(
    "machine",
    [None, old(owner=""), old(owner="v2"), Machine(id="a", labels=label_map(activity=OLD), managed=True)],
    ids=["gone", "not ours", "another version", "a pool's"],
)
def test_nothing_is_written_where_the_map_read_does_not_show_our_ownership(machine: Machine | None) -> None:
    world = World(*([machine] if machine else []))
    assert not activity.record(world, "a")
    assert not world.named("put_labels")


def test_a_write_that_met_another_operation_is_made_again_from_a_fresh_map() -> None:
    world = World(old())
    world.fail("put_labels", BUSY, OperationFailed("writing", "failure", "busy", None))
    world.at(1, lambda: world.machines["a"].labels.update(team="eight"))
    assert activity.record(world, "a")
    assert len(world.named("put_labels")) == 3
    assert world.machines["a"].labels["team"] == "eight"


def test_an_instance_that_stays_busy_is_given_up() -> None:
    world = World(old())
    world.fail("put_labels", *[BUSY] * 9)
    with pytest.raises(Conflict):
        activity.record(world, "a")
    assert len(world.named("put_labels")) == 3


def test_what_the_api_raises_otherwise_is_raised_at_once() -> None:
    world = World(old())
    world.fail("put_labels", ApiError("PUT", "/instance/a", 403, "no"))
    with pytest.raises(ApiError, match="no"):
        activity.record(world, "a")
    assert len(world.named("put_labels")) == 1


def once(deed: Callable[[], object], *, at_call: int) -> Callable[[], None]:
    """A hook that does something at one call, counted from 1."""
    calls = 0

    def hook() -> None:
        nonlocal calls
        calls += 1
        if calls == at_call:
            deed()

    return hook


def test_a_write_that_another_writer_undid_is_repaired_once() -> None:
    world = World(old())
    stale = label_map(activity=OLD) | {"team": "nine"}
    world.before["list_instances"] = once(lambda: world.machines["a"].labels.update(stale), at_call=2)
    assert activity.record(world, "a")
    assert written(world) == NOW
    assert world.machines["a"].labels["team"] == "nine"
    assert len(world.named("put_labels")) == 2


def test_two_that_undo_each_other_for_ever_do_not_loop() -> None:
    world = World(old())
    world.before["list_instances"] = lambda: world.machines["a"].labels.update(label_map(activity=OLD))
    assert activity.record(world, "a")
    assert len(world.named("put_labels")) == 2


def test_a_newer_activity_of_somebody_else_stands() -> None:
    world = World(old())
    newer = labels.time(NOW + timedelta(seconds=30))
    world.before["list_instances"] = once(
        lambda: world.machines["a"].labels.update({labels.ACTIVITY: newer}), at_call=2
    )
    assert activity.record(world, "a")
    assert written(world) == NOW + timedelta(seconds=30)
    assert len(world.named("put_labels")) == 1


def test_the_window_that_remains_a_label_written_between_our_read_and_our_write_is_lost() -> None:
    # PUT replaces the map and there is no ETag: this documents the loss, it does not ask for it.
    world = World(old())
    world.before["put_labels"] = once(lambda: world.machines["a"].labels.update(team="ten"), at_call=1)
    activity.record(world, "a")
    assert "team" not in world.machines["a"].labels


def test_an_ownership_that_was_taken_away_meanwhile_is_not_put_back_by_the_repair() -> None:
    world = World(old())

    def disown() -> None:
        world.machines["a"].labels = {}

    world.before["list_instances"] = once(disown, at_call=2)
    activity.record(world, "a")
    assert world.machines["a"].labels == {}
