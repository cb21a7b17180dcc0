"""`status`: the owned instances of all zones, from their labels and, where asked for, from themselves.

`python -m functions.status` is the verb; `run` is the same for other code. It changes nothing. Neighbours:
`functions.zones` lists, `functions.policy` says what a reaper would decide, when, and should have done;
`functions.shown` makes a table or metrics of the result, and `functions.watch` looks again and again.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from client import prices
from client.endpoint import Endpoint
from client.errors import Denied, ExollamaError, OutOfTime
from client.model import GONE, Instance, left_alone, printable
from client.settings import Settings
from client.transport import Send
from functions import policy
from functions.cloud import Cloud
from functions.protocol import ASKS, ask
from functions.transport import sparing_send
from functions.zones import WORKERS, Zone, foreign, side_by_side, survey


class _Word(NamedTuple):
    """What an instance said of itself, or why it said nothing; and how get-instance showed it, where that was asked.

    `silent` is as of `functions.policy`; `asked` is False where it was not even tried.
    """

    said: dict[str, Any] | None = None
    trouble: str = ""
    silent: bool = True
    asked: bool = False
    seen: Instance | None = None


def run(
    settings: Settings,
    *,
    probe: bool = False,
    check: bool = False,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Return `{"time", "prices_as_of", "zones", "unseen", "instances", "foreign", "failed", "notes"}`.

    Each instance is `{id, name, zone, state, type, disk_gib, model, address, created, activity, deadline, deadline_s,
    age_s, idle_s, idle_timeout_s, goes_in_s, hourly_cost, cost, stops, reap, said, overdue}`; None: not known.

    - Times are RFC 3339 UTC, `time` the API's own. `idle_s` is by its label or, with `probe`, by itself.
    - `goes_in_s`: after how long a reaper would end it if nobody used it again, 0 where it would now; None where
      nobody can say, as while it boots or is in use (see `functions.policy.goes_at`).
    - `hourly_cost`: about what an hour costs now, of a stopped one's disk only; `cost`: about what it has cost so far,
      and at most, where it `stops`: it is, or may have been, stopped for a time. Without the disk where `disk_gib` is
      None: lists do not show it, but who is asked has it. Prices are `prices_as_of` (year and month).
    - `reap`: what a reaper decides from the labels; `said`: the instance's own status or None; `overdue`: with `check`,
      and of whatever answered, why a reaper should have acted by now, else None.

    `zones` were looked at, `unseen` could not be. `foreign` is as of `functions.reap_idle.run`. `failed` holds
    sentences about zones, and about instances that could not be asked for want of a permission or of time; `notes`
    about what else is not known, and fails nothing. Raises ExollamaError where no zone could be looked at.
    """
    zones = survey(settings, send or sparing_send(), clock=clock, sleep=sleep)
    unasked: list[str] = []
    notes: list[str] = []
    types = side_by_side(lambda zone: _types(zone, notes), zones, at_once=WORKERS)

    def describe(work: tuple[Cloud, Instance, Mapping[str, str]]) -> dict[str, Any]:
        cloud, instance, names = work
        doubtful = check and policy.by_labels(instance, cloud.now()).verb is policy.Verb.ASK
        word = _Word()
        if probe or doubtful:
            try:
                word = _ask(cloud, instance, settings, tries=ASKS if doubtful else 1)
            except (Denied, OutOfTime) as error:  # that is our own silence, not the instance's
                word = _Word(silent=False)
                unasked.append(f"{instance.zone} {instance.id} was not asked: {error}")
        judged = check or word.said  # by its own word, or by a silence that was made sure of
        late = policy.overdue(instance, cloud.now(), word.said, silent=word.silent) if judged else None
        kind = instance.type or names.get(instance.type_id or "")
        return _describe(cloud, instance, word, kind) | {"overdue": late}

    work = [
        (zone.cloud, instance, names) for zone, names in zip(zones, types, strict=True) for instance in zone.instances
    ]
    instances = side_by_side(describe, work, at_once=WORKERS)
    seen = [zone for zone in zones if not zone.trouble]
    return {
        "time": (seen or zones)[0].cloud.now().isoformat(timespec="seconds"),
        "prices_as_of": prices.listed()["as_of"],
        "zones": [zone.name for zone in seen],
        "unseen": [zone.name for zone in zones if zone.trouble],
        "instances": instances,
        "foreign": foreign(zones),
        "failed": [zone.trouble for zone in zones if zone.trouble] + unasked,
        "notes": sorted(set(notes)),
    }


def _types(zone: Zone, notes: list[str]) -> dict[str, str]:
    """The names of the types by their ids, where an instance's is not known; best effort, since only costs need it."""
    if not any(instance.type_id and not instance.type for instance in zone.instances):
        return {}
    try:
        return zone.cloud.type_names()
    except ExollamaError as error:
        notes.append(f"Types and costs are not known: {error}")
        return {}


def _ask(cloud: Cloud, instance: Instance, settings: Settings, *, tries: int) -> _Word:
    """As `functions.protocol.ask`, with whatever else there may be in the way of asking. Raises Denied, OutOfTime."""
    try:
        seen = cloud.get_instance(instance.id)
        if seen.foreign:
            return _Word(trouble=left_alone(seen.foreign), silent=False, asked=True, seen=seen)
        header = seen.header()
        key = header.key if header else settings.key
        if key is None or seen.address is None or seen.state != "running":
            return _Word(trouble=f"{seen.state}; its key or its address is not known", asked=True, seen=seen)
        said, trouble, silent = ask(cloud, Endpoint.of(seen, key), tries=tries)
        return _Word(said, trouble, silent, asked=True, seen=seen)
    except (Denied, OutOfTime):
        raise
    except ExollamaError as error:
        return _Word(trouble=str(error), asked=True)


def _describe(cloud: Cloud, instance: Instance, word: _Word, kind: str | None) -> dict[str, Any]:
    now = cloud.now()
    said = word.said or ({"trouble": word.trouble} if word.asked else None)
    activity, deadline = instance.activity(now), instance.policy.deadline
    decision = policy.by_labels(instance, now)
    goes_at = policy.goes_at(instance, now, word.said, silent=word.silent if word.asked else None)
    # The API's Date has whole seconds, so that what was just created would be younger than nothing.
    age_s = max(0.0, (now - instance.created).total_seconds()) if instance.created else None
    idle_s = None if activity is None else max(0.0, (now - activity).total_seconds())
    if said and "idle_s" in said:
        idle_s = said["idle_s"]
    disk_gib = word.seen.disk_gib if word.seen else instance.disk_gib
    running = prices.hourly_cost(kind, disk_gib or 0) if kind else None
    hourly = None if instance.state in GONE else running
    if instance.state == "stopped":
        hourly = disk_gib and prices.disk_hourly_cost(disk_gib)
    cost = prices.cost_so_far(running, age_s)
    return {
        "id": instance.id,
        "name": printable(instance.owned_name),
        "zone": instance.zone,
        "state": instance.state,
        "type": kind,
        "disk_gib": disk_gib,
        "model": instance.model,
        "address": instance.address,
        "created": instance.created and instance.created.isoformat(),
        "activity": activity and activity.isoformat(),
        "deadline": deadline and deadline.isoformat(),
        "deadline_s": deadline and round((deadline - now).total_seconds()),
        "age_s": None if age_s is None else round(age_s),
        "idle_s": idle_s and round(idle_s),
        "idle_timeout_s": instance.policy.idle_s,
        "goes_in_s": goes_at and math.ceil((goes_at - now).total_seconds()),
        "hourly_cost": hourly and round(hourly, 6),
        "cost": cost and round(cost, 6),
        "stops": instance.state == "stopped" or instance.policy.action == "stop",
        "reap": {"decision": decision.verb.value, "reason": decision.reason},
        "said": said,
    }


def overdue(result: dict[str, Any]) -> list[str]:
    """What a reaper should have removed by now, a sentence each, of a result with `check`."""
    return [
        f"{one['zone']} {one['id']} ({one['name']}) should be gone: {one['overdue']}. Does a reaper run (cron), and "
        "can it reach port 11435? Try: exollama reap"
        for one in result["instances"]
        if one["overdue"]
    ]


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.status", verb="status"))
