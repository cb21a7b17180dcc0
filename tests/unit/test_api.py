"""The API core: what is retried and what never, a fresh signature per attempt, errors in words, the API's clock."""

import re
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from exoscale_auth import ExoscaleV2Auth
from hypothesis import given
from hypothesis import strategies as st

from client.api import ATTEMPTS, Api, backoff_s, error_message
from client.errors import (
    ApiError,
    ClockError,
    Conflict,
    CredentialsRejected,
    Denied,
    NotFound,
    Unanswered,
)
from client.transport import Disconnected, Request, Response
from tests.fakes import API_KEY, API_SECRET, NOW, ZONE, settings
from tests.scripted import Answer, Script, reply

BASE = "https://api-ch-gva-2.exoscale.com/v2"


class Rig:
    """An Api over a script, on a clock that only its sleeps move; `sleeps` are their seconds."""

    def __init__(self, *answers: Answer, **changes: Any) -> None:
        self.script = Script(*answers)
        self.sleeps: list[float] = []
        self.now = NOW.timestamp()
        self.api = Api(settings(**changes), ZONE, self.script, clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


def date(ahead: timedelta = timedelta()) -> str:
    return format_datetime(NOW + ahead, usegmt=True)


def lost(*, sent: bool = True) -> Disconnected:
    return Disconnected("connection reset", sent=sent)


def assert_signed(request: Request) -> int:
    """Check a request's signature with the official signer and return when it expires."""
    expires = int(re.search(r"expires=(\d+)", request.headers["Authorization"])[1])  # type: ignore[index]
    again = SimpleNamespace(method=request.method, url=request.url, body=request.body or None, headers={})
    ExoscaleV2Auth(API_KEY, API_SECRET)._sign_request(again, expires)
    assert request.headers["Authorization"] == again.headers["Authorization"]
    return expires


# -- one call


def test_a_call_is_sent_to_the_zones_endpoint_signed_and_as_json() -> None:
    rig = Rig(reply({"a": 1}))
    assert rig.api.call("PUT", "/instance/x:start", body={}) == {"a": 1}
    (request,) = rig.script.requests
    assert (request.method, request.url, request.body) == ("PUT", f"{BASE}/instance/x:start", b"{}")
    assert request.headers["Content-Type"] == "application/json"
    assert assert_signed(request) == int(NOW.timestamp()) + 600


def test_a_query_is_encoded_and_signed() -> None:
    rig = Rig(reply())
    rig.api.call("GET", "/template", query={"visibility": "public", "b": "ü &"})
    (request,) = rig.script.requests
    assert request.url == f"{BASE}/template?visibility=public&b=%C3%BC+%26"
    assert "signed-query-args=b;visibility," in request.headers["Authorization"]
    assert_signed(request)


def test_zones_are_listed_without_a_signature() -> None:
    rig = Rig(reply({"zones": [{"name": "ch-gva-2"}, {"name": "de-fra-1"}, "odd", {}]}))
    assert rig.api.list_zones() == ["ch-gva-2", "de-fra-1"]
    assert "Authorization" not in rig.script.requests[0].headers


def test_the_api_beside_speaks_to_the_other_zone() -> None:
    rig = Rig(reply({"instances": [{"id": "a"}, {}, None]}))
    (seen,) = rig.api.beside("de-fra-1").list_instances()
    assert (seen.id, seen.zone) == ("a", "de-fra-1")
    assert rig.script.requests[0].url == "https://api-de-fra-1.exoscale.com/v2/instance"


def test_ids_are_escaped_in_paths() -> None:
    rig = Rig(reply({"id": "x"}))
    rig.api.get_instance("../zone?a#b")
    assert rig.script.requests[0].url == f"{BASE}/instance/..%2Fzone%3Fa%23b"


# -- retries

RETRIED = [("GET", code) for code in (429, 500, 502, 503, 504)] + [(m, 429) for m in ("POST", "PUT", "DELETE")]
NOT_RETRIED = [(m, code) for m in ("POST", "PUT", "DELETE") for code in (500, 502, 503, 504)] + [
    (m, code) for m in ("GET", "POST", "PUT", "DELETE") for code in (301, 400, 404, 409, 412, 501)
]


@pytest.mark.parametrize("failures", range(1, ATTEMPTS))
@pytest.mark.parametrize(("method", "code"), RETRIED)
def test_a_passing_failure_is_got_over(method: str, code: int, failures: int) -> None:
    rig = Rig(*[reply({"message": "later"}, code)] * failures, reply({"done": True}))
    assert rig.api.call(method, "/x") == {"done": True}
    assert len(rig.script.requests) == failures + 1
    assert rig.sleeps == [backoff_s(attempt) for attempt in range(failures)]


@pytest.mark.parametrize(("method", "code"), RETRIED)
def test_a_lasting_failure_is_given_up_after_a_bounded_number_of_attempts(method: str, code: int) -> None:
    rig = Rig(reply({"message": "later"}, code))
    with pytest.raises(ApiError, match=rf"{method} /x: later \({code}") as failure:
        rig.api.call(method, "/x")
    assert failure.value.status == code
    assert len(rig.script.requests) == ATTEMPTS
    assert len(rig.sleeps) == ATTEMPTS - 1


@pytest.mark.parametrize(("method", "code"), NOT_RETRIED)
def test_what_may_have_been_done_or_is_definite_is_sent_once(method: str, code: int) -> None:
    rig = Rig(reply({"message": "no"}, code))
    with pytest.raises(ApiError, match="no") as failure:
        rig.api.call(method, "/x")
    assert failure.value.status == code
    assert len(rig.script.requests) == 1
    assert rig.sleeps == []


@pytest.mark.parametrize(
    ("method", "sent", "attempts"),
    [("GET", True, ATTEMPTS), ("GET", False, ATTEMPTS), ("POST", False, ATTEMPTS)]
    + [(method, True, 1) for method in ("POST", "PUT", "DELETE")],
)
def test_a_lost_connection_is_tried_again_only_where_nothing_can_have_been_done(
    method: str, sent: bool, attempts: int
) -> None:
    rig = Rig(lost(sent=sent))
    with pytest.raises(Unanswered, match="Check the network and EXOSCALE_ZONE, and EXOSCALE_API_ENDPOINT") as failure:
        rig.api.call(method, "/x")
    assert (failure.value.sent, failure.value.status) == (sent, 0)
    assert len(rig.script.requests) == attempts


def test_a_lost_answer_after_a_busy_one_is_not_repeated_either() -> None:
    rig = Rig(reply({"message": "slow down"}, 429), lost(), reply({}))
    with pytest.raises(Unanswered):
        rig.api.call("POST", "/instance", body={})
    assert rig.script.methods == ["POST", "POST"]


def test_every_attempt_is_signed_afresh() -> None:
    rig = Rig(lost(), reply({}, 503), reply({}, 429, retry_after="20"), reply({}))
    rig.api.call("GET", "/instance")
    expiries = [assert_signed(request) for request in rig.script.requests]
    assert expiries == [int(NOW.timestamp()) + 600 + after for after in (0, 0, 1, 21)]
    assert len({request.headers["Authorization"] for request in rig.script.requests}) == 3


@pytest.mark.parametrize(
    ("retry_after", "slept"),
    [
        ("86400", 30.0),
        ("7", 7.0),
        ("0", 0.5),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 0.5),
        ("-5", 0.5),
        ("1e9", 0.5),
        ("9" * 400, 0.5),
        ("\xb2", 0.5),
    ],
    ids=["a day", "seconds", "at once", "a date", "negative", "exponent", "endless", "superscript"],
)
def test_retry_after_is_honoured_up_to_a_cap(retry_after: str, slept: float) -> None:
    rig = Rig(reply({}, 429, retry_after=retry_after), reply({}))
    rig.api.call("POST", "/x", body={})
    assert rig.sleeps == [slept]


def test_giving_up_after_a_retry_after_of_a_day_says_so() -> None:
    rig = Rig(reply({"message": "slow down"}, 429, retry_after="86400"))
    with pytest.raises(ApiError, match="It asks to come back after 86400 s"):
        rig.api.call("GET", "/x")
    assert sum(rig.sleeps) <= 120


def test_the_backoff_grows_and_is_bounded() -> None:
    waits = [backoff_s(attempt) for attempt in range(40)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, 8.0)


# -- errors in words


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"message": "Not Found."}', "application/json", "Not Found"),
        (b'{"error": "quota exceeded"}', "application/json", "quota exceeded"),
        (
            b'{"type": "t", "title": "Bad", "status": 400, "detail": "disk", "errors": ["a", {"b": 1}]}',
            "application/problem+json",
            'Bad: disk: a: {"b": 1}',
        ),
        (b"upstream\nis down", "text/plain", "upstream is down"),
        (b"<html><h1>502</h1></html>", "text/html", "HTTP 400 without a message"),
        (b"", "", "HTTP 400 without a message"),
        (b"\xff\xfe\x1b[31m", "text/plain", "\ufffd\ufffd [31m"),
        (b'{"message": null}', "application/json", "HTTP 400 without a message"),
        (b'{"message": {"a": 1}}', "application/json", '{"a": 1}'),
    ],
    ids=["message", "error", "problem", "text", "html", "empty", "control characters", "null", "an object"],
)
def test_each_form_of_error_body_is_put_into_words(body: bytes, content_type: str, words: str) -> None:
    answer = reply(body, 400, content_type=content_type)
    assert error_message(answer) == words
    with pytest.raises(ApiError, match=re.escape(f"GET /x: {words} (400")):
        Rig(answer).api.call("GET", "/x")


@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: b'{"message": "' + text.encode() + b'"}'))
def test_any_error_body_becomes_one_short_printable_line(body: bytes) -> None:
    words = error_message(Response(500, {}, body))
    assert words
    assert len(words) <= 300
    assert words.isprintable()


@pytest.mark.parametrize(
    ("code", "message", "kind", "remedy"),
    [
        (403, "Invalid request signature", CredentialsRejected, "Check EXOSCALE_API_KEY and EXOSCALE_API_SECRET"),
        (401, "Unauthorized", CredentialsRejected, "both from one API key"),
        (403, "Forbidden by role policy for compute", Denied, "IAM role does not allow this"),
        (401, "Forbidden by role policy for compute", Denied, "add the operation to its policy"),
        (404, "Not Found", NotFound, r"404 in ch-gva-2"),
        (409, "busy", Conflict, r"\(409\)"),
        (412, "in use", Conflict, r"\(412\)"),
        (400, "Only running instances can be stopped", ApiError, "Only running instances"),
    ],
)
def test_a_refusal_is_told_apart_and_names_the_remedy(
    code: int, message: str, kind: type[ApiError], remedy: str
) -> None:
    with pytest.raises(ApiError, match=remedy) as refusal:
        Rig(reply({"message": message}, code)).api.call("DELETE", "/instance/a")
    assert type(refusal.value) is kind
    assert (refusal.value.method, refusal.value.path, refusal.value.status) == ("DELETE", "/instance/a", code)
    assert message in str(refusal.value)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b'{"a":', b"\xff"], ids=ascii)
def test_a_success_that_is_no_json_object_asks_whether_the_endpoint_is_right(body: bytes) -> None:
    with pytest.raises(
        ApiError, match=r"no JSON object .* Is https://api-ch-gva-2\.exoscale\.com/v2 the right endpoint"
    ):
        Rig(reply(body)).api.call("GET", "/instance")


def test_an_instance_without_an_id_is_an_unusable_answer() -> None:
    with pytest.raises(ApiError, match="the answer cannot be used"):
        Rig(reply({"name": "x"})).api.get_instance("a")


@pytest.mark.parametrize(
    "answer", [lost(), reply({"message": "no"}, 403), reply(b"<html>")], ids=["lost", "refused", "garbage"]
)
def test_no_failure_shows_the_secret_not_even_among_the_local_variables_of_its_traceback(answer: Answer) -> None:
    rig = Rig(answer)
    with pytest.raises(ApiError) as failure:
        rig.api.call("POST", "/instance", body={"a": 1})
    assert API_SECRET not in str(failure.value)
    shown = "".join(traceback.TracebackException.from_exception(failure.value, capture_locals=True).format())
    assert "attempt = 0" in shown  # the locals are there
    assert API_SECRET not in shown


# -- the clock


def test_now_is_the_apis_date_and_goes_on_with_the_local_clock() -> None:
    rig = Rig(reply({}, date=date(timedelta(minutes=5))))
    assert rig.api.now() == NOW
    rig.api.call("GET", "/x")
    rig.now += 30
    assert rig.api.now() == NOW + timedelta(minutes=5, seconds=30)


@pytest.mark.parametrize("apart", [timedelta(minutes=9, seconds=59), timedelta(minutes=-9, seconds=-59), timedelta()])
def test_a_clock_within_ten_minutes_is_acted_upon(apart: timedelta) -> None:
    rig = Rig(reply({}, date=date(apart)))
    rig.api.call("GET", "/x")
    rig.api.call("DELETE", "/x")
    assert rig.script.methods == ["GET", "DELETE"]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (timedelta(minutes=11), "0:11:00 behind the API's"),
        (timedelta(hours=-2), "2:00:00 ahead of the API's"),
        (timedelta(days=400), "400 days, 0:00:00 behind the API's"),
    ],
    ids=["behind", "ahead", "far behind"],
)
def test_nothing_is_changed_while_the_clocks_differ_and_the_error_says_by_how_much(
    method: str, apart: timedelta, words: str
) -> None:
    rig = Rig(reply({}, date=date(apart)))
    rig.api.call("GET", "/x")
    with pytest.raises(ClockError, match=words):
        rig.api.call(method, "/x")
    assert rig.script.methods == ["GET"]


def test_a_change_that_met_429_is_not_repeated_once_the_clock_is_known_to_be_wrong() -> None:
    rig = Rig(reply({}, 429, date=date(timedelta(hours=1))), reply({}))
    with pytest.raises(ClockError, match="1:00:00 behind"):
        rig.api.call("POST", "/instance", body={})
    assert rig.script.methods == ["POST"]


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_signature_with_a_wrong_clock_names_the_clock(code: int) -> None:
    rig = Rig(reply({"message": "Invalid request signature"}, code, date=date(timedelta(minutes=30))))
    with pytest.raises(ClockError, match="0:30:00 behind"):
        rig.api.call("GET", "/instance")


def test_a_clock_that_was_set_right_is_trusted_again() -> None:
    rig = Rig(reply({}, date=date(timedelta(hours=1))), reply({}, date=date()))
    rig.api.call("GET", "/x")
    rig.api.call("GET", "/x")
    rig.api.check_clock()


@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,2} Nov \d{1,5} \d\d:\d\d:\d\d ([+-]\d{4}|GMT)"))
def test_no_date_header_makes_a_call_fail(header: str) -> None:
    assert Rig(reply({"a": 1}, date=header)).api.call("GET", "/x") == {"a": 1}


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_tokyo")
def test_a_date_header_without_a_zone_is_read_as_utc() -> None:
    rig = Rig(reply({}, date=NOW.strftime("%a, %d %b %Y %H:%M:%S -0000")))
    rig.api.call("GET", "/x")
    assert rig.api.now() == NOW
