"""A keeper over a scripted source, in a real loop whose clock the test moves."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

from client.boot import Board
from client.downstream import Downstream
from client.exchange import Exchange, Refusal
from client.http1 import parse_request
from client.keeper import Keeper
from client.settings import Secret
from client.source import Place
from client.upstream import Pool
from tests.fakes import KEY, ZONE


def place(id_: str = "an-id", *, idle_s: float = 400.0, deadline: datetime | None = None) -> Place:
    """A place at which nobody answers."""
    return Place(
        id=id_,
        zone=ZONE,
        address="127.0.0.9",
        port=11435,
        key=Secret(KEY),
        fingerprint="f" * 64,
        idle_s=idle_s,
        deadline=deadline,
    )


class Script:
    """A source: each question takes the next of its answers, the last one stays; `asked` lists the questions.

    An answer is returned, or raised if it is an exception. A cleared gate holds every question back.
    """

    def __init__(self, *, wakes: bool = True, **answers: Sequence[Place | Exception | None]) -> None:
        self.wakes = wakes
        usual: dict[str, Sequence[Place | Exception | None]]
        usual = {"wake": [place()], "look": [None], "record": [None], "tidy": [None]}
        self.answers = {name: list(given) for name, given in (usual | answers).items()}
        self.asked: list[Any] = []
        self.used_ago_s: list[float] = []
        self.written = True
        self.gate = threading.Event()
        self.gate.set()

    def count(self, name: str) -> int:
        return sum(one[0] == name for one in self.asked)

    def look(self) -> Place | None:
        return self._answer("look")

    def wake(self) -> Place:
        found = self._answer("wake")
        assert found
        return found

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        self.used_ago_s.append(used_ago_s)
        self._answer("record", place.id, always)
        return self.written

    def tidy(self, spare: str) -> None:
        self._answer("tidy", spare)

    def facts(self, place: Place) -> dict[str, Any]:
        return {}

    def _answer(self, *question: Any) -> Place | None:
        self.asked.append(question)
        assert self.gate.wait(20)
        left = self.answers[question[0]]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Loop(asyncio.SelectorEventLoop):
    """The standard loop on a clock that only a test moves: on a machine that is slow no time passes by itself."""

    ahead = 1000.0

    def time(self) -> float:
        return self.ahead


class Kept:
    """A keeper and what is around it; `notes` is what a person was told."""

    def __init__(self, loop: Loop, script: Script, hold_s: float) -> None:
        self.loop, self.script = loop, script
        self.notes: list[str] = []
        self.board = Board()
        view = memoryview(bytearray(1024))
        self.keeper = Keeper(script, self.board, hold_s=hold_s, view=view, note=self.notes.append)

    def exchange(self, path: str = "/api/generate", length: int = 0) -> Exchange:
        head = parse_request(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        forwarder = SimpleNamespace(keeper=self.keeper)
        return Exchange(head, cast("Downstream", SimpleNamespace(forwarder=forwarder)))

    def asks(self, path: str = "/api/generate") -> asyncio.Task[Pool]:
        return self.loop.create_task(self.keeper.awake(self.exchange(path)))

    async def until(self, so: Callable[[], object], what: str, *, step_s: float = 0.0) -> None:
        """Let the loop run until something is so, its clock moved by `step_s` each time."""
        patience = time.monotonic() + 20
        while not so():
            assert time.monotonic() < patience, f"not so: {what}"
            self.loop.ahead += step_s
            await turn(0.002 if step_s else 0.001)

    async def passes(self, seconds: float, *, between: Callable[[], object] = lambda: None) -> None:
        """Seconds pass, in each of which the keeper sweeps; `between` happens in each."""
        for _ in range(round(seconds)):
            self.loop.ahead += 1
            between()
            self.keeper.sweep(self.loop.time())
            await self.until(lambda: not self.keeper._chores, "its chores are done")

    async def ready(self) -> Pool:
        """A pool, from a wake that goes well at once."""
        return await self.asks()


def run(scene: Callable[[Kept], Awaitable[None]], script: Script | None = None, *, hold_s: float = 30.0) -> None:
    """Play a scene. What nobody caught in the loop is a failure."""
    script = script or Script()
    unheard: list[object] = []

    async def whole() -> None:
        loop = cast("Loop", asyncio.get_running_loop())
        loop.set_exception_handler(lambda _loop, context: unheard.append(context))
        kept = Kept(loop, script, hold_s)
        try:
            await scene(kept)
        finally:
            script.gate.set()
            kept.keeper.close()
            for _ in range(10):
                await turn(0.001)

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(whole())
    assert unheard == []


async def turn(seconds: float) -> None:
    """Let other threads go on for so long, and the loop once."""
    time.sleep(seconds)
    await asyncio.sleep(0)


async def refused(asking: asyncio.Task[Pool]) -> tuple[int, int, dict[str, Any]]:
    """Status, Retry-After and body of what a request is refused with."""
    try:
        await asking
    except Refusal as refusal:
        reply = refusal.reply
        name, _, value = reply.fields.decode().strip().partition(": ")
        assert name == "Retry-After"
        return reply.status, int(value), json.loads(reply.body)
    raise AssertionError("it was not refused")
