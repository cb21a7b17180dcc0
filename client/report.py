"""What a forwarder says of itself, under /.exollama/status: as JSON, or as Prometheus reads it.

Neighbours: `client.forwarder`, whose numbers these are. None of the paths under /.exollama leads to an instance.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from client import metrics
from client.exchange import Reply, error
from client.http1 import RequestHead

if TYPE_CHECKING:
    from client.forwarder import Forwarder

PATH: Final = b"/.exollama/status"
PAGES: Final = (b"/.exollama/", b"/.exollama")
"""Where `client.glance` answers a person."""
_STATES: Final = ("asleep", "waking", "ready", "failed")
OUTCOMES: Final = ("forwarded", "local", "repeated", "refused", "malformed", "broken", "left")


def answer(forwarder: Forwarder, head: RequestHead) -> Reply:
    """The status for whoever asks: Prometheus by its Accept or `?format=prometheus`, JSON for everybody else."""
    if head.path != PATH:
        if head.path not in PAGES:
            message = (
                "of /.exollama only /.exollama/ and /.exollama/status are answered here; the rest is the instance's"
            )
            return error(404, message)
        return error(405, "GET is expected", fields=b"Allow: GET, HEAD\r\n")
    if head.method not in (b"GET", b"HEAD"):
        return error(405, "GET is expected", fields=b"Allow: GET, HEAD\r\n")
    said = status(forwarder)
    forwarder.keeper.looked_at()
    query = head.target.partition(b"?")[2]
    accept = "".join(line.decode("latin-1") for line in head.fields if line[:7].lower() == b"accept:")
    if b"format=prometheus" in query or metrics.accepted(accept):
        return Reply(200, prometheus(said).encode(), content_type=metrics.CONTENT_TYPE.encode())
    return Reply(200, json.dumps(said).encode())


def status(forwarder: Forwarder) -> dict[str, Any]:
    """State, phase, requests, idle seconds, deadline. Seconds are None where nothing has happened yet."""
    keeper = forwarder.keeper
    place, waking = keeper.place, keeper.state == "waking"
    return {
        "state": "stopping" if forwarder.closing else keeper.state,
        "phase": keeper.board.phase or None if waking else None,
        "percent": keeper.board.percent if waking else None,
        "waking_s": round(keeper.waking_s, 1) if waking else None,
        "error": keeper.failure,
        "instance": place and {"id": place.id, "zone": place.zone, "address": place.address},
        "idle_s": None if math.isinf(keeper.idle_s) else round(keeper.idle_s, 1),
        "idle_timeout_s": place and place.idle_s,
        "deadline": place.deadline.isoformat() if place and place.deadline else None,
        "in_flight": max(0, forwarder.active - keeper.held - 1),  # but for whoever asks for this
        "held": keeper.held,
        "wakes": keeper.woken,
        "requests": {outcome: forwarder.counts[outcome] for outcome in OUTCOMES},
        "uptime_s": round(forwarder.now() - forwarder.began, 1),
    }


def prometheus(said: dict[str, Any]) -> str:
    """The same as metrics (text format 0.0.4); what is None is left out."""
    deadline = said["deadline"] and datetime.fromisoformat(said["deadline"]).timestamp()
    gauges = {
        "waking_percent": said["percent"],
        "waking_seconds": said["waking_s"],
        "idle_seconds": said["idle_s"],
        "idle_timeout_seconds": said["idle_timeout_s"],
        "deadline_timestamp_seconds": deadline,
        "requests_in_flight": said["in_flight"],
        "requests_held": said["held"],
        "uptime_seconds": said["uptime_s"],
    }
    states = [({"state": name}, int(said["state"] == name)) for name in (*_STATES, "stopping")]
    requests = [({"outcome": name}, count) for name, count in said["requests"].items()]
    families = [
        metrics.family("exollama_state", states),
        metrics.family("exollama_phase", [({"phase": said["phase"]}, 1)] if said["phase"] else []),
        *(
            metrics.family(f"exollama_{name}", [({}, value)] if value is not None else [])
            for name, value in gauges.items()
        ),
        metrics.family("exollama_wakes_total", [({}, said["wakes"])], kind="counter"),
        metrics.family("exollama_requests_total", requests, kind="counter"),
    ]
    return "".join(families)
