"""`ExoscaleOllamaAdapter`: the original module's class, its constructor and ten methods, over what is here already.

It knows nothing of Exoscale: `client.forward` is the URL that it gives, `functions.provision` brings an instance up,
`functions.stop` ends one, `functions.reap_idle` is its monitor. What the original documents as Optional or bool is None
or False where it failed; why is logged, and in `last_error`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import client
from client.boot import Board, Progress, silent
from client.endpoint import STREAM_TIMEOUT_S
from client.errors import EndpointError, ExollamaError, NoInstance, OllamaError, SettingsError
from client.model import owned_live
from client.running import HOLD_S, by_credentials
from client.settings import DEFAULT_IDLE_S, DEFAULT_MODEL, DEFAULT_TYPE, DEFAULT_ZONE, Settings
from client.transport import Disconnected, Request, http_client_send
from functions import provision, reap_idle, stop
from functions.zones import failures

T = TypeVar("T")
log = logging.getLogger("exollama.adapter")

_LOOK_S = 60.0
_STOP_S: Final = 5.0  # for the monitor's end: a pass that takes longer is safe to leave, or to lose
_DRAIN_S: Final = 5.0  # for requests of this process at its end: `docker stop` kills after ten seconds
_AGAIN_S: Final = 1.0  # between looks at what is kept: a web server's workers end at once, and each sees the others'
_RECORD_S: Final = 15.0  # between two words to the instance: callers record activity with every request of theirs
_SIGNALS: Final = ("SIGTERM", "SIGINT", "SIGHUP")
_GOES: Final = "It goes once nobody uses it, by the next `exollama reap` (cron); or: exollama stop --force"
_ARGUMENTS: Final = {
    "EXOSCALE_API_KEY": "api_key",
    "EXOSCALE_API_SECRET": "api_secret",
    "EXOSCALE_ZONE": "zone",
    "EXOSCALE_INSTANCE_TYPE": "instance_type",
    "EXOSCALE_TEMPLATE": "template_name",
    "EXOSCALE_DISK_SIZE": "disk_size",
    "EXOSCALE_OLLAMA_MODEL": "ollama_model",
    "EXOSCALE_OLLAMA_KEY": "ollama_key",
    "EXOSCALE_IDLE_TIMEOUT": "idle_timeout",
}
"""The variable that says the same as each argument of the constructor, in its order."""


class ExoscaleOllamaAdapter(contextlib.AbstractContextManager["ExoscaleOllamaAdapter"]):
    """A private Ollama for this process: `ensure_instance` gives a URL that existing code can just post to.

    Thread-safe. The instance is shared with whoever uses the same name in the same zone. Once something was started,
    the end of the process shuts it down, be that the interpreter's end or a signal whose action is to end it; a signal
    that somebody handles is left to them, since a web server's own shutdown leads to the interpreter's end. A forked
    process goes on with its parent's URL, and ends nothing of its parent's.
    """

    last_error: str | None
    """Why the last call failed, or None."""

    def __init__(
        self,
        api_key: str,
        api_secret: str,
        zone: str = DEFAULT_ZONE,
        instance_type: str = DEFAULT_TYPE,
        template_name: str = "Linux Ubuntu 22.04 LTS 64-bit",
        disk_size: int = 50,
        ollama_model: str = DEFAULT_MODEL,
        ollama_key: str | None = None,
        idle_timeout: int = DEFAULT_IDLE_S,
    ) -> None:
        """Check the arguments, and start nothing. `disk_size` is GiB, `idle_timeout` seconds.

        A standard.medium counts as not set, so that the smallest type is taken that the model fits; without
        `ollama_key` one is generated. What no argument is for comes from the environment, as everywhere. Raises
        SettingsError naming every problem.
        """
        kind = None if instance_type == DEFAULT_TYPE else instance_type
        given = (api_key, api_secret, zone, kind, template_name, disk_size, ollama_model, ollama_key, idle_timeout)
        said = {name: "" if value is None else str(value) for name, value in zip(_ARGUMENTS, given, strict=True)}
        try:
            settings = Settings.from_env({**os.environ, **said})
        except SettingsError as error:
            raise SettingsError(*map(_as_arguments, error.problems)) from None
        self._begin(settings)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> ExoscaleOllamaAdapter:
        """One that takes everything from an environment, as the verbs do. Raises SettingsError."""
        adapter = cls.__new__(cls)
        cls._begin(adapter, Settings.from_env(env))
        return adapter

    def _begin(self, settings: Settings) -> None:
        self.last_error = None
        self._settings = settings
        self._url: str | None = None
        self._home = 0
        self._forwarder = contextlib.ExitStack()
        self._armed = False
        self._before: dict[signal.Signals, Any] = {}
        self._shutting: threading.Thread | None = None
        self._ended = threading.Event()
        self._number: int | None = None
        self._record_due = 0.0
        self._forked()
        if hasattr(os, "register_at_fork"):
            mine = weakref.WeakMethod(self._forked)

            def forked() -> None:
                if method := mine():
                    method()

            os.register_at_fork(after_in_child=forked)

    def _forked(self) -> None:
        """In a process of its own: locks that a thread of the parent's may hold, and its threads, are not here."""
        # Never held while the network is waited for, so that neither a status nor a shutdown waits for a boot.
        # Reentrant, since a signal's handler may come in between.
        self._lock = threading.RLock()
        self._source = by_credentials(self._settings, self._wake, Board())
        self._over = threading.Event()
        self._monitor: threading.Thread | None = None
        self._coming: set[Progress] = set()  # of those who asked for an instance, and know not what came of it

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    # -- the ten methods

    def ensure_instance(self) -> str | None:
        """Find, start or create the instance, wait until it is ready, and return the URL of Ollama.

        That is a forwarder's on this machine's loopback: it adds TLS and the key, and wakes an instance again whenever
        a request needs one, so it stays the same until `shutdown`. Of several callers one boots. None where it failed.
        """

        def ready() -> str:
            self._open()
            self._source.wake()  # one at a time on this machine
            self._wake()  # also where it was there already: it is touched, and has the model
            return self._open()

        return self._told(ready)

    def create_instance(self) -> str | None:
        """The same as `ensure_instance`: there is one live instance of a name, so one that is there is the one."""
        return self.ensure_instance()

    def destroy_instance(self) -> bool:
        """Destroy the instance, unless requests are in flight; whether none is left. The next use makes a fresh one."""
        return self._told(self._end_instance) or False

    def get_instance_status(self) -> str | None:
        """The API's state of the instance, like running or starting; None where there is none, or it is not known."""

        def state() -> str | None:
            live = owned_live(self._source.session.api.list_known_zone(), self._settings.name)
            return min(live, key=lambda instance: instance.state != "running").state if live else None

        return self._told(state)

    def get_ollama_url(self) -> str | None:
        """The URL of Ollama, `http://127.0.0.1:PORT`, once an instance was asked for; None before, and at the end."""
        return self._url

    def record_activity(self) -> None:
        """Have the running instance know that it is in use. Requests to the URL do so by themselves.

        Told at most every 15 seconds, and written into its label at most once a quarter of the idle timeout.
        """
        now = time.monotonic()
        if now < self._record_due:
            return
        self._record_due = now + min(_RECORD_S, self._settings.idle_s / 4)

        def touch() -> None:
            session = self._source.session
            if instance := session.find():
                with contextlib.closing(session.endpoint(instance)) as endpoint:
                    endpoint.touch()
                session.record(instance)

        self._told(touch)

    def start_idle_monitor(self) -> None:
        """Look every 60 seconds, in a thread, whether the instance is idle, and end it then as a reaper does."""

        def start() -> None:
            with self._lock:
                self._check()
                if self._monitor is None or not self._monitor.is_alive():
                    self._arm()
                    self._over = threading.Event()
                    self._monitor = threading.Thread(
                        target=self._look_after, args=(self._over,), name="exollama-monitor", daemon=True
                    )
                    self._monitor.start()

        self._told(start)

    def stop_idle_monitor(self) -> None:
        """End the monitor."""
        with self._lock:
            monitor, self._monitor = self._monitor, None
            self._over.set()
        if monitor:
            monitor.join(_STOP_S)

    def proxy_request(self, payload: Mapping[str, Any]) -> dict[str, Any] | None:
        """POST /api/generate, and return Ollama's answer as one object, whatever `stream` says; None where it failed.

        Wakes an instance where there is none.
        """
        body = json.dumps({**payload, "stream": False}).encode()
        return self._told(lambda: _generated(self._open(), body))

    def shutdown(self) -> None:
        """End the monitor, finish what this process has under way (5 seconds at most), and destroy the instance.

        One that somebody else uses, or that is still booting, is left to a reaper, and that is logged. Once, whoever
        calls it; others wait until it is through. Nothing can be started afterwards.
        """
        here = threading.current_thread()
        if self._url is not None and self._home != os.getpid():
            return  # what was started is another process's, which ends it; a signal may come before `_forked` does
        with self._lock:
            first = self._shutting is None
            self._shutting = self._shutting or here
        if first:
            try:
                self._shut()
            except BaseException:  # a second Ctrl-C, say
                log.error("The shutdown was cut short: an instance may be left. %s", _GOES)
                raise
            finally:
                self._ended.set()
        elif self._shutting is not here:
            self._ended.wait(900)
        if self._ended.is_set() and here is threading.main_thread():
            self._disarm()

    # -- inside

    def _told(self, do: Callable[[], T]) -> T | None:
        """What this returns; None where it failed, which is logged and kept."""
        try:
            result, self.last_error = do(), None
        except ExollamaError as error:
            self.last_error = str(error)
            log.error("%s", error)
            return None
        return result

    def _check(self) -> None:
        if self._shutting:
            raise ExollamaError("This adapter was shut down and starts nothing any more. Make another one.")

    def _open(self) -> str:
        """The forwarder's URL; it is started once. Raises ExollamaError."""
        with self._lock:
            self._check()
            if self._url is None:
                forwarder = client.forward(self._settings, wake=self._wake, drain_s=_DRAIN_S)
                self._home = os.getpid()
                self._url = self._forwarder.enter_context(forwarder)
            self._arm()
            return self._url

    def _wake(self, progress: Progress = silent) -> Mapping[str, Any]:
        def told(phase: str, percent: float | None, elapsed_s: float) -> None:
            if told not in self._coming:
                self._check()  # so far nothing was asked for
            if phase in ("creating", "starting"):
                self._coming.add(told)
            progress(phase, percent, elapsed_s)

        try:
            woken = provision.run(self._settings, progress=told)
        except Exception:
            self._coming.discard(told)
            raise
        self._coming.discard(told)
        log.info("the instance is ready")
        if self._shutting:
            self._end_instance()
            self._check()
        return woken

    def _end_instance(self) -> bool:
        """Destroy it through its fence, where there is one. Raises ExollamaError where it is still there."""
        tries = 4
        while left := self._left():
            tries -= 1  # kept or failed, it may be that another worker's end came between
            if tries <= 0:
                said = [f"Instance {i['id']} is still there ({i['outcome']}): {i['reason'].rstrip('.')}." for i in left]
                raise ExollamaError(" ".join((*said, _GOES)))
            time.sleep(_AGAIN_S)
        log.info("no instance named %s is left in %s", self._settings.name, self._settings.zone)
        return True

    def _left(self) -> list[Any]:
        try:
            return [one for one in stop.run(self._settings)["instances"] if one["outcome"] != "destroyed"]
        except NoInstance:
            if self._shutting and self._coming:
                log.error("An instance that was asked for just now may come up still. %s", _GOES)
            return []
        except ExollamaError as error:
            raise ExollamaError(f"Whether an instance is left is not known: {error} {_GOES}") from error

    def _look_after(self, over: threading.Event) -> None:
        ours = self._settings._replace(zones=(self._settings.zone,))
        while not over.wait(_LOOK_S):
            try:
                result = reap_idle.run(ours, name=self._settings.name)
                for sentence in failures(result):
                    log.warning("%s", sentence)
                for one in result["instances"]:
                    level = logging.DEBUG if one["outcome"] == "kept" else logging.INFO
                    log.log(level, "instance %s was %s: %s", one["id"], one["outcome"], one["reason"])
            except ExollamaError as error:
                log.warning("the monitor looks again in %.0f s: %s", _LOOK_S, error)
            except Exception:
                log.exception("a pass of the monitor failed")

    # -- the end

    def _shut(self) -> None:
        self.stop_idle_monitor()
        self._forwarder.close()
        used, self._url = self._url is not None, None
        if used:
            self._told(self._end_instance)

    def _disarm(self) -> None:
        """Leave the end of this process to itself; where a signal came meanwhile, it is now."""
        atexit.unregister(self.shutdown)
        if self._number is not None:
            self._end_by(self._number)
        for number, before in self._before.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, before)

    def _arm(self) -> None:
        """See to it that the end of this process is heard of, by whatever is possible from this thread."""
        if not self._armed:
            self._armed = True
            atexit.register(self.shutdown)
        if not self._before and threading.current_thread() is threading.main_thread():
            for number in (signal.Signals[name] for name in _SIGNALS if hasattr(signal, name)):
                before = signal.getsignal(number)
                if before == signal.SIG_DFL or getattr(before, "__func__", None) is ExoscaleOllamaAdapter._heard:
                    self._before[number] = before
                    signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: object) -> None:
        self._number = number
        if self._shutting is threading.current_thread() and not self._ended.is_set():
            return  # it goes on beneath this handler, and the process ends then; a terminal that closes sends two
        self.shutdown()
        self._end_by(number)

    def _end_by(self, number: int) -> None:
        """Have a signal's own action, which is to end the process; another adapter hears of it before."""
        before = self._before[signal.Signals(number)]
        signal.signal(number, before)
        signal.raise_signal(number)
        if before == signal.SIG_DFL:
            os._exit(128 + number)  # a container's first process, on which that has no effect


def _as_arguments(problem: str) -> str:
    for variable, argument in _ARGUMENTS.items():
        problem = re.sub(rf"\b{variable}\b", argument, problem)
    return problem


def _generated(url: str, body: bytes) -> dict[str, Any]:
    """Ollama's answer to a request that is not streamed. Raises ExollamaError."""
    # Held while an instance boots, and then for as long as an answer takes.
    headers, patience_s = {"Content-Type": "application/json"}, HOLD_S + STREAM_TIMEOUT_S
    try:
        answer = http_client_send(Request("POST", f"{url}/api/generate", headers, body, patience_s))
        said = json.loads(answer.body)
    except (Disconnected, ValueError) as error:
        raise EndpointError(f"There was no whole answer: {error}. Ask again.") from error
    if answer.status != 200 or not isinstance(said, dict):
        words = said.get("error") if isinstance(said, dict) else said
        raise OllamaError(f"The request was answered with {answer.status}: {words}", status=answer.status)
    return said
