"""Two provisioning runs at once: all pick the oldest, and a loser removes its own only while that is not ready."""

from datetime import timedelta
from typing import Any

from client.errors import (
    Conflict,
    Denied,
    Unanswered,
)
from tests.fakes import NOW, Machine, Run, World, a_day_old

LOST = Unanswered("POST", "/instance", "connection reset", sent=True)
BUSY = Conflict("PUT", "/instance/a", 409, "busy")


# -- two at once


def rival(**changes: Any) -> Machine:
    """Another run's instance, a second older than ours, listed only after ours was made."""
    return a_day_old(
        **{"id": "older", "created": NOW - timedelta(seconds=1), "ready_at": 100.0, "listed_at": 0.5} | changes
    )


def test_the_younger_of_two_gives_way_and_deletes_its_own_while_that_is_not_ready() -> None:
    world = World(rival())
    world.elapsed_s = 0.0
    world.new = {"ready_at": 100.0}
    world.before["create_instance"] = lambda: setattr(world, "elapsed_s", 1.0)
    assert Run(world)().instance.id == "older"
    assert list(world.machines) == ["older"]


def test_a_loser_that_is_ready_already_is_left_to_the_reaper() -> None:
    world = World(rival(listed_at=3.0, ready_at=20.0))
    world.new = {"ready_at": 5.0}
    assert Run(world)().instance.id == "older"
    assert set(world.machines) == {"older", "new-1"}
    assert not world.named("delete_instance")


def test_the_older_of_two_stays_and_leaves_the_other_alone() -> None:
    world = World(rival(id="younger", created=NOW + timedelta(seconds=1), ready_at=0.0))
    world.new = {"ready_at": 30.0}
    assert Run(world)().instance.id == "new-1"
    assert set(world.machines) == {"new-1", "younger"}
    assert not world.named("delete_instance")


def test_of_two_of_the_same_second_the_lower_id_stays() -> None:
    world = World(rival(id="aaa", created=NOW, ready_at=5.0))
    world.new = {"ready_at": 30.0, "created": NOW}
    assert Run(world)().instance.id == "aaa"
    assert list(world.machines) == ["aaa"]


def test_an_older_one_that_turns_up_while_ours_boots_is_given_way_to() -> None:
    world = World(rival(listed_at=25.0, ready_at=200.0))
    world.new = {"ready_at": 100.0}
    assert Run(world)().instance.id == "older"
    assert list(world.machines) == ["older"]


def test_an_older_one_whose_boot_failed_is_not_given_way_to() -> None:
    world = World(rival(listed_at=25.0, ready_at=0.0, failed="docker"))
    world.new = {"ready_at": 100.0}
    assert Run(world)().instance.id == "new-1"
    assert "new-1" in world.machines
    assert len(world.named("create_instance")) == 1


def test_a_loser_that_cannot_delete_its_own_still_uses_the_winner() -> None:
    world = World(rival())
    world.new = {"ready_at": 100.0}
    world.before["create_instance"] = lambda: setattr(world, "elapsed_s", 1.0)
    world.fail("delete_instance", Denied("DELETE", "/instance/new-1", 403, "Forbidden by role policy"))
    assert Run(world)().instance.id == "older"
