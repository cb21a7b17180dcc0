"""Bad input through each runtime: one clear sentence, and nothing done."""

import json
from dataclasses import dataclass, field
from functools import partial

import pytest

from tests.runtimes.drivers import BEARER, RUNTIMES, TOKEN, Asgi, Google, Knative, OpenFaas, Runtime, Wsgi
from tests.simulator import Simulator
from tests.tally import TALLY

WRONG = "a-secret-that-is-not-the-functions-own-0123"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One bad request: what it is, and the status and words of its answer."""

    what: str
    status: int
    words: str
    method: str = "POST"
    path: str = "/"
    body: bytes | None = b'{"action": "provision"}'
    headers: dict[str, str] = field(default_factory=lambda: dict(BEARER))


def said(**body: object) -> bytes:
    return json.dumps(body).encode()


bad = partial(Bad, status=400)
REFUSED = [
    Bad(what="no token", headers={}, status=401, words="Send the function's token"),
    Bad(what="a wrong token", headers={"Authorization": f"Bearer {WRONG}"}, status=401, words="not this function's"),
    Bad(what="another scheme", headers={"Authorization": f"Basic {TOKEN}"}, status=401, words="Send the function's"),
    Bad(what="a wrong token in the body", body=said(action="reap", token=WRONG), headers={}, status=401, words="not"),
    Bad(what="no token, and no JSON either", body=b"{", headers={}, status=401, words="Send the function's token"),
    bad(what="malformed JSON", body=b'{"action": "prov', words="The body is no JSON"),
    bad(what="no text", body=b"\xff\xfe\x00{", words="The body is no JSON"),
    bad(what="a list", body=b'["provision"]', words="a JSON object is expected"),
    bad(what="no action", body=b"{}", words="No action is given"),
    bad(what="no body", body=None, words="No action is given"),
    bad(what="an unknown action", body=said(action="destroy"), words='There is no action "destroy"'),
    bad(what="an action that is a number", body=said(action=7), words="There is no action 7"),
    bad(what="an unknown parameter", body=said(action="provision", force=True), words="has no parameter"),
    bad(what="a parameter of another type", body=said(action="reap", dry_run="maybe"), words="true or false"),
    bad(what="two actions", path="/?action=status", body=said(action="reap"), words="Two different actions"),
    Bad(what="an oversized body", body=said(action="reap", x="a" * 70_000), status=413, words="over 64 KiB"),
    Bad(
        what="provision with GET",
        method="GET",
        path="/?action=provision",
        body=None,
        status=405,
        words="provision is asked for with POST",
    ),
]


@pytest.mark.parametrize("runtime", RUNTIMES, indirect=True, ids=lambda kind: kind.package)
def test_bad_input_is_answered_in_a_sentence_and_nothing_is_done(runtime: Runtime, cloud: Simulator) -> None:
    for one in REFUSED:
        answer = runtime.ask(one.method, one.path, one.body, one.headers)
        assert answer.status == one.status, (one.what, answer)
        assert answer.headers["content-type"] == "application/json", one.what
        assert answer.headers["cache-control"] == "no-store", one.what
        assert set(answer.json) == {"error"}, one.what
        assert one.words in answer.json["error"], (one.what, answer)
        assert "\n" not in answer.json["error"], one.what
        assert ("allow" in answer.headers, "www-authenticate" in answer.headers) == (
            one.status == 405,
            one.status == 401,
        ), one.what
        places = (str(answer), runtime.said)
        assert [secret for secret in (TOKEN, WRONG) if any(secret in place for place in places)] == [], one.what
    assert cloud.calls == []
    TALLY.shown(runtime.row, runtime.how, "refusals")


@pytest.mark.parametrize(
    "runtime", [Google, Knative, OpenFaas, Wsgi, Asgi], indirect=True, ids=lambda kind: kind.package
)
def test_a_body_in_chunks_is_read_and_bounded_like_any_other(runtime: Runtime, cloud: Simulator) -> None:
    answer = runtime.http("POST", "/", iter([b'{"action": "reap",', b'"dry_run": true}']), BEARER)
    assert (answer.status, answer.json["dry_run"]) == (200, True)
    cloud.api.calls.clear()
    large = runtime.http("POST", "/", iter([b'{"action": "reap", "x": "', b"a" * 70_000, b'"}']), BEARER)
    assert (large.status, cloud.calls) == (413, [])
