"""`status`: the owned instances of all zones, from their labels and, where asked for, from themselves.

`python -m functions.status` is the verb; `run` is the same for other code. It changes nothing. Neighbours:
`functions.zones` lists, `functions.policy` says what a reaper would decide, and should have done.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from client.endpoint import Endpoint
from client.errors import Denied, ExollamaError, OutOfTime
from client.model import Instance
from client.settings import Settings
from client.transport import Send
from functions import policy
from functions.cloud import Cloud
from functions.protocol import ASKS, ask
from functions.transport import sparing_send
from functions.zones import WORKERS, nothing, side_by_side, survey

_COLUMNS = ("name", "zone", "state", "phase", "model", "age", "used", "reaper", "id")


def run(
    settings: Settings,
    *,
    probe: bool = False,
    check: bool = False,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Return `{"zones", "instances": […], "failed": […]}`.

    Each instance is `{id, name, zone, state, model, address, created, activity, deadline, deadline_s, age_s, idle_s,
    reap, said, overdue}`: times in RFC 3339 UTC or None, `idle_s` by its label or, with `probe`, by itself, `reap`
    what a reaper decides from the labels, `said` the instance's own status or None, `overdue` with `check` why a
    reaper should have acted by now, else None; `failed` holds sentences about zones that could not be looked at, and
    instances that could not be asked for want of a permission or of time. Raises ExollamaError where no zone could be
    looked at.
    """
    zones = survey(settings, send or sparing_send(), clock=clock, sleep=sleep)
    unasked: list[str] = []

    def describe(work: tuple[Cloud, Instance]) -> dict[str, Any]:
        cloud, instance = work
        doubtful = check and policy.by_labels(instance, cloud.now()).verb is policy.Verb.ASK
        heard, trouble, silent = None, "", True
        if probe or doubtful:
            try:
                heard, trouble, silent = _ask(cloud, instance, settings, tries=ASKS if doubtful else 1)
            except (Denied, OutOfTime) as error:  # that is our own silence, not the instance's
                trouble, silent = str(error), False
                unasked.append(f"{instance.zone} {instance.id} was not asked: {error}")
        late = policy.overdue(instance, cloud.now(), heard, silent=silent) if check else None
        said = heard or ({"trouble": trouble} if trouble else None)
        return _describe(cloud, instance, said) | {"overdue": late}

    work = [(zone.cloud, instance) for zone in zones for instance in zone.instances]
    instances = side_by_side(describe, work, at_once=WORKERS)
    return {
        "zones": [zone.name for zone in zones if not zone.trouble],
        "instances": instances,
        "failed": [zone.trouble for zone in zones if zone.trouble] + unasked,
    }


def _ask(
    cloud: Cloud, instance: Instance, settings: Settings, *, tries: int
) -> tuple[dict[str, Any] | None, str, bool]:
    """As `functions.protocol.ask`, with whatever else there may be in the way of asking. Raises Denied, OutOfTime."""
    try:
        seen = cloud.get_instance(instance.id)
        header = seen.header()
        key = header.key if header else settings.key
        if key is None or seen.address is None or seen.state != "running":
            return None, f"{seen.state}; its key or its address is not known", True
        return ask(cloud, Endpoint.of(seen, key), tries=tries)
    except (Denied, OutOfTime):
        raise
    except ExollamaError as error:
        return None, str(error), True


def _describe(cloud: Cloud, instance: Instance, said: dict[str, Any] | None) -> dict[str, Any]:
    now = cloud.now()
    activity, deadline = instance.activity(now), instance.policy.deadline
    decision = policy.by_labels(instance, now)
    idle_s = None if activity is None else max(0.0, (now - activity).total_seconds())
    if said and "idle_s" in said:
        idle_s = said["idle_s"]
    return {
        "id": instance.id,
        "name": instance.owned_name,
        "zone": instance.zone,
        "state": instance.state,
        "model": instance.model,
        "address": instance.address,
        "created": instance.created and instance.created.isoformat(),
        "activity": activity and activity.isoformat(),
        "deadline": deadline and deadline.isoformat(),
        "deadline_s": deadline and round((deadline - now).total_seconds()),
        "age_s": instance.created and round((now - instance.created).total_seconds()),
        "idle_s": idle_s and round(idle_s),
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


def text(result: dict[str, Any]) -> str:
    """A result as a table."""
    if not result["instances"]:
        return nothing(result)
    rows = [_COLUMNS] + [_row(instance) for instance in result["instances"]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(instance: dict[str, Any]) -> tuple[str, ...]:
    said = instance["said"] or {}
    phase = said["boot"]["phase"] if "boot" in said else ("no answer" if "trouble" in said else "-")
    return (
        instance["name"],
        instance["zone"],
        instance["state"],
        phase,
        instance["model"] or "?",
        "?" if instance["age_s"] is None else policy.span(instance["age_s"]),
        "?" if instance["idle_s"] is None else f"{policy.span(instance['idle_s'])} ago",
        instance["reap"]["reason"],
        instance["id"],
    )


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.status", verb="status"))
