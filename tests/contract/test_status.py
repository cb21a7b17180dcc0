"""Status against the API's contract: exactly which requests they make, signed how, and what comes of them."""

from datetime import timedelta
from typing import Any

import pytest

from client.errors import Garbled, Unreachable
from client.settings import Secret
from functions import reap_idle, shown, status
from tests.fakes import KEY, NOW, label_map, settings
from tests.zones import ID, IDLE, Agent, Zones, instance, refusal

LARGE = {"instance-type": {"id": "type-large"}}


def test_status_shows_what_is_there_and_changes_nothing(zones: Zones) -> None:
    zones.instances["de-fra-1"].append(instance(**LARGE))
    result = status.run(settings(), **zones.injected)
    (item,) = result.pop("instances")
    assert result == {
        "time": "2026-11-24T12:00:00+00:00",
        "prices_as_of": "2026-10",
        "zones": ["ch-gva-2", "de-fra-1"],
        "unseen": [],
        "foreign": [],
        "failed": [],
        "notes": [],
    }
    assert item["reap"]["decision"] == "ask"
    del item["reap"]
    assert item == {
        "id": ID,
        "name": "exollama",
        "zone": "de-fra-1",
        "state": "running",
        "type": "standard.large",
        "disk_gib": None,
        "model": "granite3.1-dense:8b",
        "address": "127.0.0.9",
        "created": "2026-11-23T12:00:00+00:00",
        "activity": "2026-11-24T07:00:00+00:00",
        "deadline": "2026-11-30T12:00:00+00:00",
        "deadline_s": 518400,
        "age_s": 86400,
        "idle_s": 18000,
        "idle_timeout_s": 1800,
        "goes_in_s": 0,
        "hourly_cost": 0.09333,
        "cost": 2.23992,
        "stops": False,
        "said": None,
        "overdue": None,
    }
    assert zones.asked == []
    assert zones.made("POST", "PUT", "DELETE") == []


def test_types_are_asked_for_once_in_each_zone_that_has_one_of_ours_whose_type_is_not_known(zones: Zones) -> None:
    told = {"instance-type": {"id": "type-x", "family": "gpu3", "size": "small"}}
    zones.instances["ch-gva-2"] += [instance(**told), instance(id="others", labels={}, **LARGE)]
    result = status.run(settings(), **zones.injected)
    assert [one["type"] for one in result["instances"]] == ["gpu3.small"]
    assert [call for call in zones.made() if "type" in call] == []
    zones.instances["de-fra-1"] += [instance(id=str(n), **LARGE) for n in range(3)]
    zones.instances["de-fra-1"].append(instance(id="unheard of", **{"instance-type": {"id": "type-y"}}))
    result = status.run(settings(), **zones.injected)
    assert [one["type"] for one in result["instances"]] == ["gpu3.small", *["standard.large"] * 3, None]
    assert [call for call in zones.made() if "type" in call] == ["GET de-fra-1/v2/instance-type"]


def test_where_types_cannot_be_listed_costs_are_not_known_and_nothing_fails(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(**LARGE))
    zones.instances["de-fra-1"].append(instance(**LARGE))
    zones.faults["GET /instance-type"] = refusal(400, "not for you")
    result = status.run(settings(), probe=True, **zones.injected)
    assert result["failed"] == []
    assert [(one["type"], one["hourly_cost"], one["cost"]) for one in result["instances"]] == [(None, None, None)] * 2
    assert result["notes"] == ["Types and costs are not known: GET /instance-type: not for you (400)."]


@pytest.mark.parametrize(
    ("changes", "probe", "money"),
    [
        ({}, False, (None, 0.09333, 24 * 0.09333)),
        ({}, True, (50, 0.10033, 24 * 0.10033)),
        ({"state": "stopped"}, False, (None, None, 24 * 0.09333)),
        ({"state": "stopped"}, True, (50, 0.007, 24 * 0.10033)),
        ({"state": "destroying"}, True, (50, None, 24 * 0.10033)),
        ({"created-at": None}, True, (50, 0.10033, None)),
        ({"created-at": "2026-11-24T12:00:00.9Z"}, True, (50, 0.10033, 0)),
        ({"disk-size": "odd"}, True, (None, 0.09333, 24 * 0.09333)),
        ({"instance-type": None}, True, (50, None, None)),
    ],
    ids=str,
)
def test_what_it_costs_is_of_type_and_disk_where_it_is_asked_and_of_the_type_alone_where_not(
    zones: Zones, changes: dict[str, Any], probe: bool, money: tuple[float | None, ...]
) -> None:
    zones.instances["ch-gva-2"].append(instance(**{**LARGE, **changes}))
    (item,) = status.run(settings(), probe=probe, **zones.injected)["instances"]
    expected = [None if value is None else pytest.approx(value, abs=1e-6) for value in money]
    assert [item[name] for name in ("disk_gib", "hourly_cost", "cost")] == expected


@pytest.mark.parametrize(
    ("state", "action", "stops"),
    [("running", "destroy", False), ("running", "stop", True), ("stopped", "destroy", True)],
)
def test_what_was_or_may_have_been_stopped_has_cost_at_most_so_much(
    zones: Zones, state: str, action: str, stops: bool
) -> None:
    zones.instances["ch-gva-2"].append(instance(state=state, labels=label_map(action=action)))
    (item,) = status.run(settings(), **zones.injected)["instances"]
    assert item["stops"] is stops


@pytest.mark.parametrize(
    ("changes", "said", "probe", "seconds"),
    [
        ({"activity": NOW}, {}, False, 2250),
        ({"activity": IDLE}, {"idle_s": 100.5}, True, 1700),
        ({"activity": IDLE}, {"idle_s": 100.5}, False, 0),
        ({"activity": IDLE}, {"idle_s": 9999.0, "in_flight": 1}, True, None),
        ({"activity": IDLE}, {"phase": "model"}, True, 0),
        ({"activity": NOW}, {"phase": "model"}, True, None),
        ({"activity": NOW, "deadline": NOW + timedelta(seconds=60)}, {}, False, 60),
    ],
    ids=str,
)
def test_how_long_it_has_is_by_its_label_or_by_its_own_word(
    zones: Zones, changes: dict[str, Any], said: dict[str, Any], probe: bool, seconds: int | None
) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(**changes)))
    zones.said = said
    (item,) = status.run(settings(), probe=probe, **zones.injected)["instances"]
    assert item["goes_in_s"] == seconds


def test_what_could_not_be_asked_for_want_of_a_permission_has_the_time_that_its_label_says(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    zones.faults[f"GET /instance/{ID}"] = refusal(403, "Forbidden by role policy for compute")
    (item,) = status.run(settings(), probe=True, **zones.injected)["instances"]
    assert (item["goes_in_s"], item["said"]) == (0, None)


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
    assert shown.text(status.run(settings(), **zones.injected)).splitlines()[1:3] == [
        "exollama  running  ch-gva-2  ?     granite3.1-dense:8b  24h 0m  5h 0m  now      ?",
        f"  {ID}  by its label unused for 5 h 0 min: to be asked",
    ]


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


@pytest.mark.parametrize(
    ("function", "text"), [(status, shown.text), (reap_idle, reap_idle.text)], ids=["status", "reap_idle"]
)
def test_with_nothing_there_it_is_said_that_nothing_costs(zones: Zones, function: Any, text: Any) -> None:
    assert text(function.run(settings(), **zones.injected)) == (
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
