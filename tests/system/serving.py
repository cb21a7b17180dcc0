"""`exollama serve` as a user runs it, and programs that ask it.

Neighbours: `tests.system.verbs` runs processes; what is asserted stays in the tests.
"""

from __future__ import annotations

import http.client
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.simulator.driver import Answer
from tests.system.verbs import Done, Running, User

MODEL = "granite3.1-dense:8b"
PROMPT = {"model": MODEL, "prompt": "why?"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "why?"}]}


class Served:
    """A forwarder that runs."""

    def __init__(self, run: Running) -> None:
        self.run = run
        told = json.loads(run.out.splitlines()[0])
        self.url, self.status_url = told["url"], told["status"]

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @contextmanager
    def asking(
        self, method: str, path: str, body: Any = None, *, timeout_s: float = 30, **fields: str
    ) -> Iterator[http.client.HTTPResponse]:
        """A request whose answer has begun."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            yield connection.getresponse()
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        """A request and all of its answer."""
        with self.asking(method, path, body, **more) as answer:
            return Answer(status=answer.status, headers=dict(answer.getheaders()), body=answer.read())

    def generate(self, **more: Any) -> Answer:
        return self.ask("POST", "/api/generate", PROMPT, **more)

    def chat(self, **more: Any) -> Answer:
        return self.ask("POST", "/v1/chat/completions", CHAT, **more)

    def status(self) -> dict[str, Any]:
        answer = self.ask("GET", "/.exollama/status")
        assert answer.status == 200
        said: dict[str, Any] = answer.json
        return said

    def until(self, state: str) -> None:
        """Wait for a state."""
        self.run.until(lambda: self.status()["state"] == state, state)

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.run.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> Done:
        """Tell it to end, and wait for that."""
        self.tell(number)
        return self.run.end(20)


@contextmanager
def serving(user: User, *words: str, **env: str | None) -> Iterator[Served]:
    """A forwarder on a port of its own, killed with the block unless it has ended."""
    with user.running("serve", "--listen", "127.0.0.1:0", "--json", *words, module="client", **env) as run:
        run.until(lambda: "\n" in run.out, "it says where it listens")
        yield Served(run)


def whole(answer: Answer) -> str:
    """The words of a whole streamed answer to /api/generate."""
    assert answer.status == 200, answer
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[-1]["done"] is True
    return "".join(line["response"] for line in lines)


def refused(answer: Answer) -> dict[str, Any]:
    """The body of a refusal as the contract has it."""
    assert answer.status == 503, answer
    assert int(answer.headers["Retry-After"]) >= 1
    said: dict[str, Any] = answer.json
    assert set(said) == {"error", "phase", "percent", "seconds"}
    return said


def eventually(served: Served, timeout_s: float = 20) -> Answer:
    """Ask as a program with patience does, until it is answered."""
    until = time.monotonic() + timeout_s
    while (answer := served.generate()).status == 503:
        assert time.monotonic() < until, answer
        time.sleep(0.1)
    return answer
