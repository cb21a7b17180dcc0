"""Connections to one instance: pinned TLS, pooled, one exchange at a time on each.

The pin is the fingerprint that `client.endpoint` proved; the key is sent on no other connection. Answers are passed
on as they arrive, only their heads are read. Neighbours: `client.exchange`, `client.downstream`, `client.forwarder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
import ssl
from typing import TYPE_CHECKING, Final, cast

from client.http1 import MAX_HEAD, BadMessage, Body, ResponseHead, UntilClose, parse_response
from client.tls import ROOM, Tls, pinned_context

if TYPE_CHECKING:
    from client.exchange import Exchange

CONNECT_S: Final = 5.0
IDLE_S: Final = 50.0
"""How long a connection is kept unused; nginx closes them after 75 s, and a request must not meet that."""
MAX_IDLE: Final = 256
SILENT_S: Final = 60.0
"""When a machine that acknowledges nothing is gone."""
STALLED_S: Final = 3600.0
"""How long one may take nothing of a long body, which is no silence, as nginx bears it."""


class Unreached(Exception):
    """No connection to the instance, or none that is its own."""


class Pool:
    """The connections to one instance.

    `hop` are the lines of each request's head that are this hop's own, the key among them. Without a `fingerprint`
    the connections are plain TCP, as benchmarks and tests want them; an instance always has one.
    """

    def __init__(self, address: str, port: int, hop: bytes, fingerprint: str | None, view: memoryview) -> None:
        self.address = address
        self.port = port
        self.hop = hop
        self.view = view
        """What all connections of one loop read into, one after the other; `part` of it, as far as TLS goes."""
        self.part = view[:-ROOM]
        self.closed = False
        self._fingerprint = fingerprint
        self._context = pinned_context() if fingerprint else None
        self._idle: list[Upstream] = []

    def __repr__(self) -> str:
        return f"Pool({self.address}:{self.port})"

    def take(self) -> Upstream | None:
        """A connection that stands and is unused, the one used last."""
        while self._idle:
            up = self._idle.pop()
            if not up.transport.is_closing():
                return up
        return None

    async def connect(self) -> Upstream:
        """A new connection, once whoever answers has shown the pinned certificate. Raises Unreached."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, up = await loop.create_connection(
                    lambda: Upstream(self, Tls(self._context) if self._context else None), self.address, self.port
                )
                fingerprint = await up.handshake()
        except (OSError, TimeoutError) as error:
            raise Unreached(f"{self.address}:{self.port}: {type(error).__name__} {error}"[:200]) from None
        if self._fingerprint and not hmac.compare_digest(fingerprint, self._fingerprint):
            up.transport.abort()
            raise Unreached(f"{self.address}:{self.port} has another certificate than it had.")
        _watch(up.transport.get_extra_info("socket"))
        return up

    def release(self, up: Upstream, now: float) -> None:
        """Take back a connection that has nothing to do."""
        if self.closed or len(self._idle) >= MAX_IDLE:
            up.transport.abort()
        else:
            up.idle_since = now
            self._idle.append(up)

    def forget(self, up: Upstream) -> None:
        """Drop a connection that ended by itself."""
        if up in self._idle:
            self._idle.remove(up)

    def sweep(self, now: float) -> None:
        """Close what nobody has used for a while."""
        while self._idle and now - self._idle[0].idle_since > IDLE_S:
            self._idle.pop(0).transport.abort()

    def close(self) -> None:
        """Close what is idle now, and each of the others once it has nothing to do."""
        self.closed = True
        while self._idle:
            self._idle.pop().transport.abort()


def _watch(sock: socket.socket) -> None:
    """Have the kernel notice a machine that is gone without a word, within a minute."""
    options = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
    with contextlib.suppress(OSError):  # it has ended again by now, as will be heard
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # not every system has all of them
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    _bear(sock, SILENT_S)


def _bear(sock: socket.socket, seconds: float) -> None:
    """For how long the other side may acknowledge nothing, or take nothing, of what was sent (Linux)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


class Upstream(asyncio.BufferedProtocol):
    """One connection to the instance."""

    def __init__(self, pool: Pool, tls: Tls | None) -> None:
        self.pool = pool
        self.transport: asyncio.Transport
        self._secured: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self.used = False
        """Whether it has answered before: then it may have ended by now without anybody's fault."""
        self._tls = tls
        self._partial = b""
        self._head: ResponseHead | None = None
        self._body: Body | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._tls:
            self._shake_hands(self._tls, b"")
        else:
            self._secured.set_result("")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self.pool.part

    def buffer_updated(self, nbytes: int) -> None:
        tls, view = self._tls, self.pool.view
        if tls is None:
            self._received(bytes(view[:nbytes]))
        elif not self._secured.done():
            self._shake_hands(tls, view[:nbytes])
        else:
            self._decrypt(tls, view, nbytes)

    async def handshake(self) -> str:
        """The fingerprint of whoever answers, once TLS stands; empty without TLS. Raises OSError."""
        try:
            return await self._secured
        except BaseException:
            self.transport.abort()
            raise

    def _unsecured(self, error: Exception) -> None:
        self._secured.set_exception(error)
        self._secured.exception()  # heard, also where whoever wanted the connection has left

    def _shake_hands(self, tls: Tls, data: bytes | memoryview) -> None:
        try:
            fingerprint = tls.handshake(data)
        except ssl.SSLError as error:
            self._unsecured(error)
            self.transport.abort()
            return
        self.transport.write(tls.outgoing())
        if fingerprint:
            self._secured.set_result(fingerprint)

    def _decrypt(self, tls: Tls, view: memoryview, nbytes: int) -> None:
        try:
            data = tls.decrypt(view, nbytes)
        except ssl.SSLError as error:
            self._lost(f"the connection ended ({error})")
            return
        if data:
            self._received(data)
        if answer := tls.outgoing():
            self.transport.write(answer)
        if tls.ended:
            self._ended(properly=True)

    # -- the request

    def begin(self, exchange: Exchange) -> None:
        """Send a request, as far as it has arrived; the rest follows through `write`."""
        self.exchange = exchange
        exchange.up = self
        self._partial, self._head, self._body = b"", None, None
        self.write(exchange.outgoing(self.pool.hop))
        if exchange.down.stuffed:
            self.transport.pause_reading()

    def write(self, data: bytes) -> None:
        """Send more of a request."""
        if data:
            self.transport.write(self._tls.encrypt(data) if self._tls else data)

    def drop(self) -> None:
        """Nobody waits for the answer any more: end the connection, and with it what the instance does for it."""
        self.exchange = None
        self.transport.abort()

    def pause_writing(self) -> None:
        _bear(self.transport.get_extra_info("socket"), STALLED_S)
        if self.exchange:
            self.exchange.down.hold_back(True)

    def resume_writing(self) -> None:
        _bear(self.transport.get_extra_info("socket"), SILENT_S)
        if self.exchange:
            self.exchange.down.hold_back(False)

    # -- the answer

    def _received(self, data: bytes) -> None:
        if self.exchange is None:
            self.transport.abort()  # nobody asked
            return
        try:
            if self._body is None:
                self._read_head(data)
            else:
                self._pass(data, 0, b"")
        except BadMessage as bad:
            self._lost(bad.reason)

    def _read_head(self, data: bytes) -> None:
        exchange = self.exchange
        assert exchange
        self._partial = data = self._partial + data
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > MAX_HEAD:
                if len(data) > MAX_HEAD:
                    raise BadMessage(502, "the answer's head is too long")
                return
            head = parse_response(data[:end])
            if head.status >= 200:
                break
            exchange.down.interim(head)
            self._partial = data = data[end:]
        if head.chunked and not (exchange.head.minor or head.draining):
            raise BadMessage(502, "the answer comes in chunks, which HTTP/1.0 does not have")
        self._partial = b""
        if head.draining:
            self._lost("it takes no new requests (fenced)", draining=True)
            return
        exchange.answered = True
        exchange.kept = None
        self._head, self._body = head, head.body(exchange.head.method)
        begins = exchange.down.begins(head, until_close=isinstance(self._body, UntilClose))
        self._pass(data, end, begins)

    def _pass(self, data: bytes, at: int, before: bytes) -> None:
        """Pass on what `data[at:]` has of the body, behind `before`."""
        exchange, body = self.exchange, self._body
        assert exchange
        assert body
        end = body.feed(data, at)
        piece = data if not at and end == len(data) else data[at:end]
        if before or piece:
            exchange.down.transport.write(before + piece if before else piece)
        if body.done:
            self._over(exchange, clean=end == len(data))

    def _over(self, exchange: Exchange, *, clean: bool) -> None:
        """The answer is complete."""
        assert self._head
        self.exchange = exchange.up = None
        self.used = True
        if clean and exchange.body.done and not self._head.close and exchange.head.minor:
            self.transport.resume_reading()
            self.pool.release(self, exchange.down.now())
        else:
            self.transport.abort()
        exchange.down.finished()

    # -- the end

    def eof_received(self) -> None:
        # At once: asyncio's own end would wait until whoever has ended has taken what is still to be sent.
        self._ended(properly=self._tls is None)

    def _ended(self, *, properly: bool) -> None:
        """Nothing more will come; `properly`: whoever said so is who sent the rest."""
        if self.exchange is None:
            self.transport.abort()
        elif properly and isinstance(self._body, UntilClose):
            self._over(self.exchange, clean=False)
        else:
            self._lost("the connection ended (closed)")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._secured.done():
            self._unsecured(exc or ConnectionError("it ended before TLS stood"))
        if self.exchange is None:
            self.pool.forget(self)
        else:
            self._lost(f"the connection ended ({exc or 'closed'})")

    def _lost(self, why: str, *, draining: bool = False) -> None:
        """No answer, or no end of one, will come on this connection."""
        exchange, self.exchange = self.exchange, None
        self.transport.abort()
        if exchange:
            exchange.up = None
            exchange.down.hold_back(False)  # whoever takes the body next has not been asked yet
            heard = exchange.answered or bool(self._partial)
            exchange.down.forwarder.lost(exchange, self, why, draining=draining, heard=heard)
