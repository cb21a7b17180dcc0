"""Where a forwarder's instance comes from: the API, with credentials, or a provision function's URL, without.

Everything here waits on the network and runs in threads of its own. Neighbours: `client.keeper` asks; a `Session`
finds and wakes. Imports nothing of functions: waking and tidying are callables, as for the session.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from client import activity
from client.boot import Board, usable
from client.endpoint import Endpoint
from client.errors import EndpointError, ExollamaError, SettingsError
from client.model import Instance, printable
from client.session import Session
from client.settings import Secret, endpoint_key
from client.transport import Disconnected, Request, Response, Send, http_client_send
from client.turn import Turn

log = logging.getLogger("exollama.source")

_POLL_S: Final = 0.5
_LOOK_S: Final = 10.0
_MARGIN_S: Final = 300.0
"""How much longer than its boot timeout another process may take to wake an instance."""
_ASK_S: Final = 60.0
_WAIT_S: Final = 5.0
_MAX_WAIT_S: Final = 30.0
_PATIENCE_S: Final = 3600.0
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A running instance that is ready, its certificate proved. `idle_s`: its idle timeout in seconds."""

    id: str
    zone: str
    address: str
    port: int
    key: Secret
    fingerprint: str
    idle_s: float
    deadline: datetime | None

    @property
    def hop(self) -> bytes:
        """The lines of a request's head that are this hop's own, the key among them."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"Host: {host}:{self.port}\r\nX-Ollama-Key: {self.key.reveal()}\r\n".encode()


class Source(Protocol):
    """What a keeper asks, one question at a time but for `record` and `tidy`. All raise ExollamaError."""

    wakes: bool
    """Whether it can wake an instance, rather than only find one."""

    def look(self) -> Place | None:
        """An instance that is ready now, without waking any."""

    def wake(self) -> Place:
        """An instance that is ready, however long that takes."""

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> None:
        """Record in its label that it was used so many seconds ago; `always`: also if that says little new."""

    def tidy(self, spare: str) -> None:
        """Reap what is overdue, but not that one."""


class ByCredentials:
    """The API is asked. `session` finds, waits and wakes; `board` is where it says what it is doing."""

    def __init__(
        self, session: Session, board: Board, *, wakes: bool, tidy: Callable[[str], None] | None = None
    ) -> None:
        self.session = session
        self.wakes = wakes
        self._board = board
        self._tidy = tidy
        self._asking = threading.Lock()

    def look(self) -> Place | None:
        """As in Source."""
        with self._asking:
            return self._ready()

    def wake(self) -> Place:
        """As in Source. Of several processes on this machine one wakes; the others wait, and then find it."""
        with self._asking, contextlib.closing(Turn(self.session.settings)) as turn:
            if place := self._waited(turn):
                return place
            with self._board.copied(turn.say):
                instance, endpoint, _ = self.session.ready()
            endpoint.close()
            return self._place(instance, endpoint)

    def _waited(self, turn: Turn) -> Place | None:
        """Wait for the turn, or for what another process woke; for no longer than a boot takes."""
        began = looked = time.monotonic()
        while not turn.take():
            self._board.copy(turn.said())
            time.sleep(_POLL_S)
            now = time.monotonic()
            if now - began > self.session.settings.boot_s + _MARGIN_S:
                log.warning("another process has been waking an instance for %.0f s; waking beside it", now - began)
                return None
            if now - looked > _LOOK_S:
                looked = now
                with contextlib.suppress(ExollamaError):  # it is looked for again
                    if place := self._ready():
                        return place
        return None

    def _ready(self) -> Place | None:
        instance = self.session.find()
        if instance is None:
            return None
        endpoint = self.session.endpoint(instance)
        with contextlib.closing(endpoint):
            status = endpoint.status()
        return self._place(instance, endpoint) if usable(status) else None

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> None:
        """As in Source."""
        activity.record(self.session.api, place.id, used_ago_s=used_ago_s, always=always)

    def tidy(self, spare: str) -> None:
        """As in Source."""
        if self._tidy:
            self._tidy(spare)

    def _place(self, instance: Instance, endpoint: Endpoint) -> Place:
        assert endpoint.fingerprint
        return Place(
            id=instance.id,
            zone=instance.zone,
            address=endpoint.address,
            port=endpoint.port,
            key=self.session.key(instance),
            fingerprint=endpoint.fingerprint,
            idle_s=instance.policy.idle_s,
            deadline=instance.policy.deadline,
        )


class ByUrl:
    """A provision function is asked (EXOLLAMA_PROVISION_URL), which has the credentials. It answers 202 until ready.

    POST `{"action": "provision"}` with `Authorization: Bearer TOKEN` returns 200 and provision's result, the key in
    it; or 202 with `{"phase", "percent"}` and Retry-After in seconds; or `{"error"}`.
    """

    wakes = True

    def __init__(
        self,
        url: str,
        token: Secret,
        board: Board,
        *,
        send: Send = http_client_send,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url
        parts = urlsplit(url)
        self._where = f"{parts.scheme}://{parts.netloc}{parts.path}"  # some carry a key in their query
        self._token = token
        self._board = board
        self._send = send
        self._sleep = sleep
        self._place: Place | None = None

    def look(self) -> Place | None:
        """As in Source: the instance that it was sent to last, if that is still ready. The function is not asked."""
        place = self._place
        if place is None:
            return None
        with contextlib.closing(Endpoint(place.address, place.key, port=place.port)) as endpoint:
            try:
                status = endpoint.status()
            except EndpointError as error:
                log.info("%s", error)
                return None
        return place if usable(status) else None

    def wake(self) -> Place:
        """As in Source."""
        began, failures = time.monotonic(), 0
        while True:
            try:
                answer = self._ask()
            except Disconnected as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise ExollamaError(
                        f"The provision function does not answer: {error}. Is EXOLLAMA_PROVISION_URL right, and does "
                        "the function run?"
                    ) from error
                self._sleep(min(2.0**failures, _MAX_WAIT_S))
                continue
            said = _said(answer)
            if answer.status == 200:
                self._place = self._reached(said)
                return self._place
            if answer.status in (401, 403):
                its_words = f" It says: {_words(answer, said)}" if said.get("error") else ""
                raise SettingsError(
                    f"{self._where} refuses EXOLLAMA_FUNCTION_TOKEN ({answer.status}): set it to the function's own."
                    f"{its_words}"
                )
            # Whoever says why has tried, and may have paid for it: trying again is the keeper's to put off.
            passing = answer.status in (429, 502, 503, 504) and not said.get("error")
            failures += passing
            if failures == _ATTEMPTS or (answer.status != 202 and not passing):
                raise ExollamaError(f"The provision function failed ({answer.status}): {_words(answer, said)}")
            if time.monotonic() - began > _PATIENCE_S:
                raise ExollamaError(f"The provision function was asked for {_PATIENCE_S:.0f} s, and is not done.")
            phase = printable(said.get("phase") or "provisioning")[:40]
            self._board(phase, _percent(said.get("percent")), time.monotonic() - began)
            after = answer.headers.get("retry-after", "")
            self._sleep(min(float(after) if re.fullmatch("[0-9]{1,6}", after) else _WAIT_S, _MAX_WAIT_S))

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> None:
        """Nothing: labels are for who has credentials, and the instance itself knows of its requests."""

    def tidy(self, spare: str) -> None:
        """Nothing: that is for who has credentials."""

    def _ask(self) -> Response:
        headers = {"Authorization": f"Bearer {self._token.reveal()}", "Content-Type": "application/json"}
        return self._send(Request("POST", self._url, headers, b'{"action":"provision"}', _ASK_S))

    def _reached(self, said: dict[str, Any]) -> Place:
        what = "key"
        try:
            key = endpoint_key(str(said.get("key")))
            what = "url"
            parts = urlsplit(str(said.get("url")))
            address, port = parts.hostname, parts.port
            if not address or not port:
                raise ValueError
            what = "deadline"
            deadline = datetime.fromisoformat(said["deadline"]) if said.get("deadline") else None
        except (ValueError, TypeError):
            raise ExollamaError(
                f"The provision function's answer (200) has no {what} that can be used. It has to be the result of "
                "functions.provision.run as JSON, with the key revealed."
            ) from None
        if deadline and deadline.tzinfo is None:
            deadline = deadline.replace(tzinfo=UTC)
        with contextlib.closing(Endpoint(address, key, port=port)) as endpoint:
            status = endpoint.status()
        idle_s = status.get("policy", {}).get("idle_s") if isinstance(status.get("policy"), dict) else None
        assert endpoint.fingerprint
        return Place(
            id=str(said.get("id")),
            zone=str(said.get("zone")),
            address=address,
            port=port,
            key=key,
            fingerprint=endpoint.fingerprint,
            idle_s=float(idle_s) if isinstance(idle_s, int | float) else 1800.0,
            deadline=deadline,
        )


def _percent(value: object) -> float | None:
    """A share as it was said, if it is one."""
    return float(value) if isinstance(value, int | float) and 0 <= value <= 100 else None


def _words(answer: Response, said: dict[str, Any]) -> str:
    """Why it failed, in its own words. An answer of another shape may have a key in it, and is not shown."""
    if said:
        return printable(said.get("error") or "it does not say why")[:500]
    return printable(answer.body[:200].decode("utf-8", "replace"))


def _said(answer: Response) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}
