"""The reap protocol for one instance: observe, decide, ask, fence, ask and read again, commit, act, or reopen.

Plain synchronous code over the two seams of `functions.seams`, with no clock, socket or thread of its own: time comes
from the cloud's `now` and `sleep`, so that tests can drive every interleaving. Neighbours: `functions.policy` decides,
`functions.deeds` acts; `functions.reap_idle` runs it over all instances, `functions.stop` over those of one name.
"""

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from client.errors import AgentDown, Denied, EndpointError, ExollamaError, FenceRefused, NotFound, OutOfTime
from client.model import GONE, Instance, left_alone
from client.settings import Secret
from functions import policy
from functions.deeds import Deed, Refused, destroy, stop
from functions.policy import Decision, Gate, Verb
from functions.seams import Cloud, Connect, Endpoint

log = logging.getLogger("exollama.reap")

ASKS: Final = 3
ASK_PAUSE_S: Final = 2.0
MOST_ASKS: Final = 12
"""Where nginx answers for an agent that is down: on a machine with more work than it can do it takes its time to come
back, and such a machine is in use."""
_DEEDS: Final[dict[Verb, tuple[Deed, str]]] = {Verb.DESTROY: (destroy, "destroyed"), Verb.STOP: (stop, "stopped")}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one instance.

    `outcome`: kept, destroyed, stopped, planned (dry run), failed; and where the time was over, begun, if what ends it
    was asked for, or unfinished, if nothing was done: the next pass begins with it again.
    """

    instance: Instance
    outcome: str
    reason: str


def reap_one(
    cloud: Cloud, connect: Connect, instance: Instance, *, dry_run: bool = False, key: Secret | None = None
) -> Outcome:
    """Reap one instance of a list where nobody uses it; never raises for what the API or the instance does.

    `key` is used where the user-data may not be read. With `dry_run` all is looked at, and nothing fenced or done.
    """
    try:
        decision, seen, endpoint = policy.by_labels(instance, cloud.now()), instance, None
        if decision.verb is Verb.ASK:
            decision, seen, endpoint = _ask(cloud, connect, instance, key)
        if decision.verb is Verb.KEEP:
            return Outcome(instance, "failed" if decision.trouble else "kept", decision.reason)
        if dry_run:
            would = Outcome(instance, "planned", f"would {decision.verb.value} it: {decision.reason}")
            return _doubt(seen, cloud.get_instance(seen.id)) or would
        if endpoint and decision.gate is not Gate.NONE:

            def judge(status: dict[str, Any]) -> Decision:
                return policy.by_probe(seen, cloud.now(), status)

            return drain(cloud, endpoint, seen, judge)
        return act(cloud, seen, decision)
    except NotFound:
        return Outcome(instance, "kept", "gone meanwhile")
    except OutOfTime as error:
        return Outcome(instance, "unfinished", str(error))
    except ExollamaError as error:
        return Outcome(instance, "failed", str(error))
    except Exception as error:  # what nobody thought of in one instance must not keep others running
        log.exception("instance %s", instance.id)
        return Outcome(instance, "failed", f"unexpected {type(error).__name__}: {error}. Please report this.")


def _ask(
    cloud: Cloud, connect: Connect, instance: Instance, key: Secret | None
) -> tuple[Decision, Instance, Endpoint | None]:
    """Ask the instance itself, three times before its silence counts. The endpoint is there where it answered."""
    seen = instance
    with suppress(Denied):
        seen = cloud.get_instance(instance.id)
    decision = policy.by_labels(seen, cloud.now())
    if decision.verb is not Verb.ASK:
        return decision, seen, None
    if seen.foreign:
        raise ExollamaError(left_alone(seen.foreign))
    header = seen.header()
    known = header.key if header else key
    if known is None or seen.address is None:
        return policy.by_silence(seen, cloud.now(), "its key or its address is not known."), seen, None
    endpoint = connect(seen, known)
    status, trouble, silent = ask(cloud, endpoint)
    if status is None:
        return policy.by_silence(seen, cloud.now(), trouble, silent=silent), seen, None
    return policy.by_probe(seen, cloud.now(), status), seen, endpoint


def ask(cloud: Cloud, endpoint: Endpoint, *, tries: int = ASKS) -> tuple[dict[str, Any] | None, str, bool]:
    """The instance's status, or None with why not and whether it was silent each time.

    With fewer `tries` than the reaper's it is a look, and less patient: nothing is judged by it.
    """
    trouble, silent = "", True
    for attempt in range(1, MOST_ASKS + 1):
        try:
            return endpoint.status(), "", False
        except EndpointError as error:
            trouble, silent = str(error), silent and error.silent
            patient = tries == ASKS and isinstance(error, AgentDown) and attempt < MOST_ASKS
            if attempt >= tries and not patient:
                break
        try:
            cloud.sleep(ASK_PAUSE_S)
        except OutOfTime:
            if attempt < tries:
                raise
            break  # no later pass would have more time for it, and it would run on for good
    return None, trouble, silent


def fresh_owner() -> str:
    """The name of one attempt: a fence that anybody could lift would be none."""
    return secrets.token_hex(16)


def drain(
    cloud: Cloud,
    endpoint: Endpoint,
    instance: Instance,
    judge: Callable[[dict[str, Any]], Decision],
    *,
    owner: str | None = None,
) -> Outcome:
    """End an instance that answers, through its fence: what it accepted is finished before, and nothing accepted after.

    `judge` decides by its status, once the fence is up; `owner` is given where an attempt is repeated. Raises
    NotFound, EndpointError and ExollamaError. After a commit only a certain refusal reopens it: where the deed's
    outcome is not known it stays shut, and powers itself off ten minutes later.
    """
    before = instance if instance.user_data else cloud.get_instance(instance.id)
    if doubt := _doubt(instance, before):
        return doubt  # not ours to fence, either
    owner = owner or fresh_owner()
    stands, open_again = False, True
    try:
        try:
            endpoint.fence(owner)
        except FenceRefused:
            open_again = False
            return Outcome(instance, "kept", policy.FENCED)
        stands = True
        # It was asked before the fence went up: whoever touched it in between was promised that it stays, and a boot
        # may have got through.
        decision = judge({**endpoint.status(), "fence": None})
        if decision.verb is Verb.KEEP:
            return Outcome(instance, "kept", decision.reason)
        seen = cloud.get_instance(instance.id)
        if doubt := _doubt(before, seen):
            return doubt
        if decision.gate is Gate.COMMIT:
            try:
                endpoint.commit(owner)
            except FenceRefused as refusal:
                return Outcome(instance, "kept", f"not committed: {refusal}")
        open_again = False
        return _do(cloud, seen, decision)
    except Refused:
        open_again = True
        raise
    except NotFound:
        stands = False  # gone, and its fence with it; unless another has its address and key by now
        raise
    finally:
        if open_again:
            _lift(cloud, endpoint, owner, stands=stands)


def _lift(cloud: Cloud, endpoint: Endpoint, owner: str, *, stands: bool) -> None:
    """Lift our fence; once more where that failed and it certainly stands, since it shuts out whoever wants in."""
    for last in (False, True) if stands else (True,):
        try:
            endpoint.unfence(owner)
            return
        except FenceRefused:
            return  # another's: ours has lapsed
        except EndpointError as error:
            if last:
                log.log(
                    logging.WARNING if stands else logging.INFO,
                    "a fence was not lifted: it lapses within two minutes or, once committed, the instance powers "
                    "itself off within ten: %s",
                    error,
                )
                return
        with suppress(OutOfTime):  # then at once: it shuts users out
            cloud.sleep(ASK_PAUSE_S)


def act(cloud: Cloud, instance: Instance, decision: Decision) -> Outcome:
    """Act without a fence, upon what cannot be asked or is of no use: read again, and only if unchanged and vouched."""
    seen = cloud.get_instance(instance.id)
    return _doubt(instance, seen) or _do(cloud, seen, decision)


def _do(cloud: Cloud, seen: Instance, decision: Decision) -> Outcome:
    deed, outcome = _DEEDS[decision.verb]
    try:
        deed(cloud, seen)
    except OutOfTime:
        return Outcome(seen, "begun", f"{decision.reason}; it is under way, and its end was not waited for")
    return Outcome(seen, outcome, decision.reason)


def _doubt(before: Instance, seen: Instance) -> Outcome | None:
    """The outcome where it is to be left alone after all; None where it is still ours and as it was."""
    if seen.state in GONE:
        return Outcome(before, "kept", f"already {seen.state}")
    if seen.labels != before.labels or seen.state != before.state:
        return Outcome(before, "kept", "its labels or its state changed while it was looked at")
    if not vouched(seen):
        why = (
            "left alone: its labels say it is ours, but its user-data does not carry the nonce of its label. If it is "
            "yours, delete it by hand; if not, remove its exollama labels"
        )
        return Outcome(before, "failed", left_alone(seen.foreign) if seen.foreign else why)
    return None


def vouched(instance: Instance) -> bool:
    """Whether labels and user-data agree that this project made it: a label alone never condemns a machine."""
    header = instance.header()
    return instance.owned and header is not None and header.request == instance.request
