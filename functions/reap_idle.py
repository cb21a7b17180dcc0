"""`reap_idle`: remove the instances that nobody uses, in all zones. For cron, CI and FaaS; overlapping runs are safe.

`python -m functions.reap_idle` is the verb; `run` is the same for other code. One failure stops no other. Neighbours:
`functions.protocol` does one instance, `functions.policy` decides; both are imported once there is an instance, as an
endpoint is, since most passes find none.
"""

from __future__ import annotations

import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from client.settings import Settings
from client.transport import Send
from functions.cloud import Cloud
from functions.transport import sparing_send, urllib3_send
from functions.zones import foreign, nothing, side_by_side, survey

if TYPE_CHECKING:
    from client.model import Instance
    from functions.protocol import Outcome

log = logging.getLogger("exollama.reap")

AT_ONCE = 10
"""Instances that are asked or removed at the same time."""
FINISH_S = 30.0
"""How long another verb waits at its end for what it tidies up; the deed itself needs nobody to wait."""


def run(
    settings: Settings,
    *,
    dry_run: bool = False,
    name: str | None = None,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Make one pass and return `{"dry_run", "zones", "instances": […], "foreign": […], "failed": […]}`.

    Over one name only with `name`. Each instance is `{id, name, zone, outcome, reason}` with outcome kept, destroyed,
    stopped, planned, failed or, where `send` or `sleep` raise OutOfTime, begun or unfinished. `foreign` are those that
    another version made, each `{id, name, zone, state, version, reason}`: they are left alone. `failed` holds sentences
    about zones that could not be looked at. Raises ExollamaError where no zone could be.
    """
    zones = survey(settings, send or sparing_send(), clock=clock, sleep=sleep)
    work = [
        (zone.cloud, instance)
        for zone in zones
        for instance in zone.instances
        if name is None or instance.owned_name == name
    ]
    outcomes = _reap(work, settings, dry_run=dry_run) if work else []
    return {
        "dry_run": dry_run,
        "zones": [zone.name for zone in zones if not zone.trouble],
        "instances": [shown(outcome) for outcome in outcomes],
        "foreign": [one for one in foreign(zones) if name in (None, one["name"])],
        "failed": [zone.trouble for zone in zones if zone.trouble],
    }


def _reap(work: Sequence[tuple[Cloud, Instance]], settings: Settings, *, dry_run: bool) -> list[Outcome]:
    from client.endpoint import Endpoint
    from functions.protocol import reap_one

    def reap(index: int) -> tuple[int, Outcome]:
        cloud, instance = work[index]
        return index, reap_one(cloud, Endpoint.of, instance, dry_run=dry_run, key=settings.key)

    # In any order, so that passes that are cut short do not all end before the same instances.
    order = secrets.SystemRandom().sample(range(len(work)), len(work))
    return [outcome for _, outcome in sorted(side_by_side(reap, order, at_once=AT_ONCE), key=itemgetter(0))]


def tidy(
    settings: Settings,
    listed: Iterable[Instance],
    spare: str,
    *,
    note: Callable[[str], None],
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> Callable[[], None]:
    """Reap what is overdue among the instances `listed` in EXOSCALE_ZONE beside other work, but never `spare`.

    Returns at once, with what waits for its end (at most FINISH_S) and notes what was removed. What the credentials
    do not allow is logged and fails nothing: whoever cut it short leaves no more behind than a reaper that died.
    """
    from functions.policy import Verb, by_labels

    now = datetime.fromtimestamp(clock(), UTC)
    due = [i for i in listed if i.owned and i.id != spare and by_labels(i, now).verb is not Verb.KEEP]
    if not due:
        return lambda: None  # as nearly always, and urllib3 was not even imported
    from client.endpoint import Endpoint
    from functions.protocol import reap_one

    cloud = Cloud(settings, settings.zone, send or urllib3_send(), clock=clock, sleep=sleep)
    removed: list[Outcome] = []

    def reap(instance: Instance) -> None:
        outcome = reap_one(cloud, Endpoint.of, instance, key=settings.key)
        log.info("%s %s: %s", outcome.outcome, instance.id, outcome.reason)
        if outcome.outcome in ("destroyed", "stopped"):
            removed.append(outcome)

    thread = threading.Thread(target=side_by_side, args=(reap, due), kwargs={"at_once": AT_ONCE}, daemon=True)
    thread.start()

    def finish() -> None:
        thread.join(FINISH_S)
        while removed:
            one = removed.pop()
            said = shown(one)
            note(f"Instance {said['id']} ({said['name']}) was {one.outcome} on the way: {one.reason}.")

    return finish


def shown(outcome: Outcome) -> dict[str, str]:
    """One instance of a result."""
    from client.model import printable

    instance = outcome.instance
    return {
        "id": instance.id,
        "name": printable(instance.owned_name),
        "zone": instance.zone,
        "outcome": outcome.outcome,
        "reason": outcome.reason,
    }


def text(result: dict[str, Any]) -> str:
    """A result in words, one line per instance."""
    lines = [f"{i['outcome']:<9} {i['zone']} {i['name']} {i['id']}: {i['reason']}" for i in result["instances"]]
    return "\n".join(lines) or nothing(result)


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.reap_idle", verb="reap"))
