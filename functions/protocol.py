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

from client.errors import (
    ApiError,
    Conflict,
    Denied,
    EndpointError,
    ExollamaError,
    NotFound,
    OperationFailed,
    Unreachable,
)
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
LOST_S: Final = 10.0
"""How long a deed whose answer was lost is given to show before it is asked for again."""


class Cloud(Protocol):
    """What the protocols ask of one zone. Methods raise what `client.api.Api` raises."""

    sleep: Callable[[float], None]

    @property
    def zone(self) -> str: ...
    def now(self) -> datetime: ...
    def list_instances(self) -> list[Instance]: ...
    def get_instance(self, instance_id: str) -> Instance: ...
    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None: ...
    def create_instance(self, body: Secret) -> Mapping[str, Any]: ...
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
        return _act(cloud, instance, decision, dry_run=dry_run)
    except ExollamaError as error:
        return Outcome(instance, "failed", str(error))
    except Exception as error:  # what nobody thought of in one instance must not keep others running
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
    trouble, silent = "", True
    endpoint = connect(seen, known)
    for attempt in range(ASKS):
        if attempt:
            cloud.sleep(ASK_PAUSE_S)
        try:
            status = endpoint.status()
        except EndpointError as error:
            trouble, silent = str(error), isinstance(error, Unreachable)
        else:
            return policy.by_probe(instance, cloud.now(), status)
    return policy.by_silence(instance, cloud.now(), trouble, silent=silent)


def _act(cloud: Cloud, instance: Instance, decision: Decision, *, dry_run: bool) -> Outcome:
    """Read it again by id; only if it is unchanged and vouched for, one DELETE or stop, done when the API says so."""
    try:
        seen = cloud.get_instance(instance.id)
    except NotFound:
        return Outcome(instance, "kept", "gone meanwhile")
    if seen.state in GONE:
        return Outcome(instance, "kept", f"already {seen.state}")
    if doubt := _doubt(instance, seen):
        return Outcome(instance, *doubt)
    if dry_run:
        return Outcome(instance, "planned", f"would {decision.verb.value} it: {decision.reason}")
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
    """Destroy an instance that was just read and vouched for; done when the API says that it is gone.

    Raises ExollamaError where it is refused or does not happen.
    """
    _carry_out(cloud, instance, "destruction", cloud.delete_instance, GONE)


def stop(cloud: Cloud, instance: Instance) -> None:
    """Stop an instance that was just read and vouched for; done when the API says that it is stopped, or gone."""
    _carry_out(cloud, instance, "stopping", cloud.stop_instance, GONE | {"stopped"})


def _carry_out(
    cloud: Cloud,
    instance: Instance,
    what: str,
    deed: Callable[[str], Mapping[str, Any]],
    wanted: frozenset[str],
) -> None:
    """Ask for it once; a second time only where no answer came and the instance, read again, is as it was."""

    def reached() -> bool:
        try:
            return cloud.get_instance(instance.id).state in wanted
        except NotFound:
            return True

    try:
        operation = _ask_for(cloud, instance, what, deed, reached)
        if operation:
            cloud.wait(operation, f"the {what} of {instance.id}", CONFIRM_S)
    except (OperationFailed, NotFound) as error:
        if not reached():
            raise ExollamaError(f"{error} It may still run and cost; look at {instance.id} in the portal.") from error
    if not _until(cloud, CONFIRM_S, reached):
        raise ExollamaError(f"The {what} of {instance.id} was accepted but has not happened; look at it in the portal.")


def _ask_for(
    cloud: Cloud,
    instance: Instance,
    what: str,
    deed: Callable[[str], Mapping[str, Any]],
    reached: Callable[[], bool],
) -> Mapping[str, Any] | None:
    """The operation, or None where the answer was lost but the deed shows. Raises NotFound, ExollamaError."""
    for attempt in range(2):
        try:
            return deed(instance.id)
        except NotFound:
            raise
        except ApiError as error:
            log.info("%s", error)
            refused = isinstance(error, Conflict | Denied)
            if _until(cloud, 0.0 if refused else LOST_S, reached):
                return None
            if refused or attempt:
                raise ExollamaError(
                    f"The {what} of {instance.id} was refused: {error} It still runs and costs. Delete protection, "
                    "another operation under way or a missing permission can be the reason."
                ) from error
    return None


def _until(cloud: Cloud, patience_s: float, reached: Callable[[], bool]) -> bool:
    waited_s = 0.0
    while not reached():
        if waited_s >= patience_s:
            return False
        cloud.sleep(CONFIRM_PAUSE_S)
        waited_s += CONFIRM_PAUSE_S
    return True
