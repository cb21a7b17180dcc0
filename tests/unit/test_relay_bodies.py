"""Bodies through the forwarder, both ways: byte for byte, and ending where they end, however they are cut up."""

import pytest

from tests.unit.relaying import HOST, OK, Wire, get, post, relay

CHUNKED = (
    b'7;ext=1;name="a b"\r\n{"a": 1\r\n'
    b"00A; \tx\r\n\r\n0\r\n\r\n\xff\x00\xc3\r\n"
    b"1\r\n}\r\n"
    b"000;last\r\nX-Sum: 12\r\nX-Other: \xc3\xa9\r\n\r\n"
)
SIZED = b'{"prompt":"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"}'
UPLOAD = b"POST /api/create HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED
ANSWER = b"HTTP/1.1 200 OK\r\nX-Trace: 1\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED
COUNTED = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(SIZED) + SIZED


def after_head(message: bytes) -> bytes:
    return message.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("request_", [UPLOAD, post(SIZED)], ids=["chunked", "sized"])
def test_a_request_cut_anywhere_arrives_verbatim_and_the_next_one_begins_at_its_end(request_: bytes, part: int) -> None:
    with relay() as it:
        program, far = it.ask(get())
        for at in range(1 + part, len(request_), 4):
            program.send(request_[:at])
            it.settle()
            program.send(request_[at:] + get())
            if request_ is UPLOAD:
                far = it.far.accept()  # a body of unknown length has a connection that nobody can have ended
            head = far.until(b"\r\n\r\n")
            far.expect(after_head(request_))
            assert head.startswith(request_[: request_.index(b"\r\n") + 2] + it.far.hop), at
            far.send(OK)
            assert far.message().startswith(b"GET /api/tags "), at
            far.send(OK)
            program.expect(OK + OK)


@pytest.mark.parametrize("answer", [ANSWER, COUNTED], ids=["chunked", "sized"])
def test_an_answer_cut_anywhere_arrives_verbatim_and_its_connection_is_used_again(answer: bytes) -> None:
    with relay() as it:
        program, far = it.ask(get())
        for at in range(1, len(answer)):
            program.send(get())
            far.message()
            far.send(answer[:at])
            it.settle()
            far.send(answer[at:])
            program.expect(answer)
        assert it.far.nobody()


@pytest.mark.parametrize("answer", [ANSWER, COUNTED], ids=["chunked", "sized"])
def test_messages_that_come_byte_by_byte_arrive(answer: bytes) -> None:
    with relay() as it:
        program = it.program()
        for byte in UPLOAD:
            program.send(bytes([byte]))
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        far.expect(CHUNKED)
        for byte in answer:
            far.send(bytes([byte]))
        program.expect(answer)


def test_pieces_of_an_answer_pass_as_they_come() -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(ANSWER[:40])
        it.settle()
        assert program.quiet()  # a head goes on when it is whole
        far.send(ANSWER[40 : -len(CHUNKED)])
        program.expect(ANSWER[: -len(CHUNKED)])
        for at in range(len(CHUNKED)):
            far.send(CHUNKED[at : at + 1])
            program.expect(CHUNKED[at : at + 1])


def test_pieces_of_an_upload_pass_as_they_come() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/blobs/sha256:00 HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n")
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        for piece in (b"abc", b"def", b"ghi"):
            program.send(piece)
            far.expect(piece)
        far.send(OK)
        program.expect(OK)


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n"),
        (get(), b"HTTP/1.1 204 No Content\r\n\r\n"),
        (get(), b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 17\r\n\r\n'),
        (get(), b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (post(b""), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
    ids=["HEAD sized", "HEAD chunked", "HEAD uncounted", "204", "304 sized", "304 chunked", "empty"],
)
def test_an_answer_without_a_body_ends_with_its_head(request_: bytes, answer: bytes) -> None:
    with relay() as it:
        program, far = it.ask(request_, answer)
        program.send(get())
        far.message()
        far.send(OK)
        program.expect(OK)


def test_interim_answers_pass_before_the_final_one() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + b"HTTP/1.1 102 Processing\r\n\r\n"
    with relay() as it:
        program, far = it.begun(get())
        for at in (20, len(interim)):
            far.send(interim[at - 20 if at == 20 else 20 : at])
            it.settle()
        program.expect(interim)
        far.send(interim + OK)
        program.expect(interim + OK)
        assert it.counts == {"forwarded": 1}


def test_interim_answers_do_not_reach_a_program_of_http_1_0() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"GET /api/tags HTTP/1.0\r\n\r\n")
        far = it.far.accept()
        assert far.message().startswith(b"GET /api/tags HTTP/1.0\r\nConnection: close\r\n" + it.far.hop)
        far.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert program.rest().endswith(b"Connection: close\r\n\r\nok")


def test_a_body_that_waits_for_100_continue_is_invited_by_the_instance() -> None:
    with relay() as it:
        program = it.program()
        program.send(post(b"", more=b"Expect: 100-Continue\r\n").replace(b"Length: 0", b"Length: 4"))
        far = it.far.accept()
        assert b"\r\nExpect: 100-continue\r\n" in far.until(b"\r\n\r\n")
        assert program.quiet()
        far.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        program.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        program.send(b"body")
        far.expect(b"body")
        far.send(OK)
        program.expect(OK)
        program.send(get())
        far.message()


def test_a_program_is_told_to_continue_once_also_where_its_request_is_repeated() -> None:
    proceed = b"HTTP/1.1 100 Continue\r\n\r\n"
    with relay() as it:
        program = it.program()
        program.send(post(b"", more=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 4"))
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        far.send(proceed)
        program.expect(proceed)
        program.send(b"body")
        far.expect(b"body")
        far.reset()
        second = it.far.accept()
        second.until(b"\r\n\r\n")
        second.expect(b"body")
        second.send(proceed + proceed + OK)
        program.expect(OK)


def test_a_body_that_an_answer_wanted_instead_of_100_continue_does_not_come() -> None:
    with relay() as it:
        program = it.program()
        program.send(post(b"", more=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 4"))
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        far.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        program.expect(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        assert program.rest() == b""
        far.ends()  # whether the body would still come is unknown


def test_without_an_instance_the_forwarder_invites_a_body_that_it_has_to_see() -> None:
    with relay(asleep=True) as it:
        program = it.program()
        body = b'{"model":"x"}'
        request = post(body, b"/api/show", b"Expect: 100-continue\r\n")
        program.send(request.removesuffix(body))
        program.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        program.send(body)
        assert program.message().startswith(b"HTTP/1.1 404 Not Found\r\n")


@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_an_answer_that_ends_with_its_connection_is_passed_with_that_end(size: int) -> None:
    body = b"x" * size
    with relay() as it:
        program, far = it.begun(get())
        far.send(b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n" + body)
        far.half_close()
        assert program.rest() == b"HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\n\r\n" + body
        assert it.counts == {"forwarded": 1}


def test_where_an_answer_that_ends_with_its_connection_is_cut_its_end_is_a_reset() -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        program.until(b"half")
        far.reset()
        with pytest.raises(ConnectionResetError):
            program.rest()
        assert it.counts == {"broken": 1}


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\n\r\nhello", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"],
    ids=["until its end", "sized"],
)
def test_a_program_of_http_1_0_gets_an_answer_that_ends_with_its_connection(answer: bytes) -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/generate HTTP/1.0\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}")
        far = it.far.accept()
        assert far.message().startswith(b"POST /api/generate HTTP/1.0\r\nConnection: close\r\n")
        far.send(answer)
        far.half_close()
        got = program.rest()
        assert b"\r\nConnection: close\r\n\r\nhello" in got
        assert b"chunked" not in got


def test_a_program_of_http_1_0_gets_no_chunks() -> None:
    with relay() as it:
        program, far = it.begun(b"GET /api/tags HTTP/1.0\r\n\r\n")
        far.send(ANSWER)
        assert program.rest().startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        assert it.far.nobody()


@pytest.mark.parametrize("how", [Wire.close, Wire.half_close], ids=["closed", "half closed"])
def test_an_early_answer_reaches_a_program_that_is_still_sending(how: object) -> None:
    assert callable(how)
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n"
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999\r\n\r\nsome")
        far = it.far.accept()
        far.until(b"\r\n\r\nsome")
        far.send(answer + b"\r\nlong")
        far.ends()  # its connection is not kept: the rest of the body might be taken for a request
        how(far)
        for _ in range(100):
            program.send(b"x" * 10_000)  # is not reset by that
        program.expect(answer + b"Connection: close\r\n\r\nlong")
        assert program.rest() == b""
        assert it.counts == {"forwarded": 1}


def test_an_early_answer_and_the_body_may_pass_each_other() -> None:
    """Ollama's pull and create could answer while they read."""
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/create HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        far = it.far.accept()
        far.until(b"1\r\na\r\n")
        far.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n")
        program.until(b"\r\nConnection: close\r\n\r\n1\r\nA\r\n")
        program.send(b"1\r\nb\r\n0\r\n\r\n")
        far.expect(b"1\r\nb\r\n0\r\n\r\n")
        far.send(b"1\r\nB\r\n0\r\n\r\n")
        assert program.rest() == b"1\r\nB\r\n0\r\n\r\n"
