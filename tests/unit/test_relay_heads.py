"""Heads through the forwarder: what is one hop's own stays there, the key above all; what is malformed goes nowhere."""

import json

import pytest

from client.guard import Guard
from client.settings import Secret
from tests.unit.relaying import HOST, KEY, OK, Wire, get, post, relay


def sent(request: bytes) -> list[bytes]:
    """The lines of a request's head as the instance gets them, without those that are the hop's own."""
    with relay() as it:
        program = it.program()
        program.send(request)
        far = it.far.accept()
        line, hop, rest = far.message().partition(it.far.hop)
        far.send(OK)
        program.until(b"ok")
        assert hop
        return [line.removesuffix(b"\r\n"), *rest.partition(b"\r\n\r\n")[0].split(b"\r\n")]


def test_host_and_key_are_the_instance_s_and_nothing_of_the_program_s_own() -> None:
    dummies = b"authorization: Bearer ollama\r\nX-OLLAMA-KEY: wrong\r\n"
    lines = sent(post(b"{}", b"/v1/chat/completions?x=%20y", dummies + b"X-A:  b \r\nx-a: c\r\n"))
    assert lines == [
        b"POST /v1/chat/completions?x=%20y HTTP/1.1",
        b"X-A:  b ",
        b"x-a: c",
        b"Content-Length: 2",
    ]


@pytest.mark.parametrize(
    "own",
    [
        b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
        b"Connection: X-Mine, close\r\nX-Mine: 1\r\nx-mine: 2\r\n",
        b"Connection: X-Mine\r\nConnection: TE\r\nX-Mine: 1\r\nTE: trailers\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\n",
        b"Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n",
    ],
    ids=["keep-alive", "named", "named twice", "upgrade", "proxy's", "a browser's"],
)
def test_fields_of_this_hop_do_not_reach_the_instance(own: bytes) -> None:
    assert sent(get(more=own + b"Accept: */*\r\n")) == [b"GET /api/tags HTTP/1.1", b"Accept: */*"]


def test_connection_cannot_take_the_framing_or_the_key_away() -> None:
    lines = sent(post(b"{}", more=b"Connection: content-length, host, x-ollama-key, transfer-encoding\r\n"))
    assert lines == [b"POST /api/generate HTTP/1.1", b"Content-Length: 2"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://localhost:11434/api/tags?a", b"/api/tags?a"),
        (b"http://localhost", b"/"),
        (b"HTTP://LOCALHOST?x=1", b"/?x=1"),
        (b"//api//tags", b"//api//tags"),
    ],
)
def test_targets_reach_the_instance_as_paths(target: bytes, path: bytes) -> None:
    assert sent(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")[0] == b"GET " + path + b" HTTP/1.1"


def test_fields_of_the_instance_s_hop_do_not_reach_the_program() -> None:
    own = (
        b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=75\r\nProxy-Authenticate: Basic\r\n"
        b"Upgrade: h2c\r\nX-Exollama: ready\r\nTE: x\r\n"
    )
    with relay() as it:
        program, far = it.begun(get())
        far.send(b"HTTP/1.1 200 Fine\r\nServer: nginx\r\n" + own + b"Set-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")
        program.expect(b"HTTP/1.1 200 Fine\r\nServer: nginx\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok")


@pytest.mark.parametrize("how", ["forwarded", "refused", "asleep", "broken"])
def test_the_key_is_in_nothing_that_a_program_gets(how: str) -> None:
    with relay(asleep=how == "asleep") as it:
        program = it.program()
        program.send(get() if how == "forwarded" else b"GET /.exollama/status HTTP/1.1\r\n" + HOST + b"\r\n")
        if how == "forwarded":
            far = it.far.accept()
            assert KEY.encode() in far.message()
            far.send(OK)
        elif how == "broken":
            program.message()
            program.send(post())
            far = it.far.accept()
            far.message()
            far.send(b"X-Ollama-Key: nonsense\r\n\r\n")
        got = program.message()
        assert got
        assert KEY.encode() not in got


def test_a_browser_s_page_gets_the_forwarder_s_leave_with_the_instance_s_answer() -> None:
    with relay() as it:
        program, far = it.begun(get(more=b"Origin: http://localhost:3000\r\n"))
        far.send(OK)
        leave = b"Access-Control-Allow-Origin: http://localhost:3000\r\nVary: Origin\r\n"
        program.expect(OK.replace(b"Content-Length", leave + b"Content-Length"))


def test_a_token_opens_and_is_not_passed_on() -> None:
    guard = Guard(token=Secret("t" * 40), loopback=False)
    with relay(guard=guard) as it:
        program = it.program()
        program.send(post(more=b"Authorization: Bearer wrong\r\n"))
        assert program.message().startswith(b"HTTP/1.1 401 Unauthorized\r\n")
        program.send(post(more=b"Authorization: Bearer " + b"t" * 40 + b"\r\n"))
        far = it.far.accept()
        assert b"t" * 40 not in far.message()
        far.send(OK)
        program.expect(OK)


# -- what is no request

LONG = b"a" * (64 << 10)
MALFORMED: dict[str, tuple[int, bytes]] = {
    "nonsense": (400, b"nonsense\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n"),
    "a host of two": (400, b"GET / HTTP/1.1\r\nHost: localhost, evil\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "CONNECT": (400, b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n"),
    "an asterisk": (400, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a fragment": (400, get(b"/a#b")),
    "a bare line feed": (400, b"GET / HTTP/1.1\n" + HOST + b"\r\n"),
    "a bare carriage return": (400, get(more=b"X-A: b\rX-C: d\r\n")),
    "a zero byte": (400, get(more=b"X-A: \x00\r\n")),
    "a folded field": (400, get(more=b"X-A: b\r\n c\r\n")),
    "a space before the colon": (400, get(more=b"Content-Length : 5\r\n")),
    "no name": (400, get(more=b": x\r\n")),
    "two keys": (400, get(more=b"X-Ollama-Key: a\r\nx-ollama-key: b\r\n")),
    "two lengths": (400, post(more=b"Content-Length: 2\r\n")),
    "both framings": (400, post(more=b"Transfer-Encoding: chunked\r\n")),
    "a negative length": (400, get(more=b"Content-Length: -1\r\n")),
    "a signed length": (400, get(more=b"Content-Length: +1\r\n")),
    "lengths": (400, get(more=b"Content-Length: 1, 1\r\n")),
    "another coding": (501, get(more=b"Transfer-Encoding: gzip\r\n")),
    "chunked twice": (501, get(more=b"Transfer-Encoding: chunked, chunked\r\n")),
    "disguised chunks": (501, get(more=b"Transfer-Encoding: xchunked\r\n")),
    "chunks in HTTP/1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "another expectation": (417, get(more=b"Expect: 200-ok\r\n")),
    "a long head": (431, get(more=b"X-A: " + LONG + b"\r\n")),
    "a head without end": (431, b"GET / HTTP/1.1\r\nX-A: " + LONG),
    "a long target": (431, get(b"/" + LONG)),
    "many fields": (431, get(more=b"X-A: b\r\n" * 300)),
    "a chunk's size": (400, b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n"),
}


def refused(program: Wire, status: int) -> None:
    head, _, body = program.message().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Type: application/json" in head
    assert json.loads(body)["error"]
    assert program.rest() == b""


@pytest.mark.parametrize(("status", "request_"), MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_request_is_refused_and_nothing_of_it_reaches_the_instance(status: int, request_: bytes) -> None:
    with relay() as it:
        program = it.program()
        program.send(request_ + get(b"/smuggled"))
        refused(program, status)
        if b"\r\nxyz\r\n" not in request_:  # its head was one
            assert it.source.asked == []
        assert it.far.nobody()


@pytest.mark.parametrize("name", ["nonsense", "both framings", "a long head"])
def test_a_request_before_what_is_none_gets_its_answer(name: str) -> None:
    status, request = MALFORMED[name]
    with relay() as it:
        program, far = it.begun(get() + request)
        it.settle()
        far.send(OK)
        program.expect(OK)
        refused(program, status)
        assert it.counts == {"forwarded": 1, "malformed": 1}


def test_whoever_is_still_sending_reads_why_it_is_refused() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5000000\r\nContent-Length: 1\r\n\r\n")
        it.settle()
        for _ in range(50):
            program.send(b"x" * 100_000)
        refused(program, 400)


@pytest.mark.parametrize("answered", [False, True])
def test_a_body_that_turns_out_malformed_ends_what_was_begun(answered: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/chat HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        far = it.far.accept()
        far.until(b"3\r\nabc\r\n")
        if answered:
            far.send(head)
            program.until(b"\r\n\r\n")
        program.send(b"3\r\nabcdef\r\n0\r\n\r\n")
        far.ends()
        if answered:
            program.ends()
        else:
            refused(program, 400)
        assert it.counts == {"refused": 1} | ({} if answered else {"malformed": 1})


def test_a_body_that_turns_out_malformed_while_held_never_reaches_an_instance() -> None:
    with relay() as it:
        it.source.open.clear()
        program = it.program()
        program.send(b"POST /api/chat HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        it.wait(lambda: it.forwarder.keeper.held)
        program.send(b"nonsense\r\n")
        refused(program, 400)
        it.source.open.set()
        it.wait(lambda: it.forwarder.keeper.pool)
        it.settle()
        assert it.far.nobody()


@pytest.mark.parametrize(
    "own",
    [b"Host: evil.example\r\n", HOST + b"Origin: https://evil.example\r\n", HOST + b"Sec-Fetch-Site: cross-site\r\n"],
    ids=["a name", "an origin", "a site"],
)
def test_what_a_page_might_ask_is_refused_and_reaches_no_instance(own: bytes) -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/generate HTTP/1.1\r\n" + own + b"Content-Length: 2\r\n\r\n{}")
        assert program.message().startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert it.source.asked == []
        program.send(get(b"/.exollama/status"))
        assert b'"refused": 1' in program.message()
