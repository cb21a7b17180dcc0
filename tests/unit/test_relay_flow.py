"""Gigabytes through the forwarder: never more of them in it than it has to hold, and nobody waits for another."""

import array
import fcntl
import socket
import termios
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from client.downstream import Downstream
from client.upstream import Upstream
from tests.unit.machine import until
from tests.unit.relaying import HOST, OK, PATIENCE_S, Relay, Wire, get, relay

BLOCK = bytes(range(256)) * 4096
MUCH = 200
"""Blocks, of a MiB each."""
UPLOAD = b"POST /api/blobs/sha256:00 HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n"
CHUNKS = b"POST /api/create HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNK = b"%x\r\n" % len(BLOCK) + BLOCK + b"\r\n"


class Sending:
    """Somebody who sends the same over and over, in a thread, and counts."""

    def __init__(self, wire: Wire, block: bytes, count: int, last: bytes = b"") -> None:
        self.sent = 0
        self._wire, self._block, self._count, self._last = wire, block, count, last
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for _ in range(self._count):
                self._wire.sock.sendall(self._block)
                self.sent += len(self._block)
            self._wire.sock.sendall(self._last)
        except OSError:
            pass  # the test has seen what it wanted to

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


def received(wire: Wire, block: bytes, count: int) -> None:
    """Read so many blocks, each of which is this one."""
    view = memoryview(bytearray(len(block)))
    for _ in range(count):
        at = 0
        while at < len(view):
            read = wire.sock.recv_into(view[at:])
            assert read, "the connection ended"
            at += read
        assert view == block


@contextmanager
def little_memory(mib: int) -> Iterator[None]:
    """Python holds no more than so many MiB at any time, beside what it held before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        assert tracemalloc.get_traced_memory()[1] - before < mib << 20
    finally:
        tracemalloc.stop()


def ends(it: Relay) -> tuple[Downstream, Upstream]:
    """The two connections of the one request under way."""
    (exchange,) = it.forwarder._active
    assert exchange.up
    return exchange.down, exchange.up


def waiting(down: Downstream) -> int:
    """Bytes that have arrived and are not read yet."""
    count = array.array("i", [0])
    fcntl.ioctl(down.transport.get_extra_info("socket").fileno(), termios.FIONREAD, count)
    return count[0]


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_large_upload_passes_through_little_memory(chunked: bool) -> None:
    with relay() as it:
        program = it.program()
        with little_memory(mib=16):
            program.send(CHUNKS if chunked else UPLOAD % (MUCH << 20))
            far = it.far.accept()
            far.until(b"\r\n\r\n")
            block, last = (CHUNK, b"0\r\n\r\n") if chunked else (BLOCK, b"")
            sending = Sending(program, block, MUCH, last)
            received(far, block, MUCH)
            far.expect(last)
            sending.join()
        far.send(OK)
        program.expect(OK)


@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
def test_a_large_answer_passes_through_little_memory(chunked: bool) -> None:
    with relay() as it:
        program = it.program()
        with little_memory(mib=16):
            program.send(get())
            far = it.far.accept()
            far.message()
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if chunked else SIZED % (MUCH << 20)
            far.send(head)
            program.expect(head)
            block, last = (CHUNK, b"0\r\n\r\n") if chunked else (BLOCK, b"")
            sending = Sending(far, block, MUCH, last)
            received(program, block, MUCH)
            program.expect(last)
            sending.join()
        program.send(get())
        far.message()
        far.send(OK)
        program.expect(OK)


def test_an_instance_cannot_send_on_while_the_program_does_not_read() -> None:
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(get())
        far = it.far.accept()
        far.message()
        head = SIZED % (MUCH << 20)
        far.send(head)
        sending = Sending(far, BLOCK, MUCH)
        it.wait(lambda: it.forwarder._active and ends(it)[0].stuffed)
        down, up = ends(it)
        assert not up.transport.is_reading()
        assert down.transport.get_write_buffer_size() < 1 << 20
        assert sending.sent < 100 << 20  # what two systems' sockets hold is theirs to say
        program.expect(head)
        received(program, BLOCK, MUCH)
        sending.join()
        program.send(get())
        far.message()
        far.send(OK)
        program.expect(OK)


def test_a_program_cannot_send_on_while_the_instance_does_not_read() -> None:
    with relay() as it:
        program = it.program()
        program.send(UPLOAD % (MUCH << 20))
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        sending = Sending(program, BLOCK, MUCH)
        it.wait(lambda: ends(it)[0]._held_back)
        down, up = ends(it)
        assert not down.transport.is_reading()
        assert up.transport.get_write_buffer_size() < 1 << 20
        assert down.deadline == float("inf")  # the program is not the one that is slow
        assert sending.sent < 100 << 20
        received(far, BLOCK, MUCH)
        sending.join()
        far.send(OK)
        program.expect(OK)


def test_a_program_cannot_send_on_while_its_request_is_held() -> None:
    with relay() as it:
        it.source.open.clear()
        program = it.program()
        program.send(UPLOAD % (MUCH << 20))
        sending = Sending(program, BLOCK, MUCH)
        it.wait(lambda: it.forwarder._active and not next(iter(it.forwarder._active)).down.transport.is_reading())
        assert it.forwarder.keeper.held_bytes < 2 << 20
        assert sending.sent < 100 << 20
        it.source.open.set()
        far = it.far.accept()
        far.until(b"\r\n\r\n")
        received(far, BLOCK, MUCH)
        sending.join()
        far.send(OK)
        program.expect(OK)


def test_a_program_that_does_not_read_delays_no_other() -> None:
    with relay() as it:
        slow, quick = it.program(receive=1 << 16), it.program()
        slow.send(get())
        far = it.far.accept()
        far.message()
        far.send(SIZED % (MUCH << 20))
        sending = Sending(far, BLOCK, MUCH)
        it.wait(lambda: it.forwarder._active and ends(it)[0].stuffed)
        quick.send(get())
        second = it.far.accept()
        for _ in range(20):
            second.message()
            second.send(OK)
            quick.expect(OK)
            quick.send(get())
        it.wait(lambda: it.forwarder.active == 2)
        slow.reset()
        far.ends()
        sending.join()
        second.message()
        second.send(OK)
        quick.expect(OK)


def test_an_answer_before_a_body_was_passed_on_lets_the_program_go_on() -> None:
    """All of the body has been read, the instance has not taken it yet, and answers: the next request is read too."""
    body, gate = b"x" * 40_000, threading.Event()
    with relay() as it:
        it.far.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        program, far = it.ask(get())
        it.wait(lambda: it.idle() == 1)
        assert it.forwarder.keeper.pool
        up = it.forwarder.keeper.pool._idle[0]
        up.transport.set_write_buffer_limits(100)
        up.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        (down,) = it.forwarder._connections
        it.loop.call_soon_threadsafe(gate.wait, PATIENCE_S)  # so that all of it is there when it is read
        request = b"POST /api/chat HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
        program.send(request)
        until(lambda: waiting(down) == len(request), "all of it is there")
        gate.set()
        it.wait(lambda: it.forwarder.active)
        assert down._held_back
        assert down.exchange
        assert down.exchange.body.done
        far.send(OK)
        program.expect(OK)
        program.send(get())
        assert far.message().endswith(body)
        far.until(b"\r\n\r\n")
        far.send(OK)
        program.expect(OK)


def test_where_the_forwarder_closes_a_program_may_read_the_rest_of_its_answer() -> None:
    closed: list[int] = []
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(get())
        far = it.far.accept()
        far.message()
        (down,) = it.forwarder._connections
        down.transport.set_write_buffer_limits(100 << 20)  # so that all of it is there
        down.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sending = Sending(far, SIZED % (2 * len(BLOCK)) + BLOCK + BLOCK, 1)
        it.wait(lambda: not it.forwarder.active)
        sending.join()
        closing = threading.Thread(target=lambda: closed.append(it.run(it.forwarder.close(within_s=PATIENCE_S))))
        closing.start()
        it.wait(lambda: it.forwarder.closing)
        assert program.rest() == SIZED % (2 * len(BLOCK)) + BLOCK + BLOCK
        closing.join()
        assert closed == [0]
