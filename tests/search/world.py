"""The world of the search: a zone and its machines as immutable values, and what each call makes of them.

One step is what is atomic in reality: one API call, one answer of the agent's (which holds a lock), one request that
nginx lets in or refuses, one request's end. That nginx looks for the fence and then connects, and that the agent counts
and then reads what was asked, is bridged by the agent's SETTLE_S, which the tests of the real fence try and this search
takes for granted. Left out as well: instances that reapers cannot reach, boots that fail, refusals of the API, and
states and labels in lists that are old. Neighbours: machine.py for the machines, explore.py for the order of steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from client.model import GONE, read_header
from tests.search.machine import IDLE_S, Fence, Labels, Machine, Rig, bucketed, normal, verdict

Answer = tuple[Any, ...]
"""`("value", …)` or `("error", name of the exception)`; hashable, so that equal histories are found."""


class World(NamedTuple):
    """Everything but the actors. `jumps` are the moves of the clock that are still to come."""

    machines: tuple[Machine, ...]
    now: int = 0
    jumps: tuple[int, ...] = ()
    losses: int = 0
    crashes: int = 0
    human: bool = False  # somebody who will take the first machine over by hand
    lag: bool = False  # new instances show in lists some time later
    serial: int = 0
    strict: bool = False  # no pipeline may fail, and all have to get the same instance
    handed_out: tuple[str, ...] = ()
    exact: bool = False  # every time counts: once the search has come to rest, and the clock runs on

    def find(self, machine_id: str) -> Machine | None:
        return next((m for m in self.machines if m.id == machine_id), None)

    def having(self, machine: Machine) -> World:
        """With one machine changed."""
        machine = normal(machine)
        if not self.exact:
            machine = bucketed(machine, self.now, self.now + sum(self.jumps))
        return self._replace(machines=tuple(machine if m.id == machine.id else m for m in self.machines))


class Violation(BaseException):
    """What must never happen did. No Exception, so that no code that is searched swallows it."""


# -- what calls do


def perform(world: World, call: tuple[Any, ...], actor: str) -> tuple[World, Answer]:
    """The world after a call, and its answer. Raises Violation."""
    name, *given = call
    return _DEEDS[name](world, actor, *given)


def view(machine: Machine, *, whole: bool) -> Answer:
    """What the API shows of it: id, state, labels, created, its user-data's nonce where it is whole."""
    return machine.id, machine.state, machine.labels, machine.created, machine.request if whole else None, whole


def _api(deed: Callable[..., tuple[World, Answer]]) -> Callable[..., tuple[World, Answer]]:
    def of_one(world: World, actor: str, machine_id: str, *given: Any) -> tuple[World, Answer]:
        machine = world.find(machine_id)
        return deed(world, machine, *given) if machine else (world, ("error", "NotFound"))

    return of_one


def _list(world: World, actor: str) -> tuple[World, Answer]:
    """Lists have no order that one could rely on: every second pipeline sees them the other way round."""
    order = -1 if actor in ("provisioner1", "poller1") else 1
    return world, ("value", tuple(view(m, whole=False) for m in world.machines[::order] if m.listed))


@_api
def _get(world: World, machine: Machine) -> tuple[World, Answer]:
    return world, ("value", view(machine, whole=True))


@_api
def _put_labels(world: World, machine: Machine, given: Labels) -> tuple[World, Answer]:
    return world.having(machine._replace(labels=given)), ("value", None)


@_api
def _delete(world: World, machine: Machine) -> tuple[World, Answer]:
    _touched(machine, "deleted")
    if machine.state in GONE:
        return world, ("error", "Conflict")
    return world.having(machine._replace(state="destroying", op="delete")), ("value", ("op", machine.id))


@_api
def _stop(world: World, machine: Machine) -> tuple[World, Answer]:
    _touched(machine, "stopped")
    if machine.state != "running":
        return world, ("error", "ApiError")
    return world.having(machine._replace(state="stopping", op="stop")), ("value", ("op", machine.id))


@_api
def _start(world: World, machine: Machine) -> tuple[World, Answer]:
    _touched(machine, "started")
    if machine.state != "stopped":
        return world, ("error", "ApiError")
    fresh = machine._replace(state="running", up=True, booted=False, fence=Fence(), active_at=world.now, op=None)
    return world.having(fresh), ("value", ("op", "started"))


def _create(world: World, _actor: str, body: str) -> tuple[World, Answer]:
    sent = json.loads(body)
    header, given = read_header(sent["user-data"]), sent["labels"]
    if not header or given.get("exollama") != "v1" or given.get("exollama-request") != f"r{header.request}":
        raise Violation("an instance was created that is not owned from its first moment")
    made = Machine(
        id=f"new-{world.serial}", labels=tuple(sorted(given.items())), request=header.request, created=world.now,
        listed=not world.lag, booted=False, active_at=world.now,
    )  # fmt: skip
    return world._replace(machines=(*world.machines, made), serial=world.serial + 1), ("value", ("op", made.id))


def _wait(world: World, _actor: str, _machine_id: str) -> tuple[World, Answer]:
    return world, ("value", None)


def settled(world: World, machine_id: str) -> bool:
    """Whether the operation upon a machine has ended."""
    machine = world.find(machine_id)
    return machine is None or machine.op is None


def _touched(machine: Machine, what: str) -> None:
    if machine.foreign and (machine.fenced_foreign or machine.fence.owner is None):
        raise Violation(f"an instance that is not ours was {what}")


def _endpoint(deed: Callable[..., tuple[World, Answer]]) -> Callable[..., tuple[World, Answer]]:
    def of_one(world: World, actor: str, machine_id: str, *given: Any) -> tuple[World, Answer]:
        machine = world.find(machine_id)
        if machine is None or not machine.up:
            return world, ("error", "Unreachable")
        return deed(world, machine, Rig(machine, world.now), actor, *given)

    return of_one


@_endpoint
def _status(world: World, machine: Machine, rig: Rig, _actor: str) -> tuple[World, Answer]:
    _, said = rig.status()
    fence = said["fence"] and said["fence"]["committed"]
    return world.having(rig.after()), ("value", (said["idle_s"], said["in_flight"], said["boot"]["phase"], fence))


@_endpoint
def _touch(world: World, machine: Machine, rig: Rig, _actor: str) -> tuple[World, Answer]:
    code, _ = rig.touch()
    after = rig.after()
    if code != 204:
        return world.having(after), ("error", "Draining")
    return world.having(after._replace(promised_at=world.now)), ("value", None)


@_endpoint
def _fence(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    before = rig.fence.expire(world.now).owner
    code, _ = rig.put(owner)
    after = rig.after()
    if before is None and code == 201:
        after = after._replace(fenced_foreign=machine.foreign)
    return world.having(after), ("value", None) if code == 201 else ("error", "FenceRefused")


@_endpoint
def _commit(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    code, _ = rig.commit(owner)
    return world.having(rig.after()), ("value", None) if code == 200 else ("error", "FenceRefused")


@_endpoint
def _unfence(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    code, _ = rig.delete(owner)
    return world.having(rig.after()), ("value", None) if code == 204 else ("error", "FenceRefused")


@_endpoint
def _begin(world: World, machine: Machine, _rig: Rig, actor: str) -> tuple[World, Answer]:
    """A request at nginx, which looks whether the fence's file is there."""
    if machine.fence.owner is not None:
        return world.having(machine._replace(asked=machine.asked + 1, active_at=world.now)), ("error", "Draining")
    flying = tuple(sorted((*machine.in_flight, actor)))
    if actor.startswith(("provisioner", "poller")):
        world = world._replace(handed_out=tuple(sorted({*world.handed_out, machine.id})))
        if world.strict and len(world.handed_out) > 1:
            raise Violation(f"pipelines got different instances: {', '.join(world.handed_out)}")
    return world.having(machine._replace(in_flight=flying, active_at=world.now)), ("value", None)


def _failed(world: World, _actor: str, why: str) -> tuple[World, Answer]:
    if world.strict:
        raise Violation(f"a pipeline failed: {why}")
    return world, ("value", None)


def _end(world: World, actor: str, machine_id: str) -> tuple[World, Answer]:
    machine = world.find(machine_id)
    if machine is None or actor not in machine.in_flight:
        return world, ("error", "StreamCut")
    left = tuple(one for one in machine.in_flight if one != actor)
    ended = machine._replace(in_flight=left, asked=machine.asked + 1, active_at=world.now)
    return world.having(ended), ("value", None)


@_endpoint
def _look(world: World, machine: Machine, rig: Rig, _actor: str) -> tuple[World, Answer]:
    """The watchdog's look; the lock stays with it until the fence is its own for good, or lifted."""
    rig.sample()
    after = rig.after()
    found = verdict(after, world.now)
    said = ("value", (after.active_at, after.fence.committed, after.booted, after.deadline))
    return world.having(after._replace(locked=found is not None)), said


@_endpoint
def _guard_put(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    code, _ = rig.put(owner)
    return world.having(rig.after()), ("value", code)


@_endpoint
def _guard_commit(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    code, _ = rig.commit(owner)
    return world.having(rig.after()), ("value", code)


@_endpoint
def _guard_delete(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    code, _ = rig.delete(owner)
    return world.having(rig.after()._replace(locked=False)), ("value", code)


@_endpoint
def _guard_seize(world: World, machine: Machine, rig: Rig, _actor: str, owner: str) -> tuple[World, Answer]:
    rig.seize(owner)
    return world.having(rig.after()._replace(locked=False)), ("value", None)


@_endpoint
def _power_off(world: World, machine: Machine, _rig: Rig, _actor: str) -> tuple[World, Answer]:
    return world.having(off(world, machine)._replace(state=machine.state if machine.op else "stopped")), ("value", None)


def off(world: World, machine: Machine) -> Machine:
    """It loses power: nothing that it accepted may be cut, unless its deadline and grace are over."""
    if machine.deadline is None or world.now < machine.deadline + 3600:
        if machine.in_flight:
            raise Violation(f"a request that {machine.id} accepted was cut")
        if machine.booted and world.now - machine.promised_at < IDLE_S:
            raise Violation(f"{machine.id} was touched for somebody who got it, and went all the same")
    return machine._replace(up=False, fence=Fence(), locked=False)


_DEEDS: dict[str, Callable[..., tuple[World, Answer]]] = {
    "list": _list, "get": _get, "put_labels": _put_labels, "create": _create, "delete": _delete, "stop": _stop,
    "start": _start, "wait": _wait, "status": _status, "touch": _touch, "fence": _fence, "commit": _commit,
    "unfence": _unfence, "begin": _begin, "end": _end, "failed": _failed, "look": _look, "guard_put": _guard_put,
    "guard_commit": _guard_commit, "guard_delete": _guard_delete, "guard_seize": _guard_seize, "power_off": _power_off,
}  # fmt: skip


# -- what happens by itself


def carried_out(world: World, machine_id: str) -> World:
    """The API carries out what was asked of a machine."""
    machine = world.find(machine_id)
    assert machine
    gone = off(world, machine) if machine.up else machine
    if machine.op == "delete":
        return world._replace(machines=tuple(m for m in world.machines if m.id != machine_id))
    return world.having(gone._replace(state="stopped", op=None))


def jumped(world: World, seconds: int) -> World:
    """The clock moves on, and each agent has its look, as it has once a second."""
    world = world._replace(now=world.now + seconds)
    for machine in world.machines:
        if machine.up:
            rig = Rig(machine, world.now)
            rig.sample()
            world = world.having(rig.after())
    return world


def taken_over(world: World) -> World:
    """Somebody takes our labels off a machine, since it is his now."""
    machine = world.machines[0]
    return world.having(machine._replace(labels=(("team", "seven"),), foreign=True))._replace(human=False)
