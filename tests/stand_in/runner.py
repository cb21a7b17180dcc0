"""The words of a model that runs: a process of its own, as Ollama has one per model, and llama.cpp's HTTP API to it.

The control `runner` is its command. It has to say the URL where it listens as its first line, once the model is
loaded, and to end with its standard input. What differs from Ollama: a prompt beyond the context is refused instead of
shortened, an answer ends where the context does, and unloading the model cuts whoever else is being answered.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.stand_in.exchange import Exchange, Left, Refused
from tests.stand_in.models import Body
from tests.stand_in.words import Asked, Died, Spent

OPTIONS = ("temperature", "seed", "top_k", "top_p", "min_p", "repeat_penalty", "stop")  # llama.cpp's names are the same
DIED = "llama runner process has terminated"
LOOK_S = 0.02
"""How soon a client that has gone is noticed."""


class Runner:
    """The process, from the first request that needs it until one says to keep it no longer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._at = ""

    def ready(self, command: Sequence[str]) -> str:
        """Where it listens, HOST:PORT; started first where it is not there. Raises Died."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._end()
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                assert self._process.stdout
                self._at = urlsplit(self._process.stdout.readline().decode().strip()).netloc
            if not self._at:
                raise Died(f"{DIED}: exit status {self._process.wait()}")
            return self._at

    def stop(self) -> None:
        """End it, and free its memory."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process:
            with self._process as process:  # which closes its pipes
                process.kill()
        self._process = None


RUNNER = Runner()
"""A stand-in has one model at most."""


def words(exchange: Exchange, asked: Asked) -> Iterator[str | Body | Spent]:
    """The model's answer, a piece for each token. Raises Refused, Died and Left."""
    if asked.tool:
        raise Refused(400, f"{asked.model} does not support tools")
    if asked.load and not asked.keep:
        yield Spent(limited=False, load_ns=0, read=0, reading_ns=0, said=0, saying_ns=0)
        return
    began = time.monotonic()
    at = RUNNER.ready(exchange.controls.runner or ())
    load_ns = int((time.monotonic() - began) * 1e9)
    if asked.load:
        yield Spent(limited=False, load_ns=load_ns, read=0, reading_ns=0, said=0, saying_ns=0)
        return
    last: Body = {}
    try:
        with closing(http.client.HTTPConnection(at)) as link, _left_with(exchange, link):
            prompt = _asked(link, "/apply-template", {"messages": asked.conversation()})
            answer = _asked(link, "/completion", _completion(exchange, asked, json.load(prompt)["prompt"]))
            for line in answer:
                if line.startswith(b"data: "):
                    last = json.loads(line.removeprefix(b"data: "))
                    if last.get("content"):
                        yield last["content"]
    except (OSError, http.client.HTTPException):
        last = {}
    exchange.pause(0)  # where it is its client who has gone
    if not last.get("stop"):
        raise Died(DIED)
    took = last["timings"]
    yield Spent(
        limited=last["stop_type"] == "limit",
        load_ns=load_ns,
        read=last["tokens_evaluated"],
        reading_ns=int(took["prompt_ms"] * 1e6),
        said=last["tokens_predicted"],
        saying_ns=int(took["predicted_ms"] * 1e6),
    )


def _completion(exchange: Exchange, asked: Asked, prompt: str) -> Body:
    given: dict[str, Any] = {name: asked.options[name] for name in OPTIONS if asked.options.get(name) is not None}
    limit = exchange.controls.tokens if asked.limit is None else asked.limit
    if asked.format:
        given["json_schema"] = asked.format if isinstance(asked.format, dict) else {"type": "object"}
    given |= {"prompt": prompt, "n_predict": -1 if limit is None else limit, "stream": True}
    # Without the cache a prompt is read whole each time: its count and duration are its own, and chance has no part.
    # Only where it tells of its progress does the engine notice, while it reads, that nobody listens any more.
    return {**given, "cache_prompt": False, "return_progress": True}


def _asked(link: http.client.HTTPConnection, path: str, body: Body) -> http.client.HTTPResponse:
    """An answer that has begun well. Raises Refused for another."""
    link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = link.getresponse()
    if answer.status != 200:
        problem = json.load(answer)["error"]
        if problem.get("type") == "exceed_context_size_error":
            raise Refused(400, "the input length exceeds the context length")
        raise Refused(answer.status, problem.get("message", DIED))
    return answer


@contextmanager
def _left_with(exchange: Exchange, link: http.client.HTTPConnection) -> Iterator[None]:
    """Leave the engine as soon as the client has left us, so that it stops, whatever is waited for."""
    over = threading.Event()
    link.connect()

    def watch() -> None:
        try:
            while not over.is_set():
                exchange.pause(LOOK_S)
        except Left:
            link.sock.shutdown(socket.SHUT_RDWR)

    watcher = threading.Thread(target=watch, name="client's watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
