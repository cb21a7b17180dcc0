"""The activity label: the one label that changes, written at most once per instance and quarter of its idle timeout.

PUT replaces the whole map and there is no ETag: read, refuse unless the map read shows our ownership, merge, write,
read again and repair once. What another writer changed between our read and our write is lost (a test shows that
window). Neighbours: `client.api` carries it out; provision and every client verb call it. Imports labels, model and
errors only.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from client import labels
from client.errors import ApiError, Conflict, OperationFailed, Unanswered
from client.model import Instance

log = logging.getLogger("exollama.activity")

_ATTEMPTS = 3
_BUSY_S = 2.0


class LabelStore(Protocol):
    """The part of the API that is used here; `sleep` takes seconds."""

    sleep: Callable[[float], None]

    def now(self) -> datetime: ...
    def list_instances(self) -> list[Instance]: ...
    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None: ...


def quarter_s(instance: Instance) -> float:
    """Seconds between two label writes: a quarter of the instance's idle timeout."""
    return instance.policy.idle_s / 4


def due(instance: Instance, now: datetime, used_ago_s: float = 0.0) -> bool:
    """Whether its label, as it was read, is old enough to be written again for a use so many seconds ago."""
    last = instance.activity(now)
    return last is None or (now - last).total_seconds() - used_ago_s >= quarter_s(instance)


def record(store: LabelStore, instance_id: str, *, used_ago_s: float = 0.0, always: bool = False) -> bool:
    """Write into the activity label when it was used, so many seconds ago by the API's time; True where it was written.

    Skipped where the label is not older than that by a quarter of the idle timeout (unless `always`), the instance is
    gone, or its labels show no ownership. Raises Conflict or OperationFailed where it stays busy, and what the API
    raises.
    """
    ours: datetime | None = None
    for attempt in range(_ATTEMPTS):
        now = store.now()
        current = next((i for i in store.list_instances() if i.id == instance_id), None)
        if current is None or not current.owned:
            log.warning("instance %s is gone or no longer ours: activity not recorded", instance_id)
            return False
        last, used = current.activity(now), now - timedelta(seconds=used_ago_s)
        if ours:
            if last and last >= ours:
                return True  # read again: it stands
        elif not always and not due(current, now, used_ago_s):
            return False
        moment = max(used, last or used).replace(microsecond=0)
        repairing = ours is not None
        try:
            store.put_labels(instance_id, {**current.labels, labels.ACTIVITY: labels.time(moment)})
        except (ApiError, OperationFailed) as error:
            # Busy, or no answer: it is read and written again.
            passing = isinstance(error, OperationFailed | Conflict | Unanswered) or error.status >= 500
            if not passing or attempt == _ATTEMPTS - 1:
                raise
            store.sleep(_BUSY_S)
            continue
        if repairing:
            return True  # once; whoever writes at the very same time again has to live with it
        ours = moment
    return ours is not None
