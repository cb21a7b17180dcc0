"""Who leaves, or stands still: programs at any moment, of which the instance hears at once."""

import contextlib
import sys
import threading
from collections.abc import Callable

import pytest

from client.downstream import BODY_S, HEAD_S, KEEP_ALIVE_S, LINGER_S
from tests.unit.relaying import HOST, OK, Relay, Wire, get, post, relay

LEAVES = pytest.mark.parametrize(
    "leave", [Wire.close, Wire.half_close, Wire.reset], ids=["closes", "half closes", "resets"]
)
Leave = Callable[[Wire], None]
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@LEAVES
@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", HEAD, HEAD + b"5\r\nhel", b"HTTP/1.1 200 OK\r\n\r\nhel"],
    ids=["nothing", "half a head", "a head", "half a chunk", "until the end"],
)
def test_whoever_leaves_before_the_answer_s_end_ends_the_instance_s_work(leave: Leave, answer: bytes) -> None:
    with relay() as it:
        program, far = it.begun(post())
        far.send(answer)
        it.settle()
        leave(program)
        far.ends()
        it.wait(lambda: not it.forwarder._connections)
        assert it.counts == {"left": 1}
        assert it.idle() == 0


@LEAVES
def test_whoever_leaves_in_the_middle_of_a_body_ends_the_request(leave: Leave) -> None:
    with relay() as it:
        program = it.program()
        program.send(post(b"half")[:-2])
        far = it.far.accept()
        far.until(b"\r\n\r\nha")
        leave(program)
        far.ends()
        it.wait(lambda: not it.forwarder._connections)
        assert it.counts == {"left": 1}


@LEAVES
def test_whoever_leaves_while_held_is_forgotten_and_never_sent(leave: Leave) -> None:
    with relay() as it:
        it.source.open.clear()
        program = it.program()
        program.send(post(b"x" * 1000))
        it.wait(lambda: it.forwarder.keeper.held == 1)
        assert it.forwarder.keeper.held_bytes == 1000
        leave(program)
        it.wait(lambda: not it.forwarder._active and not it.forwarder._connections)
        assert (it.forwarder.keeper.held, it.forwarder.keeper.held_bytes) == (0, 0)
        it.source.open.set()
        it.wait(lambda: it.forwarder.keeper.pool)
        it.settle()
        assert it.far.nobody()
        assert it.counts == {"left": 1}


@LEAVES
def test_whoever_leaves_between_two_tries_is_not_tried_again(leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._FENCED_S", 60.0)
    with relay() as it:
        program, far = it.begun(post())
        far.send(b"HTTP/1.1 503 No\r\nX-Exollama: draining\r\nContent-Length: 0\r\n\r\n")
        far.ends()
        leave(program)
        it.wait(lambda: not it.forwarder._active and not it.forwarder._connections)
        assert it.far.nobody()


@LEAVES
@pytest.mark.parametrize("before", [b"", b"GET / HT"], ids=["nothing", "half a head"])
def test_whoever_leaves_without_a_request_is_forgotten(leave: Leave, before: bytes) -> None:
    with relay() as it:
        program = it.program()
        program.send(before)
        it.wait(lambda: it.forwarder._connections)
        leave(program)
        it.wait(lambda: not it.forwarder._connections)
        assert it.counts == {}


@LEAVES
def test_whoever_leaves_takes_what_it_pipelined_along(leave: Leave) -> None:
    with relay() as it:
        program, far = it.begun(get() + post() + get())
        leave(program)
        far.ends()
        it.wait(lambda: not it.forwarder._connections)
        assert it.far.nobody()
        assert it.counts == {"left": 1}


@LEAVES
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of it")
@pytest.mark.parametrize("held", [True, False])
def test_whoever_leaves_while_nothing_is_read_from_it_is_noticed(
    leave: Leave, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    with relay() as it:
        if held:
            it.source.open.clear()
        program = it.program()
        program.send(b"POST /api/blobs/x HTTP/1.1\r\n" + HOST + b"Content-Length: 90000000\r\n\r\n")
        if not held:
            it.far.accept().until(b"\r\n\r\n")
        it.wait(lambda: it.forwarder.active)
        (down,) = it.forwarder._connections
        program.sock.setblocking(False)
        while down.transport.is_reading():
            with contextlib.suppress(BlockingIOError):
                program.sock.send(bytes(1 << 14))  # little at a time: its end arrives behind what it has sent
            it.settle()
        leave(program)
        it.wait(lambda: not it.forwarder._active)
        it.wait(lambda: not it.forwarder._connections)
        assert it.counts == {"left": 1}


def test_whoever_leaves_while_its_connection_is_made_leaves_none_behind() -> None:
    """A connection to somebody who never says anything of TLS, which is waited for."""
    with relay(fingerprint="00" * 32) as it:
        program = it.program()
        program.send(post())
        far = it.far.accept()
        program.close()
        drain = far.sock.recv(1 << 16)
        while drain:  # the hello; then the end
            drain = far.sock.recv(1 << 16)
        it.wait(lambda: not it.forwarder._active)


# -- a forwarder that closes


def test_a_connection_more_than_are_taken_is_ended_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder.MAX_CONNECTIONS", 3)
    with relay() as it:
        programs = [it.program() for _ in range(3)]
        it.wait(lambda: len(it.forwarder._connections) == 3)
        further = it.program()
        further.send(get())
        answer = further.rest()
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 5\r\n" in answer
        assert b"has 3 connections already" in answer
        further.close()
        it.wait(lambda: len(it.forwarder._connections) == 3)
        programs[0].send(get())
        far = it.far.accept()
        far.message()
        far.send(OK)
        programs[0].expect(OK)
        programs[1].close()
        it.wait(lambda: len(it.forwarder._connections) == 2)
        again = it.program()
        again.send(get())
        far.message()
        far.send(OK)
        again.expect(OK)


# -- who takes too long


@pytest.fixture
def swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)


def passes(it: Relay, seconds: float) -> None:
    """More than so many seconds pass, once the forwarder is through with what it does."""
    it.settle()
    it.ahead_s += seconds + 1


def late(program: Wire) -> None:
    answer = program.message()
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert b'{"error": ' in answer
    assert program.rest() == b""


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("part", [b"G", get()[:-1], b"\r\nGET"], ids=["a byte", "all but one", "behind an empty line"])
@pytest.mark.parametrize("first", [True, False], ids=["the first", "a later one"])
def test_a_head_that_takes_too_long_is_a_408(part: bytes, first: bool) -> None:
    with relay() as it:
        program = it.program() if first else it.ask(get())[0]
        program.send(part)
        it.wait(lambda: any(down._pending for down in it.forwarder._connections))
        passes(it, HEAD_S)
        late(program)
        assert it.counts["malformed"] == 1


@pytest.mark.usefixtures("swept")
def test_a_head_that_trickles_is_a_408_all_the_same() -> None:
    with relay() as it:
        program = it.program()
        with contextlib.suppress(ConnectionError):
            for byte in get(more=b"X-A: " + b"a" * 500_000):
                program.send(bytes([byte]))
                it.settle()
                it.ahead_s = min(it.ahead_s + 1, HEAD_S + 1)
                if not program.quiet():
                    break
        assert program.until(b"\r\n").startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("swept")
def test_a_body_that_stands_still_is_a_408_and_frees_the_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._SHORT_S", 0.0)
    with relay() as it:
        program = it.program()
        program.send(post(b"half")[:-2])
        far = it.far.accept()
        far.until(b"ha")
        passes(it, BODY_S)
        late(program)
        far.ends()
        assert it.forwarder.active == 0


@pytest.mark.usefixtures("swept")
def test_a_connection_without_a_request_is_ended_without_an_answer() -> None:
    with relay() as it:
        program = it.program()
        it.wait(lambda: it.forwarder._connections)
        passes(it, HEAD_S)
        assert program.rest() == b""
        program, _ = it.ask(get())
        passes(it, KEEP_ALIVE_S)
        assert program.rest() == b""


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("held", [True, False])
def test_a_program_that_waits_takes_no_time_of_its_own(held: bool) -> None:
    with relay() as it:
        if held:
            it.source.open.clear()
        programs = [it.program() for _ in range(2)]
        programs[0].send(post())
        programs[1].send(post(b"", more=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 1"))
        it.wait(lambda: it.forwarder.active == 2)
        if held:
            passes(it, 2 * BODY_S)
            threading.Event().wait(0.1)  # what does not happen can only be waited for
            it.source.open.set()
        fars = [it.far.accept() for _ in range(2)]
        for far in fars:
            head = far.until(b"\r\n\r\n")
            if b"Expect" in head:
                far.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                programs[1].expect(b"HTTP/1.1 100 Continue\r\n\r\n")
                programs[1].send(b"x")
                far.expect(b"x")
        for far in fars:
            far.send(OK)
        for program in programs:
            program.expect(OK)


@pytest.mark.usefixtures("swept")
def test_whoever_does_not_stop_sending_after_a_refusal_is_cut_off() -> None:
    with relay() as it:
        program = it.program()
        program.send(b"nonsense\r\n\r\n")
        assert program.until(b"\r\n").startswith(b"HTTP/1.1 400 ")
        passes(it, LINGER_S)
        with contextlib.suppress(ConnectionError):
            while True:  # until it is cut off
                program.send(b"x" * 1000)
        it.wait(lambda: not it.forwarder._connections)


def test_a_connection_to_the_instance_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.upstream.IDLE_S", 0.0)
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    with relay() as it:
        _, far = it.ask(get())
        far.ends()
        it.wait(lambda: it.idle() == 0)
