"""The verb `serve`: a forwarder in the foreground, from its options to its exit code.

Neighbours: `client.running` puts the forwarder together, `client.use` the session; `client.cli` has the options' help.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from client.boot import Board
from client.errors import NoInstance, SettingsError
from client.forwarder import Address, Forwarder
from client.function import ONLY_WITH_CREDENTIALS, Function, named
from client.guard import Guard, origins
from client.running import build, by_credentials, collect_seldom, guard_for, listen, runner, url
from client.settings import Reader, Secret, Settings, by_function, endpoint_key
from client.source import ByCredentials, ByUrl, Source
from client.terminal import Terminal

_MAX_S: Final = 86400
_FILES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the arguments and the environment say about serving. Times are seconds."""

    address: Address
    hold_s: float
    drain_s: float
    on_exit: str
    provision: bool
    guard: Guard
    provision_url: str | None
    function_token: Secret | None

    @classmethod
    def read(cls, args: argparse.Namespace, env: Mapping[str, str]) -> Options:
        """Read them. Raises SettingsError with every problem at once."""
        reader = Reader(env)
        address = reader.read("--listen", _address, args.listen, Address())
        hold_s = reader.read("--hold", _seconds, args.hold, 0.0)
        drain_s = reader.read("--drain", _seconds, args.drain, 0.0)
        token = reader.get("EXOLLAMA_SERVE_TOKEN", _token, None, secret=True)
        allowed = reader.get("OLLAMA_ORIGINS", origins, ())
        where, function_token = named(reader)
        by_url = by_function(env)
        problems = [*reader.problems, *_contradictions(args, env, by_url=by_url)]
        guard = None
        try:
            guard = guard_for(address.host, token or _placeholder(env), allowed)
        except SettingsError as error:
            problems.extend(error.problems)
        if problems:
            raise SettingsError(*problems)
        assert guard
        return cls(
            address=address,
            hold_s=hold_s,
            drain_s=drain_s,
            on_exit=args.on_exit,
            provision=not args.no_provision,
            guard=guard,
            provision_url=where if by_url else None,
            function_token=function_token if by_url else None,
        )


def _contradictions(args: argparse.Namespace, env: Mapping[str, str], *, by_url: bool) -> Iterator[str]:
    """What does not go together."""
    if by_url and args.no_provision:
        yield ONLY_WITH_CREDENTIALS["no_provision"]
    if by_url and args.on_exit != "keep":
        yield f"--on-exit {args.on_exit} needs EXOSCALE_API_KEY and EXOSCALE_API_SECRET."
    if args.no_provision and args.on_exit != "keep":
        yield f"--on-exit {args.on_exit} with --no-provision would end what others made. Leave one out."
    if args.on_exit == "stop" and env.get("EXOSCALE_REAP_ACTION", "").strip() != "stop":
        yield (
            "--on-exit stop needs EXOSCALE_REAP_ACTION=stop: the next pass of a reaper would remove the stopped "
            "instance, its disk included."
        )


def _placeholder(env: Mapping[str, str]) -> Secret | None:
    """Something in the place of a token that cannot be read, which is a problem by itself and not two."""
    return Secret("unread") if env.get("EXOLLAMA_SERVE_TOKEN", "").strip() else None


def serve(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Forward until SIGTERM or Ctrl-C; then finish what is under way, and end the instance where that is wanted.

    Raises ExollamaError.
    """
    options: Options = args.options
    board = Board(terminal.progress, terminal.clear)
    source = _source(options, settings, board, terminal)
    _more_files()
    collect_seldom()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with runner() as loop:
            cut, boots_on = loop.run(_run(args, options, settings, source, board, terminal))
    finally:
        signal.signal(signal.SIGTERM, before)
    if boots_on and not options.provision_url:
        terminal.note(
            "An instance was still being started, and is left alone: it goes once idle, by the next `exollama reap`. "
            "To end it once it is there: exollama stop"
        )
    if options.on_exit == "keep":
        return 1 if cut else 0
    if boots_on:
        return 1
    return 0 if _end_instance(options, settings, terminal) and not cut else 1


def _source(options: Options, settings: Settings, board: Board, terminal: Terminal) -> Source:
    if options.provision_url and options.function_token:
        return ByUrl(Function(options.provision_url, options.function_token, board))
    from client import use, verbs

    if options.provision or options.on_exit != "keep":
        verbs.need_urllib3()
    return by_credentials(
        settings,
        use.waker(settings, terminal.note, board) if options.provision else None,
        board,
        tidy=use.tidier(settings, terminal.note),
        note=terminal.note,
    )


async def _run(
    args: argparse.Namespace,
    options: Options,
    settings: Settings,
    source: Source,
    board: Board,
    terminal: Terminal,
) -> tuple[int, bool]:
    """Serve until a signal; returns how many requests were cut, and whether an instance is still being started."""
    forwarder = build(settings, source, board, options.guard, hold_s=options.hold_s, note=terminal.note)
    bound = await listen(forwarder, options.address)
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def heard() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard)
    address = url(bound)
    print(json.dumps({"url": address, "status": f"{address}/.exollama/status"}) if args.json else address, flush=True)
    to = "what the provision function wakes" if options.provision_url else f"{settings.name} in {settings.zone}"
    terminal.note(f"Forwarding {address} to {to}. Ctrl-C ends it. How it is, in a browser: {address}/.exollama/")
    if options.provision or options.provision_url:
        terminal.note(f"The first prompt wakes an instance where none runs; {settings.model} is its model.")
    await stop.wait()
    cut = await _close(forwarder, hurry, options.drain_s, terminal)
    keeper = forwarder.keeper
    if options.on_exit == "keep" and isinstance(source, ByCredentials) and keeper.place and keeper.idle_s < math.inf:
        from client import use

        assert source.instance
        terminal.note(use.goes(source.instance, source.session.api.now() - timedelta(seconds=keeper.idle_s)))
    return cut, forwarder.boots_on


async def _close(forwarder: Forwarder, hurry: asyncio.Event, drain_s: float, terminal: Terminal) -> int:
    if forwarder.active:
        terminal.note(f"Finishing {forwarder.active} request(s), for at most {drain_s:.0f} s; once more cuts them.")
        terminal.progress("finishing requests", None, 0.0)
    closing = asyncio.ensure_future(forwarder.close(within_s=drain_s))
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({closing, hurried}, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not closing.done():
        forwarder.hurry()
    cut = await closing
    terminal.clear()
    if cut:
        terminal.note(f"{cut} request(s) were cut.")
    return cut


def _end_instance(options: Options, settings: Settings, terminal: Terminal) -> bool:
    """End it through its fence; whether it is gone."""
    from functions import reap_idle, stop

    try:
        terminal.progress("ending the instance", None, 0.0)
        result = stop.run(settings, keep_disk=options.on_exit == "stop")
    except NoInstance:
        return True
    terminal.note(reap_idle.text(result))
    gone = all(item["outcome"] in ("destroyed", "stopped") for item in result["instances"])
    if not gone:
        terminal.note("What is still there goes once nobody uses it, by the next `exollama reap`; or: exollama stop")
    return gone


def _more_files() -> None:
    """Each request takes two of them, and the usual limit is a thousand."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _token(value: str) -> Secret:
    try:
        return endpoint_key(value)
    except ValueError:
        raise ValueError(
            "is too short, too plain or has other characters: 32 to 128 of A-Z a-z 0-9 _ - are expected. "
            "Use: openssl rand -hex 32"
        ) from None


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}", value) or not 1 <= int(value) <= _MAX_S:
        raise ValueError(f"a whole number of seconds from 1 to {_MAX_S} is expected.")
    return float(value)


def _address(value: str) -> Address:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]*)):([0-9]{1,5})", value)
    if not match or int(match[3]) > 65535:
        raise ValueError("HOST:PORT is expected, like 127.0.0.1:11434 or [::1]:11434.")
    return Address(host=match[1] or match[2] or "0.0.0.0", port=int(match[3]))
