"""The forwarder: what speaks Ollama's or OpenAI's API on this machine's loopback is answered by the instance.

It wakes one where a model is used, pins TLS, adds the key, records activity, and streams. `Forwarder` is the switch in
the middle of it all; `forward` runs one in a thread, `client.serve` as a verb. Neighbours: `client.downstream` and
`client.upstream` are the connections, `client.keeper` has the instance, `client.guard` and `client.asleep` decide.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Final

from client import asleep, report
from client.downstream import Downstream
from client.exchange import Exchange, Refusal, Reply, error
from client.glance import Glance
from client.guard import Guard
from client.keeper import Keeper
from client.settings import Settings
from client.upstream import Unreached, Upstream

log = logging.getLogger("exollama.forwarder")

MAX_CONNECTIONS: Final = 512
"""Programs' connections at once; nginx on the instance takes a thousand."""
_BUFFER: Final = 256 << 10
_TRIES: Final = 6
"""How often a request is sent that gets no byte of an answer."""
_SWEEP_S: Final = 1.0
_SHORT: Final = 1024
_SHORT_S: Final = 0.2
"""A request that only has a model unloaded is no longer than this, and there at once."""
_FENCED_S: Final = 0.5
"""Pause before the instance is looked at again that takes no new requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a forwarder listens."""

    host: str = "127.0.0.1"
    port: int = 11434


class Forwarder:
    """Everything of one forwarder that is shared by its connections. Lives in one loop."""

    def __init__(self, settings: Settings, guard: Guard) -> None:
        self.view = memoryview(bytearray(_BUFFER))
        """What every connection reads into: nothing of it is kept across a callback."""
        self.keeper: Keeper
        self.guard = guard
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.closing = False
        self.boots_on = False
        """Whether an instance was still being started when this ended."""
        self.counts: Counter[str] = Counter()
        self.began = self.now()
        self._until = math.inf
        self._model = settings.model
        self._glance = Glance(settings.name)
        version = re.search(r":v?([0-9][0-9A-Za-z.-]*)", settings.image)
        self._version = version[1] if version else "0.0.0"
        self._connections: set[Downstream] = set()
        self._active: set[Exchange] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def active(self) -> int:
        """Requests under way."""
        return len(self._active)

    async def listen(self, address: Address) -> Address:
        """Begin to listen; returns where. Raises OSError."""
        self._server = await self.loop.create_server(
            lambda: Downstream(self), address.host, address.port, backlog=MAX_CONNECTIONS
        )
        self._sweeper = self.loop.create_task(self._sweep())
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host=host, port=port)

    async def close(self, *, within_s: float) -> int:
        """Take no further requests, give those under way so many seconds, end; returns how many were cut."""
        self.closing = True
        if self._server:
            for listening in self._server.sockets:
                self.loop.remove_reader(listening)
            await asyncio.sleep(0)  # whoever was let in just now would be lost, open, by a Python before 3.13
            self._server.close()
        for down in list(self._connections):
            down.shut()
        self._until = self.now() + within_s
        while self._unfinished and self.now() < self._until:
            await asyncio.sleep(0.02)
        for exchange in [one for one in self._active if one.waits]:
            self._answer(exchange, self.keeper.ending(exchange), "refused")
            if exchange.task:
                exchange.task.cancel()
        cut = self._unfinished
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.keeper.finish()
        self.boots_on = self.keeper.state == "waking"
        if self._sweeper:
            self._sweeper.cancel()
        for down in list(self._connections):
            down.transport.abort()
        self.keeper.close()
        await asyncio.sleep(0)  # connections hear of their end
        return cut

    @property
    def _unfinished(self) -> int:
        """Requests under way, and answers of which a program has not taken all yet."""
        untaken = sum(
            down.exchange is None and down.transport.get_write_buffer_size() > 0 for down in self._connections
        )
        return len(self._active) + untaken

    def hurry(self) -> None:
        """Wait no longer for what is under way."""
        self._until = -math.inf

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.now()
            try:
                for down in list(self._connections):
                    if down.deadline < now:
                        down.overdue()
                    elif down.unseen():
                        down.eof_received()
                self.keeper.sweep(now)
            except Exception:
                log.exception("a sweep failed")

    # -- connections

    def joined(self, down: Downstream) -> None:
        """A program connected."""
        self._connections.add(down)
        if self.closing:
            down.transport.abort()
        elif len(self._connections) > MAX_CONNECTIONS:
            log.warning("more than %d connections at once: one more was turned away", MAX_CONNECTIONS)
            message = f"this forwarder has {MAX_CONNECTIONS} connections already. Close some, or send it again later."
            down.turn_away(error(503, message, fields=b"Retry-After: 5\r\n"))

    def left(self, down: Downstream, exchange: Exchange | None) -> None:
        """A program disconnected, its request with it."""
        if down.transport.is_closing() or exchange is None:
            self._connections.discard(down)
        if exchange:
            self.abandon(exchange, "left")

    def abandon(self, exchange: Exchange, how: str) -> None:
        """Nobody waits for an instance's answer any more: end what is done about it, here and there."""
        self.ended(exchange, how)
        if exchange.up:
            exchange.up.drop()
        if exchange.task:
            exchange.task.cancel()

    # -- requests

    def begin(self, exchange: Exchange) -> None:
        """Decide about a request whose head has arrived."""
        head = exchange.head
        refusal, exchange.extra = self.guard.check(head)
        self._active.add(exchange)
        if refusal:
            self._answer(exchange, refusal, "refused")
            return
        if asleep.is_ours(head.path):
            if head.path in report.PAGES and head.method in (b"GET", b"HEAD"):
                exchange.task = self.loop.create_task(self._shown(exchange))
            else:
                self._answer(exchange, report.answer(self, head), "local")
            return
        exchange.wakes = asleep.is_use(head.method, head.path)
        if exchange.wakes:
            self.keeper.used(1)
        pool = self.keeper.pool
        up = pool.take() if pool and not exchange.large else None
        if up:
            up.begin(exchange)
        else:
            exchange.task = self.loop.create_task(self._obtain(exchange))

    async def _obtain(self, exchange: Exchange, pause_s: float = 0.0) -> None:
        """Find a request a connection, however long that takes, or answer it otherwise."""
        try:
            await asyncio.sleep(pause_s)
            if exchange.wakes and not self.keeper.pool and (reply := await self._unloaded(exchange)):
                self._answer(exchange, reply, "local")
                return
            while True:
                pool = await (self.keeper.awake(exchange) if exchange.wakes else self.keeper.there())
                if pool is None:
                    self._answer(exchange, await self._asleep(exchange), "local")
                    return
                up = None if exchange.large or exchange.again else pool.take()
                try:
                    up = up or await pool.connect()
                except Unreached as trouble:
                    self.keeper.suspect(pool, str(trouble))
                    await asyncio.sleep(self._again(exchange, str(trouble)))
                    continue
                if exchange.over:
                    up.transport.abort()
                    return
                up.begin(exchange)
                exchange.down.attached()
                return
        except Refusal as refusal:
            self._answer(exchange, refusal.reply, "refused")
        except Exception:
            log.exception("a request failed here")
            self._answer(
                exchange, error(500, "the forwarder failed; its log says why", path=exchange.head.path), "refused"
            )
        finally:
            exchange.task = None

    async def _shown(self, exchange: Exchange) -> None:
        """Answer a person who looks, once the instance has been asked."""
        try:
            reply = await self._glance.page(self)
        except Exception:
            log.exception("the page failed")
            reply = error(500, "the page failed; the forwarder's log says why")
        finally:
            exchange.task = None
        self._answer(exchange, reply, "local")

    async def _unloaded(self, exchange: Exchange) -> Reply | None:
        """The answer to a request that wants nothing but a model unloaded, for which no instance is woken."""
        head = exchange.head
        if head.chunked or head.continues or head.length > _SHORT or not asleep.needs_body(head.method, head.path):
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SHORT_S):
                return asleep.unloaded(head.path, await exchange.whole())
        return None

    async def _asleep(self, exchange: Exchange) -> Reply:
        head = exchange.head
        body = b""
        if asleep.needs_body(head.method, head.path) and not exchange.large:
            body = await exchange.whole()
        return asleep.answer(head.method, head.path, body, model=self._model, version=self._version)

    def lost(self, exchange: Exchange, up: Upstream, why: str, *, draining: bool, heard: bool) -> None:
        """A request's connection ended before its answer did. Nothing is repeated once a byte of that has arrived."""
        if exchange.answered:
            log.warning("an answer was cut in the middle, and its program has to ask again: %s", why)
            self.ended(exchange, "broken")
            exchange.down.broken()
            return
        try:
            stale = up.used and not draining
            if not stale:
                self.keeper.suspect(up.pool, why)
            if heard:
                raise Refusal(error(502, f"the instance's answer cannot be read: {why}", path=exchange.head.path))
            if exchange.kept is None:
                raise Refusal(self._unkept(exchange, why))
            pause_s = _FENCED_S if draining else self._again(exchange, why)
        except Refusal as refusal:
            self._answer(exchange, refusal.reply, "refused")
            return
        self.counts["repeated"] += 1
        exchange.task = self.loop.create_task(self._obtain(exchange, pause_s))

    def _again(self, exchange: Exchange, why: str) -> float:
        """Seconds until a request is sent once more. Raises Refusal where that was tried often enough."""
        exchange.again += 1
        if exchange.again >= _TRIES:
            message = f"the instance gave no answer in {_TRIES} tries: {why}"
            raise Refusal(error(502, message, path=exchange.head.path))
        return 0.05 * 2.0 ** min(exchange.again, 5) if exchange.again > 1 else 0.0

    def _unkept(self, exchange: Exchange, why: str) -> Reply:
        message = f"the instance went away while a body too long to be kept was sent ({why}). Send the request again."
        return error(503, message, path=exchange.head.path, fields=b"Retry-After: 5\r\n")

    def _answer(self, exchange: Exchange, reply: Reply, how: str) -> None:
        if not exchange.over:
            self.ended(exchange, how)
            exchange.down.reply(reply)

    def ended(self, exchange: Exchange, how: str) -> None:
        """A request is over: forwarded, local, refused, broken, or its program left."""
        if exchange.over:
            return
        exchange.over = True
        self._active.discard(exchange)
        self.counts[how] += 1
        if exchange.wakes:
            self.keeper.used(-1)
