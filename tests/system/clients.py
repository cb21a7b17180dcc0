"""Clients of one instance at every stage of a request, and the ledger of what became of each request.

A request was accepted once the upstream saw it or an answer began that is no refusal. Cut is one that was accepted
and did not get all of its answer, although its client waited for it. Neighbours: `tests.system.reapers` ends the
instance beneath them; `tests.system.instance` is the instance.
"""

import http.client
import json
import random
import socket
import ssl
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.system.instance import KEY, Instance


@dataclass(slots=True)
class Request:
    """One request; `ended` is how: done, refused, denied, left (by its own client), broken, or not yet."""

    id: str
    kind: str
    port: int
    began: float
    status: int | None = None
    missing: int | None = None
    ended: str = ""
    words: str = ""


@dataclass
class Ledger:
    """All requests of a run, and which connections a killed worker took along."""

    instance: Instance
    requests: list[Request] = field(default_factory=list)
    killed: dict[int, float] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def accepted(self, request: Request) -> bool:
        return request.id in self.instance.upstream.ids or request.status == 200

    def by_kill(self, request: Request) -> bool:
        """Whether a worker that the test killed held its connection; its port may have served others before."""
        return self.killed.get(request.port, -1.0) >= request.began

    def broken(self) -> list[Request]:
        """Accepted, and neither finished nor left by its own client."""
        return [r for r in self.requests if r.ended == "broken" and self.accepted(r)]

    def cut_by_reaper(self) -> list[Request]:
        return [r for r in self.broken() if not self.by_kill(r)]

    def refused_but_seen(self) -> list[Request]:
        return [r for r in self.requests if r.ended in ("refused", "denied") and r.id in self.instance.upstream.ids]

    def counts(self) -> Counter[str]:
        counts = Counter(r.ended for r in self.requests if r.ended != "broken")
        broken = self.broken()
        counts["asked"] = len(self.requests)
        counts["accepted"] = sum(map(self.accepted, self.requests))
        counts["cut by a killed worker"] = sum(map(self.by_kill, broken))
        counts["cut by the reaper"] = len(self.cut_by_reaper())
        counts["never reached it"] = sum(r.ended == "broken" for r in self.requests) - len(broken)
        return counts


class Client(threading.Thread):
    """One client after another, of kinds drawn by lot, until `over`; in a lull a twelfth, and only without activity."""

    def __init__(self, ledger: Ledger, number: int, storm: threading.Event, over: threading.Event) -> None:
        super().__init__(name=f"client {number}")
        self.ledger, self.number, self.storm, self.over = ledger, number, storm, over
        self.instance = ledger.instance
        self.random = random.Random(number)
        self.count = 0
        self.loud = [self.whole, self.pending, self.streaming, self.slow_reader, self.slow_sender, self.slow_head]
        self.loud += [self.keep_alive, self.gone]
        self.quiet = [*[self.listing, self.watching, self.keyless] * 2, self.slow_reader]

    def run(self) -> None:
        try:
            while not self.over.is_set():
                storm = self.storm.is_set() or (self.number % 12 > 0 and self.storm.wait(0.5))
                if not storm and self.number % 12:
                    continue
                kind = self.random.choice([*self.loud, *self.quiet] if storm else self.quiet)
                try:
                    kind()
                except OSError:
                    self.pause(0.02, 0.05)  # nobody listens: it is between two lives
                self.pause(0.0, 0.02 if storm else 0.3)
        except BaseException:  # noqa: BLE001 - the test reports it
            self.ledger.troubles.append(traceback.format_exc())

    def pause(self, least_s: float, most_s: float) -> None:
        time.sleep(self.random.uniform(least_s, most_s))

    # -- the kinds: POSTs to /api/generate are activity, GETs are not

    def whole(self) -> None:
        """Its headers and body sent at once."""
        with self.connected() as wire:
            self.exchange(wire, "whole", f"size={self.random.randint(2, 9000)}")

    def pending(self) -> None:
        """The first token takes its time."""
        with self.connected() as wire:
            self.exchange(wire, "pending", f"wait={self.random.uniform(0.05, 0.4):.3f}")

    def streaming(self) -> None:
        """In the middle of a stream."""
        with self.connected() as wire:
            self.exchange(wire, "streaming", self.stream())

    def slow_reader(self) -> None:
        """It takes part of a large answer, and the rest only later, when nginx and Ollama are done with it."""
        method = "POST" if self.storm.is_set() else "GET"
        with self.connected(buffer=4096) as wire:
            size = self.random.randint(200_000, 600_000)
            self.exchange(wire, "slow_reader", f"size={size}", method=method, stall_s=0.8)

    def slow_sender(self) -> None:
        """Its body comes in pieces."""
        with self.connected() as wire:
            self.exchange(wire, "slow_sender", "size=9", body=[b"x" * 500] * self.random.randint(2, 5))

    def slow_head(self) -> None:
        """Half of its headers are sent when the fence goes up, perhaps."""
        with self.connected() as wire:
            self.exchange(wire, "slow_head", self.stream(), break_s=self.random.uniform(0.02, 0.2))

    def keep_alive(self) -> None:
        """One connection for several requests, idle between them."""
        with self.connected() as wire:
            for _ in range(3):
                if not self.exchange(wire, "keep_alive", "size=99"):
                    return
                self.pause(0.02, 0.2)

    def gone(self) -> None:
        """It leaves before the answer, or in the middle of it."""
        with self.connected() as wire:
            request = self.send(wire, "gone", "POST", self.stream())
            try:
                wire.settimeout(self.random.uniform(0.001, 0.1))
                wire.recv(self.random.choice([1, 200]))
            except OSError:
                pass  # it did not wait for that
            request.ended = "left"

    def listing(self) -> None:
        """A request that is no activity, so that the kernel's count alone protects it."""
        with self.connected() as wire:
            self.exchange(wire, "listing", f"size={self.random.randint(2, 9000)}", method="GET")

    def watching(self) -> None:
        """The same as a stream, often longer than a reaper takes from its fence to its commit."""
        with self.connected() as wire:
            self.exchange(wire, "watching", self.stream(longest_s=0.15), method="GET")

    def keyless(self) -> None:
        """A slow body without the key."""
        with self.connected() as wire:
            self.exchange(wire, "keyless", "size=9", key="", body=[b"x" * 100] * 4)

    # -- how

    def stream(self, longest_s: float = 0.06) -> str:
        return f"chunks={self.random.randint(2, 9)}&gap={self.random.uniform(0.003, longest_s):.3f}"

    @contextmanager
    def connected(self, buffer: int = 0) -> Iterator[ssl.SSLSocket]:
        """A connection. OSError before it stands is the caller's, as nothing was asked."""
        with socket.socket() as plain:
            if buffer:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            plain.settimeout(20)
            plain.connect((self.instance.address, 11435))
            with self.instance.context.wrap_socket(plain) as wire:
                yield wire

    def send(
        self, wire: ssl.SSLSocket, kind: str, method: str, query: str, *, key: str = KEY, length: int = 0,
        break_s: float = 0.0,
    ) -> Request:  # fmt: skip
        self.count += 1
        port = wire.getsockname()[1]
        request = Request(id=f"{self.number}-{self.count}", kind=kind, port=port, began=time.monotonic())
        self.ledger.requests.append(request)
        path = "/api/generate" if method == "POST" else "/api/tags"
        lines = [f"{method} {path}?id={request.id}&{query} HTTP/1.1", "Host: x"]
        lines += [f"X-Ollama-Key: {key}"] if key else []
        head = "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()
        try:
            middle = len(head) // 2 if break_s else 0
            wire.sendall(head[:middle])
            time.sleep(break_s)
            wire.sendall(head[middle:])
        except OSError as error:
            request.words = repr(error)
        return request

    def exchange(
        self, wire: ssl.SSLSocket, kind: str, query: str, *, method: str = "POST", key: str = KEY,
        body: list[bytes] | None = None, stall_s: float = 0.0, break_s: float = 0.0,
    ) -> bool:  # fmt: skip
        """One request to its end; whether another may follow on the connection."""
        length = sum(map(len, body or ()))
        request = self.send(wire, kind, method, query, key=key, length=length, break_s=break_s)
        answer = http.client.HTTPResponse(wire, method=method)
        try:
            self.give(wire, body or [])
            answer.begin()
            request.status = answer.status
            self.take(answer, request, stall_s)
        except (OSError, http.client.HTTPException) as error:
            request.ended, request.words = "broken", f"{request.words} {error!r}"
        finally:
            answer.close()
        return request.ended == "done"

    def give(self, wire: ssl.SSLSocket, body: list[bytes]) -> None:
        for part in body:
            self.pause(0.0, 0.05)
            try:
                wire.sendall(part)
            except OSError:
                return  # refused before the body's end: the answer says how

    def take(self, answer: http.client.HTTPResponse, request: Request, stall_s: float) -> None:
        if answer.status == 200:
            size = answer.length
            if size is None:
                answer.read()  # raises where the chunks do not end
            else:
                request.missing = size - len(answer.read(1000))
                self.pause(0.0, stall_s)
                while part := answer.read(65536):
                    request.missing -= len(part)
                if request.missing:
                    raise http.client.IncompleteRead(b"", request.missing)
            request.ended = "done"
            return
        said = json.loads(answer.read())
        draining = answer.status == 503 and answer.headers["X-Exollama"] == "draining"
        request.ended = "refused" if draining else "denied" if answer.status == 401 else "odd"
        request.words = str(said)
        self.pause(0.1, 0.4)
