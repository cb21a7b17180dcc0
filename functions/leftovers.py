"""Ending what was made and is of no use: one too many, a failed boot, one that broke; and saying what became of it.

Neighbours: `functions.provisioning` finds what this run, or runs before it, made and nobody can use;
`functions.protocol` drains and acts. Like them without a clock or socket of its own.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from client import prices
from client.boot import failure
from client.errors import BootFailed, EndpointError, ExollamaError, NotFound, OutOfTime
from client.model import Instance
from functions.policy import Decision, Verb, by_probe, by_surplus
from functions.protocol import ASK_PAUSE_S, ASKS, Outcome, act, drain, fresh_owner
from functions.seams import Cloud, Connect

log = logging.getLogger("exollama.provision")

WATCHDOG_S: Final = 600.0
"""How long past its idle timeout an instance powers itself off at the earliest: `COMMIT_MARGIN_S` of rules.py."""


class Leftovers:
    """Ends them in one zone."""

    def __init__(self, cloud: Cloud, connect: Connect) -> None:
        self.cloud = cloud
        self.connect = connect

    def removed(self, instance_id: str) -> str:
        """End one that this run made, unless it got ready; what became of it, in words. It is owned, so it will go."""
        try:
            outcome = self._end(self.cloud.get_instance(instance_id))
        except NotFound:
            return f"Instance {instance_id} is gone."
        except ExollamaError as error:
            return f"Instance {instance_id} could not be destroyed now and is left to the reaper: {error}"
        return _became(instance_id, outcome)

    def kept(self, instance: Instance, hourly_cost: float | None) -> str:
        """What becomes of one that this run made and whose boot failed, where it is kept, and what that costs."""
        until = instance.failed_until(self.cloud.now())
        when = f"until {until:%Y-%m-%d %H:%M} UTC at the latest" if until else "until a reaper removes it"
        cost = "a price that is not known here"
        if hourly_cost is not None:
            cost = f"about {hourly_cost:.3f} per hour ({prices.CURRENCIES})"
        return f"Instance {instance.id} is kept, as asked (--keep-failed), {when}, at {cost}. `exollama stop` ends it."

    def _end(self, instance: Instance) -> Outcome:
        """Shut and destroy it; without its word where it is silent as often as a reaper asks."""
        return self._drained(instance, by_surplus) or act(self.cloud, instance, Decision(Verb.DESTROY, "not needed"))

    def _drained(self, instance: Instance, judge: Callable[[dict[str, Any]], Decision]) -> Outcome | None:
        """What became of it through its fence; None where it is silent each time."""
        header, trouble = instance.header(), ""
        owner = fresh_owner()  # for all attempts: one whose answer was lost may have shut it
        for attempt in range(ASKS if header else 0):
            if attempt:
                self.cloud.sleep(ASK_PAUSE_S)
            assert header
            try:
                return drain(self.cloud, self.connect(instance, header.key), instance, judge, owner=owner)
            except EndpointError as error:
                trouble = trouble if error.silent else str(error)
        return Outcome(instance, "kept", trouble) if trouble else None

    def end_as_its_maker(self, instance: Instance, error: BootFailed) -> bool:
        """End what a run before this one made, and raise why.

        Returns whether it got ready meanwhile; False where it is gone, or kept to be looked at.
        """
        kept: dict[str, Any] | None = None

        def judge(status: dict[str, Any]) -> Decision:
            nonlocal kept
            decision = by_probe(seen, self.cloud.now(), status)
            kept = status if decision.verb is Verb.KEEP else None
            return decision

        try:
            seen = self.cloud.get_instance(instance.id)
            outcome = self._drained(seen, judge)
        except NotFound:
            return False
        except OutOfTime:
            raise
        except ExollamaError as trouble:
            outcome = Outcome(instance, "failed", f"not ended: {trouble}")
        if kept is not None:
            return failure(kept) is None
        again = " Asking again makes another." if _ended(outcome) else ""
        rest = f"{_became(instance.id, outcome)}{again}"
        raise BootFailed(f"{error.summary}\n{rest}", phase=error.phase, log=error.log) from error

    def end_broken(self, broken: Iterable[Instance]) -> None:
        """Where nothing else is left, end what runs before this one made and that broke, and raise that.

        `broken` are in error, or off. Those that are older than a boot takes, may have powered themselves off for want
        of use, are kept with their disk, or cannot be ended are left to the reaper: a new one is made beside them.
        """
        for instance in broken:
            since = self.cloud.now() - (instance.created or datetime.min.replace(tzinfo=UTC))
            boot = timedelta(seconds=min(instance.policy.boot_s, instance.policy.idle_s + WATCHDOG_S))
            if since > boot or (instance.state == "stopped" and instance.policy.action != "destroy"):
                continue
            reason = f"in state {instance.state}, soon after it was made"
            try:
                outcome = act(self.cloud, instance, Decision(Verb.DESTROY, reason))
            except OutOfTime:
                raise
            except ExollamaError as trouble:
                log.warning("%s", trouble)
                continue
            if _ended(outcome):
                how = "off" if instance.state == "stopped" else "in state error"
                raise BootFailed(
                    f"Instance {instance.id} is {how} soon after it was made: it may never have been ready. "
                    f"{_became(instance.id, outcome)} Asking again makes another; if that goes on, try another "
                    "EXOSCALE_INSTANCE_TYPE or zone.",
                    phase=instance.state,
                )


def _ended(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.outcome in ("destroyed", "begun")


def _became(instance_id: str, outcome: Outcome | None) -> str:
    """What became of an instance that was to be ended, in words; None: it was silent."""
    if outcome is None:
        return f"Instance {instance_id} is silent now, and left to the reaper."
    if outcome.outcome == "destroyed":
        return f"Instance {instance_id} was destroyed."
    if outcome.outcome == "begun":
        return f"Instance {instance_id} is being destroyed."
    if outcome.outcome == "kept":
        return f"Instance {instance_id} is left to the reaper: {outcome.reason}."
    return f"Instance {instance_id} was {outcome.reason}. It may still run and cost."
