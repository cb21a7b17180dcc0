"""`reap_idle`: remove the instances that nobody uses, in all zones. For cron, CI and FaaS; overlapping runs are safe.

`python -m functions.reap_idle` is the verb; `run` is the same for other code. One failure stops no other. Neighbours:
`functions.protocol` does one instance, `functions.policy` decides.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from client.endpoint import Endpoint
from client.model import Instance
from client.settings import Settings
from client.transport import Send
from functions.cloud import Cloud
from functions.protocol import Outcome, reap_one
from functions.transport import urllib3_send
from functions.zones import nothing, side_by_side, survey

AT_ONCE = 10
"""Instances that are asked or removed at the same time."""


def run(
    settings: Settings,
    *,
    dry_run: bool = False,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Make one pass and return `{"dry_run", "zones", "instances": […], "failed": […]}`.

    Each instance is `{id, name, zone, outcome, reason}` with outcome kept, destroyed, stopped, planned or failed;
    `failed` holds sentences about zones that could not be looked at. Raises ExollamaError where no zone could be.
    """
    zones = survey(settings, send or urllib3_send(), clock=clock, sleep=sleep)

    def reap(work: tuple[Cloud, Instance]) -> Outcome:
        cloud, instance = work
        return reap_one(cloud, Endpoint.of, instance, dry_run=dry_run, key=settings.key)

    work = [(zone.cloud, instance) for zone in zones for instance in zone.instances]
    outcomes = side_by_side(reap, work, at_once=AT_ONCE)
    return {
        "dry_run": dry_run,
        "zones": [zone.name for zone in zones if not zone.trouble],
        "instances": [
            {
                "id": outcome.instance.id,
                "name": outcome.instance.owned_name,
                "zone": outcome.instance.zone,
                "outcome": outcome.outcome,
                "reason": outcome.reason,
            }
            for outcome in outcomes
        ],
        "failed": [zone.trouble for zone in zones if zone.trouble],
    }


def text(result: dict[str, Any]) -> str:
    """A result in words, one line per instance."""
    lines = [f"{i['outcome']:<9} {i['zone']} {i['name']} {i['id']}: {i['reason']}" for i in result["instances"]]
    return "\n".join(lines) or nothing(result)


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.reap_idle", verb="reap"))
