"""One machine that nobody uses, a pass over it, and what the API may answer to its destruction."""

from datetime import timedelta
from typing import Any

from client.errors import Conflict, Denied, Unanswered
from functions.protocol import Outcome, reap_one
from tests.fakes import DAY, NOW, Machine, World, label_map

IDLE = NOW - timedelta(hours=5)
LOST = Unanswered("DELETE", "/instance/a", "connection reset", sent=True)
UNSENT = Unanswered("DELETE", "/instance/a", "cannot connect", sent=False)
BUSY = Conflict("DELETE", "/instance/a", 409, "Operation not permitted: protected (409).")
DENIED = Denied("DELETE", "/instance/a", 403, "Forbidden by role policy for compute.")


def idle(**changes: Any) -> Machine:
    """A machine that nobody uses: a day old, idle by its label and by its own word."""
    given: dict[str, Any] = {"id": "a", "created": NOW - DAY, "labels": label_map(activity=IDLE), "idle_s": 9999.0}
    return Machine(**(given | changes))


def reap(world: World, **given: Any) -> Outcome:
    """One pass over the only instance, as a list shows it now."""
    (listed,) = world.list_instances()
    world.calls.clear()
    return reap_one(world, world.connect, listed, **given)
