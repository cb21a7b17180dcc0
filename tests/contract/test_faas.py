"""The functions behind a FaaS, against the API's contract: what each call comes to, through every adapter."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from client.endpoint import TIMEOUT_S
from client.errors import OllamaError, Unreachable
from functions import faas
from tests.fakes import API_KEY, API_SECRET, DAY, KEY, NOW, label_map
from tests.zones import ID, NEW, Agent, Zones, instance, refusal

TOKEN = "planted-function-token-0123456789-abcdefgh"
ENV = {
    "EXOSCALE_API_KEY": API_KEY,
    "EXOSCALE_API_SECRET": API_SECRET,
    "EXOSCALE_OLLAMA_KEY": KEY,
    "EXOLLAMA_FUNCTION_TOKEN": TOKEN,
}
BOOTING = {"phase": "docker", "idle_s": 0.0}


def done(zones: Zones, action: str, **how: Any) -> tuple[int, dict[str, Any]]:
    """`handle` on the zones' clock."""
    params = how.pop("params", {})
    given = {**zones.injected, "monotonic": lambda: zones.elapsed_s, "env": ENV, **how}
    return faas.handle(action, params, **given)


# -- the core


def test_provision_answers_202_with_the_phase_until_it_is_ready_and_then_its_result(zones: Zones) -> None:
    zones.said = dict(BOOTING)
    for _ in range(3):
        status, said = done(zones, "provision", over_http=True, reveal=True)
        assert (status, said) == (202, {"phase": "docker", "percent": None, "retry_after_s": 5})
    zones.said = {"idle_s": 0.0}
    status, said = done(zones, "provision", over_http=True, reveal=True)
    assert (status, said["id"], said["url"], said["key"]) == (200, NEW, "https://127.0.0.9:11435", KEY)
    assert json.loads(json.dumps(said)) == said
    assert zones.made().count("POST ch-gva-2/v2/instance") == 1


@pytest.mark.parametrize(
    ("how", "longest_s"),
    [
        ({"over_http": True}, 6),
        ({"over_http": True, "remaining_s": 10.0}, 6),
        ({"over_http": True, "remaining_s": 900.0}, 6),
        ({"remaining_s": 120.0}, 119),
        ({}, 54),
        ({"env": {**ENV, "EXOLLAMA_FUNCTION_TIMEOUT": "20"}}, 19),
        ({"env": {**ENV, "EXOLLAMA_FUNCTION_TIMEOUT": "20"}, "remaining_s": 10.0}, 9),
    ],
    ids=str,
)
def test_provision_keeps_to_the_time_that_there_is(zones: Zones, how: dict[str, Any], longest_s: float) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))
    zones.said = dict(BOOTING)
    assert done(zones, "provision", **how)[0] == 202
    assert longest_s * 0.3 < zones.elapsed_s + 0.5
    assert zones.elapsed_s <= longest_s


def test_a_pull_of_another_model_is_broken_off_in_time_and_gone_on_with(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    zones.instances["ch-gva-2"].append(instance())
    asked: list[str] = []

    def line(_limit: int) -> bytes:
        zones.elapsed_s += 1.0
        return b'{"status": "pulling", "digest": "d", "total": 100, "completed": 40}\n'

    @contextmanager
    def request(self: Agent, method: str, path: str, payload: object, **_: object) -> Iterator[Any]:
        asked.append(path)
        if path == "/api/show":
            raise OllamaError("answered 404: model not found", status=404)
        yield SimpleNamespace(readline=line)

    monkeypatch.setattr(Agent, "request", request)
    for _ in range(2):
        status, said = done(zones, "provision", over_http=True)
        assert (status, said["phase"], said["percent"]) == (202, "model", 40.0)
    assert asked == ["/api/show", "/api/pull"] * 2


def test_the_key_is_masked_unless_it_may_be_seen(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    status, said = done(zones, "provision")
    assert (status, said["key"]) == (200, "***")
    assert KEY not in json.dumps(said)


def test_reap_returns_what_became_of_each(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    status, said = done(zones, "reap", params={"dry_run": True})
    assert (status, said["instances"][0]["outcome"]) == (200, "planned")
    status, said = done(zones, "reap_idle", over_http=True)
    assert (status, said["instances"][0]["outcome"]) == (200, "destroyed")


def slow_reads(zones: Zones, seconds: float) -> None:
    """Each read of the instance takes so long."""

    def read() -> tuple[int, dict[str, str], str]:
        zones.elapsed_s += seconds
        found = zones.route("GET", "ch-gva-2", f"/instance/{ID}", None)
        return (200, {}, json.dumps(found)) if found else (404, {}, "{}")

    zones.faults[f"GET /instance/{ID}"] = read


def test_a_reap_that_does_nothing_for_want_of_time_has_failed_and_left_the_instance_open(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    slow_reads(zones, 37.0)
    status, said = done(zones, "reap", over_http=True)
    assert (status, said["instances"][0]["outcome"]) == (504, "unfinished")
    assert "Nothing came of 1 instance(s)" in said["error"]
    assert "raise the function's time limit" in said["error"]
    assert zones.made("DELETE") == []
    assert [deed.split()[0] for deed in zones.shut] == ["fence", "unfence"], "it takes requests again meanwhile"
    zones.faults.clear()
    assert done(zones, "reap", over_http=True)[1]["instances"][0]["outcome"] == "destroyed"


@pytest.mark.parametrize("action", ["reap", "status"])
def test_what_another_version_made_fails_each_call_that_looks(zones: Zones, action: str) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(owner="v2")))
    status, said = done(zones, action, over_http=True)
    assert (status, said["foreign"][0]["version"]) == (500, "v2")
    assert "Upgrade exollama, or remove it in the portal." in said["error"]
    assert zones.made("POST", "PUT", "DELETE") == []


def test_a_reap_whose_time_runs_out_after_the_deed_says_that_it_goes_on(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    slow_reads(zones, 18.0)
    status, said = done(zones, "reap", over_http=True)
    assert (status, said["retry_after_s"], said["instances"][0]["outcome"]) == (202, 5, "begun")
    assert "under way" in said["instances"][0]["reason"]
    assert zones.made("DELETE") == [f"DELETE ch-gva-2/v2/instance/{ID}"]
    assert done(zones, "reap", over_http=True)[0] == 200


def late_commits(zones: Zones, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    zones.instances["ch-gva-2"].append(instance())
    commit = Agent.commit

    def late(self: Agent, owner: str) -> None:
        commit(self, owner)
        zones.elapsed_s += seconds

    monkeypatch.setattr(Agent, "commit", late)


def test_what_has_committed_is_deleted_even_at_the_very_end(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    late_commits(zones, monkeypatch, 60.0)
    status, said = done(zones, "reap", over_http=True)
    assert (status, said["instances"][0]["outcome"]) == (202, "begun")
    assert zones.made("DELETE") == [f"DELETE ch-gva-2/v2/instance/{ID}"]
    assert [deed.split()[0] for deed in zones.shut] == ["fence", "commit"], "it stays shut"
    assert done(zones, "reap", over_http=True)[1]["instances"] == []


def test_a_process_that_was_frozen_after_the_commit_deletes_nothing_hours_later(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_commits(zones, monkeypatch, 7200.0)
    status, said = done(zones, "reap", over_http=True)
    assert (status, said["instances"][0]["outcome"]) == (500, "failed")
    assert zones.made("DELETE") == []
    assert [deed.split()[0] for deed in zones.shut] == ["fence", "commit", "unfence"]


def test_a_refusal_at_the_very_end_is_told_and_the_instance_opened_again(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_commits(zones, monkeypatch, 60.0)
    zones.faults[f"DELETE /instance/{ID}"] = refusal(409, "Instance is protected against deletion")
    status, said = done(zones, "reap", over_http=True)
    assert (status, "protected" in said["error"]) == (500, True)
    assert [deed.split()[0] for deed in zones.shut] == ["fence", "commit", "unfence"]


@pytest.mark.parametrize("over_http", [True, False])
def test_an_instance_that_swallows_everything_is_removed_within_the_usual_time(
    zones: Zones, monkeypatch: pytest.MonkeyPatch, over_http: bool
) -> None:
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW, deadline=NOW - 9 * DAY)))
    asked = 0

    def swallows(self: Agent) -> dict[str, Any]:
        nonlocal asked
        asked += 1
        zones.elapsed_s += TIMEOUT_S  # all of it: a shorter one would take a busy instance for a silent one
        raise Unreachable("https://127.0.0.9:11435 cannot be reached: timed out.")

    monkeypatch.setattr(Agent, "status", swallows)
    status, said = done(zones, "reap", over_http=over_http)
    assert (status, said["instances"][0]["outcome"]) == (200, "destroyed")
    assert asked == 3


def test_a_look_that_has_no_time_takes_that_for_no_silence(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    zones.said = {"idle_s": 0.0, "in_flight": 2}
    slow_reads(zones, 17.0)
    zones.instances["ch-gva-2"].append(instance(id="second"))
    status, said = done(
        zones, "status", params={"check": True}, over_http=True, env={**ENV, "EXOSCALE_ZONES": "ch-gva-2"}
    )
    assert [one["overdue"] for one in said["instances"]] == [None, None]
    assert status in (200, 500)
    assert "should be gone" not in said.get("error", "")


def test_a_failed_boot_is_told_and_ended_and_the_next_call_makes_another(zones: Zones) -> None:
    zones.said = {"failed": "docker", "idle_s": 0.0}
    status, said = done(zones, "provision", over_http=True)
    if status == 202:  # told by the call that made it, or by the next
        status, said = done(zones, "provision", over_http=True)
    assert (status, "The boot failed in phase docker" in said["error"]) == (500, True)
    assert zones.instances["ch-gva-2"] == []
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))
    status, said = done(zones, "provision", over_http=True)
    assert (status, "Asking again makes another" in said["error"]) == (500, True)
    assert zones.instances["ch-gva-2"] == []
    zones.said = {"idle_s": 0.0}
    assert done(zones, "provision", over_http=True)[0] == 200
    assert zones.made().count("POST ch-gva-2/v2/instance") == 2


def test_a_provision_over_http_reaps_nothing_beside_it_that_could_thaw_hours_later(zones: Zones) -> None:
    zones.instances["ch-gva-2"] += [instance(labels=label_map(activity=NOW)), instance(id="idle", state="error")]
    assert done(zones, "provision", over_http=True)[0] == 200
    assert zones.made("DELETE") == []


def test_a_pass_that_is_cut_short_does_not_end_before_the_same_instances_each_time(
    zones: Zones, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("functions.reap_idle.AT_ONCE", 1)
    zones.instances["ch-gva-2"] += [instance(id=f"{number:04}") for number in range(60)]

    def finished() -> set[str]:
        zones.asked.clear()
        said = done(zones, "reap", params={"dry_run": True}, monotonic=lambda: float(len(zones.asked)))[1]
        order = [one["id"] for one in said["instances"]]
        assert order == sorted(order)
        return {one["id"] for one in said["instances"] if one["outcome"] != "unfinished"}

    before = finished()
    assert 0 < len(before) < 60
    assert finished() != before


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        (("POST /instance", refusal(409, "Quota exceeded")), 500, "quota is used up"),
        (("GET /instance", refusal(403, "Forbidden by role policy for compute")), 502, "IAM role does not allow"),
        (("GET /instance", refusal(403, "Invalid request signature")), 502, "Check EXOSCALE_API_KEY"),
    ],
    ids=["quota", "role", "signature"],
)
def test_what_the_api_refuses_is_told(zones: Zones, fault: Any, status: int, words: str) -> None:
    zones.faults[fault[0]] = fault[1]
    said = done(zones, "provision", over_http=True)
    assert said[0] == status
    assert words in said[1]["error"]


def test_a_reap_that_fails_has_failed_whatever_else_it_did(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.reap_idle.AT_ONCE", 1)  # both on one clock
    zones.instances["ch-gva-2"] += [instance(), instance(id="other")]
    zones.faults[f"DELETE /instance/{ID}"] = refusal(403, "Forbidden by role policy for compute")
    status, said = done(zones, "reap", remaining_s=600.0)
    assert (status, {one["id"]: one["outcome"] for one in said["instances"]}) == (
        500,
        {ID: "failed", "other": "destroyed"},
    )
    assert f"{ID} (exollama): The destruction of {ID} was refused" in said["error"]


def test_a_zone_that_cannot_be_looked_at_fails_a_reap(zones: Zones) -> None:
    zones.faults["GET /instance"] = refusal(500, "on fire")
    one_zone = {**ENV, "EXOSCALE_ZONES": "ch-gva-2"}  # on one clock
    status, said = done(zones, "reap", remaining_s=600.0, env=one_zone)
    assert (status, len(said["failed"])) == (500, 1)
    assert "was not looked at" in said["error"]


def test_no_time_at_all_is_a_failure_and_not_an_empty_cloud(zones: Zones) -> None:
    ticks = iter(range(0, 10_000, 100))
    status, said = done(zones, "reap", monotonic=lambda: float(next(ticks)))
    assert (status, "nearly over" in said["error"]) == (504, True)
    assert zones.made() == []


def test_status_shows_and_checks(zones: Zones) -> None:
    zones.instances["ch-gva-2"].append(instance())
    status, said = done(zones, "status", params={"probe": True})
    assert (status, said["instances"][0]["said"]["boot"]["phase"]) == (200, "ready")
    status, said = done(zones, "status", params={"check": True})
    assert (status, "should be gone" in said["error"]) == (500, True)
    assert KEY not in json.dumps(said)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({}, ["EXOSCALE_API_KEY is not set", "EXOSCALE_API_SECRET is not set"]),
        ({**ENV, "EXOSCALE_ZONE": "moon", "EXOSCALE_DISK_SIZE": "5"}, ["'moon'", "'5'"]),
        ({**ENV, "EXOLLAMA_FUNCTION_TIMEOUT": "0"}, ["EXOLLAMA_FUNCTION_TIMEOUT is '0'", "from 10 to 86400"]),
    ],
    ids=["none", "wrong", "timeout"],
)
def test_settings_that_cannot_be_used_are_told_at_once_and_nothing_is_done(
    zones: Zones, env: dict[str, str], words: list[str]
) -> None:
    status, said = done(zones, "provision", env=env)
    assert status == 500
    assert [word for word in words if word not in said["error"]] == []
    assert zones.made() == []


def test_a_wrong_call_is_refused_before_the_settings_are_looked_at(zones: Zones) -> None:
    assert done(zones, "stop", env={}) == (
        400,
        {"error": 'There is no action "stop": it is provision, status or reap.'},
    )
    assert done(zones, "reap", params={"force": True}, env={})[0] == 400
