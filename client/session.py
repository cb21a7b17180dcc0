"""One use of a private Ollama: find the instance, wake one where there is none, record activity, stream an answer.

Waking goes through a callable it is given, so that this module needs neither the functions nor urllib3. Neighbours:
`client.endpoint` for the connection, `client.activity` for the label; `client.verbs` is the command line over it.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from client import activity
from client.api import Api
from client.boot import Progress, boot_budget_s, failure, first, silent, usable, wait_ready
from client.endpoint import Endpoint
from client.errors import (
    Denied,
    Draining,
    EndpointError,
    ExollamaError,
    NoInstance,
    NotFound,
    OllamaError,
    SettingsError,
    StreamCut,
    Unreachable,
)
from client.model import Instance, foreign, number, others, owned_live, printable
from client.settings import Secret, Settings

log = logging.getLogger("exollama.session")

Wake = Callable[[], Mapping[str, Any]]
"""Provisions, waits until ready and returns provision's result: `{"id", …}`."""

Tidy = Callable[[list[Instance], str], Callable[[], None]]
"""Starts to reap what is overdue of a list, but not that one; returns what waits for its end."""

_TRIES = 4
MAX_LINE = 16 << 20  # bytes
_FENCE_PAUSE_S = 2.0
_FENCE_WAIT_S = 150.0  # the lease is 120 s


class Session:
    """What a client verb works with. `note` gets whole sentences for a person, `progress` what is going on."""

    def __init__(
        self,
        settings: Settings,
        api: Api,
        *,
        wake: Wake | None = None,
        tidy: Tidy | None = None,
        note: Callable[[str], None] = log.info,
        progress: Progress = silent,
    ) -> None:
        self.settings = settings
        self.api = api
        self._wake = wake
        self._tidy = tidy
        self._listed: list[Instance] = []
        self.finish: Callable[[], None] = lambda: None
        """Waits for the end of what was started beside `generate`."""
        self.used: Instance | None = None
        """The instance that answered last."""
        self._keys: dict[str, Secret] = {}
        self._note = note
        self._progress = progress

    def ready(self) -> tuple[Instance, Endpoint, dict[str, Any]]:
        """A running instance whose boot is through and that is not fenced, its endpoint, and its status.

        Wakes one where there is none. Raises NoInstance where that is not wanted, BootFailed, Untrusted, KeyRejected.
        """
        self._progress("looking for an instance", None, 0.0)
        instance = self.find()
        if instance:
            try:
                endpoint = self.endpoint(instance)
                status = endpoint.status()
                if usable(status):
                    return instance, endpoint, status
            except (Unreachable, NoInstance) as error:
                log.info("%s", error)
        if self._wake is None:
            return self._wait_without_waking(instance)
        woken = self._wake()
        self._tidy = None  # provision has tidied up already
        instance = self._by_id(str(woken["id"]))
        endpoint = self.endpoint(instance)
        return instance, endpoint, endpoint.status()

    def find(self) -> Instance | None:
        """The oldest running instance of our name in the zone, or None."""
        self._listed = self.api.list_known_zone()
        live = owned_live(self._listed, self.settings.name)
        return next((i for i in live if i.state == "running" and i.address), None)

    def endpoint(self, instance: Instance) -> Endpoint:
        """The endpoint of an instance, with the key of its user-data or, where that is denied, EXOSCALE_OLLAMA_KEY."""
        return Endpoint.of(instance, self.key(instance))

    def key(self, instance: Instance) -> Secret:
        """The endpoint's key. The user-data's wins; a differing EXOSCALE_OLLAMA_KEY is reported."""
        if instance.id not in self._keys:
            self._keys[instance.id] = self._read_key(instance)
        return self._keys[instance.id]

    def _read_key(self, instance: Instance) -> Secret:
        configured = self.settings.key
        try:
            seen = self.api.get_instance(instance.id)
        except Denied:
            if configured:
                return configured
            raise SettingsError(
                "The key of the endpoint is not known: these credentials may not read it from the instance. Either set "
                "EXOSCALE_OLLAMA_KEY, or allow the operation get-instance in the IAM role of the API key."
            ) from None
        except NotFound:
            raise NoInstance(f"Instance {instance.id} was removed just now.") from None
        if seen.foreign:
            raise ExollamaError(*foreign([seen]))
        header = seen.header()
        if header is None:
            if configured:
                return configured
            raise ExollamaError(
                f"The user-data of instance {instance.id} is not this project's. Set EXOSCALE_OLLAMA_KEY."
            )
        # One that was handed out with an instance before is known to differ; what makes another says so.
        if configured and configured != header.key and not self.settings.key_handed_out:
            self._note("EXOSCALE_OLLAMA_KEY differs from the key of the running instance; the instance's own is used.")
        return header.key

    def record(self, instance: Instance) -> None:
        """Record activity in its label where that is due; a failed write is logged and fails nothing."""
        if not activity.due(instance, self.api.now()):
            return
        try:
            activity.record(self.api, instance.id)
        except ExollamaError as error:
            log.warning("activity not recorded: %s", error)

    @contextmanager
    def active(self, instance: Instance) -> Iterator[None]:
        """Record activity before, each quarter of the idle timeout during, and after; a failed write fails nothing."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(activity.quarter_s(instance)):
                self.record(instance)

        self.record(instance)
        thread = threading.Thread(target=beat, name="exollama-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=5)
            self.record(instance)

    def generate(self, payload: Mapping[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
        """As the function `generate`, on an instance found or woken for it, whose activity is recorded meanwhile.

        Raises what `ready` raises, too. Whatever ends it, the connection is closed and nothing more is recorded.
        """

        @contextmanager
        def using() -> Iterator[Endpoint]:
            instance, endpoint, _status = self.ready()
            self.used = instance
            with self.active(instance):
                if self._tidy:
                    self.finish, self._tidy = self._tidy(self._listed, instance.id), None
                yield endpoint

        return generate(using, payload, on_text, note=self._note, progress=self._progress, sleep=self.api.sleep)

    # -- inside

    def _by_id(self, instance_id: str) -> Instance:
        listed = next((i for i in self.api.list_instances() if i.id == instance_id), None)
        try:
            return listed or self.api.get_instance(instance_id)  # lists may lag behind
        except (NotFound, Denied):
            raise NoInstance(
                f"Instance {instance_id} was removed while it was waited for. Run this again to get a new one."
            ) from None

    def _wait_without_waking(self, instance: Instance | None) -> tuple[Instance, Endpoint, dict[str, Any]]:
        if instance is None:
            raise NoInstance(
                f"There is no running instance named {self.settings.name} in {self.settings.zone}. "
                "Run `exollama provision`." + others(self._listed, self.settings.name)
            )
        endpoint = self.endpoint(instance)
        wait_ready(
            endpoint,
            budget_s=boot_budget_s(instance, self.api.now()),
            look=lambda: void(self._by_id(instance.id)),
            progress=first(
                lambda phase: self._note(f"Instance {instance.id} is not ready yet ({phase}); waiting for it."),
                self._progress,
            ),
            sleep=self.api.sleep,
        )
        began = time.monotonic()
        while (status := endpoint.status()).get("fence"):
            if time.monotonic() - began > _FENCE_WAIT_S:
                raise Draining(f"Instance {instance.id} is being removed. Run `exollama provision` for a new one.")
            self._progress("draining", None, time.monotonic() - began)
            self.api.sleep(_FENCE_PAUSE_S)
        if broken := failure(status):
            raise broken
        return instance, endpoint, status


def generate(
    using: Callable[[], AbstractContextManager[Endpoint]],
    payload: Mapping[str, Any],
    on_text: Callable[[str], None],
    *,
    note: Callable[[str], None],
    progress: Progress,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Run POST /api/generate, or /api/chat where the payload has `messages`, and return Ollama's last object.

    In it is the whole text, as `response` or as the content of `message`. `using` makes an instance ready for one try;
    `payload` is Ollama's; `on_text` gets each piece as it arrives, but nothing of what a model thinks. A fence is
    waited out and a model that is not there is pulled, both only while nothing has arrived. Raises OllamaError,
    StreamCut, and what `using` raises.
    """
    last: EndpointError | None = None
    for _ in range(_TRIES):
        with using() as endpoint:
            progress("waiting for the first token", None, 0.0)
            try:
                return _stream(endpoint, payload, on_text)
            except (Draining, Unreachable) as error:
                if not isinstance(error, Draining) and _answers(endpoint):
                    raise  # it is still there: a first token that took too long, say
                last = error
                note("The instance is about to be removed, or gone; waiting for it, or for a fresh one.")
                sleep(_FENCE_PAUSE_S)
            except OllamaError as error:
                model = str(payload["model"])
                if error.status != 404 or "not found" not in str(error):
                    raise
                note(f"The model {model} is not on the instance yet; pulling it.")
                pull(endpoint, model, progress)
    raise Draining(
        f"No instance took the request in {_TRIES} tries. Run this again in a few minutes. The last one: {last}"
    ) from last


def _answers(endpoint: Endpoint) -> bool:
    try:
        endpoint.status()
    except EndpointError:
        return False
    return True


def void(_: object) -> None:
    """Discard a value, where only the raising counts."""


def pull(endpoint: Endpoint, model: str, progress: Progress) -> None:
    """Have the instance pull a model. Raises OllamaError with Ollama's own words where it cannot."""
    began = time.monotonic()
    totals: dict[str, tuple[float, float]] = {}
    for item in _lines(endpoint, "/api/pull", {"model": model, "stream": True}):
        if item.get("error"):
            raise OllamaError(f"The model {model} cannot be pulled: {printable(item['error'])[:500]}", status=200)
        if item.get("digest") and (size := number(item.get("total"))):
            totals[str(item["digest"])] = (number(item.get("completed")) or 0.0, size)
        total = sum(size for _, size in totals.values())
        percent = 100 * sum(done for done, _ in totals.values()) / total if total else None
        progress("model", percent, time.monotonic() - began)
        if item.get("status") == "success":
            return
    raise StreamCut(f"The pull of {model} ended before it said success. Run this again; what was pulled is kept.")


def _stream(endpoint: Endpoint, payload: Mapping[str, Any], on_text: Callable[[str], None]) -> dict[str, Any]:
    talks = "messages" in payload
    text = ""
    # Closed here and now, also where a piece was not taken: until then the request counts as in flight.
    with closing(_lines(endpoint, "/api/chat" if talks else "/api/generate", payload)) as items:
        for item in items:
            if item.get("error"):
                raise OllamaError(
                    f"Ollama ended the answer with an error: {printable(item['error'])[:500]}", status=200
                )
            message = item.get("message")
            said = (message.get("content") if isinstance(message, dict) else None) if talks else item.get("response")
            if said:
                text += str(said)
                on_text(str(said))
            if item.get("done"):
                return item | ({"message": {"role": "assistant", "content": text}} if talks else {"response": text})
    raise StreamCut(
        f"The answer from {endpoint.url} was cut off after {len(text)} characters: the stream ended without its last "
        "line. What had arrived is above; run this again for a whole one."
    )


def _lines(endpoint: Endpoint, path: str, payload: Mapping[str, Any]) -> Generator[dict[str, Any]]:
    """The objects of an NDJSON answer as they arrive."""
    with endpoint.request("POST", path, dict(payload)) as answer:
        while line := answer.readline(MAX_LINE):
            try:
                item = json.loads(line)
            except (ValueError, RecursionError):
                item = None
            if not isinstance(item, dict):
                raise StreamCut(f"{endpoint.url}{path} sent a line that is no JSON object: {line[:80]!r}.")
            yield item
