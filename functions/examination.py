"""How a running instance is, for `doctor`: reached, its certificate, its key, its boot, its fence and its deadline.

Only read: proof and status, no touch, so that it counts as no use. Neighbours: `client.endpoint` asks; `by_answer` is
pure. Imports `client` and `functions` only.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from client.boot import failure
from client.endpoint import PORT, Endpoint
from client.errors import AgentDown, Denied, EndpointError, Garbled, KeyRejected, Unreachable, Untrusted
from client.model import FOREIGN_DO, Instance, last_day, made_by_another, printable
from client.settings import Settings
from functions.cloud import Cloud
from functions.findings import Finding, failed, ok, unchecked, warning
from functions.policy import span

ASKED: Final = ("reachable", "certificate", "key", "boot", "fence")
"""The checks that only the instance itself can answer, in the order in which they build on each other."""
_REMAKE: Final = "If that lasts: exollama stop --force, then exollama provision."


def examine(
    cloud: Cloud, settings: Settings, live: Sequence[Instance], read: Callable[[str], Instance]
) -> list[Finding]:
    """What can be said of the oldest running one of `live`, which `read` reads by its id. Raises ApiError."""
    running = next((one for one in live if one.state == "running"), None)
    if running is None:
        return [_none_running(live, settings)]
    others = len(live) - 1
    says = f"{running.id} runs in {running.zone}."
    found = [ok("instance", says)]
    if others:
        do = "Nothing: the oldest is used, and the others go once they are idle."
        found = [warning("instance", f"{says} {others} more of that name live beside it.", do)]
    key = settings.key
    seen = running
    try:
        seen = read(running.id)
        if seen.foreign:
            return [failed("instance", f"{seen.id} was {made_by_another(seen.foreign)}", FOREIGN_DO)]
        header = seen.header()
        key = header.key if header else key
    except Denied:
        pass  # as for a client that was handed the key
    now = cloud.now()
    if key is None or seen.address is None:
        why = "it has no address yet." if key else "its key is not known: it may not be read from the instance."
        do = "Wait a minute." if key else "Set EXOSCALE_OLLAMA_KEY, or allow get-instance to this key's role."
        return [*found, *(unchecked(check, why, do) for check in ASKED), deadline(seen, now)]
    endpoint = Endpoint.of(seen, key)
    try:
        answer: dict[str, Any] | EndpointError = endpoint.status()
    except EndpointError as error:
        answer = error
    finally:
        endpoint.close()
    found += by_answer(answer, seen, now, endpoint.fingerprint or "")
    if settings.key and settings.key != key:
        do = "Nothing, since its own is used; unset EXOSCALE_OLLAMA_KEY to hear no more of it."
        found.append(warning("EXOSCALE_OLLAMA_KEY", "it differs from the key of the running instance.", do))
    return [*found, deadline(seen, now)]


def by_answer(
    answer: dict[str, Any] | EndpointError, instance: Instance, now: datetime, fingerprint: str
) -> list[Finding]:
    """What its status, or what came instead of one, tells of each check in ASKED."""
    if isinstance(answer, EndpointError):
        trouble = _trouble(answer, instance, now)
        good = [_good(check, instance, fingerprint) for check in ASKED[: ASKED.index(trouble.check)]]
        rest = ASKED[len(good) + 1 :]
        return [*good, trouble, *(unchecked(one, f"{trouble.check} comes first.", "See there.") for one in rest)]
    good = [_good(check, instance, fingerprint) for check in ASKED[:3]]
    return [*good, _boot(answer, instance, now), _fence(answer)]


def deadline(instance: Instance, now: datetime) -> Finding:
    """How long it may live."""
    soon = last_day(instance.zone, instance.id, instance.policy.deadline, now)
    if soon:
        return warning("deadline", soon, "Nothing, or exollama provision afterwards, to have the next one ready.")
    until = instance.policy.deadline
    return ok("deadline", f"{until:%Y-%m-%d %H:%M} UTC." if until else "none was set.")


def _none_running(live: Sequence[Instance], settings: Settings) -> Finding:
    if not live:
        says = f"none named {settings.name} in {settings.zone}."
        return unchecked("instance", says, "Nothing: exollama provision makes one, and so does the first use.")
    says = f"{live[0].id} is {printable(live[0].state)}, so it cannot be asked."
    if live[0].state == "error":
        return failed("instance", says, "Remove it: exollama reap. The next use makes a fresh one.")
    return unchecked("instance", says, "Nothing: exollama provision waits for it, starts it or makes another.")


def _good(check: str, instance: Instance, fingerprint: str) -> Finding:
    says = {
        "reachable": f"port {PORT} of {instance.address} answers from here.",
        "certificate": f"vouched for by the instance's key ({fingerprint[:16]}…).",
        "key": "known and accepted.",
    }
    return ok(check, says[check])


def _trouble(error: EndpointError, instance: Instance, now: datetime) -> Finding:
    says = printable(error)
    if isinstance(error, Untrusted):
        do = "Unset EXOSCALE_OLLAMA_KEY; if that is not it, somebody is in between: use another network."
        return failed("certificate", says, do)
    if isinstance(error, KeyRejected):
        return failed("key", says, "Unset EXOSCALE_OLLAMA_KEY, or set it to the key that the instance was made with.")
    if isinstance(error, Garbled):
        return failed("reachable", says, f"Look for a proxy in between. {_REMAKE}")
    if not isinstance(error, Unreachable):
        return failed("boot", says, _REMAKE)
    until = instance.booting_until(now)
    if until and now < until:
        return warning("reachable", says, "It may be booting: run this again in a few minutes.")
    if isinstance(error, AgentDown):
        return failed("reachable", says, _REMAKE)
    whom = "the whole internet" if instance.policy.reach == "any" else "the EXOSCALE_ALLOWED_CIDRS it was made with"
    return failed("reachable", says, f"Let port {PORT} out of your network; it lets in {whom}. {_REMAKE}")


def _boot(status: dict[str, Any], instance: Instance, now: datetime) -> Finding:
    phase = status["boot"]["phase"]
    if error := failure(status):
        return failed("boot", error.summary, "exollama stop --force, then exollama provision.")
    if phase == "ready":
        in_flight, idle = status["in_flight"], span(status["idle_s"])
        return ok("boot", f"ready; {in_flight} request(s) in flight, used {idle} ago.")
    until = instance.booting_until(now)
    if until and now >= until + timedelta(minutes=1):
        return failed("boot", f"not ready within its boot timeout (phase {phase}).", _REMAKE)
    return warning("boot", f"under way, in phase {phase}.", "Wait: exollama provision shows how far it is.")


def _fence(status: dict[str, Any]) -> Finding:
    if not status.get("fence"):
        return ok("fence", "open: it takes requests.")
    return warning(
        "fence",
        "shut: a reaper, or its own watchdog, is about to remove it.",
        "Wait two minutes; if it is gone then, the next use makes a fresh one.",
    )
