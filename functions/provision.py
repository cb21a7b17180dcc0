"""`provision`: find, start or create the instance of one name, wait until it is ready, and hand it out.

`python -m functions.provision` is the verb for cron and CI; `run` is the same for other code. Neighbours:
`functions.provisioning` is the protocol, `functions.plan` settles what to create.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from client.boot import Progress, Ticker, silent
from client.endpoint import PORT, Endpoint
from client.errors import ApiError, ExollamaError, NotFound, OllamaError, Unanswered
from client.model import Instance
from client.session import pull
from client.settings import DEFAULT_ZONE, Settings
from client.transport import Send
from functions.cloud import Cloud
from functions.plan import Draft, draft
from functions.provisioning import Found, Provisioning
from functions.transport import urllib3_send

log = logging.getLogger("exollama.provision")


def run(
    settings: Settings,
    *,
    wait: bool = True,
    keep_failed: bool = False,
    note: Callable[[str], None] = log.info,
    progress: Progress = silent,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Provision, and return `{id, name, zone, state, phase, url, model, created, deadline, key}`.

    Times are RFC 3339 in UTC or None; `key` is a `client.settings.Secret`. Raises ExollamaError: SettingsError,
    ApiError, BootFailed, Unreachable and the rest of `client.errors`.
    """
    ticker = Ticker(progress, monotonic, sleep)
    cloud = Cloud(settings, settings.zone, send or urllib3_send(), clock=clock, sleep=ticker.sleep)
    ticker.progress("looking for an instance", None)
    _check_zone(cloud)

    def order() -> Draft:
        ticker.progress("preparing", None)
        return draft(cloud, settings, note=note, keep_failed=keep_failed)

    protocol = Provisioning(
        cloud,
        Endpoint.of,
        order,
        settings.name,
        note=note,
        progress=ticker.progress,
        monotonic=monotonic,
        keep_failed=keep_failed,
    )
    found = protocol.run(wait=wait)
    if found.status:
        _ensure_model(Endpoint.of(found.instance, found.key), settings.model, note, ticker.progress)
    if not protocol.created:
        _report_differences(found.instance, settings, note)
    return _result(found, settings)


def _check_zone(cloud: Cloud) -> None:
    """Make sure that the zone exists, where its endpoint does not answer as one; also learns the API's time."""
    try:
        cloud.list_instances()
    except (NotFound, Unanswered) as error:
        try:
            zones = cloud.beside(DEFAULT_ZONE).list_zones()
        except ApiError:
            raise error from None
        if cloud.zone in zones:
            raise
        raise ExollamaError(
            f"There is no zone {cloud.zone}. Zones: {', '.join(zones)}. Set EXOSCALE_ZONE. Nothing was created."
        ) from error


def _ensure_model(endpoint: Endpoint, model: str, note: Callable[[str], None], progress: Progress) -> None:
    try:
        with endpoint.request("POST", "/api/show", {"model": model}, timeout_s=60.0) as answer:
            answer.read()
        return
    except OllamaError as error:
        if error.status != 404:
            raise
    note(f"The instance has another model; pulling {model}.")
    pull(endpoint, model, progress)


def _report_differences(instance: Instance, settings: Settings, note: Callable[[str], None]) -> None:
    """Say what of an existing instance is not as the settings have it; it is kept as it is."""
    policy = instance.policy
    pairs = (
        ("EXOSCALE_IDLE_TIMEOUT", policy.idle_s, settings.idle_s),
        ("EXOSCALE_BOOT_TIMEOUT", policy.boot_s, settings.boot_s),
        ("EXOSCALE_STOPPED_RETENTION", policy.retention_s, settings.retention_s),
        ("EXOSCALE_REAP_ACTION", policy.action, settings.reap_action),
        ("EXOSCALE_DISK_SIZE", instance.disk_gib or settings.disk_gib, settings.disk_gib),
    )
    different = [f"{variable} (its own is {its}, set is {ours})" for variable, its, ours in pairs if its != ours]
    if different:
        note(f"The running instance was made with other settings and keeps them: {', '.join(different)}.")


def _result(found: Found, settings: Settings) -> dict[str, Any]:
    instance, deadline = found.instance, found.instance.policy.deadline
    return {
        "id": instance.id,
        "name": settings.name,
        "zone": instance.zone,
        "state": instance.state,
        "phase": found.status["boot"]["phase"] if found.status else "starting",
        "url": f"https://{instance.address}:{PORT}" if instance.address else None,
        "model": settings.model,
        "created": instance.created and instance.created.isoformat(),
        "deadline": deadline and deadline.isoformat(),
        "key": found.key,
    }


if __name__ == "__main__":
    from client.cli import main

    sys.exit(main(prog="python -m functions.provision", verb="provision"))
