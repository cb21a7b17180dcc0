"""How it ends: the forwarder, which closes in order, and answers that nobody reads any further."""

import asyncio
import contextlib
import math
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from client.downstream import STALL_S
from tests.unit.relaying import OK, PATIENCE_S, Relay, get, post, relay

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextlib.contextmanager
def closing(it: Relay, within_s: float) -> Iterator[list[int]]:
    """The forwarder closes meanwhile; afterwards the list has how many requests were cut."""
    cut: list[int] = []
    thread = threading.Thread(target=lambda: cut.append(it.run(it.forwarder.close(within_s=within_s))))
    thread.start()
    try:
        it.wait(lambda: it.forwarder.closing)
        yield cut
    finally:
        thread.join(PATIENCE_S)


def test_a_forwarder_that_closes_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    with relay() as it:
        busy, streaming, idle, begun = (it.program() for _ in range(4))
        busy.send(get())
        first = it.far.accept()
        first.message()
        streaming.send(post())
        second = it.far.accept()
        second.message()
        second.send(HEAD)
        streaming.expect(HEAD)
        begun.send(b"GET / HT")
        it.wait(lambda: len(it.forwarder._connections) == 4)
        with closing(it, PATIENCE_S) as cut:
            idle.ends()
            begun.ends()
            with pytest.raises(ConnectionRefusedError):
                it.program()
            streaming.send(get())  # behind the answer that it still gets
            first.send(OK)
            busy.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            assert busy.rest() == b""
            second.send(b"2\r\nok\r\n0\r\n\r\n")
            streaming.expect(b"2\r\nok\r\n0\r\n\r\n")
            streaming.ends()
        assert cut == [0]
        assert it.counts == {"forwarded": 2}


def test_a_forwarder_that_closes_cuts_after_its_time_and_counts() -> None:
    with relay() as it:
        programs = [it.program() for _ in range(3)]
        fars = []
        for program in programs:
            program.send(post())
            fars.append(it.far.accept())
            fars[-1].message()
        with closing(it, 0.05) as cut:
            for one in (*programs, *fars):
                one.ends()
        assert cut == [3]
        assert it.forwarder.active == 0


def test_a_forwarder_that_is_hurried_waits_no_longer() -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(HEAD)
        program.expect(HEAD)
        with closing(it, 3600.0) as cut:
            it.loop.call_soon_threadsafe(it.forwarder.hurry)
            program.ends()
            far.ends()
        assert cut == [1]


def test_whoever_stands_still_in_the_middle_of_an_answer_keeps_nothing_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.downstream.STALL_S", 0.3)
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(post())
        far = it.far.accept()
        far.message()
        far.send(HEAD)
        far.sock.settimeout(5)
        with contextlib.suppress(OSError):
            while True:
                far.sock.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        it.wait(lambda: not it.forwarder.active)
        assert it.forwarder.keeper.in_use == 0
        assert it.counts == {"left": 1}


def test_whoever_reads_slowly_but_reads_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (24 << 20)
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(get())
        far = it.far.accept()
        far.message()
        (down,) = it.forwarder._connections
        down.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sender = threading.Thread(target=far.sock.sendall, args=(head + bytes(24 << 20),))
        sender.start()
        it.wait(lambda: down.stuffed)
        seen, left = down.deadline, len(head) + (24 << 20)
        while left > 8 << 20:
            piece = program.read(1 << 18)
            assert piece
            left -= len(piece)
            # Some of it was taken, and the rest is too much again.
            if down.deadline not in (seen, math.inf) and it.ahead_s < 4 * STALL_S:
                seen = down.deadline
                it.ahead_s += 0.8 * STALL_S
                time.sleep(0.05)
        assert len(program.read(left)) == left
        sender.join()
        assert it.counts == {"forwarded": 1}
        assert it.ahead_s > 3 * STALL_S


def test_what_was_held_and_refused_at_the_end_is_never_sent() -> None:
    with relay() as it:
        it.source.open.clear()
        program = it.program()
        program.send(post())
        it.wait(lambda: it.forwarder.keeper.held == 1)

        async def slowly() -> None:
            it.source.open.set()
            await asyncio.sleep(0.3)

        it.forwarder.keeper.finish = slowly  # type: ignore[method-assign]
        with closing(it, 0.05) as cut:
            assert program.rest().startswith(b"HTTP/1.1 503 ")
            it.wait(lambda: cut)
        assert cut == [0]
        assert it.far.nobody()


@pytest.mark.parametrize("broken", [False, True], ids=["whole", "broken"])
def test_an_answer_whose_rest_nobody_reads_is_given_up(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.downstream.KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 << 20) + bytes((2 << 20) - broken)
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(get(more=b"Connection: close\r\n"))
        far = it.far.accept()
        far.message()
        (down,) = it.forwarder._connections
        down.transport.set_write_buffer_limits(100 << 20)
        down.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        far.send(answer)
        far.close()
        it.wait(lambda: not it.forwarder._connections)
        assert it.counts == {"broken" if broken else "forwarded": 1}


def test_whoever_reads_nothing_of_an_early_answer_is_given_up_also_once_its_body_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.forwarder._SWEEP_S", 0.01)
    with relay() as it:
        program = it.program(receive=1 << 16)
        program.send(post(b"body")[:-2])
        far = it.far.accept()
        far.until(b"\r\n\r\nbo")
        far.sock.settimeout(0.2)
        with contextlib.suppress(OSError):
            far.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 << 20) + bytes(48 << 20))
        (down,) = it.forwarder._connections
        it.wait(lambda: down.stuffed)
        program.send(b"dy")
        it.wait(lambda: down.exchange and down.exchange.body.done)
        it.ahead_s += STALL_S
        it.wait(lambda: not it.forwarder.active)
        assert it.counts == {"left": 1}
