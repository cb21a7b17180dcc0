"""Each function in each situation that its calls depend on: how it is set up, and how a later run heals what one left.

Neighbours: test_faults_everywhere.py lets faults befall every call of these runs, test_kills_everywhere.py kills them
between any two; expected_faults.py says how each ends. tests/simulator/lodging.py is the one real machine behind all of
their instances.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse, HTTPSConnection
from typing import Any

import pytest

from client.endpoint import Endpoint
from client.labels import time as time_label
from client.settings import Secret
from client.transport import Request, Response, Send
from functions import provision
from functions.transport import sparing_send, urllib3_send
from tests.simulator import Seen, Simulator
from tests.simulator.driver import launch, ready
from tests.simulator.lodging import Lodging
from tests.simulator.relay import operation
from tests.system.verbs import WAITING, Clerk, Done, plant

KEY = "lodging-0123456789-endpoint-key-ABCDEF"
PROVISION_ENV = {"EXOSCALE_OLLAMA_KEY": KEY, "EXOSCALE_BOOT_TIMEOUT": "60"}
"""Whatever is created gets the key of the machine that stands in for it, and does not wait for long for it."""
IDLE_S, LEASE_S, ABANDONED_S = 3600, 121, 601
HUNG_S = 0.1
"""How long a call that hangs is waited for; each other call keeps its own timeout, so that no noise counts as one."""


class World:
    """One zone, with the one machine behind its instances."""

    def __init__(self) -> None:
        self.simulator = Simulator(("ch-gva-2",), operation_s=0.0, start_s=0.0)

    def __enter__(self) -> World:
        simulator = self.simulator.__enter__()
        house = launch(simulator, key=Secret(KEY), idle_s=10**8, deadline=None)  # no watchdog minds that it idles
        self.lodging = Lodging(simulator, ready(simulator, house))
        simulator.options.at_once = True
        return self

    def __exit__(self, *_: object) -> None:
        self.lodging.close()
        self.simulator.close()

    def sweep(self) -> None:
        """Nothing is there, nothing goes wrong, and no call was made."""
        simulator, zone = self.simulator, self.lodging.zone
        simulator.clear_faults()
        for seen in simulator.instances():
            simulator.remove(seen.id)
        zone.groups = dict(list(zone.groups.items())[:1])
        zone.operations.clear()
        simulator.api.calls.clear()

    def plant(self, state: str = "running", *, used_ago_s: float = 30 * 86400, **edits: Any) -> Seen:
        """An instance whose machine answers if it runs."""
        used = datetime.fromtimestamp(self.simulator.clock.now(), UTC) - timedelta(seconds=used_ago_s)
        edits = {"exollama_activity": time_label(used), "exollama_boot": "s60", **edits}
        return plant(self.simulator, key=KEY, state=state, machine=True, created_ago_s=40 * 86400, **edits)

    def calls(self) -> list[str]:
        """The calls so far, in order: `OPERATION nth`."""
        counts: Counter[str] = Counter()
        named = []
        for one in self.simulator.calls:
            counts[one.operation_id] += 1
            named.append(f"{one.operation_id} {counts[one.operation_id]}")
        return named

    def left(self) -> str:
        """What is there, in a word: gone, a state, or of one that runs whether its fence is open."""
        instances = self.simulator.instances()
        assert len(instances) <= 1, f"duplicates: {instances}"
        assert all(seen.labels.get("exollama") == "v1" for seen in instances), "left without an owner"
        if not instances:
            return "gone"
        return self.lodging.fence() if instances[0].state == "running" else instances[0].state

    def time_passes(self) -> str:
        """Until no fence stands any more, as between two passes; how that came, in words."""
        if self.left() == "leased":
            self.simulator.advance(LEASE_S)
            return "its lease over, "
        if self.left() == "committed":
            self.simulator.advance(ABANDONED_S)
            self.simulator.wait(lambda: self.left() == "stopped", "powered off by itself")
            return "powered off by itself, "
        return ""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One verb on one state of things.

    Without any fault its run `ends` with that exit code and that left, and `says` so. `heal` runs the verb again with
    nothing in its way, asserts that all is well, and says what that run did: what is expected is in `heals`, by what
    the first run left.
    """

    argv: tuple[str, ...]
    set_up: Callable[[World], object]
    ends: str
    heal: Callable[[World, Clerk], str]
    heals: Mapping[str, str]
    says: str = ""

    @property
    def env(self) -> Mapping[str, str]:
        """What is set beside the credentials."""
        return PROVISION_ENV if self.argv[0] == "provision" else {}

    def begin(self, world: World) -> None:
        """The state of things, with no call made and no fault planned."""
        world.sweep()
        self.set_up(world)
        world.simulator.api.calls.clear()


def _idle(world: World, **edits: Any) -> None:
    world.plant(**edits)
    world.simulator.advance(IDLE_S)


def _idle_and_protected(world: World) -> None:
    _idle(world)
    world.simulator.protect()


def _fenced_by_another(world: World) -> None:
    _idle(world)
    world.lodging.fence_by("f" * 32)


def handed_out(world: World, clerk: Clerk) -> str:
    """A second provision ends well, with the one instance there is, which takes requests."""
    before = {seen.id for seen in world.simulator.instances()}
    done = clerk.run("provision", "--json", **PROVISION_ENV).ended(0)
    assert world.left() == "open"
    [seen] = world.simulator.instances()
    assert done.json["id"] == seen.id
    assert done.json["url"] == f"https://{world.lodging.front.address}:11435"
    assert done.json["phase"] == "ready"
    assert len(world.lodging.zone.groups) <= 2
    keeps_secret(done)
    return "used it" if seen.id in before else "created it"


def reaped(world: World, clerk: Clerk, *, ends: str = "gone") -> str:
    """A second pass, once no fence stands, leaves nothing idle."""
    for seen in world.simulator.instances():
        world.simulator.protect(seen.id, protected=False)
    how = world.time_passes()
    done = clerk.run("reap").ended(0)
    assert world.left() in ("gone", ends)
    keeps_secret(done)
    return how + ("nothing to do" if "kept" in done.out or "No owned" in done.out else done.out.split()[0])


def ended(world: World, clerk: Clerk) -> str:
    """A second stop, once no fence stands, ends what is there."""
    how = world.time_passes()
    done = clerk.run("stop")
    done.ended(3 if "nothing to stop" in done.err else 0)
    assert world.left() == "gone"
    keeps_secret(done)
    return how + ("nothing to do" if done.code else "destroyed")


def checked(world: World, clerk: Clerk) -> str:
    """A second check sees what is overdue, and nothing was touched."""
    assert world.left() == "open"
    clerk.run("status", "--check").ended(1, "should be gone: idle for")
    return "told"


def checked_in_use(world: World, clerk: Clerk) -> str:
    """A second check has nothing to say, and nothing was touched."""
    assert world.left() == "open"
    done = clerk.run("status", "--check").ended(0)
    assert (done.out, done.err) == ("", "")
    return "nothing to tell"


def keeps_secret(done: Done) -> None:
    assert KEY not in done.said


REAPED = {
    "gone": "nothing to do",
    "open": "destroyed",
    "leased": "its lease over, destroyed",
    "committed": "powered off by itself, destroyed",
    "stopped": "destroyed",
    "error": "destroyed",
}
SITUATIONS = {
    "provision, nothing there": Situation(
        argv=("provision", "--json"),
        set_up=lambda world: None,
        ends="0 open",
        heal=handed_out,
        heals={"open": "used it", "gone": "created it"},
    ),
    "provision, running": Situation(
        argv=("provision", "--json"),
        set_up=lambda world: world.plant(used_ago_s=1000),
        ends="0 open",
        heal=handed_out,
        heals={"open": "used it"},
    ),
    "provision, stopped": Situation(
        argv=("provision", "--json"),
        set_up=lambda world: world.plant("stopped", used_ago_s=3600, exollama_action="stop"),
        ends="0 open",
        heal=handed_out,
        heals={"open": "used it", "stopped": "used it"},
    ),
    "reap, idle": Situation(argv=("reap",), set_up=_idle, ends="0 gone", heal=reaped, heals=REAPED),
    "reap, idle, action stop": Situation(
        argv=("reap",),
        set_up=lambda world: _idle(world, exollama_action="stop", exollama_retention="s315360000"),
        ends="0 stopped",
        heal=lambda world, clerk: reaped(world, clerk, ends="stopped"),
        heals={
            "stopped": "nothing to do",
            "open": "stopped",
            "leased": "its lease over, stopped",
            "committed": "powered off by itself, nothing to do",
        },
    ),
    "reap, idle, protected": Situation(
        argv=("reap",),
        set_up=_idle_and_protected,
        ends="1 open",
        says="protected against deletion",
        heal=reaped,
        heals=REAPED,
    ),
    "reap, stopped past its retention": Situation(
        argv=("reap",),
        set_up=lambda world: world.plant("stopped", exollama_action="stop"),
        ends="0 gone",
        heal=reaped,
        heals=REAPED,
    ),
    "reap, state error": Situation(
        argv=("reap",), set_up=lambda world: world.plant("error"), ends="0 gone", heal=reaped, heals=REAPED
    ),
    "reap, fenced by another": Situation(
        argv=("reap",), set_up=_fenced_by_another, ends="0 leased", heal=reaped, heals=REAPED
    ),
    "status --check, overdue": Situation(
        argv=("status", "--check"),
        set_up=_idle,
        ends="1 open",
        says="should be gone: idle for",
        heal=checked,
        heals={"open": "told"},
    ),
    "status --check, used by whoever writes no label": Situation(
        argv=("status", "--check"),
        set_up=lambda world: world.plant(),
        ends="0 open",
        heal=checked_in_use,
        heals={"open": "nothing to tell"},
    ),
    "stop": Situation(argv=("stop",), set_up=lambda world: world.plant(), ends="0 gone", heal=ended, heals=REAPED),
}


class Impatient(Clerk):
    """The user of that zone: no wait takes time, and a call that hangs, but no other, is given up soon."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        super().__init__(world.simulator, patch, nap_s=0)
        self.slept_s = 0.0

        def sleep(seconds: float) -> None:
            self.slept_s += seconds

        for function in WAITING:
            patch.setattr(function, "__kwdefaults__", {**(function.__kwdefaults__ or {}), "sleep": sleep})
        waiting = {"sleep": sleep, "monotonic": lambda: time.monotonic() + self.slept_s}
        patch.setattr(provision.run, "__kwdefaults__", {**(provision.run.__kwdefaults__ or {}), **waiting})
        for verb in ("provision", "reap_idle", "stop"):
            patch.setattr(f"functions.{verb}.urllib3_send", lambda: self._hurried(urllib3_send()))
        for verb in ("reap_idle", "status"):
            patch.setattr(f"functions.{verb}.sparing_send", lambda: self._hurried(sparing_send()))
        prove, exchange = Endpoint._prove, Endpoint._exchange

        def proving(endpoint: Endpoint, connection: HTTPSConnection, fingerprint: str) -> None:
            self._hurry(connection, "agent-proof")
            prove(endpoint, connection, fingerprint)

        def exchanging(
            endpoint: Endpoint, connection: HTTPSConnection, method: str, path: str, body: bytes
        ) -> HTTPResponse:
            self._hurry(connection, operation(method, path) or "")
            return exchange(endpoint, connection, method, path, body)

        patch.setattr(Endpoint, "_prove", proving)
        patch.setattr(Endpoint, "_exchange", exchanging)

    def _hurried(self, send: Send) -> Send:
        simulator = self.simulator

        def hurried(request: Request) -> Response:
            path = request.url.partition("/v2")[2].partition("?")[0]
            found = simulator.api.document.match(request.method, path)
            hangs = found is not None and simulator.faults.next_is("hang", found[0])
            return send(request._replace(timeout_s=HUNG_S) if hangs else request)

        return hurried

    def _hurry(self, connection: HTTPSConnection, name: str) -> None:
        if connection.sock and self.simulator.faults.next_is("hang", name):
            connection.sock.settimeout(HUNG_S)
