"""What follows a create call: its answer lost, refused or failed, its boot, and what every mishap leaves behind."""

import dataclasses
from typing import Any

import pytest

from client.errors import (
    ApiError,
    BootFailed,
    ClockError,
    Conflict,
    Denied,
    ExollamaError,
    Unanswered,
)
from functions.provisioning import CREATES
from tests.fakes import Run, World, a_day_old, label_map

LOST = Unanswered("POST", "/instance", "connection reset", sent=True)
BUSY = Conflict("PUT", "/instance/a", 409, "busy")


# -- created


def test_with_none_one_is_created_and_its_id_told_before_the_waiting_starts() -> None:
    world = World()
    world.new = {"ready_at": 90.0, "state": "starting", "running_at": 10.0}
    run = Run(world)
    told_at: list[float] = []
    run.protocol.note = lambda note: told_at.append(world.elapsed_s) if "new-1 is being created" in note else None
    found = run()
    assert found.instance.id == "new-1"
    assert told_at == [0.0]
    assert 90 <= world.elapsed_s < 91
    assert world.deeds() == [("create_instance", None)]


def test_what_is_handed_out_shows_the_instance_as_it_is_then() -> None:
    world = World()
    world.new = {"ready_at": 90.0, "state": "starting", "running_at": 10.0}
    assert Run(world)().instance.state == "running"


def test_without_waiting_a_created_instance_is_returned_at_once() -> None:
    world = World()
    world.new = {"ready_at": 90.0}
    found = Run(world)(wait=False)
    assert (found.instance.id, found.status) == ("new-1", None)
    assert world.elapsed_s < 1


def test_an_address_that_comes_late_is_waited_for() -> None:
    world = World()
    world.new = {"address": None}
    world.at(30, lambda: setattr(world.machines["new-1"], "address", "127.0.0.8"))
    assert Run(world)().instance.address == "127.0.0.8"


@pytest.mark.parametrize("lag_s", [0.0, 4.0])
def test_a_create_whose_answer_was_lost_is_looked_up_by_its_nonce_and_not_repeated(lag_s: float) -> None:
    world = World()
    world.new = {"listed_at": lag_s}
    world.fail("create_instance", LOST, after=True)
    assert Run(world)().instance.id == "new-1"
    assert len(world.machines) == 1


@pytest.mark.parametrize("after", [True, False])
def test_a_create_that_met_a_server_error_is_looked_up_as_well(after: bool) -> None:
    world = World()
    error = ApiError("POST", "/instance", 503, "down")
    world.fail("create_instance", error, after=after)
    if after:
        assert Run(world)().instance.id == "new-1"
    else:
        with pytest.raises(ApiError, match="down"):
            Run(world)()
    assert len(world.named("create_instance")) == 1


def test_a_create_that_was_lost_before_the_deed_is_repeated_once_nothing_is_found() -> None:
    world = World()
    world.fail("create_instance", LOST)
    run = Run(world)
    assert run().instance.id == "new-2"
    assert len(world.machines) == 1
    assert any("nothing came of it; trying again" in note for note in run.notes)


@pytest.mark.parametrize("after", [True, False])
def test_another_instance_of_ours_is_not_taken_for_what_a_lost_create_made(after: bool) -> None:
    other = a_day_old(id="other", labels=label_map(name="nother"))
    world = World(other, a_day_old(id="broken", state="error"))
    world.fail("create_instance", LOST, after=after)
    assert Run(world)().instance.id == ("new-1" if after else "new-2")
    assert other.touches == 0


def test_a_lost_create_that_is_listed_only_after_its_repetition_leaves_one_instance() -> None:
    world = World()
    world.fail("create_instance", LOST, after=True)
    world.new = {"listed_at": 40.0, "ready_at": 60.0}
    assert Run(world)().instance.id == "new-1"
    assert list(world.machines) == ["new-1"]


def test_creates_that_never_come_to_anything_are_bounded() -> None:
    world = World()
    world.fail("create_instance", *[LOST] * 99)
    with pytest.raises(ExollamaError, match=f"{CREATES} instances were asked for in this run"):
        Run(world)()
    assert len(world.named("create_instance")) == CREATES <= 3


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (Conflict("POST", "/instance", 409, "quota exceeded (409)."), ExollamaError, "Quotas of GPU types start at 0"),
        (Denied("POST", "/instance", 403, "Forbidden by role policy for compute"), Denied, "Forbidden by role policy"),
        (ApiError("POST", "/instance", 400, "disk too large"), ApiError, "disk too large"),
        (ClockError("clock is 1:00:00 behind"), ClockError, "1:00:00 behind"),
        (Unanswered("POST", "/instance", "cannot connect", sent=False), Unanswered, "cannot connect"),
    ],
    ids=["quota", "iam", "refused", "clock", "never sent"],
)
def test_a_create_that_is_refused_ends_the_run_and_is_not_repeated(
    error: Exception, kind: type[Exception], words: str
) -> None:
    world = World()
    world.fail("create_instance", error)
    with pytest.raises(kind, match=words):
        Run(world)()
    assert len(world.named("create_instance")) == 1


@pytest.mark.parametrize(
    "error",
    [
        Conflict("POST", "/instance", 409, "Quota exceeded: gpua30"),
        ApiError("POST", "/instance", 400, "Instance type gpua30.small is not authorized"),
    ],
)
def test_a_gpu_type_that_is_refused_for_its_quota_is_told_how_to_ask_for_one(error: ApiError) -> None:
    world = World()
    world.fail("create_instance", error)
    run = Run(world)
    drafted = run.protocol.order
    run.protocol.order = lambda: dataclasses.replace(drafted(), instance_type="gpua30.small")
    with pytest.raises(
        ExollamaError, match=r"quota of gpua30 allows no more\. .*support raises them.*Nothing was created"
    ):
        run()


@pytest.mark.parametrize("state", ["failure", "timeout"])
@pytest.mark.parametrize("told", [{"reason": "unavailable"}, {}], ids=["with a reason", "without a reason"])
def test_a_create_operation_that_fails_says_why_and_what_it_left(state: str, told: dict[str, Any]) -> None:
    world = World()
    world.operations["create_instance"] = {"state": state} | told
    with pytest.raises(ExollamaError, match=told.get("reason", "no reason given")) as failure:
        Run(world)()
    assert state in str(failure.value)
    assert "It left instance new-1, which is owned" in str(failure.value)


def test_an_operation_without_a_reference_is_looked_up_by_its_nonce() -> None:
    world = World()
    world.operations["create_instance"] = {"reference": None}
    world.new = {"listed_at": 3.0}
    assert Run(world)().instance.id == "new-1"
    assert len(world.machines) == 1


def test_an_own_instance_that_lists_lag_behind_with_is_not_made_twice() -> None:
    world = World()
    world.new = {"listed_at": 300.0, "ready_at": 60.0}
    assert Run(world)().instance.id == "new-1"
    assert len(world.machines) == 1


@pytest.mark.parametrize("phase", "nginx docker image container model warmup".split())
def test_a_boot_that_fails_returns_phase_and_log_and_destroys(phase: str) -> None:
    world = World()
    world.new = {"ready_at": 30.0, "failed": phase}
    with pytest.raises(BootFailed, match=f"failed in phase {phase}: it broke") as failure:
        Run(world)()
    assert "last line" in str(failure.value)
    assert "new-1 was destroyed" in str(failure.value)
    assert failure.value.phase == phase
    assert world.machines == {}


def test_the_log_of_a_failed_boot_is_there_for_other_code_too() -> None:
    world = World()
    world.new = {"failed": "docker"}
    with pytest.raises(BootFailed) as failure:
        Run(world)()
    assert failure.value.log == ("first line", "last line")
    assert str(failure.value).count("last line") == 1


def test_a_failed_boot_is_kept_where_that_was_asked_for_and_until_when_and_at_what_price_is_said() -> None:
    world = World()
    world.new = {"failed": "docker"}
    with pytest.raises(
        BootFailed, match=r"new-1 is kept, as asked \(--keep-failed\), until 2026-11-25 12:00 UTC at"
    ) as kept:
        Run(world, keep_failed=True)()
    assert kept.value.summary.endswith("per hour (CHF, EUR or USD). `exollama stop` ends it.")
    assert "new-1" in world.machines


@pytest.mark.parametrize("reachable", [True, False])
def test_a_boot_that_never_ends_fails_after_its_timeout_and_destroys(reachable: bool) -> None:
    world = World()
    world.new = {"ready_at": 1e9, "reachable": reachable}
    with pytest.raises(BootFailed, match="Not ready after 1800 s"):
        Run(world)()
    assert world.machines == {}


def test_a_failed_boot_that_cannot_be_destroyed_is_left_to_the_reaper_and_that_is_said() -> None:
    world = World()
    world.new = {"failed": "docker"}
    world.fail("delete_instance", Denied("DELETE", "/instance/new-1", 403, "Forbidden by role policy"))
    with pytest.raises(BootFailed, match="could not be destroyed now and is left to the reaper: .*Forbidden"):  # noqa: RUF043
        Run(world)()


def test_an_instance_that_comes_up_in_state_error_is_told_and_not_repeated() -> None:
    world = World()
    world.new = {"state": "error"}
    with pytest.raises(ExollamaError, match="new-1 came up in state error"):
        Run(world)()
    assert len(world.named("create_instance")) == 1


@pytest.mark.parametrize("at_s", [3.0, 15.0, 60.0])
def test_our_instance_deleted_by_hand_while_it_is_waited_for_is_told(at_s: float) -> None:
    world = World()
    world.new = {"ready_at": 120.0}
    world.at(at_s, world.machines.clear)
    with pytest.raises(ExollamaError, match="new-1, made by this run, was removed by somebody else"):
        Run(world)()
    assert world.elapsed_s <= at_s + 12


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_wait_the_instance_stays_and_is_owned(interruption: type[BaseException]) -> None:
    def interrupt() -> None:
        raise interruption

    world = World()
    world.new = {"ready_at": 120.0}
    world.at(20, interrupt)
    with pytest.raises(interruption):
        Run(world)()
    assert world.list_instances()[0].owned
    assert not world.named("delete_instance")
