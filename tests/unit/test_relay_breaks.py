"""What the forwarder does where an instance breaks off: repeat what nobody has answered, show what is cut, no more."""

import json
import re
import socket
from collections.abc import Callable

import pytest

from client.exchange import KEEP
from tests.unit.relaying import HOST, OK, PATIENCE_S, Relay, Wire, get, post, relay

DRAINING = b"HTTP/1.1 503 Service Unavailable\r\nX-Exollama: draining\r\nContent-Length: 0\r\n\r\n"
ENDS = pytest.mark.parametrize("how", [Wire.close, Wire.half_close, Wire.reset], ids=["closed", "half closed", "reset"])
End = Callable[[Wire], None]


def refusal(program: Wire) -> tuple[int, dict[str, object], bytes]:
    """The status, JSON and head of an answer of the forwarder's own."""
    head, _, body = program.message().partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body), head


@ENDS
@pytest.mark.parametrize("size", [0, 3, 100_000, KEEP])
def test_a_request_that_dies_without_an_answer_is_repeated_byte_for_byte(how: End, size: int) -> None:
    request = post(bytes(range(256)) * (size // 256) + b"x" * (size % 256), more=b"X-Id: 7\r\n")
    with relay() as it:
        program = it.program()
        program.send(request)
        far = it.far.accept()
        first = far.message()
        how(far)
        second = it.far.accept()
        assert second.message() == first
        second.send(OK)
        program.expect(OK)
        assert it.source.asked == ["wake", "wake"]  # a new connection that dies: the instance is looked at again
        assert it.counts == {"repeated": 1, "forwarded": 1}


def test_a_short_chunked_request_is_repeated_with_its_framing() -> None:
    body = b"1;x\r\na\r\n0\r\nX-T: 1\r\n\r\n"
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/chat HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        for last in (False, True):
            far = it.far.accept()
            far.until(b"\r\n\r\n")
            far.expect(body)
            if last:
                far.send(OK)
            else:
                far.reset()
        program.expect(OK)


def test_a_request_of_which_half_has_come_is_repeated_and_completed() -> None:
    with relay() as it:
        program = it.program()
        request = post(b"first,second")
        program.send(request[:-6])
        far = it.far.accept()
        far.until(b"first,")
        far.reset()
        second = it.far.accept()
        second.until(b"\r\n\r\nfirst,")
        program.send(b"second")
        second.expect(b"second")
        second.send(OK)
        program.expect(OK)


def test_a_body_that_the_lost_connection_did_not_take_is_read_on_for_the_next() -> None:
    body = b"x" * (KEEP - 1000)
    with relay() as it:
        program = it.program()
        program.send(post(body)[:100])
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        (down,) = it.forwarder._connections
        assert down.exchange
        assert down.exchange.up
        transport = down.exchange.up.transport
        transport.set_write_buffer_limits(1000)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        it.settle()
        program.send(post(body)[100:-10])
        it.wait(lambda: down._held_back)
        program.send(post(body)[-10:])
        far.reset()
        second = it.far.accept()
        assert second.message().endswith(b"\r\n\r\n" + body)
        second.send(OK)
        program.expect(OK)


def test_a_request_is_not_repeated_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._TRIES", 4)
    with relay() as it:
        program = it.program()
        program.send(get())
        for _ in range(4):
            far = it.far.accept()
            far.message()
            far.close()
        status, said, _ = refusal(program)
        assert status == 502
        assert "4 tries" in str(said["error"])
        assert it.far.nobody()
        program.send(get())
        it.far.accept().message()  # the program's connection goes on


def test_an_instance_that_nothing_connects_to_is_looked_at_again_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.forwarder._TRIES", 4)
    with relay() as it:
        it.far.listener.close()
        program = it.program()
        program.send(post())
        status, _, _ = refusal(program)
        assert status == 502
        assert it.source.asked == ["wake"] * 4
        assert it.forwarder.keeper.pool is None


@ENDS
@pytest.mark.parametrize(
    "part",
    [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 2"],
    ids=["a byte", "half", "behind an interim one"],
)
def test_a_request_whose_answer_s_head_was_cut_is_refused_and_not_repeated(how: End, part: bytes) -> None:
    with relay() as it:
        program, far = it.begun(post())
        far.send(part)
        it.settle()
        how(far)
        if b"103" in part:
            assert program.message() == b"HTTP/1.1 103 Early Hints\r\n\r\n"
        status, said, _ = refusal(program)
        assert (status, "cannot be read" in str(said["error"])) == (502, True)
        assert it.far.nobody()
        assert it.counts == {"refused": 1}


@ENDS
@pytest.mark.parametrize(
    "part",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
    ids=["sized, nothing", "sized", "in a chunk", "between chunks", "before the last line"],
)
def test_an_answer_that_is_cut_reaches_the_program_as_far_as_it_came_and_is_not_repeated(how: End, part: bytes) -> None:
    with relay() as it:
        program, far = it.begun(post())
        far.send(part)
        program.expect(part)
        how(far)
        assert program.rest() == b""
        assert it.far.nobody()
        assert it.counts == {"broken": 1}


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH_8.9\r\n\r\n",
    "another version": b"HTTP/2 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n1",
    "a folded field": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "no end": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (64 << 10),
    "behind an interim one": b"HTTP/1.1 100 Continue\r\n\r\nnonsense\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_an_answer_that_cannot_be_read_is_a_502_and_ends_its_connection(garbage: bytes) -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(garbage)
        if b" 100 " in garbage:
            program.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        status, said, _ = refusal(program)
        assert (status, "cannot be read" in str(said["error"])) == (502, True)
        far.ends()
        assert it.far.nobody()


def test_chunks_that_turn_out_malformed_break_the_answer() -> None:
    part = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    with relay() as it:
        program, far = it.begun(get())
        far.send(part)
        program.expect(part)
        far.send(b"zz\r\n")
        far.ends()
        assert program.rest() == b""
        assert it.counts == {"broken": 1}


# -- bodies that are too long to be kept


@ENDS
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_body_too_long_to_be_kept_is_not_repeated_but_gets_a_503(how: End, chunked: bool) -> None:
    body = b"x" * (KEEP + 1)
    whole = b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n" if chunked else body
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/chat HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n" + whole)
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        far.expect(whole)
        how(far)
        status, said, head = refusal(program)
        assert status == 503
        assert re.search(rb"\r\nRetry-After: [0-9]+\r\n", head + b"\r\n")
        assert "too long to be kept" in str(said["error"])
        assert it.far.nobody()
        program.send(get())  # all of the body was read: the connection goes on
        second = it.far.accept()
        second.message()
        second.send(OK)
        program.expect(OK)


def test_a_program_that_is_still_sending_a_long_body_reads_its_503() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 90000000\r\n\r\n" + b"x" * (KEEP + 1))
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        far.expect(b"x" * (KEEP + 1))
        far.reset()
        it.wait(lambda: it.forwarder.active == 0)
        for _ in range(50):
            program.send(b"x" * 10_000)
        status, _, head = refusal(program)
        assert status == 503
        assert head.endswith(b"Retry-After: 5")
        assert b"\r\nConnection: close\r\n" in head
        assert program.rest() == b""


def test_an_instance_that_has_ended_without_reading_on_is_not_waited_for() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 90000000\r\n\r\n")
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        program.sock.setblocking(False)
        while True:
            try:
                program.sock.send(b"x" * (1 << 20))
            except BlockingIOError:
                it.settle()
                (down,) = it.forwarder._connections
                if down._held_back:
                    break
        program.sock.settimeout(PATIENCE_S)
        far.half_close()
        assert refusal(program)[0] == 503


# -- answers of 503


def fenced(it: Relay, request: bytes) -> Wire:
    """A program whose request met a fence."""
    program = it.program()
    program.send(request)
    far = it.far.accept()
    far.message()
    far.send(DRAINING)
    far.ends()
    return program


@pytest.mark.parametrize("request_", [get(), post(b"x" * 5000)], ids=["a question", "a use"])
def test_a_fenced_instance_is_waited_out_unseen(request_: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._FENCED_S", 0.01)
    with relay() as it:
        program = fenced(it, request_)
        for _ in range(7):  # oftener than a request is repeated otherwise
            far = it.far.accept()
            assert far.message().endswith(request_.partition(b"\r\n\r\n")[2])
            far.send(DRAINING)
        last = it.far.accept()
        last.message()
        last.send(OK)
        program.expect(OK)
        assert len(it.source.asked) == 9  # looked at each time


def test_a_fence_on_a_kept_connection_is_a_fence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._FENCED_S", 0.01)
    with relay() as it:
        program, far = it.ask(post())
        program.send(post())
        far.message()
        far.send(DRAINING)
        second = it.far.accept()
        second.message()
        second.send(OK)
        program.expect(OK)
        assert it.source.asked == ["wake", "wake"]


def test_a_long_body_that_meets_a_fence_gets_a_503() -> None:
    with relay() as it:
        program, far = it.begun(post(b"x" * (KEEP + 1)))
        far.send(DRAINING)
        status, _, head = refusal(program)
        assert (status, b"Retry-After: 5" in head, b"X-Exollama" in head) == (503, True, False)


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (b"503 Service Unavailable", b""),
        (b"503 Service Unavailable", b"X-Exollama: booting\r\n"),
        (b"503 Service Unavailable", b"X-Exollama: draining, draining\r\n"),
        (b"500 Internal Server Error", b"X-Exollama: draining\r\n"),
        (b"401 Unauthorized", b"x-exollama: key\r\n"),
        (b"404 Not Found", b""),
        (b"429 Too Many Requests", b""),
        (b"502 Bad Gateway", b""),
    ],
)
def test_every_other_answer_passes_as_it_is_without_the_agent_s_field(status: bytes, field: bytes) -> None:
    with relay() as it:
        program, far = it.begun(post())
        far.send(b"HTTP/1.1 " + status + b"\r\n" + field + b"Retry-After: 9\r\nContent-Length: 4\r\n\r\nbusy")
        program.expect(b"HTTP/1.1 " + status + b"\r\nRetry-After: 9\r\nContent-Length: 4\r\n\r\nbusy")
        it.wait(lambda: it.idle() == 1)
        assert it.source.asked == ["wake"]
