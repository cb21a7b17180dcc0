"""Waking through a provision function's URL: its answers one by one, its key nowhere but in the place."""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import client.function
import client.source
from client.boot import Board
from client.errors import Draining, ExollamaError, SettingsError, Unreachable
from client.settings import Secret
from client.source import ByUrl, Place
from client.transport import Disconnected, Request, Response
from tests.fakes import KEY, status

TOKEN = "planted-function-token-0123456789"
URL = "https://functions.example.org/provision"
RESULT = {
    "id": "an-id",
    "zone": "ch-gva-2",
    "url": "https://127.0.0.9:11435",
    "key": KEY,
    "deadline": "2026-12-01T12:00:00+00:00",
}
GONE = Disconnected("no answer from functions.example.org: TimeoutError timed out", sent=True)
Answer = Response | Disconnected


def said(code: int, body: object = None, **headers: str) -> Response:
    raw = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    return Response(code, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


READY = said(200, RESULT)


class Function:
    """A provision function, its answers from a script, the last of which stays; and the instance that it names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[Request] = []
        self.slept: list[float] = []
        self.shown: list[tuple[str, float | None]] = []
        self.reached: list[tuple[str, int, Secret]] = []
        self.instance: Callable[[], dict[str, Any]] = lambda: status() | {"policy": {"idle_s": 600}}
        for module in (client.source, client.function):
            monkeypatch.setattr(module, "Endpoint", self._endpoint)
        board = Board(lambda phase, percent, _: self.shown.append((phase, percent)))
        function = client.function.Function(URL, Secret(TOKEN), board, send=self._send, sleep=self.slept.append)
        self.source = ByUrl(function)

    def _send(self, request: Request) -> Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Disconnected):
            raise answer
        return answer

    def _endpoint(self, address: str, key: Secret, *, port: int) -> "Function":
        self.reached.append((address, port, key))
        return self

    fingerprint = "f" * 64

    def status(self) -> dict[str, Any]:
        return self.instance()

    def close(self) -> None:
        pass


def test_the_result_of_provision_is_where_the_instance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Function(monkeypatch, READY)
    assert function.source.wake() == Place(
        id="an-id",
        zone="ch-gva-2",
        address="127.0.0.9",
        port=11435,
        key=Secret(KEY),
        fingerprint="f" * 64,
        idle_s=600.0,
        deadline=datetime(2026, 12, 1, 12, 0, tzinfo=UTC),
    )
    [asked] = function.asked
    assert (asked.method, asked.url, json.loads(asked.body)) == ("POST", URL, {"action": "provision"})
    assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
    assert function.reached == [("127.0.0.9", 11435, Secret(KEY))]
    assert function.source.wakes


def test_until_it_is_ready_the_function_is_asked_when_it_says_and_what_it_says_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = Function(
        monkeypatch,
        said(202, {"phase": "starting", "percent": None}, retry_after="3"),
        said(202, {"phase": "model", "percent": 41}, retry_after="7"),
        said(202, {"phase": "od\x1b[2Jd" * 20, "percent": "many"}, retry_after="in a while"),
        said(202, b"nonsense", retry_after="86400"),
        READY,
    )
    function.source.wake()
    assert function.slept == [3.0, 7.0, 5.0, 30.0]
    assert function.shown[:2] == [("starting", None), ("model", 41.0)]
    assert len(function.shown[2][0]) <= 40
    assert function.shown[2][0].isprintable()
    assert function.shown[2:] == [(function.shown[2][0], None), ("provisioning", None)]


@pytest.mark.parametrize("percent", ["NaN", "Infinity", "-1", "101", "1e999", "9" * 400, "[]", '"x"', "null"])
def test_a_share_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, percent: str) -> None:
    function = Function(monkeypatch, said(202, f'{{"phase": "model", "percent": {percent}}}'.encode()), READY)
    function.source.wake()
    assert function.shown == [("model", None)]


PASSING: dict[str, Answer] = {
    "502": said(502, b"<html>bad gateway</html>"),
    "503": said(503),
    "429": said(429, retry_after="1"),
    "504": said(504),
    "a lost answer": GONE,
}


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("name", PASSING)
def test_a_trouble_that_passes_is_waited_out(monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
    function = Function(monkeypatch, *[PASSING[name]] * times, READY)
    assert function.source.wake().id == "an-id"
    assert len(function.slept) == times


@pytest.mark.parametrize("name", PASSING)
def test_a_trouble_that_stays_is_told_with_what_to_look_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    function = Function(monkeypatch, PASSING[name])
    words = "does not answer.*EXOLLAMA_PROVISION_URL right" if name == "a lost answer" else rf"failed \({name}\): "
    with pytest.raises(ExollamaError, match=words):
        function.source.wake()
    assert len(function.asked) == 5


@pytest.mark.parametrize(
    "answer",
    [said(500), said(500, {"error": "The boot failed"}), said(503, {"error": "quota"})],
    ids=["500", "500 with words", "503 with words"],
)
def test_whoever_failed_is_not_asked_again_as_that_might_create_one_machine_after_the_other(
    monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    function = Function(monkeypatch, said(202, {"phase": "model"}), answer, READY)
    with pytest.raises(ExollamaError, match=r"failed \(50"):
        function.source.wake()
    assert len(function.asked) == 2


def test_troubles_in_a_row_end_the_wait_and_those_between_answers_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    booting = said(202, {"phase": "model"})
    between: list[Answer] = [GONE, booting] * 9
    function = Function(monkeypatch, *between, READY)
    assert function.source.wake().id == "an-id"
    assert len(function.asked) == 19
    with pytest.raises(ExollamaError, match="does not answer"):
        Function(monkeypatch, booting, *[GONE] * 5, READY).source.wake()


def test_words_that_came_as_json_of_another_shape_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExollamaError, match=r"failed \(500\): it does not say why") as told:
        Function(monkeypatch, said(500, [KEY])).source.wake()
    assert KEY not in str(told.value)


@pytest.mark.parametrize("code", [401, 403])
def test_a_token_that_is_refused_is_told_at_once_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    function = Function(monkeypatch, said(code, {"error": "It is not set where this function runs."}))
    words = rf"refuses EXOLLAMA_FUNCTION_TOKEN \({code}\): .* own\. It says: It is not set where this function runs\."
    with pytest.raises(SettingsError, match=words) as told:
        function.source.wake()
    assert TOKEN not in str(told.value)
    assert len(function.asked) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (said(400, {"error": "EXOSCALE_ZONE is\nnowhere"}), r"failed \(400\): EXOSCALE_ZONE is nowhere$"),
        (said(404, b"<html>\x1b[2Jnot here"), r"failed \(404\): <html> \[2Jnot here$"),
        (said(302, b"", location="https://elsewhere"), r"failed \(302\): $"),
        (said(409, {}), r"failed \(409\): "),
        (said(201, RESULT), r"failed \(201\): it does not say why$"),
        (said(200, b"nonsense"), r"no key that can be used.*functions\.provision\.run as JSON"),
        (said(200, [1]), "no key that can be used"),
        (said(200, {}), "no key that can be used"),
        (said(200, RESULT | {"key": "***"}), "no key that can be used.*with the key revealed"),
        (said(200, RESULT | {"key": None}), "no key that can be used"),
        (said(200, RESULT | {"url": None}), "no url that can be used"),
        (said(200, RESULT | {"url": "https://127.0.0.9"}), "no url that can be used"),
        (said(200, RESULT | {"url": "https://127.0.0.9:x"}), "no url that can be used"),
        (said(200, RESULT | {"url": "https://[::1"}), "no url that can be used"),
        (said(200, RESULT | {"url": {"a": 1}}), "no url that can be used"),
        (said(200, RESULT | {"deadline": "soon"}), "no deadline that can be used"),
        (said(200, RESULT | {"deadline": 7}), "no deadline that can be used"),
        (said(200, b"[" * 100_000), "no key that can be used"),
    ],
)
def test_an_answer_of_another_shape_is_told_without_what_may_be_a_key(
    monkeypatch: pytest.MonkeyPatch, answer: Response, words: str
) -> None:
    function = Function(monkeypatch, answer)
    with pytest.raises(ExollamaError, match=words) as told:
        function.source.wake()
    assert KEY not in str(told.value)
    assert len(function.asked) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        ("2026-12-01T12:00:00Z", datetime(2026, 12, 1, 12, tzinfo=UTC)),
        ("2026-12-01T12:00:00", datetime(2026, 12, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_deadline_is_a_moment_in_utc_or_none(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: datetime | None
) -> None:
    assert Function(monkeypatch, said(200, RESULT | {"deadline": given})).source.wake().deadline == expected


@pytest.mark.parametrize("policy", [None, {}, {"idle_s": None}, {"idle_s": "x"}, []])
def test_an_instance_that_does_not_say_its_idle_timeout_has_the_usual_one(
    monkeypatch: pytest.MonkeyPatch, policy: object
) -> None:
    function = Function(monkeypatch, READY)
    function.instance = lambda: status() | {"policy": policy}
    assert function.source.wake().idle_s == 1800.0


def test_an_instance_that_cannot_be_reached_from_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Function(monkeypatch, READY)

    def silent() -> dict[str, Any]:
        raise Unreachable("https://127.0.0.9:11435 cannot be reached: refused.")

    function.instance = silent
    with pytest.raises(Unreachable):
        function.source.wake()
    assert function.source.look() is None


def test_it_does_not_ask_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Function(monkeypatch, said(202, {"phase": "model"}))
    elapsed = iter(range(0, 100_000, 600))
    monkeypatch.setattr("client.source.time.monotonic", lambda: float(next(elapsed)))
    with pytest.raises(ExollamaError, match="was asked for 3600 s, and is not done"):
        function.source.wake()


def test_a_look_asks_the_instance_that_was_woken_last_and_never_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = Function(monkeypatch, READY)
    assert function.source.look() is None
    found = function.source.wake()
    assert function.source.look() == found
    for other in (status(phase="model"), status(fence={"committed": False}), status(failed="docker")):
        function.instance = lambda other=other: other  # type: ignore[misc]
        assert function.source.look() is None

    def fenced() -> dict[str, Any]:
        raise Draining("fenced")

    function.instance = fenced
    assert function.source.look() is None
    assert len(function.asked) == 1


def test_labels_and_tidying_are_left_to_who_has_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    function = Function(monkeypatch, READY)
    function.source.record(function.source.wake(), 0.0, always=True)
    function.source.tidy("")
    assert len(function.asked) == 1


def test_neither_key_nor_token_is_logged_or_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answers: list[Answer] = [GONE, said(502), said(202, RESULT | {"phase": "model"}), READY]
    function = Function(monkeypatch, *answers)
    found = function.source.wake()
    places = [caplog.text, repr(found), repr(function.asked), repr(function.source), repr(function.shown)]
    assert [one for one in places if KEY in one or TOKEN in one] == []
    assert KEY.encode() in found.hop
