"""A forwarder from its start to its end: in a thread beside other code (`forward`), or in the foreground for a verb.

Neighbours: `client.forwarder` is what runs, `client.serve` is the verb. Imports nothing of functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import inspect
import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from client.api import Api
from client.boot import Board, Progress
from client.errors import ExollamaError, SettingsError
from client.forwarder import Address, Forwarder
from client.guard import Guard
from client.keeper import Keeper
from client.session import Session
from client.settings import Secret, Settings
from client.source import ByCredentials, Source
from client.transport import http_client_send

log = logging.getLogger("exollama.forwarder")

HOLD_S: Final = 900.0
"""How long a request waits for an instance: most boots end well before, and so does the patience of few programs."""
_DRAIN_S: Final = 10.0


@contextlib.contextmanager
def forward(
    settings: Settings,
    *,
    wake: Callable[..., Mapping[str, Any]] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    hold_s: float = HOLD_S,
    drain_s: float = _DRAIN_S,
    token: Secret | None = None,
    origins: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Iterator[str]:
    """Run a forwarder in a thread for as long as the block takes, and give its URL, `http://127.0.0.1:PORT`.

    `wake()` provisions an instance, waits until it is ready and returns provision's result, `{"id", …}`, like
    `functools.partial(functions.provision.run, settings)`; where it takes a `progress`, it is given one. Without it
    none is ever created. Requests are held for `hold_s` seconds while one boots; at the end those under way get
    `drain_s` seconds. Beyond loopback `host` takes a `token`. Raises ExollamaError where it cannot listen there.
    """
    guard = guard_for(host, token, origins)
    board = Board(progress) if progress else Board()
    source = by_credentials(settings, wake, board)
    running = _Thread(
        lambda: build(settings, source, board, guard, hold_s=hold_s), Address(host=host, port=port), drain_s
    )
    try:
        yield running.start()
    finally:
        running.end()


def by_credentials(
    settings: Settings, wake: Callable[..., Mapping[str, Any]] | None, board: Board, **more: Any
) -> ByCredentials:
    """The source that asks the API. `more`: as for ByCredentials and Session."""
    tidy = more.pop("tidy", None)
    told = wake
    if wake and "progress" in inspect.signature(wake).parameters:
        bound = getattr(wake, "keywords", {}).get("progress")  # a partial's, which hears of it, too

        def progress(phase: str, percent: float | None, elapsed_s: float) -> None:
            board(phase, percent, elapsed_s)
            if bound:
                bound(phase, percent, elapsed_s)

        told = functools.partial(wake, progress=progress)
    session = Session(settings, Api(settings, settings.zone, http_client_send), wake=told, progress=board, **more)
    return ByCredentials(session, board, wakes=wake is not None, tidy=tidy)


def guard_for(host: str, token: Secret | None, origins: tuple[str, ...]) -> Guard:
    """The guard of a listener. Raises SettingsError where it is reachable from elsewhere without a token."""
    loopback = is_loopback(host)
    if not loopback and token is None:
        raise SettingsError(
            f"Listening on {host} lets other machines in, and whoever reaches it would use your instance: set "
            "EXOLLAMA_SERVE_TOKEN (openssl rand -hex 32), which programs then send as their API key."
        )
    return Guard(allowed=origins, token=token, loopback=loopback)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def build(
    settings: Settings,
    source: Source,
    board: Board,
    guard: Guard,
    *,
    hold_s: float,
    note: Callable[[str], None] = log.info,
) -> Forwarder:
    """A forwarder with its keeper, in the running loop."""
    forwarder = Forwarder(settings, guard)
    forwarder.keeper = Keeper(source, board, hold_s=hold_s, view=forwarder.view, note=note)
    return forwarder


async def listen(forwarder: Forwarder, address: Address) -> Address:
    """Begin to listen. Raises ExollamaError, saying what to do."""
    where = f"{address.host}:{address.port}"
    try:
        return await forwarder.listen(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ExollamaError(
                f"{where} is taken, perhaps by an Ollama of this machine. End that (on Linux: systemctl stop ollama), "
                "or listen elsewhere: --listen 127.0.0.1:11436 (in Python: port=0), with OLLAMA_HOST=127.0.0.1:11436 "
                "for programs."
            ) from None
        words = error.strerror or str(error)
        raise ExollamaError(
            f"Nothing can listen on {where}: {words}. Choose another address: --listen (in Python: host and port)."
        ) from None


def runner() -> asyncio.Runner:
    """The standard loop over selectors, whatever else is installed: its callbacks come one after the other."""
    return asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)


def collect_seldom() -> None:
    """Have this process look for garbage in circles seldom: each look stops every stream, and hardly any is made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _Thread:
    """A forwarder in a thread of its own."""

    def __init__(self, make: Callable[[], Forwarder], address: Address, drain_s: float) -> None:
        self._make = make
        self._address = address
        self._drain_s = drain_s
        self._known = threading.Event()
        self._url = ""
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, name="exollama-forwarder", daemon=True)

    def start(self) -> str:
        """Start it and return its URL. Raises what kept it from listening."""
        self._thread.start()
        self._known.wait()
        if self._failure:
            raise self._failure
        return self._url

    def end(self) -> None:
        """End it, and wait for that."""
        if self._loop:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(self._drain_s + 15)
        if self._thread.is_alive():
            log.error("the forwarder on %s has not ended", self._url)
        elif self._failure:
            log.error("the forwarder on %s ended early: %r", self._url, self._failure)

    def _run(self) -> None:
        try:
            with runner() as loop:
                loop.run(self._serve())
        except BaseException as failure:  # noqa: BLE001 - handed to whoever started it
            self._failure = failure
        finally:
            self._known.set()

    async def _serve(self) -> None:
        forwarder = self._make()
        try:
            bound = await listen(forwarder, self._address)
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self._url = url(bound)
            self._known.set()
            await self._stop.wait()
        finally:
            await forwarder.close(within_s=self._drain_s)


def url(address: Address) -> str:
    """`http://HOST:PORT`."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"http://{host}:{address.port}"
