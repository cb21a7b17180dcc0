"""The verbs that use an instance: generate, and env for other programs. Standard library only.

Neighbours: `client.verbs` dispatches here; `client.session` finds the instance, wakes one and streams; `client.chat`
answers with the same.
"""

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from client import activity
from client.api import Api
from client.boot import Progress, first
from client.endpoint import Endpoint
from client.errors import SettingsError
from client.function import Function
from client.handout import CURL, KEYLESS, exports, variables
from client.model import Instance, last_day
from client.session import Session, Tidy, Wake
from client.session import generate as answered
from client.settings import Reader, Settings, by_function, model_name
from client.terminal import Terminal
from client.transport import http_client_send

MAX_PROMPT = 16 << 20  # bytes
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def waker(settings: Settings, note: Callable[[str], None], progress: Progress) -> Wake:
    """What wakes an instance: the functions, imported when they are needed."""

    def wake() -> Mapping[str, Any]:
        from client.verbs import need_urllib3

        need_urllib3()
        from functions import provision

        return provision.run(settings, note=note, progress=progress)

    return wake


def tidier(settings: Settings, note: Callable[[str], None]) -> Callable[[str], None]:
    """What reaps whatever is overdue in the zone, but for one instance, and waits for it; nothing without urllib3."""

    def tidy(spare: str) -> None:
        listed = Api(settings, settings.zone, http_client_send).list_instances()
        _tidying(settings, note)(listed, spare)()

    return tidy


def _tidying(settings: Settings, note: Callable[[str], None]) -> Tidy:
    def tidy(listed: list[Instance], spare: str) -> Callable[[], None]:
        from client.verbs import has_urllib3

        if not has_urllib3():
            return lambda: None
        from functions import reap_idle

        return reap_idle.tidy(settings, listed, spare, note=note)

    return tidy


def _session(settings: Settings, terminal: Terminal, *, provision: bool) -> Session:
    return Session(
        settings,
        Api(settings, settings.zone, http_client_send),
        wake=waker(settings, terminal.note, terminal.progress) if provision else None,
        tidy=_tidying(settings, terminal.note),
        note=terminal.note,
        progress=terminal.progress,
    )


Answerer = Callable[[Mapping[str, Any], Callable[[str], None]], dict[str, Any]]
"""Answers a payload of Ollama's and passes on each piece, as `client.session.generate`."""


def answerer(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> tuple[Answerer, Callable[[], None]]:
    """What answers, by credentials or through a function, and what is to be called once there is no more to ask."""
    if by_function(os.environ):
        return partial(_through_function, terminal), lambda: None
    session = _session(settings, terminal, provision=not args.no_provision)

    def leave() -> None:
        terminal.progress("removing what is overdue", None, 0.0)
        session.finish()
        terminal.clear()
        if session.used:
            terminal.note(ends(session.used, session.api) or goes(session.used, session.api.now()))

    return session.generate, leave


def _through_function(terminal: Terminal, payload: Mapping[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
    """The answer of an instance that a provision function wakes, without credentials."""
    asked = Function.from_env(os.environ, awaiting(terminal))

    def using() -> AbstractContextManager[Endpoint]:
        return closing(asked.provision().endpoint())

    return answered(using, payload, on_text, note=terminal.note, progress=terminal.progress)


def awaiting(terminal: Terminal) -> Progress:
    """For a function, which has no sentences of its own."""
    return first(
        lambda phase: terminal.note(f"The provision function is getting an instance ready ({phase})."),
        terminal.progress,
    )


def shower(terminal: Terminal, *, whole: bool) -> Callable[[str], None]:
    """What prints each piece of an answer as it comes; with `whole`, only that one is coming."""
    began: list[float] = []

    def show(piece: str) -> None:
        terminal.clear()
        # A model may say anything, and a terminal would obey some of it; what reads a pipe gets all of it.
        sys.stdout.write(_OBEYED.sub("", piece) if sys.stdout.isatty() else piece)
        sys.stdout.flush()

    def wait(_piece: str) -> None:
        began[:] = began or [time.monotonic()]
        terminal.progress("answering", None, time.monotonic() - began[0])

    return wait if whole else show


def generate(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Answer one prompt, waking an instance where there is none. Raises what `client.session.generate` raises."""
    asked = payload(args, settings)
    whole = args.no_stream or args.json
    answer_to, leave = answerer(args, settings, terminal)
    answer = answer_to(asked, shower(terminal, whole=whole))
    if args.no_stream and not args.json:
        shower(terminal, whole=False)(answer["response"])
    terminal.clear()
    print(json.dumps(answer) if args.json else "")
    leave()
    return 0


def payload(args: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    """Ollama's request for the arguments. Raises SettingsError, every problem at once, before anything is created."""
    reader = Reader({})

    def read(what: str, parse: Callable[[str], Any], value: str) -> Any:
        return reader.read(what, parse, value, None)

    asked: dict[str, Any] = {
        "model": settings.model if args.model is None else read("--model", model_name, args.model),
        "stream": True,
    }
    if "prompt" in args:
        asked["prompt"] = read("The prompt", _prompt, args.prompt)
    if args.system:
        asked["system"] = args.system
    if args.option:
        asked["options"] = dict(filter(None, (read("--option", _option, option) for option in args.option)))
    if "format" in args and args.format:
        asked["format"] = read("--format", _format, args.format)
    if reader.problems:
        raise SettingsError(*reader.problems)
    return asked


def _prompt(value: str) -> str:
    if value == "-":
        value = sys.stdin.buffer.read(MAX_PROMPT + 1).decode("utf-8", "replace") if sys.stdin else ""
    if len(value.encode("utf-8", "replace")) > MAX_PROMPT:
        raise ValueError(f"over {MAX_PROMPT >> 20} MiB, more than any model reads. Shorten it.")
    if not value.strip():
        raise ValueError("empty. Give one as an argument, or - and text on standard input.")
    return value


def _option(value: str) -> tuple[str, Any]:
    name, equals, text = value.partition("=")
    if not name.strip() or not equals:
        raise ValueError("NAME=VALUE is expected, like temperature=0.")
    try:
        return name.strip(), json.loads(text)
    except ValueError:
        return name.strip(), text


def _format(value: str) -> Any:
    if value == "json":
        return value
    try:
        schema = json.loads(value)
    except ValueError as error:
        raise ValueError(f"the word json or a JSON schema is expected: {error}.") from None
    if not isinstance(schema, dict):
        raise ValueError("the word json or a JSON schema (an object) is expected.")
    return schema


def ends(instance: Instance, api: Api) -> str | None:
    """That its deadline is less than a day away, or None."""
    return last_day(instance.zone, instance.id, instance.policy.deadline, api.now())


def goes(instance: Instance, used: datetime) -> str:
    """When an instance that was used last at that time goes if nobody uses it again, and who will see to it."""
    idle = timedelta(seconds=instance.policy.idle_s)
    left = (
        f"about {idle // timedelta(minutes=1)} minutes"
        if idle >= timedelta(minutes=2)
        else f"{instance.policy.idle_s} seconds"
    )
    late = timedelta(seconds=activity.quarter_s(instance))  # as its label may be
    off = used + idle + timedelta(minutes=15)
    first, last = (f"{moment:%H:%M}" for moment in (used + idle, min(used + idle + late, off)))
    when = f"at {first} UTC" if first == last else f"between {first} and {last} UTC"
    verb = "is stopped" if instance.policy.action == "stop" else "goes"
    return (
        f"The instance {verb} {left} after its last use, {when}, by the next `exollama reap` (cron); without one it "
        f"powers itself off at {off:%H:%M}, and its disk costs on. To end it now: exollama stop"
    )


def env(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Print URL, key and the path of the verified certificate of the running instance, for a shell or as JSON."""
    session = _session(settings, terminal, provision=False)
    instance, endpoint, _ = session.ready()
    endpoint.touch()
    session.record(instance)
    key = session.key(instance)
    values = variables(endpoint, instance.id, None if args.no_key else key)
    terminal.clear()
    if args.json:
        names = {"url": "EXOLLAMA_URL", "key": "EXOSCALE_OLLAMA_KEY", "cacert": "EXOLLAMA_CACERT"}
        result = {name: values[variable] for name, variable in names.items() if variable in values}
        print(json.dumps({**result, "fingerprint": endpoint.fingerprint}))
        return 0
    print(exports(values), end="")
    terminal.note(KEYLESS if args.no_key else CURL)
    return 0
