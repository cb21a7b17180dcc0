"""Operations on instances that are lost, refused, fail or never end: create, start, stop, delete; and state error."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.simulator import ALWAYS, Simulator
from tests.system.verbs import Clerk, changes, plant

# -- the create call and its operation


@pytest.mark.parametrize("kind", ["lost", "truncated", "garbage", "no-reference", "reset", "429"])
def test_a_create_whose_answer_is_lost_or_of_no_use_makes_exactly_one_instance(
    records: Simulator, clerk: Clerk, kind: str
) -> None:
    records.fault("create-instance", kind)
    done = clerk.run("provision", "--no-wait", "--json").ended(0)
    [seen] = records.instances()
    assert done.json["id"] == seen.id
    assert len(records.called("create-instance")) == (2 if kind in ("reset", "429") else 1)
    assert clerk.heals().id == seen.id


@pytest.mark.parametrize("kind", ["500", "503", "html"])
def test_a_create_that_meets_a_server_error_is_not_repeated_blindly(
    records: Simulator, clerk: Clerk, kind: str
) -> None:
    records.fault("create-instance", kind)
    clerk.provisions().ended(1, "POST /instance", "502" if kind == "html" else kind)
    assert len(records.called("create-instance")) == 1
    assert records.instances() == []
    clerk.heals()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("op-failure", {"reason": "unavailable"}, "state failure (unavailable"),
        ("op-failure", {"reason": None}, "state failure ("),
        ("op-timeout", {"reason": "interrupted"}, "state timeout (interrupted"),
        ("op-timeout", {"reason": None}, "state timeout ("),
        ("busy", {}, "state failure (busy"),
        ("op-never", {}, "state pending (no end after"),
    ],
)
def test_a_create_operation_that_does_not_end_well_is_told_and_leaves_nothing(
    records: Simulator, clerk: Clerk, kind: str, options: dict[str, Any], words: str
) -> None:
    records.fault("create-instance", kind, **options)
    clerk.provisions().ended(
        1, "Creating an instance in ch-gva-2 failed", words, "Nothing was left behind", "Run this again"
    )
    assert records.instances() == []
    clerk.heals()


def test_a_failed_create_operation_may_leave_an_instance_which_the_reaper_removes(
    records: Simulator, clerk: Clerk
) -> None:
    records.fault("create-instance", "op-failure", leaves=True)
    done = clerk.provisions()
    [left] = records.instances()
    done.ended(1, f"It left instance {left.id}, which is owned and will be removed by the reaper")
    assert f"{left.id}: in state error" in clerk.run("reap").ended(0).out
    assert clerk.heals().id != left.id


def test_an_instance_that_comes_up_in_state_error_is_told_replaced_and_reaped(records: Simulator, clerk: Clerk) -> None:
    records.fault("create-instance", "instance-error")
    done = clerk.run("provision")
    [broken] = records.instances()
    assert broken.state == "error"
    done.ended(1, f"Instance {broken.id} came up in state error", "exollama reap")
    clerk.provisions().ended(0, f"Instance {broken.id} (exollama) was destroyed on the way: in state error.")
    [seen] = records.instances()
    assert (seen.state, seen.id == broken.id) == ("running", False)


# -- starting, stopping, deleting


@pytest.mark.parametrize(("kind", "code"), [("lost", 0), ("no-reference", 0), ("op-failure", 1), ("reset", 1)])
def test_a_start_that_does_not_end_well_is_told_and_done_by_the_next_run(
    records: Simulator, clerk: Clerk, kind: str, code: int
) -> None:
    now = f"t{datetime.now(UTC):%Y%m%dT%H%M%S}Z"
    seen = plant(records, state="stopped", exollama_action="stop", exollama_activity=now)
    records.fault("start-instance", kind)
    clerk.provisions().ended(code, f"Instance {seen.id} cannot be started" if code else "Starting the stopped instance")
    assert clerk.heals().id == seen.id
    assert "create-instance" not in changes(records)


@pytest.mark.parametrize(("kind", "outcome"), [("lost", "stopped"), ("500", "stopped"), ("op-failure", "failed")])
def test_a_stop_that_does_not_end_well_is_reported_and_done_by_the_next_pass(
    records: Simulator, clerk: Clerk, kind: str, outcome: str
) -> None:
    seen = plant(records, exollama_action="stop")
    records.fault("stop-instance", kind)
    done = clerk.run("reap").ended(1 if outcome == "failed" else 0)
    assert done.out.startswith(f"{outcome:<9} ch-gva-2 exollama {seen.id}")
    clerk.run("reap")
    assert len(records.called("stop-instance")) == (1 if kind == "lost" else 2)
    assert "delete-instance" not in changes(records) or records.instances() == []


@pytest.mark.parametrize("kind", ["lost", "reset", "500", "429", "garbage"])
def test_a_delete_whose_answer_is_lost_is_looked_up_before_it_is_repeated(
    records: Simulator, clerk: Clerk, kind: str
) -> None:
    plant(records, state="error")
    records.fault("delete-instance", kind)
    assert clerk.run("reap").ended(0).out.startswith("destroyed")
    records.wait(lambda: records.instances() == [], "gone")
    deletes = [call.fault for call in records.called("delete-instance")]
    assert deletes == ([kind] if kind in ("lost", "garbage") else [kind, None])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("denied-delete", "protected against deletion"),
        ("403-iam", "Forbidden by role policy"),
        ("op-failure", "may still run and cost"),
        ("op-never", "may still run and cost"),
    ],
)
def test_a_delete_that_is_refused_or_fails_is_reported_and_done_by_the_next_pass(
    records: Simulator, clerk: Clerk, kind: str, words: str
) -> None:
    seen = plant(records, state="error")
    records.fault("delete-instance", kind)
    done = clerk.run("--quiet", module="functions.reap_idle").ended(1, f"ch-gva-2 {seen.id} (exollama): ", words)
    assert done.out == ""
    assert len(records.called("delete-instance")) == 1
    assert [one.id for one in records.instances()] == [seen.id]
    clerk.run("reap").ended(0)
    records.wait(lambda: records.instances() == [], "gone")


def test_a_zone_that_fails_keeps_no_other_from_being_reaped(records: Simulator, clerk: Clerk) -> None:
    plant(records, state="error")
    there = plant(records, state="error", zone="de-fra-1")
    records.fault("list-instances", "500", times=ALWAYS, zone="de-fra-1")
    done = clerk.run("reap").ended(1, "de-fra-1 was not looked at", "500")
    assert done.out.count("destroyed") == 1
    assert [seen.id for seen in records.instances()] == [there.id]
    records.clear_faults()
    clerk.run("reap").ended(0)
    records.wait(lambda: records.instances() == [], "gone")
