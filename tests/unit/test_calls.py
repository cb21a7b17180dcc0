"""What a call from outside asks for: the token first, then one clear sentence for whatever cannot be meant."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.calls import MAX_BODY, BadCall, Call, Request, from_event, from_request, is_http, request_of

TOKEN = "planted-function-token-0123456789-abcdefgh"
ENV = {"EXOLLAMA_FUNCTION_TOKEN": TOKEN}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PROVISION = '{"action": "provision"}'


def asked(
    body: object = PROVISION,
    *,
    method: str = "POST",
    path: str = "/",
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] = BEARER,
    env: Mapping[str, str] = ENV,
) -> Call:
    return from_request(Request(method=method, path=path, query=query or {}, headers=headers, body=body), env)


def call(action: str, *, with_token: bool = True, **params: bool) -> Call:
    return Call(action=action, params=params, with_token=with_token)


def ending(how: Callable[[], Call]) -> tuple[int, str]:
    """200 and the action, or how it was refused."""
    try:
        return 200, how().action
    except BadCall as refused:
        return refused.status, str(refused)


# -- over HTTP

MEANT: dict[str, tuple[dict[str, Any], Call]] = {
    "JSON as text": ({}, call("provision")),
    "as bytes": ({"body": PROVISION.encode()}, call("provision")),
    "as an object": ({"body": {"action": "provision"}}, call("provision")),
    "by the original's verb": ({"body": {"action": "start"}}, call("provision")),
    "by the module's name": ({"body": {"action": "reap_idle", "dry_run": True}}, call("reap", dry_run=True)),
    "in the path": ({"body": "", "path": "/api/reap"}, call("reap")),
    "in the path, with a slash": ({"body": None, "path": "/provision/"}, call("provision")),
    "in path and body alike": ({"path": "/start"}, call("provision")),
    "in the query": ({"body": b"", "query": {"action": "status", "check": "true"}}, call("status", check=True)),
    "status by GET": (
        {"body": "", "method": "GET", "path": "/status", "query": {"probe": "1"}},
        call("status", probe=True),
    ),
    "status by POST": ({"body": {"action": "status", "probe": False}}, call("status", probe=False)),
    "a path that means nothing": ({"path": "/default/exollama"}, call("provision")),
    "metrics, by their name": (
        {"body": "", "method": "GET", "path": "/status", "query": {"format": "prometheus"}},
        call("status")._replace(format="prometheus"),
    ),
    "metrics, in the body": (
        {"body": {"action": "status", "format": "prometheus", "probe": True}},
        call("status", probe=True)._replace(format="prometheus"),
    ),
    "metrics, by the header": (
        {"body": "", "path": "/status", "headers": {**BEARER, "ACCEPT": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"}},
        call("status")._replace(format="prometheus"),
    ),
    "JSON for whoever says so": (
        {"body": "", "path": "/status", "query": {"format": "json"}, "headers": {**BEARER, "Accept": "version=0.0.4"}},
        call("status"),
    ),
    "what acts, asked by a Prometheus": ({"headers": {**BEARER, "Accept": "version=0.0.4"}}, call("provision")),
}


@pytest.mark.parametrize(("how", "meant"), MEANT.values(), ids=MEANT)
def test_what_is_asked_over_http_is_understood(how: dict[str, Any], meant: Call) -> None:
    assert asked(**how) == meant


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no action": ({"body": "{}"}, 400, 'No action is given. Send {"action": "provision"}, or status or reap.'),
    "no body": ({"body": None}, 400, "No action is given."),
    "unknown action": (
        {"body": {"action": "destroy"}},
        400,
        'There is no action "destroy": it is provision, status or reap.',
    ),
    "an action that is no word": ({"body": {"action": [7]}}, 400, "There is no action [7]"),
    "an action with an escape in it": ({"body": {"action": "a\x1b[2J"}}, 400, r'no action "a\u001b[2J"'),
    "unknown parameter": (
        {"body": {"action": "status", "force": True}},
        400,
        'status has no parameter "force": it has check, probe.',
    ),
    "a parameter where there is none": (
        {"body": {"action": "provision", "wait": True}},
        400,
        "provision has no parameter",
    ),
    "a parameter of another type": (
        {"body": {"action": "reap", "dry_run": "yes"}},
        400,
        'dry_run is "yes": true or false is expected.',
    ),
    "a number for a truth": (
        {"body": {"action": "reap", "dry_run": 1}},
        400,
        "dry_run is 1: true or false is expected.",
    ),
    "a query of another type": ({"body": "", "path": "/status", "query": {"probe": "maybe"}}, 400, 'probe is "maybe"'),
    "a format that there is not": (
        {"body": "", "path": "/status", "query": {"format": "xml"}},
        400,
        'format is "xml": json or prometheus or html is expected.',
    ),
    "a format that is no word": (
        {"body": {"action": "status", "format": []}},
        400,
        "format is []: json or prometheus or html",
    ),
    "a format of what acts": (
        {"body": {"action": "reap", "format": "prometheus"}},
        400,
        'reap has no parameter "format"',
    ),
    "two actions": ({"path": "/reap"}, 400, 'Two different actions are given: "provision" and "reap".'),
    "no JSON": ({"body": "{action: provision"}, 400, "The body is no JSON. Send an object"),
    "no text": ({"body": b"\xff\xfe\x00"}, 400, "The body is no JSON."),
    "JSON of another kind": ({"body": '["provision"]'}, 400, "The body is a list: a JSON object is expected."),
    "JSON nested for ever": ({"body": "[" * 60_000}, 400, "The body is no JSON."),
    "a number with endless digits": ({"body": "1" * 60_000}, 400, "The body is no JSON."),
    "a body of another kind": ({"body": 7}, 400, "The body is a number: a JSON object is expected."),
    "oversized": ({"body": " " * MAX_BODY + "{}"}, 413, "The body is over 64 KiB"),
    "provision by GET": ({"method": "GET"}, 405, "provision is asked for with POST."),
    "reap by GET": ({"body": "", "method": "GET", "path": "/reap"}, 405, "reap is asked for with POST."),
    "status by DELETE": (
        {"body": "", "method": "DELETE", "path": "/status"},
        405,
        "status is asked for with GET or HEAD or POST.",
    ),
}


@pytest.mark.parametrize(("how", "status", "sentence"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_meant_is_refused_in_one_sentence(how: dict[str, Any], status: int, sentence: str) -> None:
    with pytest.raises(BadCall) as refused:
        asked(**how)
    assert (refused.value.status, sentence in str(refused.value)) == (status, True), str(refused.value)
    assert "\n" not in str(refused.value)
    assert (refused.value.allow is not None) is (status == 405)


ADMITTED = {
    "bearer": BEARER,
    "bearer in other letters": {"authorization": f"bearer {TOKEN}"},
    "a header of its own": {"X-Exollama-Token": TOKEN, "Authorization": "Bearer the-platforms-own"},
}


@pytest.mark.parametrize("headers", ADMITTED.values(), ids=ADMITTED)
def test_the_token_may_stand_in_either_header(headers: dict[str, str]) -> None:
    assert asked(headers=headers) == call("provision")


def test_the_token_may_stand_in_the_body() -> None:
    assert asked({"action": "reap", "token": TOKEN}, headers={}) == call("reap")


REFUSED: dict[str, tuple[dict[str, Any], int]] = {
    "none": ({"headers": {}}, 401),
    "another": ({"headers": {"Authorization": f"Bearer {TOKEN[:-1]}x"}}, 401),
    "the beginning": ({"headers": {"Authorization": f"Bearer {TOKEN[:-1]}"}}, 401),
    "with more behind": ({"headers": {"Authorization": f"Bearer {TOKEN}x"}}, 401),
    "in other letters": ({"headers": {"Authorization": f"Bearer {TOKEN.upper()}"}}, 401),
    "by another scheme": ({"headers": {"Authorization": f"Basic {TOKEN}"}}, 401),
    "without a scheme": ({"headers": {"Authorization": TOKEN}}, 401),
    "empty": ({"headers": {"Authorization": "Bearer "}}, 401),
    "letters that are none": ({"headers": {"X-Exollama-Token": "\udcff\ud800é"}}, 401),
    "in the query": ({"headers": {}, "query": {"token": TOKEN}}, 401),
    "in the body, of another type": ({"headers": {}, "body": {"action": "reap", "token": [TOKEN]}}, 401),
    "another in the body": ({"headers": {}, "body": {"action": "reap", "token": "x" * 40}}, 401),
    "the function has none": ({"env": {}}, 403),
    "the function's is empty": (
        {"env": {"EXOLLAMA_FUNCTION_TOKEN": "  "}, "headers": {"Authorization": "Bearer "}},
        403,
    ),
    "the function's is short": (
        {"env": {"EXOLLAMA_FUNCTION_TOKEN": "s3cret"}, "headers": {"X-Exollama-Token": "s3cret"}},
        403,
    ),
    "the function's has letters that no header carries": (
        {"env": {"EXOLLAMA_FUNCTION_TOKEN": f"é{TOKEN}"}, "headers": {"X-Exollama-Token": f"é{TOKEN}"}},
        403,
    ),
    "the function's is one letter": (
        {"env": {"EXOLLAMA_FUNCTION_TOKEN": "x" * 40}, "headers": {"X-Exollama-Token": "x" * 40}},
        403,
    ),
}


@pytest.mark.parametrize(("how", "status"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(
    "wrong",
    [{}, {"method": "GET"}, {"body": "{"}, {"body": " " * MAX_BODY * 2}],
    ids=["right", "GET", "no JSON", "oversized"],
)
def test_without_the_token_nothing_is_told_but_that(how: dict[str, Any], status: int, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadCall, match="EXOLLAMA_FUNCTION_TOKEN") as refused:
        asked(**{**wrong, **how})
    assert refused.value.status == status
    assert TOKEN not in str(refused.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=9,
    )
)
def test_any_json_is_understood_or_refused(value: Any) -> None:
    for how in (lambda: asked(value), lambda: asked(json.dumps(value)), lambda: from_event(value, ENV)):
        status, sentence = ending(how)
        assert status == 200 or 400 <= status < 500
        assert sentence.isprintable()


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("functions.calls.hmac.compare_digest", compare)
    asked(headers={"X-Exollama-Token": "x", **BEARER})
    assert compared == [(b"x", TOKEN.encode()), (TOKEN.encode(), TOKEN.encode())]


# -- events

SCHEDULE = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-11-24T12:00:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/exollama"],
    "detail": {},
}
EVENTS: dict[str, tuple[object, Call]] = {
    "plain": ({"action": "provision"}, call("provision", with_token=False)),
    "plain, with a parameter": ({"action": "status", "check": True}, call("status", with_token=False, check=True)),
    "plain, with the token": ({"action": "provision", "token": TOKEN}, call("provision")),
    "a schedule": (SCHEDULE, call("reap", with_token=False)),
}


@pytest.mark.parametrize(("event", "meant"), EVENTS.values(), ids=EVENTS)
def test_plain_events_and_schedules_are_understood(event: object, meant: Call) -> None:
    assert not is_http(event)
    assert from_event(event, ENV) == meant


def test_plain_events_need_no_token_where_none_is_set() -> None:
    assert from_event({"action": "reap"}, {}) == call("reap", with_token=False)


OTHER_EVENTS: dict[str, tuple[object, str]] = {
    "none": (None, "The event is null"),
    "empty": ({}, "The event is empty and names no action"),
    "a list": ([{"action": "reap", "token": TOKEN}], "The event is a list: an object"),
    "text, as a stranger's request may come": (f'{{"token": "{TOKEN}"}}', "The event is text: an object"),
    "bytes": (f'{{"token": "{TOKEN}"}}'.encode(), "The event is bytes: an object"),
    "a queue's": ({"Records": [{"eventSource": "aws:sqs"}]}, 'The event has "Records" and names no action'),
    "a schedule of another source": ({**SCHEDULE, "source": "aws.ec2"}, "names no action"),
    "a state change": ({**SCHEDULE, "detail-type": "EC2 Instance State-change Notification"}, "names no action"),
    "unknown action": ({"action": "stop"}, 'There is no action "stop"'),
    "a parameter of another type": ({"action": "reap", "dry_run": "true"}, "dry_run is"),
    "a wrong token": ({"action": "provision", "token": "x" * 40}, "not this function's token"),
    "a token of another type": ({"action": "provision", "token": None}, "not this function's token"),
}


@pytest.mark.parametrize(("event", "sentence"), OTHER_EVENTS.values(), ids=OTHER_EVENTS)
def test_an_event_of_another_trigger_is_refused_in_one_sentence(event: object, sentence: str) -> None:
    assert not is_http(event)
    with pytest.raises(BadCall) as refused:
        from_event(event, ENV)
    assert sentence in str(refused.value)
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    "mark",
    ["httpMethod", "requestContext", "rawPath", "headers", "multiValueHeaders", "http", "body", "isBase64Encoded"],
)
def test_whatever_smells_of_http_is_no_plain_event(mark: str) -> None:
    event = {"action": "reap", mark: None}
    assert is_http(event)
    with pytest.raises(BadCall) as refused:
        from_request(request_of(event), ENV)
    assert refused.value.status == 401


# Shapes after docs.aws.amazon.com: Lambda function URLs (payload 2.0), API Gateway's Lambda proxy (1.0), and load
# balancers with multi-value headers; and scaleway-functions-python's.
FUNCTION_URL = {
    "version": "2.0",
    "rawPath": "/provision",
    "rawQueryString": "",
    "headers": {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
    "requestContext": {"http": {"method": "POST", "path": "/provision"}, "stage": "$default"},
    "body": "",
    "isBase64Encoded": False,
}
GATEWAY = {
    "path": "/",
    "httpMethod": "POST",
    "headers": {"Authorization": f"Bearer {TOKEN}"},
    "multiValueHeaders": {"Authorization": [f"Bearer {TOKEN}"]},
    "queryStringParameters": None,
    "multiValueQueryStringParameters": None,
    "requestContext": {"stage": "prod", "httpMethod": "POST"},
    "body": PROVISION,
    "isBase64Encoded": False,
}
BALANCER = {
    "requestContext": {"elb": {"targetGroupArn": "arn"}},
    "httpMethod": "GET",
    "path": "/",
    "multiValueQueryStringParameters": {"action": ["status"], "check": ["true", "false"]},
    "multiValueHeaders": {"x-exollama-token": [TOKEN], "empty": []},
    "body": "",
    "isBase64Encoded": False,
}
SHAPES: dict[str, tuple[dict[str, Any], Call]] = {
    "function URL": (FUNCTION_URL, call("provision")),
    "function URL, base64": (
        {
            **FUNCTION_URL,
            "rawPath": "/",
            "body": base64.b64encode(PROVISION.encode()).decode(),
            "isBase64Encoded": True,
        },
        call("provision"),
    ),
    "API gateway": (GATEWAY, call("provision")),
    "an object as body": ({**GATEWAY, "body": {"action": "reap", "dry_run": True}}, call("reap", dry_run=True)),
    "load balancer": (BALANCER, call("status", check=True)),
    "Scaleway's schedule": (
        {
            "path": "/",
            "httpMethod": "POST",
            "headers": {},
            "queryStringParameters": {},
            "body": json.dumps({"action": "reap", "token": TOKEN}),
        },
        call("reap"),
    ),
    "no body, said to be base64": ({**FUNCTION_URL, "body": "", "isBase64Encoded": True}, call("provision")),
}


@pytest.mark.parametrize(("event", "meant"), SHAPES.values(), ids=SHAPES)
def test_the_request_in_an_event_is_found(event: dict[str, Any], meant: Call) -> None:
    assert is_http(event)
    assert from_request(request_of(event), ENV) == meant


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"body": "no base64!", "isBase64Encoded": True}, 400),
        ({"body": base64.b64encode(b"{").decode(), "isBase64Encoded": True}, 400),
        ({"body": "A" * 3 * MAX_BODY, "isBase64Encoded": True}, 413),
        ({"headers": None}, 401),
        ({"headers": [["authorization", TOKEN]]}, 401),
        ({"requestContext": {}}, 405),
        ({"requestContext": None, "httpMethod": 7}, 405),
        ({"rawPath": None, "path": 3}, 400),
        ({"queryStringParameters": "action=reap"}, 200),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_event_that_is_odd_is_refused_or_read(changes: dict[str, Any], status: int) -> None:
    assert ending(lambda: from_request(request_of({**FUNCTION_URL, **changes}), ENV))[0] == status
    stranger = {"headers": {"x-exollama-token": "another"}}
    assert ending(lambda: from_request(request_of({**FUNCTION_URL, **changes, **stranger}), ENV))[0] == 401
