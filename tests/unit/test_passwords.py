"""What a password that a browser sends opens, at a forwarder and at a function: a look, and nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from functions.calls import BadCall, Call, Request, format_of, from_request
from tests.unit.test_guard import TOKEN, guard, head

OTHER = "planted-function-token-0123456789-abcdefgh"
HTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
ENV = {"EXOLLAMA_FUNCTION_TOKEN": OTHER}


def basic(given: str) -> str:
    return "Basic " + base64.b64encode(given.encode()).decode()


# -- the forwarder, beyond loopback

OPENS = [
    ("GET", "/.exollama/", f"anybody:{TOKEN}", True),
    ("GET", "/.exollama", f":{TOKEN}", True),
    ("HEAD", "/.exollama/status", f"anybody:{TOKEN}", True),
    ("GET", "/.exollama/status?format=prometheus", f"x:{TOKEN}", True),
    ("GET", "/.exollama/", f"anybody:{TOKEN}x", False),
    ("GET", "/.exollama/", f"{TOKEN}:", False),
    ("GET", "/.exollama/", TOKEN, False),
    ("GET", "/.exollama/", f"a:b:{TOKEN}", False),
    ("GET", "/.exollama/", "", False),
    ("POST", "/.exollama/", f"anybody:{TOKEN}", False),
    ("DELETE", "/.exollama/status", f"anybody:{TOKEN}", False),
    ("GET", "/api/tags", f"anybody:{TOKEN}", False),
    ("POST", "/api/generate", f"anybody:{TOKEN}", False),
    ("POST", "/v1/chat/completions", f"anybody:{TOKEN}", False),
    ("GET", "/.exollama/touch", f"anybody:{TOKEN}", False),
    ("GET", "/.exollama//", f"anybody:{TOKEN}", False),
    ("GET", "/%2eexollama/", f"anybody:{TOKEN}", False),
]


@pytest.mark.parametrize(("method", "path", "given", "opens"), OPENS, ids=str)
def test_at_a_forwarder_the_token_as_a_password_opens_its_own_pages_to_read(
    method: str, path: str, given: str, opens: bool
) -> None:
    asked = head(f"Authorization: {basic(given)}", "Accept: text/html", method=method, path=path)
    refusal, _ = guard(token=TOKEN, loopback=False).check(asked)
    assert (refusal is None) is opens
    assert refusal is None or refusal.status == 401


@pytest.mark.parametrize("given", ["!!!!", "YW55", "YW55b25lOg", "", "=" * 9, "8J+YgA=="])
def test_at_a_forwarder_what_is_no_password_opens_nothing(given: str) -> None:
    refusal, _ = guard(token=TOKEN, loopback=False).check(head(f"Authorization: Basic {given}", path="/.exollama/"))
    assert refusal
    assert refusal.status == 401


@pytest.mark.parametrize(
    ("path", "accept", "scheme"),
    [
        ("/.exollama/", HTML, 'Basic realm="exollama", charset="UTF-8"'),
        ("/.exollama/status", HTML, 'Basic realm="exollama", charset="UTF-8"'),
        ("/.exollama/", "*/*", "Bearer"),
        ("/api/tags", HTML, "Bearer"),
    ],
)
def test_at_a_forwarder_only_a_browser_that_looks_is_asked_for_a_password(path: str, accept: str, scheme: str) -> None:
    refusal, _ = guard(token=TOKEN, loopback=False).check(head(f"Accept: {accept}", path=path))
    assert refusal
    assert f"WWW-Authenticate: {scheme}\r\n".encode() == refusal.fields
    assert (b"as the password" in refusal.body) is scheme.startswith("Basic")


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Sec-Fetch-Site: none"], 0),  # typed, or a bookmark
        (["Sec-Fetch-Site: same-origin"], 0),  # the page brings itself up to date
        (["Sec-Fetch-Site: cross-site"], 403),
        (["Origin: https://evil.example", "Sec-Fetch-Site: cross-site"], 403),
        (["Origin: null"], 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("token", ["", TOKEN], ids=["loopback", "beyond"])
def test_a_forwarders_page_opens_to_whoever_goes_there_and_to_no_other_sites_page(
    fields: list[str], status: int, token: str
) -> None:
    password = [f"Authorization: {basic(f'x:{token}')}"] if token else []
    asked = head("Accept: text/html", *fields, *password, path="/.exollama/")
    refusal, _ = guard(token=token, loopback=not token).check(asked)
    assert (refusal.status if refusal else 0) == status
    linked = fields == ["Sec-Fetch-Site: cross-site"]
    assert (b"typing it" in (refusal.body if refusal else b"")) is linked, "and how to open it in spite of that"


# -- a function


def outcome(method: str, given: str, **more: Any) -> int | Call:
    headers = {"Authorization": given, "Accept": HTML, **more.pop("headers", {})}
    try:
        return from_request(Request(method=method, query={}, headers=headers, **more), ENV)
    except BadCall as refused:
        return refused.status


LOOK = Call(action="status", params={"probe": True}, with_token=True, format="html")
ASKED: dict[str, tuple[dict[str, Any], int | Call]] = {
    "a look": ({"method": "GET"}, LOOK),
    "without a body": ({"method": "HEAD", "path": "/status"}, LOOK),
    "by another name": ({"method": "GET", "given": basic(f":{OTHER}")}, LOOK),
    "in other letters": ({"method": "GET", "given": basic(f"x:{OTHER}").replace("Basic", "basic")}, LOOK),
    "another password": ({"method": "GET", "given": basic(f"x:{OTHER}x")}, 401),
    "as the name": ({"method": "GET", "given": basic(f"{OTHER}:")}, 401),
    "no base64": ({"method": "GET", "given": "Basic !!!"}, 401),
    "no UTF-8": ({"method": "GET", "given": "Basic " + base64.b64encode(b"\xff:\xff").decode()}, 401),
    "to provision, by GET": ({"method": "GET", "path": "/provision"}, 405),
    "to reap, by GET": ({"method": "GET", "body": '{"action": "reap"}'}, 405),
    "to provision": ({"method": "POST", "body": '{"action": "provision"}'}, 401),
    "to reap": ({"method": "POST", "path": "/reap"}, 401),
    "to look, by POST": ({"method": "POST", "path": "/status"}, 401),
    "as a form of another site's page": (
        {"method": "POST", "path": "/reap", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        401,
    ),
}


@pytest.mark.parametrize(("how", "expected"), ASKED.values(), ids=ASKED)
def test_at_a_function_the_token_as_a_password_opens_the_status_to_read(
    how: dict[str, Any], expected: int | Call
) -> None:
    assert outcome(**{"given": basic(f"anybody:{OTHER}"), **how}) == expected


@pytest.mark.parametrize(
    ("method", "accept", "form"),
    [
        ("GET", HTML, "html"),
        ("HEAD", HTML, "html"),
        ("GET", "TEXT/HTML", "html"),
        ("POST", HTML, "json"),
        ("GET", "application/json", "json"),
        ("GET", "application/json, text/html;q=0.9, */*;q=0.8", "json"),
        ("GET", "*/*", "json"),
        ("GET", None, "json"),
    ],
)
def test_a_page_is_for_who_looks_with_a_browser_and_json_for_everybody_else(
    method: str, accept: str | None, form: str
) -> None:
    headers = {} if accept is None else {"aCCept": accept}
    assert format_of(Request(method=method, query={}, headers=headers)) == form


def test_what_a_browser_asks_for_in_its_address_counts_more_than_what_it_gets_by_itself() -> None:
    asked = Request(
        method="GET",
        path="/status",
        query={"probe": "false", "check": "true"},
        headers={"Accept": HTML, "X-Exollama-Token": OTHER},
    )
    assert from_request(asked, ENV).params == {"probe": False, "check": True}
    with pytest.raises(BadCall, match="No action is given"):
        from_request(asked._replace(path="/", headers={"X-Exollama-Token": OTHER}), ENV)
