"""A forwarder in a loop of its own, between raw sockets: the test is the program at one end, the instance at the other.

The test's own thread does both, step by step, so that it says what is sent, byte for byte, and in what order. When a
`relay` ends, nothing may be left of it: no request, no connection, no task, no error in a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from client.boot import Board
from client.errors import ExollamaError
from client.forwarder import Address, Forwarder
from client.guard import Guard
from client.running import build, runner
from client.settings import Secret
from client.source import Place
from tests.fakes import settings

T = TypeVar("T")

KEY = "k" * 43
PATIENCE_S = 10.0
HOST = b"Host: localhost\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(path: bytes = b"/api/tags", more: bytes = b"") -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def post(body: bytes = b"{}", path: bytes = b"/api/generate", more: bytes = b"") -> bytes:
    length = b"Content-Length: %d\r\n" % len(body)
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + length + more + b"\r\n" + body


class Wire:
    """One end of a connection. Whatever is waited for comes within PATIENCE_S, or the test fails."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE_S)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer where the connection ends."""
        got = bytearray()
        while len(got) < size and (data := self.sock.recv(min(size - len(got), 1 << 16))):
            got += data
        return bytes(got)

    def until(self, end: bytes) -> bytes:
        """Bytes up to and with `end`, and none that follow it."""
        got = b""
        while not got.endswith(end):
            data = self.sock.recv(1)
            assert data, f"the connection ended behind {got!r}"
            got += data
        return got

    def message(self) -> bytes:
        """One message, verbatim: its head, and the body that this counts or that comes in chunks without trailers."""
        head = self.until(b"\r\n\r\n")
        if length := re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head):
            return head + self.read(int(length[1]))
        if re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
            return head + self.until(b"0\r\n\r\n")
        return head

    def expect(self, data: bytes) -> None:
        """Exactly these bytes come next."""
        assert self.read(len(data)) == data

    def rest(self) -> bytes:
        """Everything up to a clean end. Raises ConnectionResetError where it is none."""
        got = bytearray()
        while data := self.sock.recv(1 << 16):
            got += data
        return bytes(got)

    def ends(self) -> None:
        """Nothing comes any more, and the connection's end does, clean or not."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            assert self.sock.recv(1000) == b""

    def quiet(self) -> bool:
        """Whether nothing has arrived, no end either."""
        return not select.select([self.sock], [], [], 0)[0]

    def half_close(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """End it with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Far:
    """Where an instance would listen. The test accepts what comes."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(PATIENCE_S)
        self.port: int = self.listener.getsockname()[1]
        self.context = context
        self.wires: list[Wire] = []

    def accept(self) -> Wire:
        sock, _ = self.listener.accept()
        if self.context:
            sock.settimeout(PATIENCE_S)
            try:
                sock = self.context.wrap_socket(sock, server_side=True)
            except BaseException:
                sock.close()
                raise
        self.wires.append(Wire(sock))
        return self.wires[-1]

    def nobody(self) -> bool:
        """Whether no further connection has come."""
        return not select.select([self.listener], [], [], 0)[0]

    def place(self, *, fingerprint: str = "", name: str = "one") -> Place:
        """An instance here; without a fingerprint it is reached over plain TCP."""
        return Place(
            id=name,
            zone="ch-gva-2",
            address="127.0.0.1",
            port=self.port,
            key=Secret(KEY),
            fingerprint=fingerprint,
            idle_s=1800.0,
            deadline=None,
        )

    @property
    def hop(self) -> bytes:
        """What of a request's head is this hop's own."""
        return b"Host: 127.0.0.1:%d\r\nX-Ollama-Key: %s\r\n" % (self.port, KEY.encode())

    def close(self) -> None:
        for wire in self.wires:
            wire.close()
        self.listener.close()


class Places:
    """A Source that has what the test gives it: a place, nothing, or a failure."""

    wakes = True

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.failure: ExollamaError | None = None
        self.open = threading.Event()
        """Not set: a wake takes until it is."""
        self.open.set()
        self.asked: list[str] = []

    def look(self) -> Place | None:
        self.asked.append("look")
        return self.place

    def wake(self) -> Place:
        self.asked.append("wake")
        assert self.open.wait(PATIENCE_S)
        if self.failure:
            raise self.failure
        assert self.place
        return self.place

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        """Nobody looks at labels here."""
        return True

    def tidy(self, spare: str) -> None:
        """Nor at machines."""

    def facts(self, place: Place) -> dict[str, Any]:
        return {}


class Complaints(logging.Handler):
    """What is logged as an error meanwhile, by whomever."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


class Relay:
    """The forwarder, with its loop in a thread."""

    def __init__(self, far: Far, source: Places, *, hold_s: float, guard: Guard | None) -> None:
        self.far = far
        self.source = source
        self.wires: list[Wire] = []
        self.forwarder: Forwarder
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self.ahead_s = 0.0
        """How far the clock is ahead by which the forwarder tells who takes too long."""
        self._hold_s = hold_s
        self._guard = guard or Guard()
        self._known = threading.Event()
        self._over: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._known.wait(PATIENCE_S)

    def _run(self) -> None:
        with runner() as loop:
            loop.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.forwarder = build(settings(), self.source, Board(), self._guard, hold_s=self._hold_s)
        self.forwarder.now = lambda: self.loop.time() + self.ahead_s
        self.port = (await self.forwarder.listen(Address(port=0))).port
        self._known.set()
        await self._over.wait()
        await self.forwarder.close(within_s=0)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    # -- what tests do

    def program(self, *, receive: int = 0) -> Wire:
        """A program's connection. `receive`: bytes that its socket takes without being read."""
        sock = socket.socket()
        if receive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        self.wires.append(Wire(sock))
        sock.connect(("127.0.0.1", self.port))
        return self.wires[-1]

    def begun(self, request: bytes) -> tuple[Wire, Wire]:
        """A request that the instance has and not answered, on new connections: the program's, the instance's."""
        program = self.program()
        program.send(request)
        far = self.far.accept()
        far.message()
        return program, far

    def afresh(self, program: Wire) -> None:
        """The program's next exchange, which is on a new connection to the instance."""
        program.send(get())
        far = self.far.accept()
        far.message()
        far.send(OK)
        program.expect(OK)

    def ask(self, request: bytes, answer: bytes = OK) -> tuple[Wire, Wire]:
        """A whole exchange on new connections, which stay: the program's, the instance's."""
        program, far = self.begun(request)
        far.send(answer)
        program.expect(answer)
        return program, far

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def settle(self) -> None:
        """Return once the loop has seen what had been sent to it before."""
        for _ in range(3):
            turned = threading.Event()
            self.loop.call_soon_threadsafe(turned.set)
            assert turned.wait(PATIENCE_S)

    def wait(self, holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
        """Return once something holds that is looked at in the loop."""

        async def look() -> None:
            async with asyncio.timeout(within_s):
                while not holds():
                    await asyncio.sleep(0.001)

        self.run(look())

    @property
    def counts(self) -> dict[str, int]:
        self.settle()
        return dict(self.forwarder.counts)

    def idle(self) -> int:
        """Connections to the instance that wait for a request."""
        pool = self.forwarder.keeper.pool
        return len(pool._idle) if pool else 0

    def nothing_left(self) -> None:
        """The programs have left: no request may be under way, and no connection of theirs may stand."""
        forwarder, keeper = self.forwarder, self.forwarder.keeper
        self.wait(lambda: not forwarder._active and not forwarder._connections)
        assert (keeper.in_use, keeper.held, keeper.held_bytes) == (0, 0, 0)

        async def tasks() -> set[str]:
            this = (asyncio.current_task(), forwarder._sweeper, keeper._waking, *keeper._chores)
            return {repr(task) for task in asyncio.all_tasks() if task not in this and "_serve" not in repr(task)}

        deadline = time.monotonic() + 5  # one that was just ending takes a moment
        while (left := self.run(tasks())) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert left == set(), left


@contextlib.contextmanager
def relay(
    *,
    hold_s: float = PATIENCE_S,
    context: ssl.SSLContext | None = None,
    fingerprint: str = "",
    asleep: bool = False,
    guard: Guard | None = None,
) -> Iterator[Relay]:
    """A forwarder before an instance. `asleep`: there is none until the test says so. Checks that nothing is left."""
    far = Far(context)
    source = Places(None if asleep else far.place(fingerprint=fingerprint))
    found = Relay(far, source, hold_s=hold_s, guard=guard)
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    try:
        found.start()
        try:
            yield found
            source.open.set()
            for wire in found.wires:
                wire.close()
            found.nothing_left()
        finally:
            source.open.set()
            found.end()
            for wire in found.wires:
                wire.close()
        for wire in far.wires:
            if wire.sock.fileno() >= 0:
                drained(wire)
        gc.collect(1)
        assert not complaints.said
    finally:
        logging.getLogger().removeHandler(complaints)
        far.close()


def drained(wire: Wire) -> int:
    """Bytes that come until the connection ends, which it does."""
    count = 0
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while data := wire.sock.recv(1 << 20):
            count += len(data)
    return count


def stalled(count: Callable[[], int], quiet_s: float = 0.3) -> int:
    """The count, once it has not changed for so long: what does not happen can only be waited for."""
    last, since, began = count(), time.monotonic(), time.monotonic()
    while time.monotonic() - since < quiet_s:
        assert time.monotonic() - began < PATIENCE_S, f"still counting: {last}"
        time.sleep(0.01)
        if count() != last:
            last, since = count(), time.monotonic()
    return last
