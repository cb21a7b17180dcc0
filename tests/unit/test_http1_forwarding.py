"""What of a head goes on to the next hop, and what is meant for this one. Neighbour: test_http1.py, what is refused."""

import pytest

from client.http1 import BadMessage, Chunked, Sized, UntilClose, parse_request, parse_response
from tests.unit.heads import HOP, answer, hostless, refused, refused_answer, request


def test_a_request_is_written_with_the_next_hops_own_lines_and_those_that_go_on_as_they_came() -> None:
    head = parse_request(request(b"accept:  */*\t", b"X-Empty:", b"X: 1", b"x: 2", b"X-: \xe9", b"Content-Length: 7"))
    assert head.upstream(HOP) == (
        b"POST /api/chat HTTP/1.1\r\n" + HOP + b"accept:  */*\t\r\nX-Empty:\r\nX: 1\r\nx: 2\r\nX-: \xe9\r\n"
        b"Content-Length: 7\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("raw", "written"),
    [
        pytest.param(hostless(b"Host: a"), b"GET / HTTP/1.1\r\nHost: up\r\n\r\n", id="no field is left"),
        pytest.param(
            hostless(b"Host: a", b"transfer-encoding: CHUNKED"),
            b"GET / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n",
            id="chunked",
        ),
        pytest.param(
            hostless(version=b"HTTP/1.0"), b"GET / HTTP/1.0\r\nConnection: close\r\nHost: up\r\n\r\n", id="an old one"
        ),
        pytest.param(
            hostless(b"Connection: keep-alive", b"A: b", version=b"HTTP/1.0"),
            b"GET / HTTP/1.0\r\nConnection: close\r\nHost: up\r\nA: b\r\n\r\n",
            id="an old one that would stay",
        ),
    ],
)
def test_a_request_is_written_for_the_next_hop(raw: bytes, written: bytes) -> None:
    assert parse_request(raw).upstream(b"Host: up\r\n") == written


@pytest.mark.parametrize(
    "line",
    [
        b"Connection: keep-alive", b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"TE: trailers",
        b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", b"Authorization: Bearer theirs",
        b"AUTHORIZATION:Basic dTpw", b"Proxy-Authorization: Basic dTpw", b"X-Ollama-Key: theirs",
        b"x-ollama-KEY:theirs", b"Origin: http://localhost", b"Sec-Fetch-Site: same-origin", b"Expect:",
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", [False, True], ids=["", "named by Connection"])
def test_what_concerns_this_hop_or_proves_who_asks_does_not_go_on(line: bytes, named: bool) -> None:
    also = [b"Connection: " + line.partition(b":")[0]] if named else []
    assert parse_request(request(line, b"A: b", *also)).upstream(HOP) == (
        b"POST /api/chat HTTP/1.1\r\n" + HOP + b"A: b\r\n\r\n"
    )


def test_who_asks_is_kept_for_this_hop_also_where_connection_names_it() -> None:
    lines = [b"Authorization: Bearer a", b"X-Ollama-Key:\tb ", b"Origin: http://c", b"Sec-Fetch-Site: cross-site"]
    for connection in (b"", b"authorization, x-ollama-key, origin, sec-fetch-site, host"):
        head = parse_request(request(*lines, b"Connection: " + connection))
        assert (head.authorization, head.key) == (b"Bearer a", b"b")
        assert (head.origin, head.site, head.host) == (b"http://c", b"cross-site", b"localhost")
    plain = parse_request(request())
    assert (plain.authorization, plain.key, plain.origin, plain.site) == (None, None, None, None)


@pytest.mark.parametrize("name", [b"Authorization", b"X-Ollama-Key", b"Origin", b"Sec-Fetch-Site"])
def test_who_asks_is_said_once(name: bytes) -> None:
    assert refused(request(name + b": a", name.lower() + b": a")) == 400


@pytest.mark.parametrize(
    ("connection", "kept"),
    [
        pytest.param([], [b"A: 1", b"Bee: 2", b"a: 3"], id="no Connection"),
        pytest.param([b"keep-alive"], [b"A: 1", b"Bee: 2", b"a: 3"], id="keep-alive"),
        pytest.param([b"a"], [b"Bee: 2"], id="every line of a name, in any case"),
        pytest.param([b"BEE"], [b"A: 1", b"a: 3"], id="capitals"),
        pytest.param([b"close,\tbee ,"], [b"A: 1", b"a: 3"], id="a list"),
        pytest.param([b"a", b"bee"], [], id="two lines"),
        pytest.param([b"", b",,", b" , "], [b"A: 1", b"Bee: 2", b"a: 3"], id="nothing, often"),
        pytest.param([b"be"], [b"A: 1", b"Bee: 2", b"a: 3"], id="a part of a name"),
        pytest.param([b"a bee"], [b"A: 1", b"Bee: 2", b"a: 3"], id="no comma"),
    ],
)
@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_what_connection_names_does_not_go_on_but_how_long_the_body_is_does(
    connection: list[bytes], kept: list[bytes], framing: bytes
) -> None:
    lines = [b"A: 1", framing, b"Bee: 2", b"a: 3"]
    lines += [b"Connection: " + value for value in connection]
    lines.append(b"connection: content-length, TRANSFER-ENCODING, host")
    there, back = parse_request(request(*lines)), parse_response(answer(*lines))
    assert there.fields == back.fields == [*kept, framing]
    assert there.upstream(HOP).startswith(b"POST /api/chat HTTP/1.1\r\n" + HOP)


CLOSES = [
    pytest.param([], b"1", False, id="nothing"),
    pytest.param([b"Connection: keep-alive"], b"1", False, id="keep-alive"),
    pytest.param([b"Connection: close"], b"1", True, id="close"),
    pytest.param([b"Connection: keep-alive, CLOSE"], b"1", True, id="both"),
    pytest.param([b"Connection: keep-alive", b"connection: close"], b"1", True, id="in two lines"),
    pytest.param([b"Connection: closed"], b"1", False, id="closed"),
    pytest.param([b"Close: yes"], b"1", False, id="another field"),
    pytest.param([], b"0", True, id="an old one"),
    pytest.param([b"Connection: keep-alive"], b"0", True, id="an old one that would stay"),
]


@pytest.mark.parametrize(("fields", "minor", "close"), CLOSES)
def test_the_connection_closes_where_either_says_so_or_is_old(fields: list[bytes], minor: bytes, close: bool) -> None:
    assert parse_request(request(*fields, version=b"HTTP/1." + minor)).close is close
    assert parse_response(answer(*fields, line=b"HTTP/1." + minor + b" 200 OK")).close is close


@pytest.mark.parametrize("more", [[], [b"Connection: expect"]], ids=["", "named by Connection"])
def test_who_waits_for_100_continue_is_known_and_the_next_hop_is_asked(more: list[bytes]) -> None:
    head = parse_request(request(b"expect: 100-Continue", *more, b"Content-Length: 1"))
    assert head.continues
    assert head.fields == [b"Content-Length: 1", b"Expect: 100-continue"]


def test_an_old_client_does_not_wait_for_100_continue() -> None:
    head = parse_request(request(b"Expect: 100-continue", version=b"HTTP/1.0"))
    assert not head.continues
    assert head.fields == []


@pytest.mark.parametrize("value", [b"x", b"100-continue, x", b"100-continue,100-continue", b"100"])
def test_nothing_else_can_be_expected(value: bytes) -> None:
    assert refused(request(b"Expect: " + value)) == 417
    assert refused(request(b"Expect: " + value, version=b"HTTP/1.0")) == 417


def test_an_old_client_cannot_send_chunks() -> None:
    assert refused(request(b"Transfer-Encoding: chunked", version=b"HTTP/1.0")) == 400
    assert "HTTP/1.0" in refused_answer(answer(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"))


def test_a_requests_body_is_as_long_as_its_head_says() -> None:
    chunked, sized, none = (
        parse_request(request(*fields)).body()
        for fields in ([b"Transfer-Encoding: chunked"], [b"Content-Length: 3"], [])
    )
    assert isinstance(chunked, Chunked)
    assert isinstance(sized, Sized)
    assert (sized.left, sized.done) == (3, False)
    assert isinstance(none, Sized)
    assert none.done


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 099 X", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1  200 OK", b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 ", b"HTTP/1.1",
        b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/2 200", b"http/1.1 200 OK", b"ICY 200 OK", b" HTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\nK", b"HTTP/1.1 200 O\x7fK", b"200 OK",
        b"HTTP/1.1 \xb2\xb2\xb2 OK", b"\r\nHTTP/1.1 200 OK", b"GET / HTTP/1.1", b"",
    ],
)  # fmt: skip
def test_a_status_line_that_is_none_is_refused(line: bytes) -> None:
    assert "cannot be read" in refused_answer(answer(b"A: b", line=line))


@pytest.mark.parametrize(
    ("line", "status", "written"),
    [
        pytest.param(b"HTTP/1.1 200 OK", 200, b"HTTP/1.1 200 OK", id="200"),
        pytest.param(b"HTTP/1.0 200 OK", 200, b"HTTP/1.1 200 OK", id="an old one"),
        pytest.param(b"HTTP/1.1 404 ", 404, b"HTTP/1.1 404 ", id="no reason"),
        pytest.param(b"HTTP/1.1 404", 404, b"HTTP/1.1 404 ", id="no reason and no space"),
        pytest.param(b"HTTP/1.0 999  \t\xe9 ", 999, b"HTTP/1.1 999  \t\xe9 ", id="an odd reason"),
    ],
)
def test_a_status_line_is_read_and_written(line: bytes, status: int, written: bytes) -> None:
    head = parse_response(answer(line=line))
    assert (head.status, head.minor) == (status, int(line[7:8]))
    assert head.downstream(b"", close=False) == written + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "extra", "close", "written"),
    [
        pytest.param([], b"", False, b"", id="nothing"),
        pytest.param([], b"", True, b"Connection: close\r\n", id="close"),
        pytest.param([b"A: 1", b"a:2"], b"", False, b"A: 1\r\na:2\r\n", id="fields"),
        pytest.param([b"A: 1"], b"", True, b"A: 1\r\nConnection: close\r\n", id="a field, close"),
        pytest.param([], b"V: 1\r\n", False, b"V: 1\r\n", id="a further line"),
        pytest.param([], b"V: 1\r\n", True, b"V: 1\r\nConnection: close\r\n", id="a further line, close"),
        pytest.param([b"A: 1"], b"V: 1\r\n", True, b"V: 1\r\nA: 1\r\nConnection: close\r\n", id="everything"),
    ],
)
def test_an_answer_is_written_for_whoever_asked(fields: list[bytes], extra: bytes, close: bool, written: bytes) -> None:
    assert parse_response(answer(*fields)).downstream(extra, close=close) == b"HTTP/1.1 200 OK\r\n" + written + b"\r\n"


def test_what_concerns_one_hop_of_an_answer_does_not_go_on() -> None:
    lines = [
        b"Connection: keep-alive, x-own", b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"TE: trailers",
        b"Proxy-Authenticate: Basic", b"Upgrade: h2c", b"X-Own: 1", b"X-Exollama: draining",
    ]  # fmt: skip
    assert parse_response(answer(*lines, b"Set-Cookie: a", b"Set-Cookie: b")).fields == [
        b"Set-Cookie: a",
        b"Set-Cookie: b",
    ]


@pytest.mark.parametrize(
    ("method", "status", "fields", "kind", "left"),
    [
        pytest.param(b"GET", 200, [b"Content-Length: 3"], Sized, 3, id="a length"),
        pytest.param(b"GET", 200, [b"Content-Length: 0"], Sized, 0, id="no byte"),
        pytest.param(b"GET", 200, [b"Transfer-Encoding: chunked"], Chunked, None, id="chunked"),
        pytest.param(b"GET", 200, [], UntilClose, None, id="until it closes"),
        pytest.param(b"GET", 205, [], UntilClose, None, id="205 is no exception"),
        pytest.param(b"CONNECT", 200, [b"Content-Length: 3"], Sized, 3, id="CONNECT is never sent"),
        pytest.param(b"head", 200, [b"Content-Length: 3"], Sized, 3, id="head is not HEAD"),
        pytest.param(b"HEAD", 200, [b"Content-Length: 3"], Sized, 0, id="HEAD, a length"),
        pytest.param(b"HEAD", 200, [b"Transfer-Encoding: chunked"], Sized, 0, id="HEAD, chunked"),
        pytest.param(b"HEAD", 200, [], Sized, 0, id="HEAD"),
        pytest.param(b"GET", 304, [b"Content-Length: 3"], Sized, 0, id="304, a length"),
        pytest.param(b"GET", 304, [b"Transfer-Encoding: chunked"], Sized, 0, id="304, chunked"),
        pytest.param(b"GET", 204, [], Sized, 0, id="204"),
        pytest.param(b"GET", 204, [b"Content-Length: 3"], Sized, 0, id="204, a length"),
        pytest.param(b"GET", 204, [b"Transfer-Encoding: chunked"], Sized, 0, id="204, chunked"),
        pytest.param(b"GET", 100, [], Sized, 0, id="100"),
        pytest.param(b"GET", 103, [b"Content-Length: 3"], Sized, 0, id="103, a length"),
    ],
)
def test_an_answers_body_ends_by_method_and_status(
    method: bytes, status: int, fields: list[bytes], kind: type, left: int | None
) -> None:
    head = parse_response(answer(*fields, line=b"HTTP/1.1 %d X" % status))
    body = head.body(method)
    assert type(body) is kind
    if isinstance(body, Sized):
        assert (body.left, body.done) == (left, left == 0)
    # Where no body can follow whatever was asked, nothing says how long it would be.
    assert head.fields == ([] if status < 200 or status == 204 else fields)


def test_protocols_are_never_switched() -> None:
    assert "switches" in refused_answer(answer(b"Upgrade: websocket", line=b"HTTP/1.1 101 Switching Protocols"))


@pytest.mark.parametrize(
    ("status", "fields", "draining"),
    [
        pytest.param(503, [b"X-Exollama: draining"], True, id="503 and the header"),
        pytest.param(503, [b"x-exollama:\tdraining "], True, id="whitespace and case of the name"),
        pytest.param(503, [b"X-Exollama: draining", b"Connection: x-exollama"], True, id="named by Connection"),
        pytest.param(503, [], False, id="503 alone"),
        pytest.param(503, [b"X-Exollama: Draining"], False, id="another case"),
        pytest.param(503, [b"X-Exollama: draining, draining"], False, id="a list"),
        pytest.param(503, [b"X-Exollama: draining", b"X-Exollama: draining"], False, id="two"),
        pytest.param(503, [b"X-Exollama: ready"], False, id="another word"),
        pytest.param(503, [b"X-Exollama-Too: draining"], False, id="another name"),
        pytest.param(502, [b"X-Exollama: draining"], False, id="502"),
        pytest.param(200, [b"X-Exollama: draining"], False, id="200"),
    ],
)
def test_only_503_with_that_very_header_is_draining(status: int, fields: list[bytes], draining: bool) -> None:
    assert parse_response(answer(*fields, line=b"HTTP/1.1 %d X" % status)).draining is draining


def test_what_is_wrong_with_an_answer_is_said() -> None:
    with pytest.raises(BadMessage, match="the answer's head: more than one content-length"):
        parse_response(answer(b"Content-Length: 5", b"Content-Length: 5"))
