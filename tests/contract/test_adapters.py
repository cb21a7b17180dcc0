"""Every platform's adapter makes the same of the same request, and events do what they say; over the API's contract."""

import asyncio
import base64
import io
import json
import logging
import threading
from collections.abc import Callable
from email.message import Message
from types import SimpleNamespace
from typing import Any
from wsgiref.validate import validator

import pytest

from functions import faas
from functions.answers import Answer
from functions.calls import BadCall
from tests.contract.test_faas import BOOTING, ENV, TOKEN
from tests.fakes import API_SECRET, KEY, NOW, label_map
from tests.zones import Zones, instance, refusal


def plain(zones: Zones) -> None:
    """One instance, ready."""
    zones.instances["ch-gva-2"].append(instance(labels=label_map(activity=NOW)))


Reply = tuple[int, dict[str, str], dict[str, Any]]
Ask = Callable[[str, str, dict[str, str], bytes], Reply]


def by_wsgi(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    started: list[Any] = []
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.partition("?")[0],
        "QUERY_STRING": path.partition("?")[2],
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }

    def start(status: str, given: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], object]:
        started.extend((status, dict(given)))
        return lambda _: None

    answer: Any = validator(faas.wsgi)(environ, start)
    raw = b"".join(answer)
    answer.close()
    return int(started[0].split()[0]), started[1], json.loads(raw)


def by_asgi(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    sent: list[Any] = []
    parts = [body[:5], body[5:]]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path.partition("?")[0],
        "query_string": path.partition("?")[2].encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(faas.asgi(scope, receive, send))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, json.loads(sent[1]["body"])


def by_event(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    event = {
        "rawPath": path.partition("?")[0],
        "queryStringParameters": dict(part.split("=") for part in path.partition("?")[2].split("&") if part),
        "headers": headers,
        "requestContext": {"http": {"method": method}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }
    said = faas.invoke(event, SimpleNamespace(get_remaining_time_in_millis=lambda: 30_000))
    return said["statusCode"], said["headers"], json.loads(said["body"])


class Flask(SimpleNamespace):
    """As much of a Flask request as is used."""

    def get_data(self) -> bytes:
        return bytes(self.raw)

    get_body = get_data


def given(method: str, path: str, headers: dict[str, str], body: bytes) -> Flask:
    bare, _, text = path.partition("?")
    query = dict(part.split("=") for part in text.split("&") if part)
    held = Message()
    for name, value in headers.items():
        held[name] = value
    return Flask(method=method, path=bare, url=f"https://x{path}", args=query, params=query, query=query,
                 headers=held, raw=body, body=body)  # fmt: skip


def by_google(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    raw, status, head = faas.google(given(method, path, headers, body))
    return status, head, json.loads(raw)


def by_openfaas(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    said = faas.openfaas(given(method, path, headers, body), SimpleNamespace(hostname="x"))
    return said["statusCode"], said["headers"], json.loads(said["body"])


def by_azure(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
    said = faas.azure(given(method, path, headers, body))
    return said.status, said.headers, json.loads(said.body)


@pytest.fixture(params=[by_wsgi, by_asgi, by_event, by_google, by_openfaas, by_azure], ids=lambda way: way.__name__)
def ask(request: pytest.FixtureRequest, zones: Zones, monkeypatch: pytest.MonkeyPatch) -> Ask:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    plain_defaults: dict[str, Any] = faas.handle.__kwdefaults__ or {}
    hurried = {**plain_defaults, **zones.injected, "monotonic": lambda: zones.elapsed_s}
    monkeypatch.setattr(faas.handle, "__kwdefaults__", hurried)
    way: Ask = request.param
    return way


BEARER = {"Authorization": f"Bearer {TOKEN}"}


def test_every_adapter_answers_202_and_then_the_key_to_the_tokens_owner(
    zones: Zones, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    zones.said = dict(BOOTING)
    status, headers, said = ask("POST", "/", BEARER, b'{"action":"provision"}')
    assert (status, headers["Retry-After" if "Retry-After" in headers else "retry-after"], said["phase"]) == (
        202,
        "5",
        "docker",
    )
    zones.said = {"idle_s": 0.0}
    status, headers, said = ask("POST", "/provision", BEARER, b"")
    assert (status, said["key"]) == (200, KEY)
    assert {name.lower(): value for name, value in headers.items()}["cache-control"] == "no-store"
    told = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("provision: 202 after ") for line in told)
    assert [line for line in told for secret in (TOKEN, KEY, API_SECRET) if secret in line] == []


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/status", BEARER, b"", 200),
        ("GET", "/?action=status&probe=true", BEARER, b"", 200),
        ("POST", "/", BEARER, b'{"action":"reap","dry_run":true}', 200),
        ("POST", "/", {}, b'{"action":"provision"}', 401),
        ("POST", "/", {"Authorization": "Bearer wrong"}, b'{"action":"reap"}', 401),
        ("GET", "/status", {}, b"", 401),
        ("GET", "/provision", BEARER, b"", 405),
        ("POST", "/", BEARER, b'{"action":"delete"}', 400),
        ("POST", "/", BEARER, b"{", 400),
        ("POST", "/", BEARER, b"[]", 400),
        ("POST", "/", BEARER, b" " * (1 << 17), 413),
    ],
    ids=lambda value: str(value)[:24],
)
def test_every_adapter_does_the_same(
    zones: Zones, ask: Ask, method: str, path: str, headers: dict[str, str], body: bytes, status: int
) -> None:
    plain(zones)
    answered, head, said = ask(method, path, headers, body)
    assert answered == status
    assert ("error" in said) is (status >= 400)
    assert zones.made("POST", "PUT", "DELETE") == []
    assert bool(zones.made()) is (status == 200)
    names = {name.lower() for name in head}
    assert {"content-type", "cache-control"} <= names
    assert ("www-authenticate" in names) is (status == 401)
    assert ("allow" in names) is (status == 405)


def test_what_nobody_thought_of_is_told_in_the_log_alone(
    zones: Zones, ask: Ask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("inside")

    monkeypatch.setattr("functions.faas._look", broken)
    status, _, said = ask("GET", "/status", BEARER, b"")
    assert (status, "inside" in said["error"]) == (500, False)
    assert "RuntimeError: inside" in caplog.text


# -- events


@pytest.fixture
def events(ask: Ask) -> None:
    """Any adapter's fixture prepares what events need; one of them is enough."""


only_once = pytest.mark.parametrize("ask", [by_event], indirect=True, ids=["invoke"])


@only_once
@pytest.mark.parametrize(
    ("given", "comes"),
    [
        ({"headers": BEARER}, "headers"),
        ({"multiValueHeaders": {"Authorization": [f"Bearer {TOKEN}"]}}, "multiValueHeaders"),
    ],
    ids=["one value", "several"],
)
def test_headers_come_back_in_the_shape_that_they_came_in(
    zones: Zones, events: None, given: dict[str, Any], comes: str
) -> None:
    said = faas.invoke({"httpMethod": "GET", "path": "/status", "body": None, **given})
    assert (said["statusCode"], {"headers", "multiValueHeaders"} & set(said)) == (200, {comes})
    assert set(said[comes]) == {"Content-Type", "Cache-Control"}


@only_once
def test_a_schedule_reaps_and_a_plain_event_does_what_it_says(zones: Zones, events: None) -> None:
    zones.instances["ch-gva-2"].append(instance())
    said = faas.invoke({"action": "reap", "dry_run": True})
    assert said["instances"][0]["outcome"] == "planned"
    said = faas.invoke({"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}})
    assert said["instances"][0]["outcome"] == "destroyed"


@only_once
def test_a_plain_event_sees_the_key_only_with_the_token(zones: Zones, events: None) -> None:
    plain(zones)
    assert faas.invoke({"action": "provision"})["key"] == "***"
    assert faas.invoke({"action": "provision", "token": TOKEN})["key"] == KEY


@only_once
def test_what_fails_without_anybody_waiting_is_raised_so_that_the_platform_sees_it(zones: Zones, events: None) -> None:
    zones.faults["GET /instance"] = refusal(403, "Forbidden by role policy for compute")
    for call in (lambda: faas.invoke({"action": "reap"}), lambda: faas.azure_timer(None)):
        with pytest.raises(faas.CallFailed, match="was not looked at") as failed:
            call()
        assert API_SECRET not in str(failed.value)


@only_once
def test_an_event_of_another_trigger_is_the_platforms_error_and_nothing_is_done(zones: Zones, events: None) -> None:
    with pytest.raises(BadCall, match='The event has "Records" and names no action'):
        faas.invoke({"Records": [{"eventSource": "aws:s3"}]})
    assert zones.made() == []


@only_once
def test_a_timer_reaps(zones: Zones, events: None) -> None:
    zones.instances["ch-gva-2"].append(instance())
    faas.azure_timer(None)
    assert zones.instances["ch-gva-2"] == []


def test_a_server_that_starts_and_ends_is_answered() -> None:
    heard = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(heard)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(faas.asgi({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(BadCall, match="speaks HTTP, not websocket"):
        asyncio.run(faas.asgi({"type": "websocket"}, receive, send))


# -- what a server may meet


class Endless(io.RawIOBase):
    """A body without an end; `asked` is how much of it was read."""

    asked = 0

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1 << 20, "read without a bound"
        self.asked += size
        return b" " * size


@pytest.mark.parametrize("length", ["99999999999", "9" * 5000, "-1", "", "many"])
def test_wsgi_reads_no_more_of_a_body_than_it_may_have_and_survives_any_length(
    monkeypatch: pytest.MonkeyPatch, length: str
) -> None:
    monkeypatch.setenv("EXOLLAMA_FUNCTION_TOKEN", TOKEN)
    body = Endless()
    environ = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": length, "wsgi.input": body}
    started: list[str] = []
    faas.wsgi(environ, lambda status, _headers: started.append(status))
    assert started == ["401 Unauthorized"]
    assert body.asked <= 1 << 20


def asgi(*parts: dict[str, Any], **scope: Any) -> tuple[list[Any], int]:
    """What was sent, and how many parts were received."""
    sent: list[Any] = []
    waiting = iter(parts)
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        return next(waiting)

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], **scope}
    asyncio.run(faas.asgi(given, receive, send))
    return sent, received


def test_asgi_receives_no_more_of_a_body_than_it_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXOLLAMA_FUNCTION_TOKEN", TOKEN)
    part = {"type": "http.request", "body": b" " * 40_000, "more_body": True}
    headers = [(b"authorization", f"Bearer {TOKEN}".encode())]
    sent, received = asgi(*[part] * 99, headers=headers)
    assert (sent[0]["status"], received) == (413, 27)


def test_asgi_does_nothing_for_who_left_before_the_end_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faas, "answer", lambda *_: pytest.fail("it was answered"))
    sent, _ = asgi({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})
    assert sent == []


def test_asgi_answers_in_a_thread_so_that_one_call_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def answer(_request: object) -> Answer:
        threads.append(threading.current_thread())
        return Answer(200, {})

    monkeypatch.setattr(faas, "answer", answer)
    asgi({"type": "http.request", "body": b"{}"})
    assert threads != [threading.main_thread()]


@only_once
@pytest.mark.parametrize("context", [None, {}, SimpleNamespace(get_remaining_time_in_millis=lambda: None)])
def test_a_context_that_tells_no_time_leaves_it_to_the_setting(
    zones: Zones, events: None, context: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert faas.invoke({"action": "status"}, context)["instances"] == []
    monkeypatch.setenv("EXOLLAMA_FUNCTION_TIMEOUT", "5")
    with pytest.raises(faas.CallFailed, match="EXOLLAMA_FUNCTION_TIMEOUT is '5': a whole number of seconds from 10"):
        faas.invoke({"action": "status"}, context)


@only_once
def test_a_limit_of_the_platforms_in_which_nothing_could_be_done_is_told(zones: Zones, events: None) -> None:
    short = SimpleNamespace(get_remaining_time_in_millis=lambda: 2_990)
    with pytest.raises(faas.CallFailed, match=r"leaves this call 3\.0 s, and it takes 10: raise its time limit"):
        faas.invoke({"action": "reap"}, short)
    assert zones.made() == []


@only_once
def test_an_event_of_text_that_has_a_token_in_it_shows_it_nowhere(
    events: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadCall, match="The event is text") as refused:
        faas.invoke(f'{{"token": "{TOKEN}", "action": "provision"}}')
    assert TOKEN[:8] not in str(refused.value) + caplog.text
