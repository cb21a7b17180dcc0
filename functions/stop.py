"""`stop`: end the instance of one name now, unless somebody uses it: the instance itself is asked, through its fence.

`python -m functions.stop` is the verb; `run` is the same for other code. Neighbours: `functions.protocol` drains and
acts, `functions.reap_idle` ends what nobody uses.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from client.endpoint import Endpoint
from client.errors import EndpointError, ExollamaError, NoInstance, NotFound
from client.model import Instance, others, owned_live
from client.settings import Settings
from client.transport import Send
from functions import policy
from functions.cloud import Cloud
from functions.policy import Decision, Verb
from functions.protocol import Outcome, act, drain
from functions.reap_idle import shown
from functions.transport import urllib3_send


def run(
    settings: Settings,
    *,
    force: bool = False,
    keep_disk: bool = False,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """End every live instance of EXOSCALE_INSTANCE_NAME in EXOSCALE_ZONE; return `{"instances": […]}`.

    Each is `{id, name, zone, outcome, reason}` with outcome destroyed, stopped, kept (in use) or failed. `force` asks
    nobody and cuts what is in flight; `keep_disk` stops instead of destroying. Raises NoInstance where there is none.
    """
    cloud = Cloud(settings, settings.zone, send or urllib3_send(), clock=clock, sleep=sleep)
    listed = cloud.list_known_zone()
    live = owned_live(listed, settings.name)
    if not live:
        none = f"There is no instance named {settings.name} in {settings.zone}: nothing to stop."
        raise NoInstance(none + others(listed, settings.name))
    cloud.check_clock()
    verb = Verb.STOP if keep_disk else Verb.DESTROY
    return {"instances": [shown(_stop_one(cloud, one, verb, force=force)) for one in live]}


def _stop_one(cloud: Cloud, instance: Instance, verb: Verb, *, force: bool) -> Outcome:
    try:
        if verb is Verb.STOP and instance.policy.action != "stop":
            raise ExollamaError(
                "Its disk cannot be kept: it was made with EXOSCALE_REAP_ACTION=destroy, so the next pass of a reaper "
                "would remove it once stopped. Leave --keep-disk out, or make it anew with EXOSCALE_REAP_ACTION=stop."
            )
        if verb is Verb.STOP and instance.state == "stopped":
            return Outcome(instance, "stopped", "it was already")
        if force or instance.state in ("error", "stopped"):
            return act(cloud, instance, Decision(verb, "as asked"))
        if instance.state != "running":
            return Outcome(instance, "kept", f"{instance.state}: cannot be asked yet. Wait, or use --force")
        seen = cloud.get_instance(instance.id)
        header = seen.header()
        if header is None:
            return act(cloud, seen, Decision(verb, "as asked"))  # not ours: it says so, and does nothing
        return drain(cloud, Endpoint.of(seen, header.key), seen, lambda status: policy.by_wish(status, verb))
    except NotFound:
        return Outcome(instance, "destroyed", "gone meanwhile")
    except EndpointError as error:
        return Outcome(instance, "failed", f"{error} --force ends it all the same.")
    except ExollamaError as error:
        return Outcome(instance, "failed", str(error))


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.stop", verb="stop"))
