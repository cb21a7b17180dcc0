"""Status against the API's contract: exactly which requests they make, signed how, and what comes of them."""

from typing import Any

import pytest

from client.errors import Garbled, Unreachable
from client.settings import Secret
from functions import reap_idle, status
from tests.fakes import KEY, NOW, label_map, settings
from tests.zones import ID, IDLE, Agent, Zones, instance, refusal


def test_status_shows_what_is_there_and_changes_nothing(zones: Zones) -> None:
    zones.instances["de-fra-1"].append(instance())
    (item,) = status.run(settings(), **zones.injected)["instances"]
    assert item["reap"]["decision"] == "ask"
    del item["reap"]
    assert item == {
        "id": ID,
        "name": "exollama",
        "zone": "de-fra-1",
        "state": "running",
        "model": "granite3.1-dense:8b",
        "address": "127.0.0.9",
        "created": "2026-11-23T12:00:00+00:00",
        "activity": "2026-11-24T07:00:00+00:00",
        "deadline": "2026-11-30T12:00:00+00:00",
        "deadline_s": 518400,
        "age_s": 86400,
        "idle_s": 18000,
        "said": None,
        "overdue": None,
    }
    assert zones.asked == []
    assert zones.made("POST", "PUT", "DELETE") == []


def test_a_probing_status_asks_the_instance_itself(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    (item,) = status.run(settings(), probe=True, **zones.injected)["instances"]
    assert (item["idle_s"], item["said"]["boot"]["phase"]) == (9999, "ready")
    assert zones.asked == [(ID, Secret(KEY))]


def test_a_probe_that_fails_is_shown_and_fails_nothing(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    zones.instances["ch-gva-2"].append(instance())

    def unreachable(_: object) -> None:
        raise Unreachable("it cannot be reached: refused.")

    monkeypatch.setattr(Agent, "status", unreachable)
    (item,) = status.run(settings(), probe=True, **zones.injected)["instances"]
    assert item["said"] == {"trouble": "it cannot be reached: refused."}


@pytest.mark.parametrize("verb", ["probe", "check"])
def test_what_may_not_be_read_is_told_with_its_remedy_and_taken_for_no_silence(zones: Zones, verb: str) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE)))
    zones.faults[f"GET /instance/{ID}"] = refusal(403, "Forbidden by role policy for compute")
    result = status.run(settings(), probe=verb == "probe", check=verb == "check", **zones.injected)
    assert [item["overdue"] for item in result["instances"]] == [None]
    (failed,) = result["failed"]
    assert failed.startswith(f"ch-gva-2 {ID} was not asked: GET /instance/{ID}: Forbidden by role policy")
    assert "add get-instance to its policy" in failed
    assert zones.asked == []


def test_one_silent_moment_makes_no_check_call_an_instance_overdue_that_is_in_use(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones.instances["ch-gva-2"].append(instance())
    zones.said["idle_s"] = 5.0
    answers, status_of = [0], Agent.status

    def unreachable_at_first(agent: Agent) -> dict[str, Any]:
        answers[0] += 1
        if answers[0] < 3:
            raise Unreachable("it cannot be reached: refused.")
        return status_of(agent)

    monkeypatch.setattr(Agent, "status", unreachable_at_first)
    (item,) = status.run(settings(), check=True, **zones.injected)["instances"]
    assert (item["overdue"], answers) == (None, [3])


def test_the_table_of_status_has_a_row_per_instance_and_says_what_a_reaper_would_do(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    head, row = status.text(status.run(settings(), **zones.injected)).splitlines()
    assert head.split()[:4] == ["name", "zone", "state", "phase"]
    assert row.split()[:5] == ["exollama", "ch-gva-2", "running", "-", "granite3.1-dense:8b"]
    assert "24 h 0 min" in row
    assert "5 h 0 min ago" in row
    assert "by its label unused for" in row
    assert row.endswith(ID)


def test_a_check_asks_only_those_that_their_labels_leave_in_doubt_and_names_the_overdue(zones: Zones) -> None:
    zones.instances["ch-gva-2"] += [
        instance(),
        instance(id="fresh", labels=label_map(activity=NOW)),
        instance(id="stopped", state="stopped"),
    ]
    result = status.run(settings(), check=True, **zones.injected)
    assert {item["id"]: item["overdue"] for item in result["instances"]} == {
        ID: "idle for 2 h 26 min",
        "fresh": None,
        "stopped": "stopped: it powered itself off",
    }
    assert zones.asked == [(ID, Secret(KEY))]
    assert zones.made("POST", "PUT", "DELETE") == []
    assert zones.shut == []


@pytest.mark.parametrize(
    ("reach", "overdue"), [("any", "idle by its label for 4 h 2 min, and not reachable"), ("limited", None)]
)
def test_a_check_takes_silence_for_what_a_reaper_takes_it_for(
    zones: Zones, monkeypatch: pytest.MonkeyPatch, reach: str, overdue: str | None
) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE, reach=reach)))

    def unreachable(_: object) -> None:
        raise Unreachable("it cannot be reached: refused.")

    monkeypatch.setattr(Agent, "status", unreachable)
    (item,) = status.run(settings(), check=True, **zones.injected)["instances"]
    assert item["overdue"] == overdue


def test_a_check_finds_users_whose_programs_write_no_labels(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    zones.said = {"idle_s": 60.0}
    (item,) = status.run(settings(), check=True, **zones.injected)["instances"]
    assert item["overdue"] is None


@pytest.mark.parametrize("function", [status, reap_idle], ids=["status", "reap_idle"])
def test_with_nothing_there_it_is_said_that_nothing_costs(zones: Zones, function: Any) -> None:
    assert function.text(function.run(settings(), **zones.injected)) == (
        "No owned instance in ch-gva-2, de-fra-1: nothing runs, nothing costs."
    )


def test_a_check_takes_nonsense_for_no_silence_as_the_reaper_does(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE)))

    def garbled(_: object) -> None:
        raise Garbled("it answers, but not with a status that can be read.")

    monkeypatch.setattr(Agent, "status", garbled)
    (item,) = status.run(settings(), check=True, **zones.injected)["instances"]
    assert item["overdue"] is None
    assert "can be read" in item["said"]["trouble"]
