"""A session over a fake zone, its instances answering what Ollama is asked from a script."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

import client.session
from client.api import Api
from client.errors import (
    OllamaError,
)
from client.model import Instance
from client.session import Session
from client.settings import Secret
from tests.fakes import DAY, NOW, Agent, Machine, World, label_map, settings

Lines = list[object] | Exception
PROMPT = {"model": "m", "prompt": "why"}
HELLO: Lines = [
    {"response": "Hel"},
    {"response": ""},
    {"response": "lo"},
    {"response": "", "done": True, "eval_count": 2},
]
NOT_FOUND = OllamaError("answered 404: model 'm' not found", status=404)
PULLED: Lines = [{"status": "pulling"}, {"digest": "d", "total": 10, "completed": 5}, {"status": "success"}]


class Ollama(Agent):
    """The endpoint of a machine, with scripted answers to what is asked of Ollama; the last one stays."""

    answers: list[Lines]
    asked: list[tuple[str, dict[str, Any]]]
    keys: list[Secret]
    url = "https://127.0.0.9:11435"

    @contextmanager
    def request(self, method: str, path: str, payload: dict[str, Any], **_: object) -> Iterator["Ollama"]:
        self.asked.append((path, payload))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.left = list(answer)
        yield self

    def readline(self, _limit: int) -> bytes:
        if not self.left:
            return b""
        line = self.left.pop(0)
        if isinstance(line, Exception):
            raise line
        if callable(line):
            line = line()
        return line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"


class Use:
    """A session over a world; `text` is what was streamed, `notes` what a person was told, `tidied` what was reaped."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        world: World,
        *answers: Lines,
        wake: bool | str = False,
        tidies: bool = True,
        **changes: Any,
    ) -> None:
        self.world, self.text, self.woken = world, "", 0
        self.notes: list[str] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[Secret] = []
        self.tidied: list[tuple[list[str], str]] = []
        self.finished = 0
        script = list(answers) or [HELLO]

        def endpoint(instance: Instance, key: Secret) -> Ollama:
            made = Ollama(world, instance.id)
            made.answers, made.asked = script, self.asked
            self.keys.append(key)
            return made

        def woken() -> dict[str, str]:
            self.woken += 1
            world.machines.setdefault("woken", Machine(id="woken", address="127.0.0.10", listed_at=self.listed_at))
            return {"id": "woken"}

        monkeypatch.setattr(client.session, "Endpoint", SimpleNamespace(of=endpoint))
        self.listed_at = 0.0
        self.session = Session(
            settings(**changes),
            cast("Api", world),
            wake=woken if wake else None,
            tidy=self._tidy if tidies else None,
            note=self.notes.append,
        )

    def _tidy(self, listed: list[Instance], spare: str) -> Callable[[], None]:
        def finish() -> None:
            self.finished += 1

        self.tidied.append(([instance.id for instance in listed], spare))
        return finish

    def generate(self) -> dict[str, Any]:
        def show(piece: str) -> None:
            self.text += piece

        return self.session.generate(PROMPT, show)


def machine(**changes: Any) -> Machine:
    given: dict[str, Any] = {"id": "a", "created": NOW - DAY, "labels": label_map(activity=NOW - timedelta(hours=1))}
    return Machine(**(given | changes))
