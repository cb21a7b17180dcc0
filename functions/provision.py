"""`provision`: find, start or create the instance of one name, wait until it is ready, and hand it out.

`python -m functions.provision` is the verb for cron and CI; `run` is the same for other code. Neighbours:
`functions.provisioning` is the protocol, `functions.plan` settles what to create.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from client.boot import Progress, Ticker, first, silent
from client.endpoint import PORT, Endpoint
from client.errors import OllamaError, Unreachable
from client.model import Instance, foreign, type_name
from client.session import pull
from client.settings import Settings
from client.transport import Send
from functions.cloud import Cloud
from functions.plan import Draft, check_start, draft, reach
from functions.provisioning import Found, Provisioning
from functions.reap_idle import tidy
from functions.transport import urllib3_send

log = logging.getLogger("exollama.provision")

_LOST = 2
_SILENT, _SILENT_S = 15, 1.0
"""How often, and how far apart, an Ollama that is being restarted is asked for its model."""


def run(
    settings: Settings,
    *,
    wait: bool = True,
    keep_failed: bool = False,
    patience_s: float | None = None,
    note: Callable[[str], None] = log.info,
    progress: Progress = silent,
    send: Send | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Provision, and return `{id, name, zone, state, phase, url, model, created, deadline, key}`.

    What is overdue in the same zone is reaped meanwhile. Times are RFC 3339 in UTC or None; `key` is a
    `client.settings.Secret`. `patience_s`: for callers who ask until it is ready, see `functions.provisioning`; nothing
    is reaped then, since nobody waits for that to end. Raises ExollamaError: SettingsError, ApiError, BootFailed,
    Unreachable and the rest of `client.errors`; with `patience_s` OutOfTime.
    """
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        note(sentence)

    def takes_long(phase: str) -> None:
        if not said:
            say(f"Waiting for an instance of this name ({phase}).")

    ticker = Ticker(first(takes_long, progress), monotonic, sleep)
    send = send or urllib3_send()
    cloud = Cloud(settings, settings.zone, send, clock=clock, sleep=ticker.sleep)
    ticker.progress("looking for an instance", None)
    # Before anything else, an unknown zone is told; and the API's time is known from here on.
    listed = cloud.list_known_zone()
    for sentence in foreign([i for i in listed if i.owned_name == settings.name]):
        note(f"{sentence} It is not used: what follows is about another one.")
    tidying: list[Callable[[], None]] = []

    def order() -> Draft:
        ticker.progress("preparing", None)
        return draft(cloud, settings, note=say, keep_failed=keep_failed)

    def under_way(instance_id: str) -> None:
        if not tidying and patience_s is None:
            tidying.append(tidy(settings, listed, instance_id, note=note, send=send, clock=clock, sleep=sleep))

    protocol = Provisioning(
        cloud,
        Endpoint.of,
        order,
        settings.name,
        note=say,
        progress=ticker.progress,
        monotonic=monotonic,
        keep_failed=keep_failed,
        patience_s=patience_s,
        under_way=under_way,
        check_start=lambda stopped: check_start(cloud, settings, stopped),
    )
    found = protocol.run(wait=wait)
    if wait and found.status:
        _ensure_model(Endpoint.of(found.instance, found.key), settings.model, note, ticker.progress, ticker.sleep)
    if not protocol.created:
        _report_differences(cloud, found, settings, note)
    for finish in tidying:
        ticker.progress("removing what is overdue", None)
        finish()
    return _result(found, settings)


def _ensure_model(
    endpoint: Endpoint,
    model: str,
    note: Callable[[str], None],
    progress: Progress,
    sleep: Callable[[float], None],
) -> None:
    lost = silent = 0
    while True:  # it only asks, so neither a lost connection nor a restarting Ollama costs a boot that was waited for
        try:
            with endpoint.request("POST", "/api/show", {"model": model}, timeout_s=60.0) as answer:
                answer.read()
            return
        except Unreachable:
            lost += 1
            if lost == _LOST:
                raise
        except OllamaError as error:
            if error.status == 404:
                break
            silent += 1
            if error.status != 502 or silent == _SILENT:  # nginx says so where Ollama is silent
                raise
            sleep(_SILENT_S)
    note(f"The instance has another model; pulling {model}.")
    pull(endpoint, model, progress)


_OPEN: Final = {"any": "open to any address"}
"""What a label's `any` means."""


def _report_differences(cloud: Cloud, found: Found, settings: Settings, note: Callable[[str], None]) -> None:
    """Say what of an existing instance is not as the settings have it; it is kept as it is."""
    instance, policy = found.instance, found.instance.policy
    pairs = [
        ("EXOSCALE_IDLE_TIMEOUT", policy.idle_s, settings.idle_s),
        ("EXOSCALE_BOOT_TIMEOUT", policy.boot_s, settings.boot_s),
        ("EXOSCALE_STOPPED_RETENTION", policy.retention_s, settings.retention_s),
        ("EXOSCALE_REAP_ACTION", policy.action, settings.reap_action),
        ("EXOSCALE_DISK_SIZE", instance.disk_gib or settings.disk_gib, settings.disk_gib),
        ("EXOSCALE_ALLOWED_CIDRS", *(_OPEN.get(one, one) for one in (policy.reach, reach(settings)))),
        (
            "EXOSCALE_MAX_LIFETIME",
            _lifetime_h(instance),
            settings.max_lifetime_s and round(settings.max_lifetime_s / 3600),
        ),
    ]
    if settings.instance_type:
        types = {one.get("id"): type_name(one) for one in cloud.list_instance_types()}
        pairs.append(("EXOSCALE_INSTANCE_TYPE", types.get(instance.type_id, "unknown"), settings.instance_type))
    image = found.status and found.status.get("policy", {}).get("image")
    pairs.append(("EXOSCALE_OLLAMA_IMAGE", image or settings.image, settings.image))
    different = [f"{variable} (its own: {its}, set: {ours})" for variable, its, ours in pairs if its != ours]
    if settings.key and settings.key != found.key and not settings.key_handed_out:
        different.append("EXOSCALE_OLLAMA_KEY (its own is handed out)")
    if different:
        note(f"The running instance was made with other settings and keeps them: {', '.join(different)}.")


def _lifetime_h(instance: Instance) -> int | None:
    """The lifetime that an instance was made with, in hours; the seconds between draft and creation do not count."""
    deadline = instance.policy.deadline
    if deadline is None or instance.created is None:
        return None
    return round((deadline - instance.created).total_seconds() / 3600)


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
