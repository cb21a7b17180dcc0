"""Where a forwarder's instance comes from: the API, with credentials, or a provision function's URL, without.

Everything here waits on the network and runs in threads of its own. Neighbours: `client.keeper` asks; a `Session`
finds and wakes. Imports nothing of functions: waking and tidying are callables, as for the session.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from client import activity
from client.boot import Board, usable
from client.endpoint import Endpoint
from client.errors import EndpointError, ExollamaError
from client.function import Function
from client.model import Instance
from client.prices import hourly_cost
from client.session import Session
from client.settings import Secret
from client.turn import Turn

log = logging.getLogger("exollama.source")

_POLL_S: Final = 0.5
_LOOK_S: Final = 10.0
_MARGIN_S: Final = 300.0
"""How much longer than its boot timeout another process may take to wake an instance."""


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

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        """Record in its label that it was used so many seconds ago; `always`: also if that says little new.

        False where nothing was written: it says little new, or the instance is gone.
        """

    def tidy(self, spare: str) -> None:
        """Reap what is overdue, but not that one."""

    def facts(self, place: Place) -> dict[str, Any]:
        """What else is known of it: name, model, created, type, disk_gib, hourly_cost, stops, or nothing."""


class ByCredentials:
    """The API is asked. `session` finds, waits and wakes; `board` is where it says what it is doing."""

    def __init__(
        self, session: Session, board: Board, *, wakes: bool, tidy: Callable[[str], None] | None = None
    ) -> None:
        self.session = session
        self.instance: Instance | None = None
        """The one that was found or woken last."""
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

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:
        """As in Source."""
        return activity.record(self.session.api, place.id, used_ago_s=used_ago_s, always=always)

    def tidy(self, spare: str) -> None:
        """As in Source."""
        if self._tidy:
            self._tidy(spare)

    def facts(self, place: Place) -> dict[str, Any]:
        """As in Source, as far as these credentials may see it; the types are shown to anybody."""
        try:
            seen = self.session.api.get_instance(place.id)
        except ExollamaError as trouble:
            log.info("nothing more is known of the instance: %s", trouble)
            return {}
        kind = seen.type
        if kind is None:
            with contextlib.suppress(ExollamaError):
                kind = self.session.api.type_names().get(seen.type_id or "")
        return {
            "name": seen.owned_name,
            "model": seen.model,
            "created": seen.created and seen.created.isoformat(),
            "type": kind,
            "disk_gib": seen.disk_gib,
            "hourly_cost": hourly_cost(kind, seen.disk_gib) if kind and seen.disk_gib else None,
            "stops": seen.policy.action == "stop",
        }

    def _place(self, instance: Instance, endpoint: Endpoint) -> Place:
        assert endpoint.fingerprint
        self.instance = instance
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
    """A provision function is asked (EXOLLAMA_PROVISION_URL), which has the credentials."""

    wakes = True

    def __init__(self, function: Function) -> None:
        self._function = function
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
        found = self._function.provision()
        with contextlib.closing(found.endpoint()) as endpoint:
            status = endpoint.status()
        idle_s = status.get("policy", {}).get("idle_s") if isinstance(status.get("policy"), dict) else None
        assert endpoint.fingerprint
        self._place = Place(
            id=found.id,
            zone=found.zone,
            address=found.address,
            port=found.port,
            key=found.key,
            fingerprint=endpoint.fingerprint,
            idle_s=float(idle_s) if isinstance(idle_s, int | float) else 1800.0,
            deadline=found.deadline,
        )
        return self._place

    def record(self, place: Place, used_ago_s: float, *, always: bool = False) -> bool:  # noqa: ARG002 - as the others
        """Nothing: labels are for who has credentials, and the instance itself knows of its requests."""
        return True

    def tidy(self, spare: str) -> None:
        """Nothing: that is for who has credentials."""

    def facts(self, place: Place) -> dict[str, Any]:  # noqa: ARG002 - as the others
        """Nothing: the API is asked with credentials, which the function has."""
        return {}
