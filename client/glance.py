"""What a forwarder's page shows of its instance: asked of the instance itself, only while somebody looks, and seldom.

Looking wakes nothing and counts as no use, on the instance neither; no request waits for it. Neighbours:
`client.forwarder` answers with it, `client.keeper` knows the instance, `client.page` draws it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from client import page, report
from client.boot import Board
from client.endpoint import Endpoint
from client.errors import ExollamaError, Unreachable
from client.exchange import Reply
from client.keeper import Keeper, in_thread
from client.prices import cost_so_far, listed
from client.source import Place

if TYPE_CHECKING:
    from client.forwarder import Forwarder

log = logging.getLogger("exollama.glance")

_FRESH_S: Final = 2.0
"""For how long what an instance said is shown again."""
_AGAIN_S: Final = 60.0
"""After how long the API is asked once more what it did not say of an instance."""
_PATIENCE_S: Final = 3.0


class Glance:
    """What was seen last. Lives in the forwarder's loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said: dict[str, Any] | None = None
        self._facts: Mapping[str, Any] = {}
        self._of = ""
        self._until = self._facts_until = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def page(self, forwarder: Forwarder) -> Reply:
        """The page, with what can be had of the instance within some seconds."""
        keeper = forwarder.keeper
        await keeper.there()
        shown = await self._instance(keeper)
        result = {
            "instances": [shown] if shown else [],
            "failed": [keeper.unseen] if keeper.unseen and keeper.state == "asleep" else [],
            "time": datetime.now(UTC).isoformat(),
            "prices_as_of": listed()["as_of"] if shown and shown.get("hourly_cost") else None,
        }
        fields = "".join(f"{name}: {value}\r\n" for name, value in page.headers().items())
        text = page.html(result, report.status(forwarder) | {"may_wake": keeper.source.wakes})
        return Reply(200, text.encode(), fields.encode(), content_type=page.CONTENT_TYPE.encode())

    async def _instance(self, keeper: Keeper) -> dict[str, Any] | None:
        """The instance in the shape of one of `functions.status.run`'s, as far as it is known."""
        if keeper.state == "waking":
            return {"name": self._name, "state": "running", "said": {"boot": _waking(keeper.board, keeper.waking_s)}}
        place = keeper.place
        if place is None or keeper.pool is None:
            return None
        if self._of != place.id:
            self._of, self._said, self._facts = place.id, None, {}
            self._until = self._facts_until = -math.inf
        if self._asking is None and asyncio.get_running_loop().time() >= self._until:
            self._asking = asyncio.get_running_loop().create_task(self._ask(keeper, place))
        if self._asking:
            await asyncio.wait({self._asking}, timeout=_PATIENCE_S)
        said = self._said or {}
        return {
            "id": place.id,
            "name": self._name,
            "zone": place.zone,
            "state": "running",
            "address": place.address,
            "idle_timeout_s": place.idle_s,
            "idle_s": said.get("idle_s"),
            "goes_in_s": _goes_in_s(place, said),
            "deadline": place.deadline and place.deadline.isoformat(),
            "said": self._said,
            **self._facts,
            **_cost(self._facts),
        }

    async def _ask(self, keeper: Keeper, place: Place) -> None:
        loop = asyncio.get_running_loop()
        try:
            try:
                said = await in_thread(lambda: _status(place))
            except ExollamaError as error:
                said = {"trouble": str(error)}
                if type(error) is Unreachable and keeper.pool and keeper.place == place and not keeper.in_use:
                    keeper.suspect(keeper.pool, str(error))  # it has been removed, perhaps: the API is asked next
            facts = self._facts
            if not facts and loop.time() >= self._facts_until:
                facts = await in_thread(lambda: keeper.source.facts(place))
                self._facts_until = loop.time() + _AGAIN_S
            if self._of == place.id:
                self._said, self._facts = said, facts
        except Exception:
            log.exception("nothing was seen")
        finally:
            self._asking, self._until = None, loop.time() + _FRESH_S


def _status(place: Place) -> dict[str, Any]:
    """What an instance says of itself. Raises ExollamaError."""
    with contextlib.closing(Endpoint(place.address, place.key, port=place.port)) as endpoint:
        endpoint.fingerprint = place.fingerprint
        return endpoint.status()


def _waking(board: Board, waking_s: float) -> dict[str, Any]:
    """A boot as it was seen from here, in the shape in which an instance tells of its own."""
    phase = board.phase if board.phase not in ("", "ready") else "starting"
    done = [{"phase": name, "seconds": seconds} for name, seconds in dict(board.seconds).items() if name != phase]
    return {"phase": phase, "percent": board.percent, "elapsed_s": waking_s, "phases": done}


def _goes_in_s(place: Place, said: Mapping[str, Any]) -> float | None:
    """Seconds until it has been idle for long enough, or its deadline comes; None while it is in use, or not known."""
    if "idle_s" not in said or said["in_flight"]:
        return None
    left_s: float = place.idle_s - said["idle_s"]
    if place.deadline:
        left_s = min(left_s, (place.deadline - datetime.now(UTC)).total_seconds())
    return max(0.0, left_s)


def _cost(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Its age, and about what it has cost if it ran all the while."""
    created, hourly = facts.get("created"), facts.get("hourly_cost")
    if not created:
        return {}
    age_s = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    return {"age_s": age_s, "cost": cost_so_far(hourly, age_s)}
