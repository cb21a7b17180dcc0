"""The simulator's API half: what it lets in, what it refuses, what it records, and what it does wrong on demand."""

import http.client
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.simulator import PHASES, BootPlan, Simulator, signing
from tests.simulator.driver import call, create_body, sign


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(machines=False, operation_s=0.02, start_s=0.04) as running:
        yield running


def operation(simulator: Simulator, answer: Any) -> dict[str, Any]:
    """The operation of an answer, once it has ended."""
    id_ = answer.json["id"]
    simulator.wait(
        lambda: call(simulator, "GET", f"/operation/{id_}").json["state"] != "pending", "the operation's end"
    )
    ended: dict[str, Any] = call(simulator, "GET", f"/operation/{id_}").json
    return ended


def test_its_signature_is_the_documented_one() -> None:
    path = "/v2/resource/a02baf5a-a3e4-49a0-857b-8a08d276c1c0"
    value = signing.signature("example-secret", "GET", path, "p2=v2&p1=v1", b"", "1599140767")
    assert value == "vPVxcXrf2my0TLdJ8WPIGa/vLld+FiJN+xtMs/vofHg="


LIST = ("GET", "/ch-gva-2/v2/instance", "", b"")
REFUSED: dict[str, Callable[[Simulator], str]] = {
    "unsigned": lambda s: "",
    "another secret": lambda s: sign(s, *LIST, secret="another"),
    "another method": lambda s: sign(s, "POST", *LIST[1:]),
    "another path": lambda s: sign(s, "GET", "/v2/instance", "", b""),
    "another body": lambda s: sign(s, *LIST[:3], b"{}"),
    "expired": lambda s: sign(s, *LIST, for_s=-1),
    "unknown key": lambda s: sign(s, *LIST).replace(s.key, "EXOnobody"),
    "no signature": lambda s: sign(s, *LIST).partition(",signature")[0],
    "another scheme": lambda s: sign(s, *LIST).replace("EXO2-", "EXO3-"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_not_rightly_signed_is_refused(simulator: Simulator, case: str) -> None:
    answer = call(simulator, "GET", "/instance", authorization=REFUSED[case](simulator))
    assert (answer.status, answer.json) == (403, {"message": "Invalid request signature"})
    assert len(simulator.denied) == 1


def test_query_values_are_part_of_the_signature(simulator: Simulator) -> None:
    assert call(simulator, "GET", "/template", query="visibility=public").status == 200
    plain = sign(simulator, "GET", "/ch-gva-2/v2/template", "", b"")
    assert call(simulator, "GET", "/template", query="visibility=public", authorization=plain).status == 403


def test_only_zones_and_types_are_public(simulator: Simulator) -> None:
    assert call(simulator, "GET", "/zone", authorization="").status == 200
    kinds = call(simulator, "GET", "/instance-type", authorization="").json["instance-types"]
    assert {kind["authorized"] for kind in kinds if "gpus" in kind} == {False}
    assert call(simulator, "GET", "/template", authorization="").status == 403


VIOLATING: dict[str, tuple[str, str, Any, str]] = {
    "a property that is not documented": ("POST", "/security-group", {"name": "a", "colour": "red"}, "colour"),
    "a required property left out": ("POST", "/security-group", {"description": "a"}, "name"),
    "a label that Exoscale refuses": ("POST", "/instance", {"labels": {"a": "1"}}, "label a"),
    "a disk too small": ("POST", "/instance", {"disk-size": 5}, "disk-size"),
    "user-data that is not base64": ("POST", "/instance", {"user-data": "#cloud-config"}, "base64"),
    "user-data too long": ("POST", "/instance", {"user-data": "A" * 32772}, "user-data"),
    "no body where one is required": ("PUT", "/instance/a02baf5a-a3e4-49a0-857b-8a08d276c1c0:start", None, "no body"),
    "a body where none is documented": ("GET", "/instance", {}, "body"),
    "malformed JSON": ("POST", "/security-group", b'{"name":', "no JSON"),
    "an id that is no UUID": ("GET", "/instance/1", None, "uuid"),
    "an operation that does not exist": ("GET", "/machine", None, "no such operation"),
}


@pytest.mark.parametrize("case", VIOLATING)
def test_a_request_that_breaks_the_document_is_refused_and_recorded(simulator: Simulator, case: str) -> None:
    method, path, body, said = VIOLATING[case]
    whole = create_body(simulator, **body) if path == "/instance" and method == "POST" else body
    answer = call(simulator, method, path, whole)
    assert answer.status == (404 if case == "an operation that does not exist" else 400)
    [violation] = simulator.violations
    assert said in violation
    assert simulator.instances() == []


def test_a_repeated_query_parameter_is_a_violation(simulator: Simulator) -> None:
    query = "visibility=public&visibility=private"
    header = sign(simulator, "GET", "/ch-gva-2/v2/template", query, b"")
    assert call(simulator, "GET", "/template", query=query, authorization=header).status == 400
    assert "repeated" in simulator.violations[0]


def test_an_answer_of_its_own_that_breaks_the_document_is_recorded(simulator: Simulator) -> None:
    id_ = simulator.plant()
    simulator.set_state(id_, "on fire")
    assert call(simulator, "GET", f"/instance/{id_}").status == 500
    assert "on fire" in simulator.violations[0]


# kind, options → the status that is seen (None: none at all), and whether the deed was done
FAULTS: dict[str, tuple[str, dict[str, Any], int | None, bool]] = {
    "lost": ("lost", {}, None, True),
    "reset": ("reset", {}, None, False),
    "hang": ("hang", {"seconds": 0.05}, None, False),
    "slow": ("slow", {"seconds": 0.05}, 200, True),
    "garbage": ("garbage", {}, 200, True),
    "truncated": ("truncated", {}, None, True),
    "html": ("html", {}, 502, False),
    "429": ("429", {"retry_after": 86400}, 429, False),
    "500": ("500", {}, 500, False),
    "503": ("503", {}, 503, False),
    "quota": ("quota", {}, 409, False),
    "403-iam": ("403-iam", {}, 403, False),
    "403-signature": ("403-signature", {}, 403, False),
    "op-failure": ("op-failure", {"reason": "fault"}, 200, False),
    "op-never": ("op-never", {}, 200, False),
    "no-reference": ("no-reference", {}, 200, True),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_strikes_once_and_the_deed_is_done_or_not_as_it_says(simulator: Simulator, case: str) -> None:
    kind, options, status, done = FAULTS[case]
    simulator.fault("create-instance", kind, **options)
    seen: int | None
    try:
        answer = call(simulator, "POST", "/instance", create_body(simulator))
        seen = answer.status
        if kind == "429":
            assert answer.headers["Retry-After"] == "86400"
        if kind in ("garbage", "no-reference"):
            assert b"reference" not in answer.body or not answer.body.endswith(b"}")
    except (OSError, http.client.HTTPException):
        seen = None
    assert seen == status
    assert len(simulator.instances()) == done
    assert simulator.called("create-instance")[0].fault == kind
    assert call(simulator, "POST", "/instance", create_body(simulator)).status == 200
    assert simulator.violations == []


@pytest.mark.parametrize(
    ("kind", "options", "state", "reason"),
    [
        ("op-failure", {}, "failure", "unknown"),
        ("op-failure", {"reason": "unavailable"}, "failure", "unavailable"),
        ("op-failure", {"reason": None}, "failure", None),
        ("op-timeout", {"reason": None}, "timeout", None),
        ("busy", {}, "failure", "busy"),
    ],
)
def test_an_operation_ends_as_planned(
    simulator: Simulator, kind: str, options: dict[str, Any], state: str, reason: str | None
) -> None:
    id_ = simulator.plant()
    simulator.fault("delete-instance", kind, **options)
    ended = operation(simulator, call(simulator, "DELETE", f"/instance/{id_}"))
    assert (ended["state"], ended.get("reason")) == (state, reason)
    assert simulator.instance(id_).state == "running"


def test_a_failed_create_may_leave_an_instance_in_error(simulator: Simulator) -> None:
    simulator.fault("create-instance", "op-failure", leaves=True)
    ended = operation(simulator, call(simulator, "POST", "/instance", create_body(simulator)))
    simulator.wait(lambda: simulator.instance(ended["reference"]["id"]).state == "error")


@pytest.mark.parametrize(("kind", "state"), [("instance-error", "error"), ("no-start", "starting")])
def test_a_create_may_succeed_and_the_instance_not_come_up(simulator: Simulator, kind: str, state: str) -> None:
    simulator.fault("create-instance", kind)
    ended = operation(simulator, call(simulator, "POST", "/instance", create_body(simulator)))
    assert ended["state"] == "success"
    simulator.wait(lambda: simulator.instance().state == state)


def test_faults_can_be_for_one_zone_skip_calls_and_last(simulator: Simulator) -> None:
    simulator.fault("list-instances", "500", times=2, skip=1, zone="de-fra-1")
    seen = [call(simulator, "GET", "/instance", zone=zone).status for zone in ["ch-gva-2"] + ["de-fra-1"] * 4]
    assert seen == [200, 200, 500, 500, 200]


def test_a_fault_that_does_not_exist_is_refused(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match="unknown kind of fault"):
        simulator.fault("create-instance", "explode")
    with pytest.raises(ValueError, match="unknown phase"):
        BootPlan(fail="teatime")
    assert PHASES[0] == "starting"


def test_a_new_instance_may_show_late_in_lists(simulator: Simulator) -> None:
    simulator.options.list_lag_s = 1000
    id_ = call(simulator, "POST", "/instance", create_body(simulator)).json["reference"]["id"]
    assert call(simulator, "GET", f"/instance/{id_}").status == 200
    assert call(simulator, "GET", "/instance").json["instances"] == []
    simulator.zones["ch-gva-2"].instances[id_].visible_at -= 999.9
    simulator.wait(lambda: call(simulator, "GET", "/instance").json["instances"])


def test_everything_is_bound_to_its_zone(simulator: Simulator) -> None:
    id_ = simulator.plant(zone="de-fra-1")
    assert call(simulator, "GET", f"/instance/{id_}").status == 404
    assert call(simulator, "GET", f"/instance/{id_}", zone="de-fra-1").status == 200
    assert call(simulator, "GET", "/instance", zone="at-vie-1").status == 404


def test_time_moves_forward_and_one_zone_can_be_wrong(simulator: Simulator) -> None:
    def ahead_s(zone: str) -> float:
        date = call(simulator, "GET", "/zone", zone=zone, authorization="").headers["Date"]
        return parsedate_to_datetime(date).timestamp() - time.time()

    assert abs(ahead_s("ch-gva-2")) < 10
    simulator.advance(3600)
    simulator.skew(900, "de-fra-1")
    assert abs(ahead_s("ch-gva-2") - 3600) < 10
    assert abs(ahead_s("de-fra-1") - 4500) < 10
    assert call(simulator, "GET", "/instance").status == 403  # this signer's clock stands an hour behind


def test_an_unauthorised_gpu_can_be_authorised(simulator: Simulator) -> None:
    zone = simulator.zones["ch-gva-2"]
    gpu = next(kind["id"] for kind in zone.types.values() if kind["family"] == "gpua30")
    body = create_body(simulator, **{"instance-type": {"id": gpu}})
    refused = call(simulator, "POST", "/instance", body)
    assert refused.status == 400
    assert "not authorized" in refused.json["message"]
    simulator.options.authorized_gpus.add("gpua30")
    assert call(simulator, "POST", "/instance", body).status == 200


def test_two_instances_of_one_name_may_exist(simulator: Simulator) -> None:
    for _ in range(2):
        assert call(simulator, "POST", "/instance", create_body(simulator)).status == 200
    assert [seen.name for seen in simulator.instances()] == ["exollama", "exollama"]


def test_labels_can_be_edited_by_hand_and_an_instance_can_go(simulator: Simulator) -> None:
    id_ = simulator.plant(labels={"exollama": "v1", "exollama-idle": "s1800"})
    simulator.edit_labels(id_, exollama_idle="nonsense", exollama=None)
    assert simulator.instance(id_).labels == {"exollama-idle": "nonsense"}
    simulator.remove(id_)
    assert call(simulator, "GET", f"/instance/{id_}").status == 404
