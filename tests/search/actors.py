"""The actors of the search: the real code, each call of it a step, run again from its history of answers.

An actor is deterministic: what it calls next depends on the answers that it got so far and on nothing else. So its
state is that history, and no thread or greenlet has to be kept: the code is run from its beginning over the recorded
answers until it asks for one that is not there yet. The same code runs live once a search has come to rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cache
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

from client import activity, errors
from client.errors import ExollamaError, OutOfTime
from client.model import Instance
from client.settings import Secret
from functions import creating, deeds, plan, protocol
from functions.plan import Draft
from functions.provisioning import Provisioning
from tests import fakes
from tests.fakes import NOW
from tests.search.machine import CLOCK, IDLE_S, agent
from tests.search.world import Answer

Call = tuple[Any, ...]
SELF = "@"
"""Stands for the actor's own index in what it calls itself, so that equal actors have equal histories.

A provisioner compares what it reads with what it wrote, so it knows its index, and no two of them are equal.
"""


POLLS = 4
"""How often somebody asks a function before giving up."""
Place = tuple[Any, ...]
"""Where code stands: its frames, each with its local variables."""


class Pending(BaseException):
    """The next answer is not there yet."""


@dataclass
class Context:
    """One run of an actor's code: over recorded answers first, then on `live`, or up to the first call without one."""

    history: tuple[tuple[Answer, int | None], ...]
    index: str = SELF
    target: str = "m1"
    live: Callable[[Call], tuple[Answer, int]] | None = None
    pending: Call | None = None
    nonces: int = 0
    timely: bool = False
    """Whether the time of the last answer was asked for: where it was not, it makes no difference."""
    place: Place = ()
    last: str = ""
    """The call that was answered last."""
    _now_s: int = 0
    _at: int = 0

    @property
    def now_s(self) -> int:
        """Seconds since NOW, as of the last answer."""
        self.timely = True
        return self._now_s

    def ask(self, *call: Any) -> Any:
        """The answer to a call, raised or returned."""
        if self._at < len(self.history):
            answer, now_s = self.history[self._at]
            self._at += 1
            self.timely, self._now_s, self.last = False, now_s or 0, call[0]
        elif self.live:
            answer, self._now_s = self.live(call)
        else:
            if not self.pending:  # what a finally clause calls on the way out is none of it
                self.pending = call
                self.place = place(self)
            raise Pending
        if answer[0] == "error":
            raise _error(answer[1])
        return answer[-1]

    def nonce(self, _bytes: int = 16) -> str:
        self.nonces += 1
        # Reapers are numbered anew all the time, and their fences with them; a pipeline's fence is none of a reaper's.
        return f"{'' if self.index == SELF else 'pipeline'}{self.index}{self.nonces - 1}"


_STATUS = {"Conflict": 409, "NotFound": 404, "ApiError": 400}


def _error(name: str) -> Exception:
    if name == "Unanswered":
        return errors.Unanswered("?", "/", "no answer", sent=True)
    kind: Any = getattr(errors, name)
    return kind("?", "/", _STATUS[name], "refused") if name in _STATUS else kind("it said so")  # type: ignore[no-any-return]


class Cloud:
    """The zone, as an actor sees it."""

    zone = fakes.ZONE

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sleep: Callable[[float], None] = self._sleep

    def _sleep(self, seconds: float) -> None:
        if self.context.index != SELF:  # whoever waits for something; a pause between two tries is no step
            self.context.ask("sleep", seconds)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.context.now_s)

    def list_instances(self) -> list[Instance]:
        return [instance(view) for view in self.context.ask("list")]

    def get_instance(self, instance_id: str) -> Instance:
        return instance(self.context.ask("get", instance_id))

    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None:
        self.context.ask("put_labels", instance_id, tuple(sorted(labels.items())))

    def create_instance(self, body: Secret) -> Mapping[str, Any]:
        return _operation(self.context.ask("create", body.reveal()))

    def start_instance(self, instance_id: str) -> Mapping[str, Any]:
        return _operation(self.context.ask("start", instance_id))

    def stop_instance(self, instance_id: str) -> Mapping[str, Any]:
        return _operation(self.context.ask("stop", instance_id))

    def delete_instance(self, instance_id: str) -> Mapping[str, Any]:
        return _operation(self.context.ask("delete", instance_id))

    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]:
        if "destruction" in what or "stopping" in what:
            self.context.ask("wait", operation["reference"]["id"])
        return operation


class Endpoint:
    """One instance, as an actor sees it."""

    def __init__(self, context: Context, instance_id: str, *, boot_only: bool) -> None:
        self.context = context
        self.id = instance_id
        self.boot_only = boot_only

    def status(self) -> dict[str, Any]:
        idle_s, in_flight, phase, fence = self.context.ask("status", self.id)
        said = None if fence is None else {"committed": fence, "lease_s": 1.0}
        # Provisioning looks at boot and fence alone: the rest would only tell apart what is equal to it.
        # Of the idle time counts on which side of the timeout it is.
        used = {} if self.boot_only else {"idle_s": 9999.0 * (idle_s >= IDLE_S), "in_flight": in_flight}
        return fakes.status(phase=phase, fence=said, **used)

    def touch(self) -> None:
        self.context.ask("touch", self.id)

    def fence(self, owner: str) -> None:
        self.context.ask("fence", self.id, owner)

    def commit(self, owner: str) -> None:
        self.context.ask("commit", self.id, owner)

    def unfence(self, owner: str) -> None:
        self.context.ask("unfence", self.id, owner)


def _operation(answer: tuple[str, str]) -> Mapping[str, Any]:
    return {"id": "op", "state": "success", "reference": {"id": answer[1]}}


@cache
def instance(view: tuple[Any, ...]) -> Instance:
    """The real `Instance` of what the API shows."""
    machine_id, state, given, created, request, whole = view
    shown = fakes.user_data(request) if request else "IyEvYmluL3NoCg=="
    return Instance(
        id=machine_id, zone=fakes.ZONE, name="exollama", state=state, created=NOW + timedelta(seconds=created),
        address="127.0.0.9", labels=dict(given), user_data=Secret(shown) if whole else None,
    )  # fmt: skip


# -- where an actor stands


def place(context: Context) -> Place:
    """The frames between an actor's program and its call, with all that their variables hold.

    Two histories that led to the same place have the same future. What an expression has worked out so far but no
    variable holds comes from the last answer, which is part of the place, as is its time where the code asked for it.
    """
    frames = []
    frame = inspect.currentframe()
    while frame and frame.f_code is not run.__code__:
        if frame.f_code.co_filename != __file__ or frame.f_code.co_name in PROGRAMS:
            frames.append((frame.f_code.co_qualname, frame.f_lasti, _held(dict(frame.f_locals), 0)))
        frame = frame.f_back
    last = context.history[-1] if context.history else None
    return (*frames, context.nonces, context.last, last and last[0], context._now_s if context.timely else None)


_KNOWN = (str, int, float, bool, type(None), bytes, datetime, timedelta)


def _held(value: Any, depth: int) -> Any:  # noqa: C901 - one row per kind
    """A value as something that can be compared and hashed."""
    assert depth < 12, f"deeper than anything here: {value!r}"
    if isinstance(value, _KNOWN):
        return value
    if isinstance(value, Instance):
        return (value.id, value.state, tuple(sorted(value.labels.items())), value.created, bool(value.user_data))
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        # The rounds of the provisioner are counted, to a bound that no search comes near.
        kept = sorted((str(k), v) for k, v in value.items() if k != "_")
        return tuple((k, _held(v, depth + 1)) for k, v in kept)
    if isinstance(value, list | tuple):
        return tuple(_held(one, depth + 1) for one in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(str(one) for one in value))
    if isinstance(value, BaseException):
        return type(value).__name__, str(value)
    if isinstance(value, Context | Cloud | type | ModuleType):
        return type(value).__name__
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__qualname__, _held(cells, depth + 1)
    if isinstance(value, MethodType):
        return value.__qualname__
    if isinstance(value, Enum):
        return str(value)
    if is_dataclass(value):
        return tuple(_held(getattr(value, f.name), depth + 1) for f in fields(value))
    if hasattr(value, "__dict__"):
        return type(value).__name__, _held(vars(value), depth + 1)
    return type(value).__name__, _held(value.__reduce__()[1:], depth + 1)


# -- the programs


def reaper(context: Context) -> object:
    """One pass of `reap_idle` over one zone, without its threads."""
    cloud = Cloud(context)

    def connect(seen: Instance, _key: Secret) -> Endpoint:
        return Endpoint(context, seen.id, boot_only=False)

    return [protocol.reap_one(cloud, connect, one).outcome for one in cloud.list_instances() if one.owned]


def provisioning(context: Context, orders: list[int], patience_s: float | None = None) -> Provisioning:
    """One run of the protocol; `orders` counts what is ordered."""
    cloud = Cloud(context)

    def order() -> Draft:
        orders[0] += 1
        request = f"{context.index}{orders[0]:x}" * 16
        now = cloud.now()
        body = {"labels": plan.owned_labels(fakes.settings(), request, now, now + timedelta(days=7))}
        return Draft(
            body=body, user_data=Secret(fakes.user_data(request)), request=request, instance_type="standard.large",
            zone=cloud.zone, hourly_cost=None,
        )  # fmt: skip

    return Provisioning(
        cloud, lambda seen, _: Endpoint(context, seen.id, boot_only=True), order, "exollama", note=lambda _: None,
        progress=lambda *_: None, patience_s=patience_s,
        monotonic=(lambda: float(context.now_s)) if patience_s is None else lambda: 0.0,
    )  # fmt: skip


def provisioner(context: Context) -> object:
    """One pipeline: provision, then a request to what was handed out."""
    try:
        found = provisioning(context, [0]).run().instance.id
        context.ask("begin", found)
    except ExollamaError as error:
        context.ask("failed", str(error))
    else:
        context.ask("end", found)
    return None


def poller(context: Context) -> object:
    """Somebody who asks a function until it is ready: runs without patience, none of which knows of those before."""
    orders = [0]
    for _poll in range(POLLS):
        try:
            found = provisioning(context, orders, 0.0).run().instance.id
            context.ask("begin", found)
        except OutOfTime:
            continue
        except ExollamaError:
            return None
        context.ask("end", found)
        return None
    return None


def client(context: Context) -> object:
    """Somebody with the client: finds it, records activity in its label, asks."""
    cloud = Cloud(context)
    found = next((one for one in cloud.list_instances() if one.owned and one.state == "running"), None)
    if found:
        activity.record(cloud, found.id)
        context.ask("begin", found.id)
        context.ask("end", found.id)
    return None


def guest(context: Context) -> object:
    """Somebody who was told of the youngest instance, and uses it once it is ready."""
    found = [one for one in Cloud(context).list_instances() if one.owned]
    if found:
        youngest = max(one.id for one in found)
        if Endpoint(context, youngest, boot_only=True).status()["boot"]["phase"] == "ready":
            context.ask("begin", youngest)
            context.ask("end", youngest)
    return None


def curl(context: Context) -> object:
    """Somebody who knows the URL and writes no labels."""
    context.ask("begin", "m1")
    context.ask("end", "m1")
    return None


def watchdog(context: Context) -> object:
    """One look of the agent at itself, whose code is agent.Agent.tick."""
    machine_id = context.target

    class Self:
        lock = nullcontext()
        retry_at = -1e9
        active_at: int
        fence: Any
        booted: bool

        def sample(self) -> None:
            self.active_at, committed, self.booted, deadline = context.ask("look", machine_id)
            policy = {"deadline": deadline, "grace_s": 3600, "idle_s": IDLE_S, "boot_s": 1800}
            self.watchdog = agent.Watchdog(policy)
            CLOCK.now = context.now_s
            self.fence = agent.Fence(committed=committed)

        def boot(self) -> dict[str, Any]:
            return {"phase": "ready" if self.booted else "model", "elapsed_s": 0.0}

        def put(self, owner: str) -> Any:
            return context.ask("guard_put", machine_id, owner), None

        def commit(self, owner: str) -> Any:
            return context.ask("guard_commit", machine_id, owner), None

        def delete(self, owner: str) -> Any:
            return context.ask("guard_delete", machine_id, owner), None

        def seize(self, owner: str) -> None:
            context.ask("guard_seize", machine_id, owner)

    agent.subprocess = SimpleNamespace(run=lambda *_, **__: context.ask("power_off", machine_id))
    agent.print = lambda *_, **__: None
    agent.secrets = SimpleNamespace(token_hex=lambda _: "watchdog")
    agent.Agent.tick(Self())
    return None


CREATORS = ("provisioner", "poller")
"""Programs that create: what they order, and how they fence, tells them apart."""


def index_of(program: str, number: int) -> str:
    """A hex digit for each of those who create, the same for all others."""
    return f"{(number + 8 * CREATORS.index(program)) % 16:x}" if program in CREATORS else SELF


PROGRAMS: dict[str, Callable[[Context], object]] = {
    "reaper": reaper, "provisioner": provisioner, "poller": poller, "client": client, "curl": curl, "guest": guest,
    "watchdog": watchdog,
}  # fmt: skip


@contextmanager
def searchable() -> Iterator[None]:
    """Patience, which is of no use where every delay is searched anyway, and chance are taken out of the real code."""
    with ExitStack() as stack:
        for module, name, value in (
            (deeds, "LOST_S", 0.0),
            (deeds, "CONFIRM_S", 0.0),
            (creating, "LOOKUPS", 2),
            (protocol, "secrets", SimpleNamespace(token_hex=lambda _: CURRENT.nonce())),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield


CURRENT: Context


def run(program: str, context: Context) -> object:
    """Run an actor's code. Raises Pending; what it returns or how it failed is its result."""
    global CURRENT  # noqa: PLW0603 - where the patched code finds the actor that it is run for
    CURRENT = context
    try:
        return PROGRAMS[program](context)
    except ExollamaError as error:
        return error


def substituted(call: Call, index: int) -> Call:
    """A call with the actor's own index where it names itself."""
    return tuple(part.replace(SELF, f"{index:x}") if isinstance(part, str) else part for part in call)
