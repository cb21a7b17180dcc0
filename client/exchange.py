"""One request and what becomes of it: kept while it may have to be sent again, handed to a connection, answered.

Neighbours: `client.downstream` feeds it, `client.upstream` carries it out, `client.forwarder` decides about it.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Final, NamedTuple

from client.http1 import RequestHead

if TYPE_CHECKING:
    from client.downstream import Downstream
    from client.upstream import Upstream

KEEP: Final = 1 << 20
"""Bytes of a body that are kept, to send it again; a longer one is passed on once there is somewhere to send it."""


class Reply(NamedTuple):
    """An answer of the forwarder's own. `fields`: further lines of the head, each with its CRLF."""

    status: int
    body: bytes = b""
    fields: bytes = b""
    content_type: bytes = b"application/json; charset=utf-8"


class Refusal(Exception):
    """The request is answered with this `reply` instead."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def error(status: int, message: str, *, path: bytes = b"", fields: bytes = b"", **more: object) -> Reply:
    """A refusal as Ollama's programs read it; as OpenAI's do, where `path` is one of theirs."""
    said: object = message
    if path.startswith(b"/v1/"):
        kind = "invalid_request_error" if status < 500 else "server_error"
        said = {"message": message, "type": kind, "param": None, "code": None}
    return Reply(status, json.dumps({"error": said, **more}).encode(), fields)


class Exchange:
    """One request. `wakes`: it is a use of a model, which wakes an instance and is activity; `waits`: for that."""

    __slots__ = (
        "again",
        "answered",
        "body",
        "continued",
        "down",
        "extra",
        "head",
        "kept",
        "over",
        "task",
        "until",
        "up",
        "waiter",
        "waits",
        "wakes",
    )

    def __init__(self, head: RequestHead, down: Downstream) -> None:
        self.head = head
        self.body = head.body()
        self.down = down
        self.up: Upstream | None = None
        self.kept: bytearray | None = bytearray()
        """What has arrived of the body so far, framing included; None where it is not (or no longer) kept."""
        self.answered = False
        """Whether a byte of the answer has arrived."""
        self.continued = False
        self.over = False
        self.wakes = False
        self.waits = False
        self.extra = b""
        self.again = 0
        """How many times it was sent without getting an answer."""
        self.until = 0.0
        """The loop's time at which it has been held for long enough."""
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> int:
        """Take what `data` begins with of the body, pass it on, and return where the rest starts. Raises BadMessage."""
        end = self.body.feed(data)
        piece = data if end == len(data) else data[:end]
        if self.kept is not None:
            self.kept += piece
            if self.up and len(self.kept) > KEEP:
                self.kept = None
        if self.up:
            self.up.write(piece)
        elif self.waits:
            self.down.forwarder.keeper.held_bytes += len(piece)
        if self.body.done and self.waiter and not self.waiter.done():
            self.waiter.set_result(None)
        return end

    @property
    def large(self) -> bool:
        """Whether its body is, or may be, too long to be kept: then its connection is a new one, which nobody ended."""
        return self.head.chunked or self.head.length > KEEP

    @property
    def uninvited(self) -> bool:
        """Whether its body waits for 100 Continue, and nobody has been asked for that."""
        return self.head.continues and not self.continued and self.up is None and not self.kept

    @property
    def full(self) -> bool:
        """Whether no more of its body is held until there is somewhere to send it."""
        if self.up or self.kept is None:
            return False
        return len(self.kept) > KEEP or (self.waits and self.down.forwarder.keeper.full)

    def outgoing(self, hop: bytes) -> bytes:
        """Its head for the next hop, and the body as far as it has arrived."""
        assert self.kept is not None
        sent = self.head.upstream(hop) + self.kept
        if len(self.kept) > KEEP:
            self.kept = None
        return sent

    async def whole(self) -> bytes:
        """Its whole body (framing included), which has to be short."""
        if not self.body.done:
            self.down.invite()
            self.waiter = asyncio.get_running_loop().create_future()
            await self.waiter
        return bytes(self.kept or b"")
