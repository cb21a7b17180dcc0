"""Heads of HTTP/1.1 as the forwarder reads and writes them: what is smuggled, malformed or oversized is refused.

Neighbours: test_http1_forwarding.py, what goes on; test_http1_bodies.py follows bodies; test_http1_fuzz.py compares
with h11.
"""

import pytest

from client.http1 import MAX_FIELDS, MAX_HEAD, parse_request, parse_response
from tests.unit.heads import answer, hostless, refused, refused_answer, request

CHUNKED, FIVE = b"Transfer-Encoding: chunked", b"Content-Length: 5"
FRAMING = [
    pytest.param([FIVE, CHUNKED], 400, id="CL.TE"),
    pytest.param([CHUNKED, FIVE], 400, id="TE.CL"),
    pytest.param([b"content-length: 0", CHUNKED], 400, id="CL.TE, zero"),
    pytest.param([CHUNKED, CHUNKED], 400, id="TE.TE"),
    pytest.param([CHUNKED, b"Transfer-Encoding: identity"], 400, id="TE.TE, the second is identity"),
    pytest.param([CHUNKED, b"tRANSFER-eNCODING: x"], 400, id="TE.TE, the second in other case"),
    pytest.param([b"Transfer-Encoding : chunked"], 400, id="space before the colon"),
    pytest.param([b"Transfer-Encoding\t: chunked"], 400, id="tab before the colon"),
    pytest.param([FIVE, b"Transfer-Encoding : chunked"], 400, id="CL and TE with space before the colon"),
    pytest.param([b" Transfer-Encoding: chunked"], 400, id="space before the name"),
    pytest.param([b"Transfer-Encoding:\x0bchunked"], 400, id="vertical tab"),
    pytest.param([b"Transfer-Encoding:\x0cchunked"], 400, id="form feed"),
    pytest.param([b"Transfer-Encoding:\xa0chunked"], 501, id="no-break space"),
    pytest.param([b"Transfer-Encoding: xchunked"], 501, id="xchunked"),
    pytest.param([b"Transfer-Encoding: chunkedx"], 501, id="chunkedx"),
    pytest.param([b"Transfer-Encoding: chunked, identity"], 501, id="chunked, identity"),
    pytest.param([b"Transfer-Encoding: identity, chunked"], 501, id="identity, chunked"),
    pytest.param([b"Transfer-Encoding: gzip, chunked"], 501, id="gzip, chunked"),
    pytest.param([b"Transfer-Encoding: chunked, chunked"], 501, id="chunked twice"),
    pytest.param([b"Transfer-Encoding: chunked;q=1"], 501, id="chunked with a parameter"),
    pytest.param([b"Transfer-Encoding: chunked,"], 501, id="chunked and a comma"),
    pytest.param([b"Transfer-Encoding: ,chunked"], 501, id="a comma and chunked"),
    pytest.param([b'Transfer-Encoding: "chunked"'], 501, id="chunked quoted"),
    pytest.param([b"Transfer-Encoding: identity"], 501, id="identity"),
    pytest.param([b"Transfer-Encoding:"], 501, id="no coding"),
    pytest.param([b"Transfer-Encoding: chun\x00ked"], 400, id="NUL in the coding"),
    pytest.param([b"Transfer-Encoding:\r\n chunked"], 400, id="folded coding"),
    pytest.param([b"X: y\nTransfer-Encoding: chunked"], 400, id="TE behind a bare LF"),
    pytest.param([b"X: y\rTransfer-Encoding: chunked"], 400, id="TE behind a bare CR"),
    pytest.param([b"Foo: bar\r\n\rTransfer-Encoding: chunked"], 400, id="TE behind CR LF CR"),
    pytest.param([b"Transfer-Encoding"], 400, id="no colon"),
    pytest.param([FIVE, FIVE], 400, id="two equal lengths"),
    pytest.param([FIVE, b"CONTENT-LENGTH: 6"], 400, id="two lengths"),
    pytest.param([b"Content-Length: 5,5"], 400, id="a list of equal lengths"),
    pytest.param([b"Content-Length: 5, 6"], 400, id="a list of lengths"),
    pytest.param([b"Content-Length: +5"], 400, id="plus"),
    pytest.param([b"Content-Length: -1"], 400, id="minus"),
    pytest.param([b"Content-Length: 0x5"], 400, id="0x"),
    pytest.param([b"Content-Length: 5_0"], 400, id="underscore"),
    pytest.param([b"Content-Length: 5 0"], 400, id="space within"),
    pytest.param([b"Content-Length: 5.0"], 400, id="a fraction"),
    pytest.param([b"Content-Length: 5;"], 400, id="semicolon"),
    pytest.param([b"Content-Length: \xb2"], 400, id="a superscript digit"),
    pytest.param(["Content-Length: ٣".encode()], 400, id="an Arabic digit"),
    pytest.param([b"Content-Length: five"], 400, id="a word"),
    pytest.param([b"Content-Length:"], 400, id="no length"),
    pytest.param([b"Content-Length: " + 19 * b"1"], 400, id="19 digits"),
    pytest.param([b"Content-Length: " + 40 * b"9"], 400, id="40 digits"),
    pytest.param([b"Content-Length : 5"], 400, id="space before the length's colon"),
    pytest.param([b"Content-Length: 1\r\n 0"], 400, id="folded length"),
]


@pytest.mark.parametrize(("fields", "status"), FRAMING)
def test_a_request_whose_end_could_be_read_in_two_ways_is_refused(fields: list[bytes], status: int) -> None:
    assert refused(request(*fields)) == status


@pytest.mark.parametrize(("fields", "status"), FRAMING)
def test_an_answer_whose_end_could_be_read_in_two_ways_is_refused(fields: list[bytes], status: int) -> None:
    assert "the answer's head" in refused_answer(answer(*fields))


@pytest.mark.parametrize(
    ("fields", "length", "chunked"),
    [
        pytest.param([], 0, False, id="neither"),
        pytest.param([FIVE], 5, False, id="a length"),
        pytest.param([b"content-LENGTH:\t 5 \t"], 5, False, id="a length with whitespace around it"),
        pytest.param([b"Content-Length: 005"], 5, False, id="leading zeros"),
        pytest.param([b"Content-Length: " + 18 * b"9"], 10**18 - 1, False, id="18 digits"),
        pytest.param([CHUNKED], 0, True, id="chunked"),
        pytest.param([b"transfer-encoding:\tCHUNKED \t"], 0, True, id="chunked in capitals, whitespace around it"),
        pytest.param([b"Transfer_Encoding: chunked", b"X-Content-Length: 9"], 0, False, id="names that are alike"),
    ],
)
def test_a_requests_length_is_read(fields: list[bytes], length: int, chunked: bool) -> None:
    head = parse_request(request(*fields))
    assert (head.length, head.chunked) == (length, chunked)


LINES = [
    pytest.param(b"X: y\nZ: a", id="bare LF"),
    pytest.param(b"X: y\n", id="bare LF before CRLF"),
    pytest.param(b"X: y\rZ: a", id="bare CR"),
    pytest.param(b"X: y\r", id="two CRs"),
    pytest.param(b"\rX: y", id="CR before a name"),
    pytest.param(b"X: y\x00", id="NUL in a value"),
    pytest.param(b"X\x00: y", id="NUL in a name"),
    pytest.param(b"X: y\x01", id="control character in a value"),
    pytest.param(b"X: \x1b[2J", id="escape in a value"),
    pytest.param(b"X: \x7f", id="DEL in a value"),
    pytest.param(b"X: y\r\n z", id="folded by space"),
    pytest.param(b"X: y\r\n\tz", id="folded by tab"),
    pytest.param(b"X: y\r\n ", id="folded, an empty line"),
    pytest.param(b" X: y", id="space before the name"),
    pytest.param(b"\tX: y", id="tab before the name"),
    pytest.param(b"X : y", id="space before the colon"),
    pytest.param(b"X Y: z", id="space in the name"),
    pytest.param(b": y", id="no name"),
    pytest.param(b":", id="a colon alone"),
    pytest.param(b"X", id="no colon"),
    pytest.param(b"X\xe9: y", id="obs-text in a name"),
    pytest.param("ﬀ: y".encode(), id="a ligature for a name"),
    pytest.param(b"X(: y", id="a delimiter in a name"),
    pytest.param(b'"X": y', id="a quoted name"),
    pytest.param(b"X@y: z", id="@ in a name"),
]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("last", [False, True], ids=["", "last"])
def test_a_line_that_is_no_field_is_refused_in_requests_and_answers(line: bytes, last: bool) -> None:
    lines = [b"A: b", line] if last else [line, b"A: b"]
    assert refused(request(*lines)) == 400
    assert "cannot be read" in refused_answer(answer(*lines))


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"GET /", 400, id="HTTP/0.9"),
        pytest.param(b"GET / HTTP/0.9", 505, id="0.9"),
        pytest.param(b"GET / HTTP/1.2", 505, id="1.2"),
        pytest.param(b"GET / HTTP/2.0", 505, id="2.0"),
        pytest.param(b"PRI * HTTP/2.0", 505, id="preface of HTTP/2"),
        pytest.param(b"GET / HTTP/1.10", 400, id="1.10"),
        pytest.param(b"GET / HTTP/01.1", 400, id="01.1"),
        pytest.param(b"GET / HTTP/1", 400, id="1"),
        pytest.param(b"GET / HTTP/1,1", 400, id="1,1"),
        pytest.param(b"GET / http/1.1", 400, id="lower case"),
        pytest.param(b"GET / HTTPS/1.1", 400, id="HTTPS"),
        pytest.param(b"GET / ICY/1.1", 400, id="ICY"),
        pytest.param(b"GET / HTTP/1.1 ", 400, id="space behind"),
        pytest.param(b" GET / HTTP/1.1", 400, id="space before"),
        pytest.param(b"GET  / HTTP/1.1", 400, id="two spaces"),
        pytest.param(b"GET /  HTTP/1.1", 400, id="two spaces behind the target"),
        pytest.param(b"GET\t/\tHTTP/1.1", 400, id="tabs"),
        pytest.param(b"GET /a b HTTP/1.1", 400, id="space in the target"),
        pytest.param(b"GET / HTTP/1.1 HTTP/1.1", 400, id="two versions"),
        pytest.param(b"GET  HTTP/1.1", 400, id="no target"),
        pytest.param(b" / HTTP/1.1", 400, id="no method"),
        pytest.param(b"G@T / HTTP/1.1", 400, id="a delimiter in the method"),
        pytest.param(b"G\xcbT / HTTP/1.1", 400, id="obs-text in the method"),
        pytest.param(b"GET /\xe9 HTTP/1.1", 400, id="obs-text in the target"),
        pytest.param(b"GET /\x7f HTTP/1.1", 400, id="DEL in the target"),
        pytest.param(b"GET /\x00 HTTP/1.1", 400, id="NUL in the target"),
        pytest.param(b"GET /\r HTTP/1.1", 400, id="CR in the target"),
        pytest.param(b"GET /\n HTTP/1.1", 400, id="LF in the target"),
        pytest.param(b"GET / HTTP/1.1\r\n X: y", 400, id="folded request line"),
        pytest.param(b"\r\nGET / HTTP/1.1", 400, id="CRLF before it"),
        pytest.param(b"\nGET / HTTP/1.1", 400, id="LF before it"),
        pytest.param(b"\xef\xbb\xbfGET / HTTP/1.1", 400, id="byte order mark"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS"),
        pytest.param(b"HTTP/1.1 200 OK", 400, id="an answer"),
        pytest.param(b"", 400, id="nothing"),
        pytest.param(b"CONNECT localhost:80 HTTP/1.1", 400, id="authority form"),
        pytest.param(b"CONNECT / HTTP/1.1", 400, id="CONNECT of a path"),
        pytest.param(b"CONNECT http://localhost/ HTTP/1.1", 400, id="CONNECT of a URL"),
        pytest.param(b"GET localhost:80 HTTP/1.1", 400, id="authority form without CONNECT"),
        pytest.param(b"OPTIONS * HTTP/1.1", 400, id="asterisk form"),
        pytest.param(b"GET api/chat HTTP/1.1", 400, id="no slash"),
        pytest.param(b"GET ?x HTTP/1.1", 400, id="a query alone"),
        pytest.param(b"GET /a#b HTTP/1.1", 400, id="a fragment"),
        pytest.param(b"GET /a?b#c HTTP/1.1", 400, id="a fragment behind a query"),
        pytest.param(b"GET #a HTTP/1.1", 400, id="a fragment alone"),
        pytest.param(b"GET \\a HTTP/1.1", 400, id="a backslash"),
        pytest.param(b"GET %2Fa HTTP/1.1", 400, id="an escaped slash"),
        pytest.param(b"GET http:///a HTTP/1.1", 400, id="a URL without a host"),
        pytest.param(b"GET http://:80/a HTTP/1.1", 400, id="a URL with only a port"),
        pytest.param(b"GET http://?a HTTP/1.1", 400, id="a URL of a query"),
        pytest.param(b"GET http:/a HTTP/1.1", 400, id="a URL with one slash"),
        pytest.param(b"GET http:a HTTP/1.1", 400, id="a URL without slashes"),
        pytest.param(b"GET http://u@h/a HTTP/1.1", 400, id="a URL with a user"),
        pytest.param(b"GET http://u:p@h/a HTTP/1.1", 400, id="a URL with a password"),
        pytest.param(b"GET http://h\\@e/a HTTP/1.1", 400, id="a URL with a backslash"),
        pytest.param(b"GET http://h:8x/a HTTP/1.1", 400, id="a URL whose port is no number"),
        pytest.param(b"GET http://h:1:2/a HTTP/1.1", 400, id="a URL with two ports"),
        pytest.param(b"GET http://h/#a HTTP/1.1", 400, id="a URL with a fragment"),
        pytest.param(b"GET http://[::1/a HTTP/1.1", 400, id="a URL with half a bracket"),
        pytest.param(b"GET ftp://h/a HTTP/1.1", 400, id="ftp"),
        pytest.param(b"GET file:///etc/passwd HTTP/1.1", 400, id="a file"),
        pytest.param(b"GET unix:/x HTTP/1.1", 400, id="a socket"),
    ],
)
def test_a_request_line_that_is_not_plainly_for_a_server_is_refused(line: bytes, status: int) -> None:
    assert refused(line + b"\r\nHost: localhost\r\n\r\n") == status


@pytest.mark.parametrize(
    ("target", "to", "path", "host"),
    [
        pytest.param(b"/", b"/", b"/", b"localhost", id="root"),
        pytest.param(b"/a?b=c?d", b"/a?b=c?d", b"/a", b"localhost", id="a query"),
        pytest.param(b"//x/y", b"//x/y", b"//x/y", b"localhost", id="two slashes are a path"),
        pytest.param(b"/http://x/", b"/http://x/", b"/http://x/", b"localhost", id="a URL in the path"),
        pytest.param(b"/%2e%00%0d%0a/..", b"/%2e%00%0d%0a/..", b"/%2e%00%0d%0a/..", b"localhost", id="escapes stay"),
        pytest.param(b"http://h/a", b"/a", b"/a", b"h", id="a URL"),
        pytest.param(b"HTTP://H:80/a?b", b"/a?b", b"/a", b"H:80", id="a URL in capitals"),
        pytest.param(b"http://h", b"/", b"/", b"h", id="a URL without a path"),
        pytest.param(b"http://h?a=/b", b"/?a=/b", b"/", b"h", id="a URL with only a query"),
        pytest.param(b"http://[::1]:1//a", b"//a", b"//a", b"[::1]:1", id="a URL of IPv6"),
    ],
)
def test_a_target_goes_on_as_a_path_and_a_url_says_the_host(target: bytes, to: bytes, path: bytes, host: bytes) -> None:
    head = parse_request(request(target=target))
    assert (head.target, head.path, head.host) == (to, path, host)
    assert head.upstream(b"").startswith(b"POST " + to + b" HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="none"),
        pytest.param([b"Host: a", b"Host: a"], id="two equal ones"),
        pytest.param([b"Host: a", b"hOST: b"], id="two"),
        pytest.param([b"Host : a"], id="space before the colon"),
        pytest.param([b"Host: a b"], id="space within"),
        pytest.param([b"Host: a\tb"], id="tab within"),
        pytest.param([b"Host: a, b"], id="a list"),
        pytest.param([b"Host: a@b"], id="a user"),
        pytest.param([b"Host: a/b"], id="a slash"),
        pytest.param([b"Host: http://a"], id="a URL"),
        pytest.param([b"Host: a?b"], id="a query"),
        pytest.param([b"Host: a#b"], id="a fragment"),
        pytest.param([b"Host: a\\b"], id="a backslash"),
        pytest.param([b"Host: a:b"], id="a port that is no number"),
        pytest.param([b"Host: a:-1"], id="a negative port"),
        pytest.param([b"Host: a:1:2"], id="two ports"),
        pytest.param([b"Host: ::1"], id="IPv6 without brackets"),
        pytest.param([b"Host: [::1"], id="half a bracket"),
        pytest.param([b"Host: [::1]x"], id="something behind the bracket"),
        pytest.param([b"Host: []"], id="empty brackets"),
        pytest.param([b"Host: \xe9"], id="obs-text"),
    ],
)
@pytest.mark.parametrize("target", [b"/", b"http://a/"], ids=["", "URL"])
def test_a_request_without_one_plain_host_is_refused(fields: list[bytes], target: bytes) -> None:
    assert refused(hostless(*fields, target=target)) == 400


@pytest.mark.parametrize("host", [b"", b"a", b"A.b:80", b"a:", b"127.0.0.1:11434", b"[::1]", b"[::1]:11434", b"x_y"])
def test_a_host_is_read(host: bytes) -> None:
    assert parse_request(hostless(b"Host: \t" + host + b" ")).host == host


def test_only_an_old_client_may_leave_out_the_host() -> None:
    head = parse_request(hostless(version=b"HTTP/1.0"))
    assert head.host is None
    assert refused(hostless()) == 400


@pytest.mark.parametrize("count", [MAX_FIELDS, MAX_FIELDS + 1])
def test_one_field_too_many_is_refused_as_that(count: int) -> None:
    fields = [b"a:"] * (count - 1)  # Host is one more
    if count <= MAX_FIELDS:
        assert len(parse_request(request(*fields)).fields) == count - 1
        assert len(parse_response(answer(b"a:", *fields)).fields) == count
    else:
        assert refused(request(*fields)) == 431
        assert "fields" in refused_answer(answer(b"a:", *fields))


@pytest.mark.parametrize("size", [MAX_HEAD, MAX_HEAD + 1])
def test_one_byte_too_many_is_refused_as_that(size: int) -> None:
    asked = request(b"a:" + b"b" * (size - len(request(b"a:"))))
    answered = answer(b"a:" + b"b" * (size - len(answer(b"a:"))))
    assert len(asked) == len(answered) == size
    if size <= MAX_HEAD:
        assert parse_request(asked).upstream(b"").endswith(b"b\r\n\r\n")
        assert parse_response(answered).downstream(b"", close=False) == answered
    else:
        assert refused(asked) == 431
        assert "cannot be read" in refused_answer(answered)


@pytest.mark.parametrize("behind", [b"x", b"\r\n", request(), b"\x00"], ids=["a byte", "CRLF", "a request", "NUL"])
def test_nothing_may_follow_a_head(behind: bytes) -> None:
    assert refused(request() + behind) == 400
    assert "cannot be read" in refused_answer(answer() + behind)


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_head_that_is_cut_short_is_refused(cut: int) -> None:
    assert refused(request()[:-cut]) == 400
    assert refused_answer(answer(b"Server: nginx/1.22")[:-cut])


def test_a_heads_words_do_not_tell_the_query_or_the_key() -> None:
    head = parse_request(request(b"Authorization: Bearer secret", target=b"/a?secret"))
    assert repr(head) == "RequestHead(b'POST' b'/a')"
