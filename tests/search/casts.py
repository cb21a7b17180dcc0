"""Who plays in which search, and the weakened protocols that each have to be caught.

`SMALL` is complete within a CI run; `LARGE` is for `nox -s search`. A weakening is the real code with a few of its
lines taken out or changed, so that what is searched stays the real code otherwise.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

from client.model import Instance
from functions import leftovers, plan, policy, protocol, provisioning
from functions.policy import Decision, Verb
from tests import fakes
from tests.fakes import NOW, label_map
from tests.search.actors import Context
from tests.search.machine import Labels, Machine, agent
from tests.search.report import Cast
from tests.search.world import World

AGO = timedelta(hours=2)


def our_labels(**changes: str) -> Labels:
    """The labels of an instance of ours, used two hours ago."""
    return tuple(sorted(label_map(**{"activity": NOW - AGO, **changes}).items()))  # type: ignore[arg-type]


def idle(**changes: Any) -> Machine:
    """An instance of ours, a day old, idle for a little longer than its timeout."""
    return Machine(**{"id": "m1", "labels": our_labels(), "request": fakes.NONCE} | changes)


def world(*machines: Machine, **bounds: Any) -> World:
    """A world with these machines; bounds: jumps in seconds, losses, crashes, human, lag."""
    return World(tuple(machines), **bounds)


LATE = idle(active_at=-2800)
"""So long idle that its own watchdog acts as well."""
FORGED = Machine(id="m1", labels=our_labels(), state="stopped", up=False, request=None, foreign=True)
"""Somebody else's stopped machine with our labels on it."""
STOPPED = idle(labels=our_labels(action="stop"), action="stop", state="stopped", up=False)
PAST = idle(labels=our_labels(deadline=f"{NOW - timedelta(minutes=10):t%Y%m%dT%H%M%SZ}"), active_at=0, deadline=-600)
"""In use until just now, ten minutes past its deadline, within the hour of grace."""

SMALL: dict[str, Cast] = {
    "everybody": Cast(
        why="two reapers, two clients, a pipeline, the watchdog, one crash",
        world=world(LATE, crashes=1), actors=("reaper", "reaper", "curl", "curl", "provisioner"), guarded=True,
    ),
    "clients that write labels": Cast(
        why="label writes that race, the lease runs out and the watchdog wakes, one crash",
        world=world(idle(), jumps=(800,), crashes=1), actors=("reaper", "reaper", "curl", "client"), guarded=True,
    ),
    "two clients that write labels, a pipeline": Cast(
        why="three writers of one label", world=world(idle()), actors=("reaper", "client", "client", "provisioner"),
    ),
    "a lost answer": Cast(
        why="any one answer of the API or of an instance is lost, its deed done or not, and the lease runs out",
        world=world(idle(), losses=1, jumps=(130,)), actors=("reaper", "reaper", "curl", "provisioner"),
    ),
    "a lost answer, then a commit that nobody carries out": Cast(
        why="a reaper's commit or delete is lost or it dies, and ten minutes pass",
        world=world(idle(), losses=1, crashes=1, jumps=(700,)), actors=("reaper", "reaper", "curl"), guarded=True,
    ),
    "two pipelines": Cast(
        why="from nothing, nothing lost: both get the same one",
        world=world(strict=True), actors=("provisioner", "provisioner"),
    ),
    "two pipelines, and a guest of the younger": Cast(
        why="somebody uses whichever is ready, before the pipelines have settled on one",
        world=world(), actors=("provisioner", "provisioner", "guest"),
    ),
    "three pipelines": Cast(why="from nothing", world=world(strict=True), actors=("provisioner",) * 3),
    "two who poll": Cast(
        why="a function asked by two at once, none of whose runs knows of those before: both get the same one",
        world=world(), actors=("poller", "poller"),
    ),
    "one who polls, a pipeline, a guest": Cast(
        why="what a run finds beside a good one is ended, unless somebody uses it", world=world(),
        actors=("poller", "provisioner", "guest"),
    ),
    "two pipelines, lists that lag": Cast(
        why="new instances show in lists some time later, a reaper beside them",
        world=world(lag=True), actors=("provisioner", "provisioner", "reaper"),
    ),
    "two pipelines, a lost answer": Cast(
        why="a create's answer is lost, done or not, and one pipeline dies",
        world=world(losses=1, crashes=1), actors=("provisioner", "provisioner"),
    ),
    "two pipelines and a reaper at an idle one": Cast(
        why="one finds it, the other has to make one", world=world(idle()),
        actors=("reaper", "provisioner", "provisioner"),
    ),
    "stop and start": Cast(
        why="action stop: reapers stop it while pipelines start it",
        world=world(idle(labels=our_labels(action="stop"), action="stop")),
        actors=("reaper", "reaper", "curl", "provisioner"),
    ),
    "a stopped one": Cast(
        why="within its retention", world=world(STOPPED, crashes=1), actors=("reaper", "provisioner", "provisioner"),
    ),
    "past its deadline": Cast(
        why="in use within the grace, then the grace is over as well", world=world(PAST, jumps=(3600,)),
        actors=("reaper", "reaper", "curl", "curl"), guarded=True,
    ),
    "one that takes itself back": Cast(
        why="somebody takes our labels off the machine at any moment",
        world=world(idle(), human=True), actors=("reaper", "reaper", "curl"),
    ),
    "somebody else's": Cast(
        why="forged labels, foreign user-data", world=world(FORGED), actors=("reaper", "reaper", "provisioner"),
    ),
}  # fmt: skip

LARGE: dict[str, Cast] = {
    "everybody, with labels": Cast(
        why="as everybody, one client writing labels", world=world(LATE, crashes=1),
        actors=("reaper", "reaper", "curl", "client", "provisioner"), guarded=True,
    ),
    "everybody, and the clock moves": Cast(
        why="as everybody, eight minutes at any moment", world=world(idle(), crashes=1, jumps=(800,)),
        actors=("reaper", "reaper", "curl", "provisioner"), guarded=True,
    ),
    "two pipelines and two reapers at an idle one": Cast(
        why="one finds it, the other has to make one", world=world(idle()),
        actors=("reaper", "reaper", "provisioner", "provisioner"),
    ),
    "three reapers": Cast(
        why="three reapers, three clients, the watchdog, two crashes", world=world(LATE, crashes=2),
        actors=("reaper",) * 3 + ("curl",) * 3, guarded=True,
    ),
    "two lost answers": Cast(
        why="any two answers are lost", world=world(idle(), losses=2, jumps=(130,)),
        actors=("reaper", "reaper", "curl"), guarded=True,
    ),
    "two pipelines, lists that lag, a lost answer": Cast(
        why="from nothing", world=world(lag=True, losses=1), actors=("provisioner", "provisioner"),
    ),
    "a reaper and two pipelines, a lost answer": Cast(
        why="from nothing, and one of them dies", world=world(losses=1, crashes=1),
        actors=("reaper", "provisioner", "provisioner"),
    ),
}  # fmt: skip


# -- the protocol, weakened


@dataclass(frozen=True, kw_only=True)
class Weakening:
    """A protocol without one of its parts, and the smallest cast that shows why the part is there."""

    cast: Cast
    weakened: Callable[[], Any]
    violation: str


@contextmanager
def rewritten(module: Any, name: str, *changes: tuple[str, str]) -> Iterator[None]:
    """A function of a module with some of its source changed; each change has to fit exactly once."""
    source = textwrap.dedent(inspect.getsource(getattr(module, name)))
    for old, new in changes:
        assert source.count(old) == 1, f"{name} has not exactly one {old!r}"
        source = source.replace(old, new)
    scope: dict[str, Any] = {}
    exec(compile(f"from __future__ import annotations\n{source}", module.__file__, "exec"), vars(module), scope)
    with patch.object(module, name, scope[name]):
        yield


_COMMIT = "if decision.gate is Gate.COMMIT:"
_ASK_AGAIN = 'judge({**endpoint.status(), "fence": None})'
_OLD_ANSWER = 'judge({**endpoint.status(), "fence": None, "idle_s": 9999.0})'
_READ_AGAIN = "if doubt := _doubt(before, seen):"


def without_fence() -> Any:
    """Ask, read again, act: what the closest relatives do."""
    return rewritten(
        protocol, "reap_one",
        ("return drain(cloud, endpoint, seen, judge)", "return act(cloud, seen, judge(endpoint.status()))"),
    )  # fmt: skip


def unshut(cloud: Any, endpoint: Any, instance: Instance, judge: Any, **_: Any) -> Any:
    """Ask, then act."""
    decision = judge(endpoint.status())
    return (
        protocol.Outcome(instance, "kept", "")
        if decision.verb is Verb.KEEP
        else protocol.act(cloud, instance, decision)
    )


def labels_alone() -> Any:
    """The instance is not asked."""
    real = policy.by_labels

    def hasty(instance: Instance, now: Any) -> Decision:
        decision = real(instance, now)
        return replace(decision, verb=Verb.DESTROY) if decision.verb is Verb.ASK else decision

    return patch.object(policy, "by_labels", hasty)


WEAKENINGS: dict[str, Weakening] = {
    "no fence": Weakening(
        weakened=without_fence, cast=replace(SMALL["everybody"], actors=("reaper", "curl"), world=world(idle())),
        violation="a request that m1 accepted was cut",
    ),
    "anonymous fence": Weakening(
        weakened=lambda: patch.object(Context, "nonce", lambda *_: "anybody"),
        cast=Cast(world=world(idle()), actors=("reaper", "reaper", "curl")),
        violation="a request that m1 accepted was cut",
    ),
    "no second question": Weakening(
        weakened=lambda: rewritten(protocol, "drain", (_ASK_AGAIN, _OLD_ANSWER)),
        cast=Cast(world=world(idle()), actors=("reaper", "provisioner")),
        violation="m1 was touched for somebody who got it, and went all the same",
    ),
    "no re-read": Weakening(
        weakened=lambda: rewritten(protocol, "drain", (_READ_AGAIN, "if doubt := None:")),
        cast=Cast(world=world(idle(), human=True), actors=("reaper",)),
        violation="an instance that is not ours was deleted",
    ),
    "no commit": Weakening(
        weakened=lambda: rewritten(protocol, "drain", (_COMMIT, "if decision.gate is None:")),
        cast=Cast(world=world(idle(), jumps=(130,)), actors=("reaper", "curl")),
        violation="a request that m1 accepted was cut",
    ),
    "no nonce check": Weakening(
        weakened=lambda: patch.object(protocol, "vouched", lambda instance: instance.owned),
        cast=SMALL["somebody else's"], violation="an instance that is not ours was deleted",
    ),
    "no nonce check in provisioning": Weakening(
        weakened=lambda: patch.object(provisioning, "vouched", lambda instance: instance.owned),
        cast=Cast(
            world=world(FORGED._replace(labels=our_labels(action="stop"))), actors=("provisioner",),
        ),
        violation="an instance that is not ours was started",
    ),
    "never lifts": Weakening(
        weakened=lambda: patch.object(protocol, "_lift", lambda *_, **__: None),
        cast=Cast(world=world(idle()), actors=("reaper", "curl")), violation="a fence stands for good: m1",
    ),
    "a lease without an end": Weakening(
        weakened=lambda: patch.object(agent.Fence, "expire", lambda self, _now: self),
        cast=Cast(world=world(idle(), crashes=1), actors=("reaper", "curl")), violation="a fence stands for good: m1",
    ),
    "surplus instance not shut first": Weakening(
        weakened=lambda: patch.object(leftovers, "drain", unshut),
        cast=SMALL["two pipelines, and a guest of the younger"], violation="a request that new-1 accepted was cut",
    ),
    "another run's surplus not shut first": Weakening(
        weakened=lambda: patch.object(leftovers, "drain", unshut),
        cast=SMALL["one who polls, a pipeline, a guest"], violation="a request that new-1 accepted was cut",
    ),
    "created without its labels": Weakening(
        weakened=lambda: patch.object(plan, "owned_labels", lambda *_: {}),
        cast=Cast(world=world(), actors=("provisioner",)),
        violation="an instance was created that is not owned from its first moment",
    ),
    "tie-break removed": Weakening(
        weakened=lambda: patch.object(Instance, "age_key", property(lambda self: (self.created, self.id[::-1][:0]))),
        cast=SMALL["two pipelines"], violation="pipelines got different instances: new-0, new-1",
    ),
    "watchdog leaves a commit to its owner": Weakening(
        weakened=lambda: patch.object(agent.Agent, "seize", lambda *_: None),
        cast=SMALL["a lost answer, then a commit that nobody carries out"],
        violation="a request that m1 accepted was cut",
    ),
    "labels alone": Weakening(
        weakened=labels_alone, cast=Cast(world=world(idle()), actors=("reaper", "curl")),
        violation="a request that m1 accepted was cut",
    ),
}  # fmt: skip
