"""What nobody should send: forged labels, absurd numbers and dates, a zone list of nonsense, ten thousand instances.

Nothing of it makes a verb break, and none of it costs anybody a machine.
"""

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.errors import ClockError, ExollamaError, NoInstance, Unreachable
from client.settings import Secret
from functions import provision, reap_idle, status, stop
from tests.fakes import DAY, KEY, NOW, OTHER_NONCE, label_map, settings, user_data
from tests.fakes import status as healthy
from tests.zones import ID, IDLE, NEW, Answer, Zones, instance

SCRIPT = "IyEvYmluL3NoCg=="
LONG_PAST = NOW - 30 * DAY


def still(zones: Zones) -> dict[str, Any]:
    """What the functions are given, on a clock that stands still: several threads would move it under each other."""
    return zones.injected | {"sleep": lambda _: None}


def answering(body: object) -> Callable[[], Answer]:
    return lambda: (200, {}, json.dumps(body))


Verb = Callable[[Zones], object]
VERBS: dict[str, Verb] = {
    "reap": lambda zones: reap_idle.run(settings(key=Secret(KEY)), **still(zones)),
    "dry run": lambda zones: reap_idle.run(settings(key=Secret(KEY)), dry_run=True, **still(zones)),
    "status": lambda zones: status.run(settings(key=Secret(KEY)), probe=True, check=True, **still(zones)),
    "stop": lambda zones: stop.run(settings(key=Secret(KEY)), **still(zones)),
    "stop by force": lambda zones: stop.run(settings(key=Secret(KEY)), force=True, **still(zones)),
    "provision": lambda zones: provision.run(settings(key=Secret(KEY)), **still(zones)),
}


# -- somebody else's machine


FORGED: dict[str, dict[str, str]] = {
    "ownership and a deadline": label_map(deadline=LONG_PAST),
    "a deadline and a fresh use": label_map(deadline=LONG_PAST, activity=NOW),
    "a deadline at the end of its grace": label_map(deadline=NOW - timedelta(hours=1)),
    "idle for ever": label_map(activity="t20000101T000000Z"),
    "action stop, idle for ever": label_map(activity="t20000101T000000Z", action="stop"),
    "no nonce": label_map(deadline=LONG_PAST, request=""),
    "a nonce of nothing": label_map(deadline=LONG_PAST, request="r" + "0" * 32),
    "the least that claims ownership": {"exollama": "v1", "exollama-deadline": "t20000101T000000Z"},
}


STATES = ("running", "stopped", "error")
DATA = {"none": None, "script": SCRIPT, "another": user_data(OTHER_NONCE)}


@pytest.mark.parametrize("labels", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_no_forged_label_costs_anybody_a_machine_or_shuts_its_port(
    zones: Zones, labels: dict[str, str], verb: Verb
) -> None:
    here = zones.instances["ch-gva-2"]
    for state, (name, data) in itertools.product(STATES, DATA.items()):
        here.append(instance(id=f"theirs-{state}-{name}", labels=labels, state=state, **{"user-data": data}))
    before = json.dumps(here)
    verb(zones)
    assert json.dumps([one for one in here if one["id"] != NEW]) == before
    assert [call for call in zones.made("POST", "PUT", "DELETE") if "theirs" in call] == []
    assert zones.shut == []


def test_a_forged_machine_is_reported_by_each_pass_with_what_to_do(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(deadline=LONG_PAST), **{"user-data": SCRIPT}))
    (item,) = reap_idle.run(settings(), **still(zones))["instances"]
    assert item["outcome"] == "failed"
    assert "if not, remove its exollama labels" in item["reason"]


# -- labels of others on a machine of ours


def test_foreign_labels_are_kept_through_a_start_as_well(zones: Zones) -> None:
    foreign = {"team": "seven", "exollama-later": "of another version", "": "no name"}
    labels = label_map(activity=IDLE, action="stop") | foreign
    zones.instances["ch-gva-2"].append(instance(state="stopped", labels=labels))
    provision.run(settings(reap_action="stop"), **still(zones))
    for body in (body for method, _, body in zones.calls if method == "PUT" and body):
        assert body == {"labels": {**labels, "exollama-activity": label_map()["exollama-activity"]}}
    assert zones.made("PUT")


# -- absurd values

ABSURD: dict[str, dict[str, Any]] = {
    "made at the end of time": {"created-at": "9999-12-31T23:59:59Z"},
    "made at the beginning of time": {"created-at": "0001-01-01T00:00:00+14:00"},
    "made at minus one": {"created-at": -1},
    "made without a time": {"created-at": None},
    "a disk of minus one": {"disk-size": -1},
    "a disk beyond counting": {"disk-size": 10**30},
    "labels that are a list": {"labels": ["exollama"]},
    "labels that are numbers": {"labels": {"exollama": 1, "exollama-idle": -1}},
    "an address that is none": {"public-ip": 5},
    "a state that is none": {"state": None},
    **{
        f"{label} of {value}": {"labels": label_map(activity=IDLE, deadline="") | {f"exollama-{label}": value}}
        for label in ("idle", "boot", "retention", "activity", "deadline")
        for value in (
            "s-1",
            "s0",
            "s99999999999999999999",
            "t99991231T235959Z",
            "t00010101T000000Z",
            "t20270101T000000Z",
        )
    },
}


@pytest.mark.parametrize("changes", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("verb", ["reap", "status", "provision"])
def test_no_absurd_value_breaks_a_verb(
    zones: Zones, changes: dict[str, Any], verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = zones.instances["ch-gva-2"]
    here += [instance(**({"id": f"odd-{state}", "state": state} | changes)) for state in STATES]
    try:
        said = json.dumps(VERBS[verb](zones), default=str)
    except ExollamaError as error:
        assert verb == "provision"  # it may have to give up, in words
        said = str(error)
    assert "unexpected" not in said
    assert [record for record in caplog.records if record.exc_info] == []


SAID: dict[str, dict[str, Any]] = {
    "idle for less than nothing": {"idle_s": -1},
    "idle for ever": {"idle_s": float("inf")},
    "idle for no number": {"idle_s": float("nan")},
    "idle for longer than computers are": {"idle_s": 1e12},
    "idle in words": {"idle_s": "long"},
    "fewer than none in flight": {"in_flight": -1},
    "half a request in flight": {"in_flight": 0.5},
    "nothing said of requests": {"in_flight": None},
    "no boot": {"boot": None},
    "a boot without a phase": {"boot": {}},
    "a phase that is a number": {"boot": {"phase": 7}},
    "a log that is none": {"boot": {"phase": "ready", "log": "all well"}},
    "a fence that is a list": {"fence": []},
}


@pytest.mark.parametrize("odd", SAID.values(), ids=SAID)
def test_a_status_that_cannot_be_right_is_no_answer(monkeypatch: pytest.MonkeyPatch, odd: dict[str, Any]) -> None:
    endpoint = Endpoint("127.0.0.9", Secret(KEY))
    monkeypatch.setattr(endpoint, "_agent", lambda *_: healthy() | odd)
    with pytest.raises(Unreachable, match="not with a status that can be read"):
        endpoint.status()
    monkeypatch.setattr(endpoint, "_agent", lambda *_: healthy())
    assert endpoint.status() == healthy()


# -- zones


@pytest.mark.parametrize(
    "body",
    [{"zones": []}, {}, {"zones": None}, {"zones": "ch-gva-2"}, {"zones": [{"name": "evil.example/"}, {"name": 5}, 7]}],
    ids=["empty", "missing", "null", "a word", "no names of zones"],
)
@pytest.mark.parametrize("verb", [VERBS["reap"], VERBS["status"]], ids=["reap", "status"])
def test_where_the_list_of_zones_names_none_it_is_an_error_and_not_an_empty_success(
    zones: Zones, body: object, verb: Verb
) -> None:
    zones.faults["GET /zone"] = answering(body)
    with pytest.raises(ExollamaError, match=r"lists no zone, so nothing was looked at\. Set EXOSCALE_ZONES"):
        verb(zones)
    assert zones.made() == ["GET ch-gva-2/v2/zone"]


def test_among_odd_names_the_zones_are_looked_at(zones: Zones) -> None:
    names = ["de-fra-1", "evil.example/", "", None, "ch-gva-2"]
    zones.faults["GET /zone"] = answering({"zones": [{"name": name} for name in names]})
    assert reap_idle.run(settings(), **still(zones))["zones"] == ["de-fra-1", "ch-gva-2"]


@pytest.mark.parametrize("function", [reap_idle, status], ids=["reap", "status"])
def test_a_zone_that_there_is_not_is_reported_and_keeps_no_other_from_being_looked_at(
    zones: Zones, monkeypatch: pytest.MonkeyPatch, function: Any
) -> None:
    plain = zones.route

    def route(method: str, zone: str, path: str, body: Any) -> dict[str, Any] | None:
        return None if zone == "xx-no-1" else plain(method, zone, path, body)

    monkeypatch.setattr(zones, "route", route)
    zones.instances["ch-gva-2"].append(instance())
    result = function.run(settings(zones=("xx-no-1", "ch-gva-2")), **still(zones))
    assert result["zones"] == ["ch-gva-2"]
    assert [one["id"] for one in result["instances"]] == [ID]
    (trouble,) = result["failed"]
    assert trouble.startswith("xx-no-1 was not looked at: GET /instance: Not Found (404 in xx-no-1)")


# -- a date from next year


@pytest.mark.parametrize("verb", ["reap", "dry run", "status", "stop", "stop by force", "provision"])
@pytest.mark.parametrize(
    "there",
    [
        [instance()],
        [instance(labels=label_map(activity=NOW))],
        [instance(state="error")],
        [instance(state="stopped", labels=label_map(activity=IDLE, action="stop"))],
        [],
    ],
    ids=["idle", "in use", "error", "stopped", "none"],
)
@pytest.mark.parametrize("off", [365 * DAY, -365 * DAY], ids=["next year", "last year"])
def test_with_a_date_a_year_off_nothing_is_changed_and_it_is_said_by_how_much(
    zones: Zones, verb: str, there: list[dict[str, Any]], off: timedelta
) -> None:
    zones.instances["ch-gva-2"] += [dict(one) for one in there]
    zones.date = NOW + off
    if verb in ("reap", "dry run", "status"):
        assert json.dumps(VERBS[verb](zones)).count("365 days") == 2  # in each zone
    else:
        nothing_to_stop = verb.startswith("stop") and not there
        with pytest.raises(
            NoInstance if nothing_to_stop else ClockError, match="nothing to stop" if nothing_to_stop else "365 days"
        ):
            VERBS[verb](zones)
    assert zones.made("POST", "PUT", "DELETE") == []
    assert zones.shut == []


# -- ten thousand


MANY = 10_000


@pytest.mark.parametrize("owned", [True, False], ids=["ours", "others'"])
@pytest.mark.parametrize("verb", ["reap", "status", "provision"])
def test_a_zone_of_ten_thousand_instances_costs_one_list_call(zones: Zones, owned: bool, verb: str) -> None:
    labels = label_map(activity=NOW, name="nother") if owned else {"team": "seven"}
    zones.instances["ch-gva-2"] += [instance(id=f"id-{n}", labels=labels) for n in range(MANY)]
    if verb == "provision":
        zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))
        assert provision.run(settings(), **still(zones))["id"] == ID
        assert zones.made("POST", "PUT", "DELETE")[0] == "POST /api/show"
        assert len(zones.made("GET")) <= 6
        return
    function: Any = {"reap": reap_idle, "status": status}[verb]
    result = function.run(settings(zones=("ch-gva-2",)), **still(zones))
    assert len(result["instances"]) == (MANY if owned else 0)
    assert zones.made() == ["GET ch-gva-2/v2/instance"]
    assert NEW not in str(result)
