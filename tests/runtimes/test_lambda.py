"""AWS Lambda's own: the events it hands over, and the deadline of each invocation."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.runtimes.drivers import BEARER, TOKEN, AwsLambda, Runtime
from tests.runtimes.events import OF_OTHER_TRIGGERS, SCHEDULED, function_url, load_balancer, rest_api
from tests.simulator import Simulator
from tests.system.verbs import changes, plant

BASE64 = "base64 function URL"
SHAPES: dict[str, Callable[..., dict[str, Any]]] = {
    "function URL": function_url,
    BASE64: lambda *request: function_url(*request, binary=True),
    "REST API": rest_api,
    "load balancer": load_balancer,
}


@pytest.fixture
def aws(started: Callable[[type[Runtime]], Runtime]) -> AwsLambda:
    runtime = started(AwsLambda)
    assert isinstance(runtime, AwsLambda)
    return runtime


@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_is_read_in_each_shape(aws: AwsLambda, cloud: Simulator, shape: str) -> None:
    event = SHAPES[shape]
    by_body = aws.answer(event("POST", "/", b'{"action": "reap", "dry_run": true}', BEARER))
    assert (by_body.status, by_body.json["dry_run"]) == (200, True)
    by_path = aws.answer(event("GET", "/status?probe=true", None, {"X-Exollama-Token": TOKEN}))
    assert (by_path.status, by_path.json["instances"]) == (200, [])
    assert len(cloud.called("list-instances")) == 4
    assert aws.answer(event("POST", "/reap", b"{}", {})).status == 401
    assert aws.answer(event("POST", "/", b"{", BEARER)).status == 400
    assert len(cloud.called("list-instances")) == 4


def test_a_body_that_is_not_the_base64_it_is_said_to_be_is_refused(aws: AwsLambda, cloud: Simulator) -> None:
    event = function_url("POST", "/reap", b"{}", BEARER, binary=True) | {"body": "{}"}
    answer = aws.answer(event)
    assert (answer.status, "base64" in answer.json["error"], cloud.calls) == (400, True, [])


@pytest.mark.parametrize("event", [SCHEDULED, {"action": "reap"}], ids=["EventBridge", "plain"])
def test_a_schedule_reaps_without_a_token(aws: AwsLambda, cloud: Simulator, event: dict[str, Any]) -> None:
    left = plant(cloud, state="stopped")
    outcome = aws.api.invoke(event, 30)
    assert outcome.kind == "response"
    assert [(one["id"], one["outcome"]) for one in outcome.said["instances"]] == [(left.id, "destroyed")]
    assert cloud.instances() == []


def test_a_plain_event_looks(aws: AwsLambda, cloud: Simulator) -> None:
    left = plant(cloud)
    outcome = aws.api.invoke({"action": "status"}, 30)
    assert (outcome.kind, [one["id"] for one in outcome.said["instances"]]) == ("response", [left.id])


@pytest.mark.parametrize("trigger", OF_OTHER_TRIGGERS)
def test_an_event_of_another_trigger_fails_in_a_sentence_and_does_nothing(
    aws: AwsLambda, cloud: Simulator, trigger: str
) -> None:
    outcome = aws.api.invoke(OF_OTHER_TRIGGERS[trigger], 30)
    assert (outcome.kind, outcome.said["errorType"]) == ("error", "BadCall")
    assert '{"action": "reap"}' in outcome.said["errorMessage"]
    assert "\n" not in outcome.said["errorMessage"]
    assert cloud.calls == []


def test_what_fails_on_schedule_fails_the_invocation(aws: AwsLambda, cloud: Simulator) -> None:
    cloud.fault("list-zones", "403-iam", times=1 << 30)
    outcome = aws.api.invoke(SCHEDULED, 30)
    assert (outcome.kind, outcome.said["errorType"]) == ("error", "CallFailed")
    assert "role policy" in outcome.said["errorMessage"]


def test_provision_answers_before_a_short_deadline_and_creates_one_instance(aws: AwsLambda, cloud: Simulator) -> None:
    cloud.options.start_s = 30
    # Over HTTP it is told at once, not when the time is nearly over; a plain event is, some seconds before that.
    for event, left_s, limit_s in (
        (function_url("POST", "/provision", None, BEARER), 30, 12),
        ({"action": "provision"}, 13, 13),
    ):
        began = time.monotonic()
        outcome = aws.api.invoke(event, left_s)
        assert time.monotonic() - began < limit_s
        assert outcome.kind == "response"
        if "statusCode" in outcome.said:
            assert (outcome.said["statusCode"], outcome.said["headers"]["Retry-After"]) == (202, "5")
        else:
            assert outcome.said["retry_after_s"] == 5
    assert changes(cloud).count("create-instance") == 1


def test_a_reap_that_is_cut_short_goes_on_in_the_next_invocation(aws: AwsLambda, cloud: Simulator) -> None:
    cloud.options.operation_s = 11.0
    left = plant(cloud, state="stopped")
    began = time.monotonic()
    outcome = aws.api.invoke(SCHEDULED, 13)
    assert time.monotonic() - began < 13
    assert outcome.kind == "response"
    assert [(one["id"], one["outcome"]) for one in outcome.said["instances"]] == [(left.id, "begun")]
    cloud.wait(lambda: cloud.instances() == [], "its end")
    outcome = aws.api.invoke(SCHEDULED, 30)
    assert (outcome.kind, outcome.said["instances"]) == ("response", [])
    assert len(cloud.called("delete-instance")) == 1


def test_a_limit_in_which_nothing_could_be_done_is_told(aws: AwsLambda, cloud: Simulator) -> None:
    outcome = aws.api.invoke(SCHEDULED, 3)
    assert (outcome.kind, outcome.said["errorType"]) == ("error", "CallFailed")
    assert "raise its time limit, to 60 s" in outcome.said["errorMessage"]
    assert cloud.calls == []
