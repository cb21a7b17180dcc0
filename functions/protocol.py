"""The reap and provision protocols, as plain synchronous code over two seams, `Cloud` and `Endpoint`.

No clock, socket or thread of its own: time comes from the cloud's `now` and the injected `sleep`, so that tests can
drive every interleaving. Neighbours: `functions.policy` decides, `functions.plan` drafts, `functions.reap_idle` and
`functions.provision` run it over many instances or for one name.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from client.errors import ApiError, Conflict, Denied, EndpointError, ExollamaError, NotFound, Unanswered
from client.model import GONE, Header, Instance
from client.settings import Secret
from functions import policy
from functions.policy import Decision, Verb

log = logging.getLogger("exollama.reap")

ASKS: Final = 3
ASK_PAUSE_S: Final = 2.0
CONFIRM_S: Final = 600.0
"""How long the API may take to carry out a delete or stop before that is reported as trouble."""
CONFIRM_PAUSE_S: Final = 2.0


class Cloud(Protocol):
    """What the protocols ask of one zone. Methods raise what `client.api.Api` raises."""

    sleep: Callable[[float], None]

    @property
    def zone(self) -> str: ...
    def now(self) -> datetime: ...
    def list_instances(self) -> list[Instance]: ...
    def get_instance(self, instance_id: str) -> Instance: ...
    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None: ...
    def create_instance(self, body: Mapping[str, Any]) -> Mapping[str, Any]: ...
    def start_instance(self, instance_id: str) -> Mapping[str, Any]: ...
    def stop_instance(self, instance_id: str) -> Mapping[str, Any]: ...
    def delete_instance(self, instance_id: str) -> Mapping[str, Any]: ...
    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]: ...


class Endpoint(Protocol):
    """What the protocols ask of one instance."""

    def status(self) -> dict[str, Any]: ...
    def touch(self) -> None: ...


Connect = Callable[[Instance, Secret], Endpoint]
"""Makes the endpoint of an instance that has an address; talks to nobody yet."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance. `outcome`: kept, destroyed, stopped, planned (dry run) or failed."""

    instance: Instance
    outcome: str
    reason: str


def reap_one(
    cloud: Cloud, connect: Connect, instance: Instance, *, dry_run: bool = False, key: Secret | None = None
) -> Outcome:
    """Observe, decide, ask and act upon one instance; never raises for what the API or the instance does.

    `key` is used where the user-data may not be read. With `dry_run` everything is done but the deed.
    """
    try:
        decision = policy.by_labels(instance, cloud.now())
        if decision.verb is Verb.ASK:
            decision = _ask(cloud, connect, instance, key)
        if decision.verb is Verb.KEEP:
            return Outcome(instance, "failed" if decision.trouble else "kept", decision.reason)
        if dry_run:
            return Outcome(instance, "planned", f"would {decision.verb.value} it: {decision.reason}")
        return _act(cloud, instance, decision)
    except ExollamaError as error:
        return Outcome(instance, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - one instance that nobody thought of must not keep the others running
        log.exception("instance %s", instance.id)
        return Outcome(instance, "failed", f"unexpected {type(error).__name__}: {error}. Please report this.")


def _ask(cloud: Cloud, connect: Connect, instance: Instance, key: Secret | None) -> Decision:
    """Ask the instance itself, three times before its silence counts."""
    try:
        seen = cloud.get_instance(instance.id)
    except NotFound:
        return policy.keep("gone meanwhile")
    except Denied:
        seen = instance
    header = seen.header()
    known = header.key if header else key
    if known is None or seen.address is None:
        return policy.by_silence(instance, cloud.now(), "its key or its address is not known.")
    trouble = ""
    endpoint = connect(seen, known)
    for attempt in range(ASKS):
        if attempt:
            cloud.sleep(ASK_PAUSE_S)
        try:
            status = endpoint.status()
        except EndpointError as error:
            trouble = str(error)
        else:
            return policy.by_probe(instance, cloud.now(), status)
    return policy.by_silence(instance, cloud.now(), trouble)


def _act(cloud: Cloud, instance: Instance, decision: Decision) -> Outcome:
    """Read it again by id; only if it is unchanged and vouched for, one DELETE or stop, done when the API says so."""
    try:
        seen = cloud.get_instance(instance.id)
    except NotFound:
        return Outcome(instance, "kept", "gone meanwhile")
    if seen.state in GONE:
        return Outcome(instance, "kept", f"already {seen.state}")
    if doubt := _doubt(instance, seen):
        return Outcome(instance, *doubt)
    if decision.verb is Verb.STOP:
        stop(cloud, seen)
        return Outcome(instance, "stopped", decision.reason)
    destroy(cloud, seen)
    return Outcome(instance, "destroyed", decision.reason)


def _doubt(before: Instance, seen: Instance) -> tuple[str, str] | None:
    """Why it is to be left alone after all, as (outcome, reason); None where it is still ours and as it was."""
    if seen.labels != before.labels or seen.state != before.state:
        return "kept", "its labels or its state changed while it was looked at"
    if not vouched(seen):
        return "failed", (
            "left alone: its labels say it is ours, but its user-data does not carry the nonce of its label. If it "
            "is yours, "
            "delete it by hand; if not, remove its exollama labels"
        )
    return None


def vouched(instance: Instance) -> bool:
    """Whether labels and user-data agree that this project made it: a label alone never condemns a machine."""
    header: Header | None = instance.header()
    return instance.owned and header is not None and header.request == instance.request


def destroy(cloud: Cloud, instance: Instance) -> None:
    """Destroy an instance that was just read and vouched for, and wait until the API says that it is gone.

    Raises ExollamaError where it is refused or does not happen.
    """
    for attempt in range(2):
        try:
            cloud.delete_instance(instance.id)
        except NotFound:
            return
        except (Conflict, Denied) as error:
            raise ExollamaError(
                f"The destruction of {instance.id} was refused: {error} It still runs and costs. Delete protection, "
                "an operation under "
                "way, or a missing delete-instance permission can be the reason."
            ) from error
        except (Unanswered, ApiError) as error:
            log.info("%s", error)
            if gone(cloud, instance.id, 10.0):
                return
            if attempt:
                raise
        else:
            break
    if not gone(cloud, instance.id, CONFIRM_S):
        raise ExollamaError(
            f"Instance {instance.id} is still there {CONFIRM_S:.0f} s after its destruction was accepted. Look at it "
            "in the portal."
        )


def stop(cloud: Cloud, instance: Instance) -> None:
    """Stop an instance that was just read and vouched for, and wait until the API says that it is stopped."""
    for attempt in range(2):
        try:
            cloud.stop_instance(instance.id)
        except (Unanswered, ApiError) as error:
            seen = cloud.get_instance(instance.id)
            if seen.state in ("stopping", "stopped") or seen.state in GONE:
                break
            if attempt or isinstance(error, Conflict | Denied):
                raise
        else:
            break
    if not _until(cloud, CONFIRM_S, lambda: cloud.get_instance(instance.id).state in {"stopped", *GONE}):
        raise ExollamaError(
            f"Instance {instance.id} has not stopped within {CONFIRM_S:.0f} s; it is looked at again next time."
        )


def gone(cloud: Cloud, instance_id: str, patience_s: float) -> bool:
    """Whether the API says within so many seconds that the instance is gone, or irrevocably going."""

    def looked() -> bool:
        try:
            return cloud.get_instance(instance_id).state in GONE
        except NotFound:
            return True

    return _until(cloud, patience_s, looked)


def _until(cloud: Cloud, patience_s: float, reached: Callable[[], bool]) -> bool:
    waited_s = 0.0
    while not reached():
        if waited_s >= patience_s:
            return False
        cloud.sleep(CONFIRM_PAUSE_S)
        waited_s += CONFIRM_PAUSE_S
    return True
