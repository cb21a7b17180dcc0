"""Programs that use a forwarder in every way that programs do, and the ledger of what became of each request.

A request is `done` once all of its answer is there and found to be its own; `refused` by a 503 that says when to ask
again; `silent` where nginx answered 502 in the place of an Ollama that was killed, which is passed on as it is;
`broken` where the answer ended before its end; `behind` where an earlier one on its connection broke; `left` by
its own program. Anything else is lost. Neighbours: `tests.system.mishaps` breaks them, test_forwarder_soak.py judges.
"""

from __future__ import annotations

import http.client
import io
import json
import random
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

KEPT = 1 << 20
ENDS = ("done", "refused", "silent", "broken", "behind", "left")
TIMEOUT_S = 60.0
Answer = tuple[int, dict[str, str], bytes]


@dataclass(slots=True)
class Request:
    """One request; times are time.monotonic(). `first`: when the first byte of its answer was there."""

    id: str
    kind: str
    began: float
    large: bool = False
    first: float | None = None
    end: float = 0.0
    how: str = ""
    words: str = ""


class Wrong(Exception):
    """An answer that looks whole, and is not what was asked for."""


@dataclass
class Ledger:
    """All requests of a run."""

    requests: list[Request] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def of(self, how: str) -> list[Request]:
        return [r for r in self.requests if r.how == how]

    @property
    def lost(self) -> list[Request]:
        return [r for r in self.requests if r.how not in ENDS]

    def table(self) -> Iterator[str]:
        """A line for each kind, and one for all."""
        rows = {kind: Counter[str]() for kind in sorted({r.kind for r in self.requests})} | {"all": Counter()}
        for request in self.requests:
            for row in (rows[request.kind], rows["all"]):
                row["asked"] += 1
                row[request.how if request.how in ENDS else "lost"] += 1
        yield "".join([f"{'':<16}", *(f"{name:>8}" for name in ("asked", *ENDS, "lost"))])
        for kind, row in rows.items():
            yield "".join([f"{kind:<16}", *(f"{row[name]:>8}" for name in ("asked", *ENDS, "lost"))])


class Stream(io.BufferedReader):
    """What arrives on a connection; it outlives the answers that are read from it, with what was read ahead."""

    def close(self) -> None:
        pass


class Wire:
    """One connection, as http.client wants to see it."""

    def __init__(self, plain: socket.socket) -> None:
        self.plain = plain
        self.stream = Stream(plain.makefile("rb", buffering=0))

    def makefile(self, mode: str) -> Stream:
        return self.stream


class Program(threading.Thread):
    """One program after the other, of kinds drawn by lot, while there is a storm, until `over`."""

    def __init__(
        self, ledger: Ledger, number: int, url: Callable[[], str], model: str, storm: threading.Event,
        over: threading.Event,
    ) -> None:  # fmt: skip
        super().__init__(name=f"program {number}")
        self.ledger, self.number, self.url, self.model = ledger, number, url, model
        self.storm, self.over = storm, over
        self.random = random.Random(number)
        self.count = 0
        self.kinds = [self.generate, self.generate, self.chat, self.chat, self.whole, self.embed, self.openai]
        self.kinds += [self.listing, self.keep_alive, self.pipelined, self.slow_reader, self.slow_sender]
        self.kinds += [self.large, self.chunked, self.old, self.leaving]
        self.random.shuffle(self.kinds)  # and then in turn: none is left out

    def run(self) -> None:
        try:
            while not self.over.is_set():
                if not self.storm.wait(0.2):
                    continue
                self.kinds.append(kind := self.kinds.pop(0))
                kind()
                time.sleep(self.random.uniform(0.0, 0.1))
        except BaseException:  # noqa: BLE001 - the test reports it
            self.ledger.troubles.append(traceback.format_exc())

    # -- the kinds

    def generate(self) -> None:
        with self.connected() as wire:
            self.ask(wire, "generate", "/api/generate", streamed=True)

    def chat(self) -> None:
        with self.connected() as wire:
            self.ask(wire, "chat", "/api/chat", streamed=True)

    def whole(self) -> None:
        """The first byte is there with the last."""
        with self.connected() as wire:
            self.ask(wire, "whole", self.random.choice(["/api/generate", "/api/chat"]))

    def openai(self) -> None:
        with self.connected() as wire:
            self.ask(wire, "openai", "/v1/chat/completions", streamed=self.random.random() < 0.5)

    def embed(self) -> None:
        with self.connected() as wire:
            self.ask(wire, "embed", "/api/embed")

    def listing(self) -> None:
        """What wakes nobody."""
        with self.connected() as wire:
            for _ in range(2):
                path = self.random.choice(["/", "/api/tags", "/api/version", "/api/ps", "/v1/models", "/api/show"])
                if not self.ask(wire, "listing", path):
                    return

    def keep_alive(self) -> None:
        """One connection for several requests, idle between them, also through an instance's end."""
        with self.connected() as wire:
            for _ in range(4):
                path = self.random.choice(["/api/generate", "/api/chat", "/api/embed", "/v1/chat/completions"])
                if not self.ask(wire, "keep_alive", path, streamed=path != "/api/embed"):
                    return
                time.sleep(self.random.choice([0.0, 0.05, 0.5, 1.5]))
                if not self.storm.is_set():
                    return

    def pipelined(self) -> None:
        """The second and third request are there before the first one's answer is."""
        with self.connected() as wire:
            paths = [self.random.choice(["/api/generate", "/api/embed", "/api/tags"]) for _ in range(3)]
            requests = [self.request("pipelined") for _ in paths]
            wire.plain.sendall(b"".join(self.text(r, path) for r, path in zip(requests, paths, strict=True)))
            for number, (request, path) in enumerate(zip(requests, paths, strict=True)):
                if not self.take(wire, request, path) and request.how != "silent":
                    for behind in requests[number + 1 :]:
                        behind.how, behind.end = "behind" if request.how == "broken" else "", time.monotonic()
                    return

    def slow_reader(self) -> None:
        """It takes part of a large answer, and the rest only later, when the instance is done with it."""
        with self.connected(buffer=65536) as wire:
            stall_s = self.random.uniform(0.1, 0.8)
            self.ask(wire, "slow_reader", "/api/generate", streamed=True, filler=400_000, stall_s=stall_s)

    def slow_sender(self) -> None:
        """Its body comes in pieces."""
        with self.connected() as wire:
            self.ask(wire, "slow_sender", "/api/chat", streamed=True, pieces=4)

    def large(self) -> None:
        """A body that is too long to be kept."""
        with self.connected() as wire:
            self.ask(wire, "large", "/api/generate", padding=self.random.randint(KEPT, 3 * KEPT), pieces=8)

    def chunked(self) -> None:
        """A body of a length that nobody knows beforehand."""
        with self.connected() as wire:
            self.ask(wire, "chunked", "/api/generate", streamed=True, chunked=True, pieces=3)

    def old(self) -> None:
        """HTTP/1.0."""
        with self.connected() as wire:
            self.ask(wire, "old", "/api/generate", version="1.0")

    def leaving(self) -> None:
        """It leaves before the answer, or in the middle of it."""
        with self.connected() as wire:
            request = self.request("leaving")
            wire.plain.sendall(self.text(request, "/api/generate", streamed=True))
            try:
                wire.plain.settimeout(self.random.uniform(0.001, 0.3))
                wire.plain.recv(self.random.choice([1, 200]))
            except OSError:
                pass  # it did not wait for that
            request.how, request.end = "left", time.monotonic()

    # -- how

    @contextmanager
    def connected(self, buffer: int = 0) -> Iterator[Wire]:
        with socket.socket() as plain:
            if buffer:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            plain.settimeout(TIMEOUT_S)
            host, port = self.url().removeprefix("http://").split(":")
            plain.connect((host, int(port)))
            wire = Wire(plain)
            try:
                yield wire
            finally:
                wire.stream.raw.close()

    def request(self, kind: str) -> Request:
        self.count += 1
        request = Request(id=f"{self.number}-{self.count}", kind=kind, began=time.monotonic())
        self.ledger.requests.append(request)
        return request

    def ask(
        self, wire: Wire, kind: str, path: str, *, streamed: bool = False, filler: int = 0, padding: int = 0,
        pieces: int = 1, chunked: bool = False, version: str = "1.1", stall_s: float = 0.0,
    ) -> bool:  # fmt: skip
        """One request to its end; whether another may follow on the connection."""
        request = self.request(kind)
        request.large = padding >= KEPT
        text = self.text(request, path, streamed, filler=filler, padding=padding, chunked=chunked, version=version)
        try:
            step = -(-len(text) // pieces)
            for at in range(0, len(text), step):
                wire.plain.sendall(text[at : at + step])
                time.sleep(self.random.uniform(0.0, 0.03) if pieces > 1 else 0.0)
        except OSError as error:  # answered before the body's end, perhaps
            request.words = repr(error)
        return self.take(wire, request, path, streamed, stall_s=stall_s) and version == "1.1"

    def text(
        self, request: Request, path: str, streamed: bool = False, *, filler: int = 0, padding: int = 0,
        chunked: bool = False, version: str = "1.1",
    ) -> bytes:  # fmt: skip
        """The request as it is sent."""
        if path in ("/", "/api/tags", "/api/version", "/api/ps", "/v1/models"):
            return f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()
        prompt = self.prompt(request, filler)
        said: dict[str, Any] = {"model": self.model, "stream": streamed}
        if path.endswith(("/chat", "/completions")):
            said["messages"] = [{"role": "user", "content": prompt}]
        elif path == "/api/embed":
            said = {"model": self.model, "input": [prompt, "another", prompt]}
        else:
            said["prompt"] = prompt
        if padding:
            said["padding"] = "x" * padding
        body = json.dumps(said).encode()
        framing = f"Content-Length: {len(body)}"
        if chunked:
            body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:50], body[50:])) + b"0\r\n\r\n"
            framing = "Transfer-Encoding: chunked"
        return f"POST {path} HTTP/{version}\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + body

    @staticmethod
    def prompt(request: Request, filler: int = 0) -> str:
        words = " ".join(f"{request.id}.{n}" for n in range(sum(map(ord, request.id)) % 17 + 3))
        return f"{words} {'x' * filler} {request.id}!" if filler else f"{words} {request.id}!"

    def take(self, wire: Wire, request: Request, path: str, streamed: bool = False, *, stall_s: float = 0.0) -> bool:
        """Its answer, read to its end and looked at; whether another may follow."""
        answer = http.client.HTTPResponse(wire)  # type: ignore[arg-type]
        try:
            if not wire.stream.peek(1):
                raise ConnectionError("closed before any byte of an answer")
            request.first = time.monotonic()
            answer.begin()
            begun = answer.read(1000) if stall_s else b""
            time.sleep(stall_s)
            body = begun + answer.read()
            if answer.length:
                raise http.client.IncompleteRead(body, answer.length)
            self.judge(request, path, streamed, answer, body)
        except (OSError, http.client.HTTPException) as error:
            request.how = "broken" if request.first else "silence"
            request.words += f" {error!r}"
        except (Wrong, ValueError, LookupError, TypeError) as error:
            request.how, request.words = "wrong", f"{type(error).__name__}: {error}"
        finally:
            request.end = time.monotonic()
            answer.close()
        return request.how == "done" and not answer.will_close

    def judge(self, request: Request, path: str, streamed: bool, answer: http.client.HTTPResponse, body: bytes) -> None:
        """Say how it ended. Raises Wrong, and what reading JSON of another shape raises."""
        if answer.status == 503 and request.large and answer.headers["Retry-After"] and json.loads(body)["error"]:
            request.how = "refused"
            return
        if answer.status == 502 and b"Ollama or the agent is silent" in body:
            request.how = "silent"
            return
        if answer.status != 200:
            raise Wrong(f"{answer.status} {body[:300]!r} to {path}")
        text = said(path, streamed, body)
        filler = 400_000 if request.kind == "slow_reader" else 0
        if text is not None and self.prompt(request, filler) not in text:
            raise Wrong(f"another answer: {text[:100]} … {text[-100:]}")
        request.how = "done"


def said(path: str, streamed: bool, body: bytes) -> str | None:
    """What the model said, once its end was found; None where no model spoke."""
    if path in ("/", "/api/tags", "/api/version", "/api/ps", "/v1/models", "/api/show"):
        json.loads(body) if path != "/" else body.index(b"Ollama is running")
        return None
    if path == "/api/embed":
        one, other, same = json.loads(body)["embeddings"]
        if one != same or one == other:
            raise Wrong("not the embeddings of what was sent")
        return None
    if path.startswith("/v1/"):
        if not streamed:
            return str(json.loads(body)["choices"][0]["message"]["content"])
        *events, last, rest = body.decode().split("\n\n")
        if (last, rest) != ("data: [DONE]", ""):
            raise Wrong(f"no end: {last}")
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        return "".join(delta.get("content") or "" for delta in deltas)
    lines = [json.loads(line) for line in body.splitlines()]
    if lines[-1]["done"] is not True or (len(lines) > 1 and not streamed):
        raise Wrong(f"no end: {lines[-1]}")
    return "".join(line["response"] if "response" in line else line["message"]["content"] for line in lines)
