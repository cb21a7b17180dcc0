"""Reaping and provisioning against the API's contract: exactly which requests, signed how, and what comes of them."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from requests import PreparedRequest

from client.errors import CredentialsRejected, Denied, ExollamaError, OllamaError
from client.model import Instance
from client.settings import Secret
from functions import provision, reap_idle
from tests.bridge import Urllib3Mock
from tests.fakes import API_SECRET, DAY, KEY, NONCE, NOW, OTHER_NONCE, label_map, settings, user_data
from tests.zones import ID, IDLE, NEW, Agent, Answer, Zones, instance, refusal

# -- reap_idle


def test_a_pass_over_empty_zones_lists_the_zones_unsigned_and_each_zone_once(zones: Zones) -> None:
    result = reap_idle.run(settings(), **zones.injected)
    assert result == {"dry_run": False, "zones": ["ch-gva-2", "de-fra-1"], "instances": [], "foreign": [], "failed": []}
    assert sorted(zones.made()) == ["GET ch-gva-2/v2/instance", "GET ch-gva-2/v2/zone", "GET de-fra-1/v2/instance"]


def test_configured_zones_spare_the_listing_of_zones(zones: Zones) -> None:
    reap_idle.run(settings(zones=("ch-gva-2",)), **zones.injected)
    assert zones.made() == ["GET ch-gva-2/v2/instance"]


def test_a_name_that_a_terminal_would_obey_is_shown_without_that(zones: Zones) -> None:
    named = {**label_map(activity=IDLE), "exollama-name": "edited by hand"}
    zones.instances["ch-gva-2"].append(instance(name="a\x1b[2Jb", labels=named))
    result = reap_idle.run(settings(zones=("ch-gva-2",)), dry_run=True, **zones.injected)
    assert (result["instances"][0]["name"], "\x1b" in reap_idle.text(result)) == ("a [2Jb", False)


def test_an_idle_instance_is_read_asked_read_again_and_deleted_in_its_own_zone(zones: Zones) -> None:
    zones.instances["de-fra-1"].append(instance())
    result = reap_idle.run(settings(zones=("ch-gva-2", "de-fra-1")), **zones.injected)
    assert result["instances"] == [
        {"id": ID, "name": "exollama", "zone": "de-fra-1", "outcome": "destroyed", "reason": "idle for 2 h 46 min"}
    ]
    assert zones.asked == [(ID, Secret(KEY))]
    made = [call for call in zones.made() if "ch-gva-2" not in call]
    at = made.index(f"DELETE de-fra-1/v2/instance/{ID}")
    assert made[:at] == ["GET de-fra-1/v2/instance", *[f"GET de-fra-1/v2/instance/{ID}"] * 2]
    assert made[-1] == f"GET de-fra-1/v2/instance/{ID}"  # 404: gone
    assert zones.made("POST", "PUT", "DELETE") == [f"DELETE de-fra-1/v2/instance/{ID}"]
    fence, commit = (deed.split() for deed in zones.shut)
    assert (fence[0], commit[0], fence[1]) == ("fence", "commit", commit[1])
    assert re.fullmatch(r"[0-9a-f]{32}", fence[1])


def test_with_action_stop_the_instance_is_stopped_by_its_own_path(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE, action="stop")))
    (item,) = reap_idle.run(settings(), **zones.injected)["instances"]
    assert item["outcome"] == "stopped"
    assert zones.made("PUT", "POST", "DELETE") == [f"PUT ch-gva-2/v2/instance/{ID}:stop"]


@pytest.mark.parametrize(
    ("changes", "said", "outcome"),
    [
        ({}, {"in_flight": 3, "idle_s": 9999.0}, "kept"),
        ({"labels": label_map(activity=NOW)}, {}, "kept"),
        ({"user-data": user_data(OTHER_NONCE)}, {"idle_s": 9999.0}, "failed"),
        ({"state": "error", "user-data": "IyEvYmluL3NoCg=="}, {}, "failed"),
    ],
    ids=["in flight", "fresh label", "another nonce", "not our user-data"],
)
def test_what_is_in_use_or_not_vouched_for_meets_no_request_that_changes_anything(
    zones: Zones, changes: dict[str, Any], said: dict[str, Any], outcome: str
) -> None:
    zones.instances["ch-gva-2"].append(instance(**changes))
    zones.said = said
    (item,) = reap_idle.run(settings(), **zones.injected)["instances"]
    assert item["outcome"] == outcome
    assert zones.made("POST", "PUT", "DELETE") == []


@pytest.mark.parametrize(
    "changes",
    [{"labels": {}}, {"labels": label_map(owner="v2")}, {"manager": {"id": "pool", "type": "instance-pool"}}],
    ids=["no labels", "another version", "a pool's"],
)
def test_what_is_not_ours_is_not_even_read(zones: Zones, changes: dict[str, Any]) -> None:
    zones.instances["ch-gva-2"].append(instance(**changes))
    assert reap_idle.run(settings(zones=("ch-gva-2",)), **zones.injected)["instances"] == []
    assert zones.made() == ["GET ch-gva-2/v2/instance"]


def test_what_another_version_made_is_told_of_and_by_a_pass_over_one_name_where_it_has_that_name(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(owner="v2")))
    for name, told in ((None, [ID]), ("exollama", [ID]), ("another", [])):
        assert [one["id"] for one in reap_idle.run(settings(), name=name, **zones.injected)["foreign"]] == told


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    result = reap_idle.run(settings(), dry_run=True, **zones.injected)
    assert (result["dry_run"], result["instances"][0]["outcome"]) == (True, "planned")
    assert zones.made("POST", "PUT", "DELETE") == []


def test_one_zone_that_cannot_be_looked_at_stops_no_other(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    down = refusal(403, "Forbidden by role policy for compute")
    plain = zones.answer

    def answer(request: PreparedRequest) -> Answer:
        given = plain(request)
        return down() if "de-fra-1" in str(request.url) else given

    with Urllib3Mock(assert_all_requests_are_fired=False) as mock:
        for method in ("GET", "DELETE"):
            mock.add_callback(method, re.compile(r"https://api-.*"), callback=answer)
        result = reap_idle.run(settings(), **zones.injected)
    assert result["instances"][0]["outcome"] == "destroyed"
    (trouble,) = result["failed"]
    assert trouble.startswith("de-fra-1 was not looked at: GET /instance: Forbidden by role policy")


def test_one_instance_that_cannot_be_deleted_stops_no_other(zones: Zones) -> None:
    zones.instances["ch-gva-2"] += [instance(), instance(id="another")]
    zones.faults[f"DELETE /instance/{ID}"] = refusal(409, "Operation forbidden: instance is protected")
    outcomes = {i["id"]: i for i in reap_idle.run(settings(zones=("ch-gva-2",)), **zones.injected)["instances"]}
    assert outcomes["another"]["outcome"] == "destroyed"
    assert outcomes[ID]["outcome"] == "failed"
    assert "instance is protected" in outcomes[ID]["reason"]
    assert "elete protection" in outcomes[ID]["reason"]
    assert zones.made("DELETE").count(f"DELETE ch-gva-2/v2/instance/{ID}") == 1


def test_a_clock_that_is_off_acts_upon_nothing_and_says_by_how_much(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    zones.date = NOW + timedelta(minutes=30)
    result = reap_idle.run(settings(), **zones.injected)
    assert result["instances"] == []
    assert all("0:30:00 behind the API's" in trouble for trouble in result["failed"])
    assert len(result["failed"]) == 2
    assert zones.made("POST", "PUT", "DELETE") == []


def test_a_delete_whose_answer_was_lost_is_read_again_before_it_is_repeated(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    lost = iter([ConnectionResetError("reset by peer")])

    def once() -> Exception:
        error = next(lost)
        del zones.faults[f"DELETE /instance/{ID}"]
        return error

    zones.faults[f"DELETE /instance/{ID}"] = once
    (item,) = reap_idle.run(settings(zones=("ch-gva-2",)), **zones.injected)["instances"]
    assert item["outcome"] == "destroyed"
    first, second = (n for n, call in enumerate(zones.made()) if call.startswith("DELETE"))
    assert f"GET ch-gva-2/v2/instance/{ID}" in zones.made()[first:second]


# -- provision


def test_a_first_provision_makes_group_rules_and_instance_in_this_order_and_hands_out_the_result(zones: Zones) -> None:
    notes: list[str] = []
    result = provision.run(settings(key=Secret(KEY)), note=notes.append, **zones.injected)
    made = Instance.from_api("ch-gva-2", {"id": NEW, **zones.body("POST", "/instance")})
    assert made.policy.deadline
    assert result == {
        "id": NEW,
        "name": "exollama",
        "zone": "ch-gva-2",
        "state": "running",
        "phase": "ready",
        "url": "https://127.0.0.9:11435",
        "model": "granite3.1-dense:8b",
        "created": "2026-11-24T12:00:00+00:00",
        "deadline": made.policy.deadline.isoformat(),
        "key": Secret(KEY),
    }
    group = zones.body("POST", "/security-group")["name"]
    assert re.fullmatch(r"exollama-[0-9a-f]{12}", group)
    rules = [body for m, p, body in zones.calls if p.endswith("/rules")]
    assert [rule["network"] for rule in rules] == ["0.0.0.0/0", "::/0"]
    assert {(r["start-port"], r["end-port"], r["protocol"], r["flow-direction"]) for r in rules} == {
        (11435, 11435, "tcp", "ingress")
    }
    body = zones.body("POST", "/instance")
    assert NOW + 7 * DAY <= made.policy.deadline < NOW + 7 * DAY + timedelta(minutes=1)
    header = made.header()
    assert header
    assert (made.request, header.key) == (header.request, Secret(KEY))
    assert {k: v for k, v in body.items() if k not in ("labels", "user-data")} == {
        "name": "exollama",
        "instance-type": {"id": "type-large"},
        "template": {"id": "the-template"},
        "disk-size": 50,
        "security-groups": [{"id": "the-group"}],
        "public-ip-assignment": "inet4",
    }
    deeds = [call for call in zones.made("POST", "PUT", "DELETE") if "/v2/" in call]
    assert deeds == [
        "POST ch-gva-2/v2/security-group",
        *["POST ch-gva-2/v2/security-group/the-group/rules"] * 2,
        "POST ch-gva-2/v2/instance",
    ]
    assert any(NEW in note for note in notes)
    assert not any(KEY in note for note in notes)


def test_a_running_instance_is_found_touched_and_its_label_written_without_another_change(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=IDLE) | {"team": "seven"}))
    result = provision.run(settings(), **zones.injected)
    assert (result["id"], result["key"]) == (ID, Secret(KEY))
    assert [call for call in zones.made("POST", "PUT", "DELETE") if "/v2/" in call] == [
        f"PUT ch-gva-2/v2/instance/{ID}"
    ]
    assert zones.body("PUT", f"/instance/{ID}") == {"labels": label_map(activity=NOW) | {"team": "seven"}}
    assert zones.said["idle_s"] == 0.0


def test_a_stopped_instance_is_labelled_and_then_started_with_an_empty_body(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(state="stopped", labels=label_map(activity=IDLE, action="stop")))
    assert provision.run(settings(reap_action="stop"), **zones.injected)["state"] == "running"
    deeds = [call for call in zones.made("POST", "PUT", "DELETE") if "/v2/" in call]
    assert deeds == [f"PUT ch-gva-2/v2/instance/{ID}", f"PUT ch-gva-2/v2/instance/{ID}:start"]
    assert zones.body("PUT", f"/instance/{ID}:start") == {}


def test_a_create_whose_answer_was_lost_is_found_by_its_nonce(zones: Zones) -> None:
    def lost() -> Exception:
        del zones.faults["POST /instance"]
        zones.route("POST", "ch-gva-2", "/instance", zones.calls[-1][2])
        return ConnectionResetError("reset by peer")

    zones.faults["POST /instance"] = lost
    assert provision.run(settings(), **zones.injected)["id"] == NEW
    assert zones.made().count("POST ch-gva-2/v2/instance") == 1


def test_another_model_is_pulled_onto_an_existing_instance_and_other_differences_are_reported(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones.instances["ch-gva-2"].append(instance())
    plain = Agent.request

    @contextmanager
    def request(self: Agent, method: str, path: str, payload: object, **more: object) -> Iterator[Any]:
        with plain(self, method, path, payload, **more) as answer:
            if path == "/api/show":
                raise OllamaError("answered 404: model not found", status=404)
            yield answer

    monkeypatch.setattr(Agent, "request", request)
    notes: list[str] = []
    asked = settings(model="qwen3:4b", idle_s=60, allowed_cidrs=("203.0.113.0/24",))
    result = provision.run(asked, note=notes.append, **zones.injected)
    assert result["model"] == "qwen3:4b"
    assert zones.calls[-1] == ("POST", "/api/pull", {"model": "qwen3:4b", "stream": True})
    assert "EXOSCALE_IDLE_TIMEOUT (its own: 1800, set: 60)" in notes[-1]
    assert "EXOSCALE_ALLOWED_CIDRS (its own: open to any address, set: limited)" in notes[-1]


@pytest.mark.parametrize(("silent", "ends"), [(3, None), (99, "silent; try again"), (1, None)])
def test_an_ollama_that_is_being_restarted_costs_no_boot_that_was_waited_for(
    zones: Zones, monkeypatch: pytest.MonkeyPatch, silent: int, ends: str | None
) -> None:
    zones.instances["ch-gva-2"].append(instance())
    plain = Agent.request
    asked = iter(range(silent))

    @contextmanager
    def request(self: Agent, method: str, path: str, payload: object, **more: object) -> Iterator[Any]:
        with plain(self, method, path, payload, **more) as answer:
            if next(asked, None) is not None:
                raise OllamaError("it is silent; try again", status=502)
            yield answer

    monkeypatch.setattr(Agent, "request", request)
    if ends:
        with pytest.raises(OllamaError, match=ends):
            provision.run(settings(), **zones.injected)
        assert next(asked, None) == 15
    else:
        assert provision.run(settings(), **zones.injected)["phase"] == "ready"


def leftover(**changes: Any) -> dict[str, Any]:
    """One of another name that only a reaper has a use for."""
    labels = label_map(activity=IDLE, name="nother")
    return instance(**({"id": "leftover", "state": "error", "labels": labels} | changes))


@pytest.mark.parametrize("there", [[], [instance(labels=label_map(activity=NOW))]], ids=["created", "found"])
@pytest.mark.parametrize("wait", [True, False], ids=["waiting", "not waiting"])
def test_provision_reaps_what_is_overdue_in_its_zone_but_not_what_it_hands_out(
    zones: Zones, there: list[dict[str, Any]], wait: bool
) -> None:
    zones.instances["ch-gva-2"] += [leftover(), *(dict(one) for one in there)]
    zones.instances["de-fra-1"].append(leftover(id="elsewhere"))
    notes: list[str] = []
    result = provision.run(settings(), wait=wait, note=notes.append, **zones.injected)
    assert result["id"] == (ID if there else NEW)
    assert zones.made("DELETE") == ["DELETE ch-gva-2/v2/instance/leftover"]
    assert [note for note in notes if "leftover" in note] == [
        "Instance leftover (other) was destroyed on the way: in state error."
    ]


def test_provision_that_is_denied_to_reap_does_its_own_work_and_says_nothing_of_it(zones: Zones) -> None:
    zones.instances["ch-gva-2"] += [leftover(), instance(labels=label_map(activity=NOW))]
    zones.faults["DELETE /instance/leftover"] = refusal(403, "Forbidden by role policy for compute")
    notes: list[str] = []
    assert provision.run(settings(), note=notes.append, **zones.injected)["id"] == ID
    assert zones.made("DELETE") == ["DELETE ch-gva-2/v2/instance/leftover"]
    assert not any("leftover" in note for note in notes)


def test_provision_with_nothing_overdue_makes_no_request_for_it(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))
    provision.run(settings(), **zones.injected)
    alone = zones.made()
    zones.calls.clear()
    fresh = leftover(state="running", labels=label_map(activity=NOW, name="nother"))
    zones.instances["ch-gva-2"].append(fresh)
    provision.run(settings(), **zones.injected)
    assert zones.made() == alone


@pytest.mark.parametrize(
    ("path", "fault", "kind", "words"),
    [
        ("GET /instance", refusal(403, "Invalid request signature"), CredentialsRejected, "Check EXOSCALE_API_KEY"),
        ("GET /instance-type", refusal(403, "Forbidden by role policy for compute"), Denied, "IAM role"),
        ("POST /instance", refusal(409, "instance quota exceeded"), ExollamaError, "Quotas of GPU types start at 0"),
        ("POST /instance", refusal(403, "Forbidden by role policy for compute"), Denied, "POST /instance"),
    ],
    ids=["wrong credentials", "iam", "quota", "may not create"],
)
def test_a_refusal_ends_provision_in_its_own_words_after_one_request(
    zones: Zones, path: str, fault: Callable[[], Answer], kind: type[Exception], words: str
) -> None:
    zones.faults[path] = fault
    with pytest.raises(kind, match=words) as told:
        provision.run(settings(key=Secret(KEY)), **zones.injected)
    assert API_SECRET not in str(told.value)
    assert KEY not in str(told.value)
    method, _, rest = path.partition(" ")
    assert zones.made().count(f"{method} ch-gva-2/v2{rest}") == 1


def test_a_retry_after_of_a_day_does_not_hold_anybody_up_for_a_day(zones: Zones) -> None:
    answers = iter([refusal(429, "slow down", **{"Retry-After": "86400"})()])

    def once() -> Answer:
        del zones.faults["POST /instance"]
        return next(answers)

    zones.faults["POST /instance"] = once
    assert provision.run(settings(), **zones.injected)["id"] == NEW
    assert zones.elapsed_s < 60


def test_an_unknown_zone_is_told_with_the_zones_that_there_are(zones: Zones) -> None:
    zones.faults["GET /instance"] = refusal(404, "Not Found")
    with pytest.raises(ExollamaError, match=r"no zone xx-no-1\. Zones: ch-gva-2, de-fra-1"):
        provision.run(settings(zone="xx-no-1"), **zones.injected)
    assert zones.made("POST", "PUT", "DELETE") == []


def test_what_provision_made_is_what_reap_takes_for_its_own_a_day_later(zones: Zones) -> None:
    provision.run(settings(), **zones.injected)
    zones.elapsed_s += DAY.total_seconds()
    zones.said["idle_s"] = DAY.total_seconds()
    (item,) = reap_idle.run(settings(), **zones.injected)["instances"]
    assert (item["id"], item["outcome"]) == (NEW, "destroyed")
    assert NONCE not in str(zones.calls)
