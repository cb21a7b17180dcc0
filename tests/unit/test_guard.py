"""Who may use the forwarder: its names, the pages that ask, and tokens where it listens for other machines."""

import json
import socket

import pytest

from client.guard import Guard, origins
from client.http1 import BadMessage, RequestHead, parse_request
from client.settings import Secret

TOKEN = "planted-serve-token_0123456789abcdef"


def head(*fields: str, method: str = "GET", path: str = "/api/tags", host: str | None = "localhost") -> RequestHead:
    """A request's head, as it is read from a connection."""
    lines = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host is not None else []), *fields]
    return parse_request("\r\n".join([*lines, "", ""]).encode("latin-1"))


def status(guard: Guard, *fields: str, method: str = "GET", host: str = "localhost") -> int:
    """What a request is answered with; 0 where it may go on. What is said twice is refused by the parser."""
    try:
        asked = head(*fields, method=method, host=host)
    except BadMessage as bad:
        return bad.status
    refusal, _ = guard.check(asked)
    return refusal.status if refusal else 0


def guard(allowed: str = "", *, token: str = "", loopback: bool = True) -> Guard:
    return Guard(allowed=origins(allowed), token=Secret(token) if token else None, loopback=loopback)


# -- names

NAMES = {
    "localhost": 0,
    "localhost:11434": 0,
    "LocalHost:11434": 0,
    "localhost:": 0,
    "127.0.0.1": 0,
    "127.0.0.1:11434": 0,
    "127.255.0.9": 0,
    "0.0.0.0:11434": 0,
    "[::1]": 0,
    "[::1]:11434": 0,
    "[::]": 0,
    "[0:0:0:0:0:0:0:1]": 0,
    "[::ffff:127.0.0.1]": 0,
    "10.0.0.7": 0,  # an address in a URL leads where it says: no name was bound to another
    "192.168.1.5:80": 0,
    "ollama.localhost": 0,
    "box.local": 0,
    "BOX.Internal:1": 0,
    "": 0,
    "8.8.8.8": 403,
    "[2001:4860:4860::8888]": 403,
    "evil.example": 403,
    "evil.example:11434": 403,
    "localhost.evil.example": 403,
    "127.0.0.1.evil.example": 403,
    "evil-localhost": 403,
    "notlocal": 403,
    "local": 403,
    "localhost.": 403,
    "evil.example.": 403,
    "127.1": 403,
    "2130706433": 403,
    "0x7f000001": 403,
    "0177.0.0.1": 403,
    "localhost%2eevil.example": 403,
    "xn--lcalhost-54a": 403,
}


@pytest.mark.parametrize("host", NAMES)
def test_names_that_lead_to_this_machine_are_known_and_any_other_is_refused(host: str) -> None:
    one = guard()
    assert [status(one, host=host) for _ in range(2)] == [NAMES[host]] * 2, "the second time as the first"


def test_this_machines_own_name_is_known_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Work-Station")
    assert status(guard(), host="work-station:11434") == status(guard(), host="WORK-STATION") == 0
    assert status(guard(), host="work-station.evil.example") == 403


def test_a_name_in_the_target_counts_more_than_the_host_field() -> None:
    refusal, _ = guard().check(head(path="http://evil.example/api/tags"))
    assert refusal
    assert refusal.status == 403


def test_however_many_names_are_tried_those_that_are_known_stay_so() -> None:
    one = guard()
    assert {status(one, host=f"127.0.0.1:{port}") for port in range(1, 300)} == {0}
    assert {status(one, host=f"evil{port}.example") for port in range(1, 300)} == {403}
    assert status(one) == 0


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models"])
def test_a_refused_name_is_told_as_the_programs_of_each_dialect_read_it_with_what_to_use(path: str) -> None:
    refusal, extra = guard().check(head(path=path, host="evil.example"))
    assert refusal
    said = json.loads(refusal.body)["error"]
    message = said["message"] if path.startswith("/v1/") else said
    assert "not known as 'evil.example': use localhost" in message
    assert extra == b""


def test_with_a_token_any_name_will_do_since_a_page_has_none() -> None:
    assert status(guard(token=TOKEN), f"X-Ollama-Key: {TOKEN}", host="evil.example") == 0
    assert status(guard(token=TOKEN, loopback=False), host="models.example") == 401


# -- pages

ORIGINS = {
    "http://localhost": 0,
    "http://localhost:3000": 0,
    "https://localhost:3000": 0,
    "HTTP://LOCALHOST:3000": 0,
    "http://127.0.0.1:8080": 0,
    "https://0.0.0.0": 0,
    "app://obsidian.md": 0,
    "tauri://localhost": 0,
    "vscode-webview://1a2b": 0,
    "vscode-file://vscode-app": 0,
    "file://": 0,
    "null": 403,
    "": 403,
    "http://evil.example": 403,
    "https://evil.example:11434": 403,
    "http://localhost.evil.example": 403,
    "http://localhost.evil.example:80": 403,
    "http://localhostevil": 403,
    "http://localhost:evil.example": 403,
    "http://localhost:": 403,
    "http://localhost:1@evil.example": 403,
    "http://localhost@evil.example": 403,
    "http://evil/localhost": 403,
    "http://evil.example/?http://localhost": 403,
    "http://localhost:1,http://evil.example": 403,
    "http://localhost:1 http://evil.example": 403,
    "http://127.0.0.1.evil.example": 403,
    "http://127a0b0c1": 403,
    "http://[::1]:3000": 403,
    "ftp://localhost": 403,
    "chrome-extension://abcdef": 403,
    "moz-extension://abcdef": 403,
    "application://x": 403,
    "x-app://y": 403,
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_this_machine_and_of_desktop_programs_may_ask_and_no_other(origin: str) -> None:
    assert status(guard(), f"Origin: {origin}") == ORIGINS[origin]
    assert status(guard(), f"Origin: {origin}", method="POST") == ORIGINS[origin]


ALLOWED = [
    ("https://chat.example.org", "https://chat.example.org", 0),
    ("https://chat.example.org", "HTTPS://CHAT.EXAMPLE.ORG", 0),
    ("https://chat.example.org", "https://chatxexample.org", 403),  # a dot is a dot
    ("https://chat.example.org", "https://chat.example.org:8443", 403),
    ("https://chat.example.org", "https://chat.example.org.evil.example", 403),
    ("https://chat.example.org", "http://chat.example.org", 403),
    ("https://a.example,https://b.example", "https://b.example", 0),
    (" https://a.example , https://b.example ", "https://a.example", 0),
    ('"https://a.example"', "https://a.example", 0),
    ("https://*.example.org", "https://a.b.example.org", 0),
    ("https://*.example.org", "https://example.org", 403),
    ("https://*.example.org", "https://evil.example/.example.org", 403),
    ("https://*.example.org", "https://evil@x.example.org", 403),
    ("https://*.example.org", "https://evil.example,https://x.example.org", 403),
    ("https://x:*", "https://x:99", 0),
    ("chrome-extension://*", "chrome-extension://abcdef", 0),
    ("chrome-extension://*", "moz-extension://abcdef", 403),
    ("http*://a.example", "https://a.example", 0),
    ("https://a+.example", "https://aaa.example", 403),
    ("https://a+.example", "https://a+.example", 0),
    ("https://[ab].example", "https://a.example", 403),
    ("https://a|b.example", "https://a", 403),
    ("https://(a.example", "https://(a.example", 0),
    ("https://a\\.example", "https://a.example", 403),
    ("https://a.example$", "https://a.example", 403),
    ("*", "https://anything.example", 0),
    ("*", "null", 0),
    ("https://a.example,*", "https://b.example", 0),
    ("", "https://a.example", 403),
]


@pytest.mark.parametrize(("allowed", "origin", "expected"), ALLOWED)
def test_ollama_origins_lets_in_what_it_names_and_nothing_that_only_looks_like_it(
    allowed: str, origin: str, expected: int
) -> None:
    one = guard(allowed)
    assert status(one, f"Origin: {origin}") == expected
    assert status(one, "Origin: http://localhost:3000") == 0, "the usual ones stay"


@pytest.mark.parametrize(
    "value",
    ["example.org", "https://", "https://a.example/", "https://a.example/path", "null", "//x", "1://x", "a b://c"],
)
def test_what_can_match_no_origin_is_a_mistake_that_is_told(value: str) -> None:
    with pytest.raises(ValueError, match=r"origins like https://example\.org"):
        origins(f"https://good.example,{value}")


@pytest.mark.parametrize("value", ["", ",", " , ", '""', "''"])
def test_no_origins_are_none(value: str) -> None:
    assert origins(value) == ()


SITES = [
    ("cross-site", None, "", 403),
    ("same-origin", None, "", 0),
    ("same-site", None, "", 0),
    ("none", None, "", 0),
    ("cross-site", "https://a.example", "https://a.example", 0),
    ("cross-site", "http://localhost:3000", "", 0),
    ("cross-site", "https://b.example", "https://a.example", 403),
    ("cross-site", None, "https://a.example", 403),
    ("cross-site", None, "*", 0),
    ("same-origin", "null", "", 403),
]


@pytest.mark.parametrize(("site", "origin", "allowed", "expected"), SITES)
def test_another_sites_page_is_refused_unless_its_origin_is_told_and_allowed(
    site: str, origin: str | None, allowed: str, expected: int
) -> None:
    fields = [f"Sec-Fetch-Site: {site}", *([f"Origin: {origin}"] if origin else [])]
    assert status(guard(allowed), *fields) == expected


# -- what browsers are told


def test_a_preflight_of_an_allowed_page_is_answered_here_with_the_fields_it_asks_for() -> None:
    asked = ["Origin: http://localhost:3000", "Access-Control-Request-Method: POST"]
    refusal, extra = guard().check(
        head(*asked, "access-control-request-headers: x-own, content-type", method="OPTIONS", path="/api/chat")
    )
    assert refusal
    assert (refusal.status, refusal.body) == (204, b"")
    lines = refusal.fields.decode().split("\r\n")
    assert "Access-Control-Allow-Methods: GET, POST, PUT, PATCH, DELETE, HEAD, OPTIONS" in lines
    [fields] = [line for line in lines if line.startswith("Access-Control-Allow-Headers: ")]
    assert fields.endswith(", x-own, content-type")
    assert "Authorization, Content-Type" in fields
    assert extra == b"Access-Control-Allow-Origin: http://localhost:3000\r\nVary: Origin\r\n"


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_preflight_needs_no_token_which_browsers_never_send_with_it_but_an_allowed_origin(token: str) -> None:
    one = guard(token=token)
    assert status(one, "Origin: http://localhost:3000", method="OPTIONS") == 204
    assert status(one, "Origin: https://evil.example", method="OPTIONS") == 403
    assert status(one, method="OPTIONS") == (401 if token else 0)


@pytest.mark.parametrize(
    ("origin", "extra"),
    [
        ("http://localhost:3000", b"Access-Control-Allow-Origin: http://localhost:3000\r\nVary: Origin\r\n"),
        ("https://evil.example", b""),
        (None, b""),
    ],
)
def test_answers_name_the_origin_that_may_read_them_and_never_one_that_may_not(
    origin: str | None, extra: bytes
) -> None:
    fields = [f"Origin: {origin}"] if origin else []
    assert guard().check(head(*fields))[1] == extra


def test_a_page_that_is_allowed_may_read_that_its_token_is_wrong() -> None:
    refusal, extra = guard(token=TOKEN).check(head("Origin: http://localhost:3000"))
    assert refusal
    assert refusal.status == 401
    assert b"Access-Control-Allow-Origin: http://localhost:3000" in extra


# -- tokens

TOKENS = [
    ([f"Authorization: Bearer {TOKEN}"], 0),
    ([f"authorization: bearer   {TOKEN}"], 0),
    ([f"X-Ollama-Key: {TOKEN}"], 0),
    ([f"X-Ollama-Key:   {TOKEN} "], 0),
    ([f"X-Ollama-Key: {TOKEN}", "Authorization: Bearer another"], 0),
    (["X-Ollama-Key: another", f"Authorization: Bearer {TOKEN}"], 0),
    ([], 401),
    (["X-Ollama-Key:"], 401),
    (["Authorization: Bearer"], 401),
    (["Authorization: Bearer "], 401),
    ([f"Authorization: {TOKEN}"], 401),
    ([f"Authorization: Basic {TOKEN}"], 401),
    ([f"Authorization: Bearer{TOKEN}"], 401),
    ([f"Authorization: Bearer {TOKEN}x"], 401),
    ([f"Authorization: Bearer {TOKEN[:-1]}"], 401),
    ([f"X-Ollama-Key: {TOKEN.upper()}"], 401),
    ([f"X-Ollama-Key: Bearer {TOKEN}"], 401),
    ([f"X-Ollama-Key: {TOKEN}", f"X-Ollama-Key: {TOKEN}"], 400),
    (["X-Ollama-Key: another", f"X-Ollama-Key: {TOKEN}"], 400),
    (["Authorization: Bearer another", f"Authorization: Bearer {TOKEN}"], 400),
    ([f"Authorization: Bearer {TOKEN}", "Authorization: Bearer another"], 400),
    ([f"Authorization: Bearer {TOKEN}\xff"], 401),
]


@pytest.mark.parametrize(("fields", "expected"), TOKENS)
def test_a_token_is_taken_from_either_header_and_only_whole_and_alone(fields: list[str], expected: int) -> None:
    assert status(guard(token=TOKEN, loopback=False), *fields) == expected


@pytest.mark.parametrize("path", ["/api/tags", "/v1/models", "/.exollama/status"])
def test_a_wrong_token_is_told_how_to_send_it_and_neither_is_repeated(path: str) -> None:
    refusal, _ = guard(token=TOKEN).check(head("X-Ollama-Key: another-secret-of-somebody", path=path))
    assert refusal
    assert (refusal.status, refusal.fields) == (401, b"WWW-Authenticate: Bearer\r\n")
    assert b"Authorization: Bearer, or X-Ollama-Key" in refusal.body
    assert TOKEN.encode() not in refusal.body
    assert b"another-secret" not in refusal.body


def test_a_page_with_the_token_still_has_to_be_allowed() -> None:
    assert status(guard(token=TOKEN), f"X-Ollama-Key: {TOKEN}", "Origin: https://evil.example") == 403
    assert status(guard(token=TOKEN), f"X-Ollama-Key: {TOKEN}", "Sec-Fetch-Site: cross-site") == 403


@pytest.mark.parametrize("name", ["Host", "Origin", "Sec-Fetch-Site"])
def test_what_is_looked_at_is_said_once_or_not_at_all(name: str) -> None:
    assert status(guard("*"), f"{name}: localhost", f"{name}: localhost") == 400
