"""Connections of programs: heads in, one exchange at a time, answers out in order; what is malformed ends here.

Reading pauses where whoever is to get the bytes cannot take them yet, on both sides. A program that leaves takes its
request along, to the instance's model. Neighbours: `client.exchange`, `client.upstream`, `client.forwarder`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import struct
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

from client.exchange import Exchange, Reply, error
from client.http1 import MAX_HEAD, BadMessage, ResponseHead, parse_request

if TYPE_CHECKING:
    from client.forwarder import Forwarder

HEAD_S: Final = 20.0
"""How long a head may take from its first byte to its last."""
BODY_S: Final = 120.0
"""How long a body may stand still: whoever sends none of it keeps an instance in use."""
STALL_S: Final = 600.0
"""How long an answer may stand still because nobody reads it: it, too, keeps an instance in use."""
KEEP_ALIVE_S: Final = 180.0
LINGER_S: Final = 5.0
_MAX_PENDING: Final = MAX_HEAD
_ENDED: Final = (7, 8)
"""TCP_CLOSE and TCP_CLOSE_WAIT of linux/tcp_states.h: reset or ended by the other side."""
_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")


class Downstream(asyncio.BufferedProtocol):
    """One program's connection."""

    def __init__(self, forwarder: Forwarder) -> None:
        self.forwarder = forwarder
        self.now = forwarder.now
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.stuffed = False
        """Whether the program does not read what was sent to it."""
        self.deadline = self.now() + HEAD_S
        """When whatever it is expected to do next has taken too long; infinite where nothing is."""
        self._pending = b""
        self._close_after = False
        self._until_close = False
        self._held_back = False
        self._lingering = False
        self._advancing = False
        self._gone = False

    # -- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.forwarder.joined(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self.forwarder.view

    def buffer_updated(self, nbytes: int) -> None:
        if self._lingering:
            return  # read so that what was answered arrives; nobody wants it
        data = bytes(self.forwarder.view[:nbytes])
        exchange = self.exchange
        if exchange is None:
            before = len(self._pending)
            self._pending += data
            self._advance(max(0, before - 3))
            return
        if not exchange.body.done:
            data = self._feed(exchange, data)
        if data and not self._lingering:
            self._pending += data  # the next request, before this one's answer
        self._regulate()

    def eof_received(self) -> bool:
        # As Ollama and nginx take it, whoever sends nothing more has left.
        exchange, self.exchange = self.exchange, None
        if exchange:
            self.forwarder.left(self, exchange)
            self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it left is all the same
        self._gone = True
        exchange, self.exchange = self.exchange, None
        self.forwarder.left(self, exchange)

    def pause_writing(self) -> None:
        self.stuffed = True
        self.deadline = self.now() + STALL_S
        if self.exchange and self.exchange.up:
            self.exchange.up.transport.pause_reading()

    def resume_writing(self) -> None:
        self.stuffed = False
        sending = self.exchange and not self.exchange.body.done and self.transport.is_reading()
        idle_s = BODY_S if sending else math.inf if self.exchange else KEEP_ALIVE_S
        self.deadline = self.now() + idle_s
        if self.exchange is None:
            self._advance()
        elif self.exchange.up:
            self.exchange.up.transport.resume_reading()

    # -- requests

    def _advance(self, scanned: int = 0) -> None:
        """Begin what is pending, one request after the other, until one is under way or an answer is not read."""
        if self._advancing:
            return
        self._advancing = True
        while self.exchange is None and self._pending and not (self._close_after or self.stuffed):
            if self.transport.is_closing():
                break
            if self._pending[:2] == b"\r\n":  # behind a body, from clients of old (RFC 9112, section 2.2)
                self._pending = _EMPTY_LINES.sub(b"", self._pending, count=1)
                scanned = 0
                continue
            end = self._pending.find(b"\r\n\r\n", scanned) + 4
            scanned = 0
            if end < 4 or end > MAX_HEAD:
                if len(self._pending) > MAX_HEAD:
                    self._refuse(BadMessage(431, f"a head of more than {MAX_HEAD >> 10} KiB"))
                elif self.deadline == math.inf or self.deadline > self.now() + HEAD_S:
                    self.deadline = self.now() + HEAD_S
                break
            try:
                head = parse_request(self._pending[:end])
            except BadMessage as bad:
                self._refuse(bad)
                break
            rest, self._pending = self._pending[end:], b""
            exchange = self.exchange = Exchange(head, self)
            self.deadline = math.inf if exchange.body.done else self.now() + BODY_S
            if rest and not exchange.body.done:
                rest = self._feed(exchange, rest)
            self._pending = rest
            if self.exchange is exchange:
                self.forwarder.begin(exchange)
        self._advancing = False
        self._regulate()

    def _feed(self, exchange: Exchange, data: bytes) -> bytes:
        """Hand the body what is its, and return the rest."""
        try:
            end = exchange.feed(data)
        except BadMessage as bad:
            self.exchange = None
            self.forwarder.abandon(exchange, "refused")
            if exchange.answered:
                self.broken()
            else:
                self._refuse(bad)
            return b""
        if not self.stuffed:
            self.deadline = math.inf if exchange.body.done else self.now() + BODY_S
        return data[end:]

    def _refuse(self, bad: BadMessage) -> None:
        """Answer what is no request, and end the connection: nobody knows where the next one would begin."""
        self.forwarder.counts["malformed"] += 1
        self._pending = b""
        self._write_reply(error(bad.status, f"{bad.reason} (HTTP {bad.status})"), head_only=False, close=True)
        self._linger()

    def hold_back(self, so: bool) -> None:
        """Read no more of the body for now, since the instance does not take it; or go on."""
        self._held_back = so
        self._regulate()

    def _regulate(self) -> None:
        """Read, unless there is no place for what would come."""
        if self._gone or self._lingering:
            return
        exchange = self.exchange
        full = exchange is not None and (self._held_back or exchange.full)
        if full or len(self._pending) > _MAX_PENDING:
            self.transport.pause_reading()
            if exchange and not self.stuffed:
                self.deadline = math.inf
        elif not self.transport.is_reading() and not self.transport.is_closing():
            self.transport.resume_reading()
            if exchange and not (exchange.body.done or self.stuffed):
                self.deadline = self.now() + BODY_S

    def attached(self) -> None:
        """The exchange has a connection now."""
        if self.exchange and not self.exchange.body.done:
            self.deadline = self.now() + BODY_S
        if not self.transport.is_reading():
            self._regulate()

    # -- answers

    def interim(self, head: ResponseHead) -> None:
        """Pass on a 1xx answer, a 100 once only, and to those only who know of such."""
        exchange = self.exchange
        if exchange and exchange.head.minor and not (head.status == 100 and exchange.continued):
            self.transport.write(head.downstream(b"", close=False))
            if head.status == 100:
                exchange.continued = True
                if not exchange.body.done and self.transport.is_reading():
                    self.deadline = self.now() + BODY_S

    def invite(self) -> None:
        """Have the body sent that is wanted here and not at the instance."""
        if self.exchange and self.exchange.uninvited:
            self.exchange.continued = True
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def begins(self, head: ResponseHead, *, until_close: bool) -> bytes:
        """An answer's head as this program gets it."""
        exchange = self.exchange
        assert exchange
        self._until_close = until_close
        self._close_after = exchange.head.close or until_close or self.forwarder.closing or not exchange.body.done
        return head.downstream(exchange.extra, close=self._close_after)

    def reply(self, reply: Reply) -> None:
        """Give an answer of our own to the request that is under way."""
        exchange = self.exchange
        if exchange is None:
            return
        self._close_after = exchange.head.close or self.forwarder.closing or not exchange.body.done
        reply = reply._replace(fields=exchange.extra + reply.fields)
        self._write_reply(reply, head_only=exchange.head.method == b"HEAD", close=self._close_after)
        self.finished(ended="")

    def _write_reply(self, reply: Reply, *, head_only: bool, close: bool) -> None:
        lines = [b"HTTP/1.1 %d %s" % (reply.status, HTTPStatus(reply.status).phrase.encode())]
        if reply.status != HTTPStatus.NO_CONTENT:
            lines += [b"Content-Type: " + reply.content_type, b"Content-Length: %d" % len(reply.body)]
        if close:
            lines.append(b"Connection: close")
        head = b"\r\n".join(lines) + b"\r\n" + reply.fields + b"\r\n"
        self.transport.write(head if head_only else head + reply.body)

    def finished(self, ended: str = "forwarded") -> None:
        """The request has all of its answer: go on to the next one."""
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        self._held_back = False
        if ended:
            self.forwarder.ended(exchange, ended)
        self.deadline = self.now() + KEEP_ALIVE_S  # also for reading the rest of the answer
        if self._close_after or self.forwarder.closing:
            self._pending = b""
            if exchange.body.done:
                self.transport.close()
            else:
                self._linger()
            return
        self._advance()

    def broken(self) -> None:
        """The answer ends here, and the program has to see that it is not whole."""
        self.exchange = None
        self._pending = b""
        self._close_after = True
        self.deadline = self.now() + KEEP_ALIVE_S
        if self._until_close and not self.transport.is_closing():
            # An answer that ends with its connection looks whole unless the end is a reset.
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.close()

    # -- the end

    def _linger(self) -> None:
        """Close once the program has: what it still sends would turn our end into a reset, and our words be lost."""
        self._lingering = True
        self._close_after = True
        self.deadline = self.now() + LINGER_S
        if not self.transport.is_closing():
            with contextlib.suppress(OSError):  # it has reset the connection by now
                self.transport.write_eof()
            self.transport.resume_reading()

    def turn_away(self, reply: Reply) -> None:
        """Give this answer to whatever comes, and close."""
        self._write_reply(reply, head_only=False, close=True)
        self._linger()

    def shut(self) -> None:
        """Close it now if it has nothing to do; else it closes behind its answer."""
        if self.exchange is None:
            self.transport.close()

    def unseen(self) -> bool:
        """Whether it has left while nothing is read from it, so that nobody heard; told by Linux only."""
        if self.exchange is None or self._gone or self.transport.is_reading() or sys.platform != "linux":
            return False
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _ENDED
        return False

    def overdue(self) -> None:
        """It took too long over what was expected of it."""
        if self.exchange and self.exchange.uninvited:
            self.deadline = self.now() + BODY_S  # it waits for 100 Continue, which is not its fault
            return
        exchange, self.exchange = self.exchange, None
        hopeless = self._lingering or self.stuffed or self.transport.is_closing()
        if hopeless or (exchange is None and not self._pending) or (exchange and exchange.answered):
            self.forwarder.left(self, exchange)
            self.transport.abort()
            return
        if exchange:
            self.forwarder.left(self, exchange)
        self._refuse(BadMessage(408, "the request took too long to arrive"))
