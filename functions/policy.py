"""What to do about one instance: pure decisions, each with its reason in words.

`by_labels` looks at what the API shows; `by_probe` at what the instance said of itself, or at its silence. Nothing here
reads a clock or talks to anybody. Neighbours: `functions.protocol` carries the decisions out.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from client.model import GONE, Instance, Policy, printable

GRACE: Final = timedelta(hours=1)
"""How long past its deadline requests in flight are waited for."""
SILENCE: Final = timedelta(minutes=20)
"""How long past idle an unreachable instance is left alone: by then a healthy idle one has powered itself off."""
ABANDONED: Final = timedelta(minutes=30)
"""How old a commit is that neither its reaper nor the watchdog, which powers off after ten, can have carried out."""
LATEST_START: Final = timedelta(minutes=10)
"""A stopped machine has no fence, so reaper and provisioner keep apart in time, by this much."""
SKIPPED_WRITES: Final = 1.25
"""Idle by label counts a quarter more than the timeout, for the label writes that were skipped."""
RUNNING: Final = ("running", "starting")
"""States in which an instance may be asked."""
_KEEPS: Final = 8
"""More keeps than can follow each other: by label, by its own word, failed and looked at, unreachable."""


class Gate(Enum):
    """What a deed has to pass on the instance itself, where that answers."""

    NONE = "none"
    """Unconditional: its deadline and the grace are over, or it cannot be asked."""
    FENCE = "fence"
    """Shut first, so that nobody begins who would be cut; it never was ready, so nobody is waited for."""
    COMMIT = "commit"
    """Shut, and only if the instance itself commits: nothing in flight, nothing asked for since."""


FENCED: Final = "fenced: another reaper, or its own watchdog, is at it"


class Verb(Enum):
    """What is to be done."""

    KEEP = "keep"
    ASK = "ask"
    DESTROY = "destroy"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verb and why. `trouble` marks a keep that nobody should overlook; `until`, if known, is when a keep ends that
    nobody prolongs by using it: from then on another rule holds."""

    verb: Verb
    reason: str
    trouble: bool = False
    gate: Gate = Gate.NONE
    until: datetime | None = None


def keep(reason: str, until: datetime | None = None) -> Decision:
    """Keep it, because."""
    return Decision(Verb.KEEP, reason, until=until)


def idle_since(instance: Instance, now: datetime) -> datetime | None:
    """When the label says that it became idle, or None where the label counts for nothing."""
    activity = instance.activity(now)
    return activity and idle_by_label(activity, instance.policy)


def idle_by_label(activity: datetime, policy: Policy) -> datetime:
    """When one that was last used then is idle, by a label that may be a quarter of the timeout old."""
    return activity + timedelta(seconds=policy.idle_s * SKIPPED_WRITES)


def may_start(instance: Instance, now: datetime) -> bool:
    """Whether a provisioner may start a stopped instance: only while no reaper may destroy it in the next minutes."""
    policy, activity = instance.policy, instance.activity(now)
    if policy.action != "stop" or activity is None:
        return False
    until = activity + timedelta(seconds=policy.idle_s + policy.retention_s)
    return now < min(until, policy.deadline or until) - LATEST_START


def by_labels(instance: Instance, now: datetime) -> Decision:
    """The decision as far as the API's view allows one; ASK where only the instance itself knows."""
    policy = instance.policy
    if instance.state in GONE:
        return keep(f"already {instance.state}")
    if instance.state == "error":
        return Decision(Verb.DESTROY, "in state error")
    if instance.state == "stopped":
        return _stopped(instance, now)
    if instance.state not in RUNNING:
        if policy.deadline and now >= policy.deadline + GRACE:
            return Decision(Verb.DESTROY, f"{instance.state}, and past its deadline and the grace")
        return keep(f"{instance.state}: in transition, looked at again next time")
    if policy.deadline and now >= policy.deadline:
        return Decision(Verb.ASK, "past its deadline")
    activity = instance.activity(now)
    if activity is None:
        return Decision(Verb.ASK, "its activity label cannot be used")
    idle = idle_by_label(activity, policy)
    if now < idle:
        booting = instance.state == "starting"  # once it has booted it counts anew
        ago, past = _ago(now - activity), now >= activity + timedelta(seconds=policy.idle_s)
        late = f"by its label, which may be late, used {ago} ago: kept until {_ago(idle - activity)}"
        reason = late if past else f"by its label used {ago} ago"
        return keep(reason, None if booting else _sooner(idle, policy.deadline))
    return Decision(Verb.ASK, f"by its label unused for {_ago(now - activity)}: to be asked")


def by_probe(instance: Instance, now: datetime, status: dict[str, Any]) -> Decision:
    """The decision once the instance has said what it is doing."""
    policy = instance.policy
    boot = status["boot"]
    past_deadline = policy.deadline is not None and now >= policy.deadline
    if isinstance(boot.get("error"), dict):
        kept = status.get("policy")
        until = instance.failed_until(now)
        asked = isinstance(kept, dict) and kept.get("keep_failed") is True
        if asked and not past_deadline and (until is None or now < until):
            when = f" until {until:%Y-%m-%d %H:%M} UTC" if until else ""
            return keep(f"its boot failed; kept to be looked at{when}", until)
        phase = printable(boot["error"].get("phase"))
        return Decision(Verb.DESTROY, f"its boot failed in phase {phase}", gate=Gate.FENCE)
    until_booted = instance.booting_until(now)
    if boot["phase"] != "ready":
        if not (until_booted and now < until_booted):  # its deadline grants it no more, either
            late = f"not ready within its boot timeout of {policy.boot_s} s (phase {boot['phase']})"
            return Decision(Verb.DESTROY, late, gate=Gate.FENCE)
        if not past_deadline:
            return keep(f"booting (phase {boot['phase']})")
    in_flight, idle_s = status["in_flight"], status["idle_s"]
    if past_deadline and policy.deadline:
        if in_flight and now < policy.deadline + GRACE:
            return keep(f"past its deadline, but {in_flight} request(s) in flight; waited for within the hour of grace")
        gate = Gate.COMMIT if now < policy.deadline + GRACE else Gate.NONE
        return Decision(Verb.DESTROY, "past its deadline", gate=gate)
    fence = status.get("fence") or {}
    committed_s = fence.get("committed_s")
    if isinstance(committed_s, int) and committed_s >= ABANDONED.total_seconds():
        return Decision(Verb.DESTROY, f"shut for good {_ago(timedelta(seconds=committed_s))} ago, and still there")
    if in_flight:
        return keep(f"{in_flight} request(s) in flight")
    if idle_s < policy.idle_s:
        idle = now + timedelta(seconds=policy.idle_s - idle_s, microseconds=1)  # which rounding might have taken off
        return keep(f"used {_ago(timedelta(seconds=idle_s))} ago, as it says itself", _sooner(idle, policy.deadline))
    if fence:
        return keep(FENCED)
    verb = Verb.STOP if policy.action == "stop" else Verb.DESTROY
    return Decision(verb, f"idle for {_ago(timedelta(seconds=idle_s))}", gate=Gate.COMMIT)


def by_silence(instance: Instance, now: datetime, trouble: str, *, silent: bool = True) -> Decision:
    """The decision where it runs but gave no usable answer.

    One that does answer, if with another key or certificate or with nonsense, is not `silent`: only its deadline
    condemns it.
    """
    policy = instance.policy
    if policy.deadline and now >= policy.deadline + GRACE:
        return Decision(Verb.DESTROY, "past its deadline and the grace, and not reachable")
    until_booted = instance.booting_until(now)
    if until_booted and now < until_booted:
        return keep("booting: not reachable yet")
    idle = idle_since(instance, now)
    if silent and policy.reach == "any" and idle and now >= idle + SILENCE:
        verb = Verb.STOP if policy.action == "stop" else Verb.DESTROY
        return Decision(verb, f"idle by its label for {_ago(now - idle)}, and not reachable")
    until = policy.deadline and policy.deadline + GRACE
    if silent and policy.reach == "any" and idle:
        until = _sooner(idle + SILENCE, until)
    kept = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "for as long as it has no deadline"
    return Decision(Verb.KEEP, f"cannot be asked: {trouble} Kept {kept}.", trouble=True, until=until)


def by_wish(status: dict[str, Any], verb: Verb) -> Decision:
    """The decision where somebody wants it gone now: only a boot or requests under way keep it."""
    boot = status["boot"]
    if boot["phase"] != "ready" and not isinstance(boot.get("error"), dict):
        return keep(f"booting (phase {boot['phase']}): somebody may be waiting for it")
    if status["in_flight"]:
        return keep(f"in use: {status['in_flight']} request(s) in flight")
    asked = f"as asked, {_ago(timedelta(seconds=status['idle_s']))} after its last use"
    return Decision(verb, asked, gate=Gate.COMMIT)


def by_surplus(status: dict[str, Any]) -> Decision:
    """The decision of a pipeline about its own instance, which is one too many or failed: only if never handed out."""
    if status["boot"]["phase"] == "ready":
        return keep("it is ready already, and may be in use")
    return Decision(Verb.DESTROY, "not needed", gate=Gate.FENCE)


def overdue(instance: Instance, now: datetime, status: dict[str, Any] | None, *, silent: bool = True) -> str | None:
    """Why a reaper should have acted by now, or None: it would have decided so already SILENCE ago.

    `status` is the instance's own word, None where it gave none; users who write no labels are seen in it alone.
    """
    then = now - SILENCE
    quiet_since = max((moment for moment in (instance.created, instance.activity(now)) if moment), default=None)
    deadline = instance.policy.deadline
    unconditional = deadline is not None and then >= deadline + GRACE
    if quiet_since and quiet_since > then and not unconditional:
        return None
    decision = by_labels(instance, then)
    if decision.verb is Verb.ASK:
        decision = _asked(instance, then, status, -SILENCE, silent=silent)
    return None if decision.verb is Verb.KEEP else decision.reason


def goes_at(
    instance: Instance, now: datetime, status: dict[str, Any] | None = None, *, silent: bool | None = None
) -> datetime | None:
    """When a reaper would end it if nobody used it again; `now` where it would at once, None where nobody can say.

    `status` is its own word; where it gave none, `silent` is as of `by_silence`, or None where it was not asked: then
    it is taken to be as idle as its label says. Nobody can say while it boots, is in use or in transition, nor by the
    labels alone of one that was never used, whose boot may have failed (and be kept to be looked at).
    """
    first, at = by_labels(instance, now), now
    if first.verb is Verb.KEEP and first.until is None:
        return None
    asked = (status is not None or silent is not None) and instance.state in RUNNING
    own = _asked(instance, now, status, timedelta(), silent=bool(silent)) if asked else first
    if own.verb is Verb.KEEP and own.until is None:
        return None
    past_deadline = instance.policy.deadline is not None and now >= instance.policy.deadline
    activity = instance.activity(now)
    if first.verb is Verb.ASK and status is None and activity is None and not past_deadline:
        return None
    unused = activity and instance.created and activity <= instance.created  # since its create call, which writes it
    if unused and not asked and instance.state in RUNNING and not past_deadline:
        return None
    for _ in range(_KEEPS):
        decision = by_labels(instance, at)
        if decision.verb is Verb.ASK and asked:
            decision = _asked(instance, at, status, at - now, silent=bool(silent))
        if decision.verb is not Verb.KEEP:
            return at
        if decision.until is None:
            return None
        at = decision.until
    return None


def _asked(
    instance: Instance, then: datetime, status: dict[str, Any] | None, later: timedelta, *, silent: bool
) -> Decision:
    """The decision at another time, about what answers as it does now but for its idle time, or does not answer."""
    if not status:
        return by_silence(instance, then, "", silent=silent)
    idle_s = max(0.0, status["idle_s"] + later.total_seconds())
    return by_probe(instance, then, {**status, "idle_s": idle_s, "fence": None})


def _sooner(one: datetime, deadline: datetime | None) -> datetime:
    return min(one, deadline or one)


def _stopped(instance: Instance, now: datetime) -> Decision:
    policy = instance.policy
    if policy.action != "stop":
        return Decision(Verb.DESTROY, "stopped: it powered itself off")
    if policy.deadline and now >= policy.deadline:
        return Decision(Verb.DESTROY, "stopped, and past its deadline")
    activity = instance.activity(now)
    if activity is None:
        return keep("stopped; its activity label cannot be used, so it is kept until its deadline")
    until = activity + timedelta(seconds=policy.idle_s + policy.retention_s)
    if now < until:
        return keep(f"stopped, its disk kept until {until:%Y-%m-%d %H:%M} UTC", _sooner(until, policy.deadline))
    return Decision(Verb.DESTROY, f"stopped for longer than its retention of {policy.retention_s} s")


def _ago(past: timedelta) -> str:
    return span(past.total_seconds())


def span(seconds: float) -> str:
    """A length of time in words: seconds below two minutes, minutes below two hours, then hours and minutes."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"
