"""A zone, its instances and their endpoints as plain objects, on one clock that only `sleep` moves.

`World` is the `Cloud` of the protocols and knows each `Machine`; `Agent` is the `Endpoint` of one. Faults are raised
before or after the deed, and anything may be made to happen at a time or before a call.
"""

import base64
import dataclasses
import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from client import labels
from client.errors import Draining, FenceRefused, NotFound, OperationFailed, Unreachable
from client.model import GONE, Instance, read_header
from client.settings import Secret, Settings
from functions.plan import Draft
from functions.provisioning import Found, Provisioning

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
API_KEY = "EXOfake0123456789abcdef"
API_SECRET = "planted-api-secret-0123456789-abcdefghijkl"
KEY = "planted-endpoint-key_0123456789abcdef"
NONCE = "0123456789abcdef" * 2
OTHER_NONCE = "fedcba9876543210" * 2
ZONE = "ch-gva-2"
DAY = timedelta(days=1)


def settings(**changes: Any) -> Settings:
    """Settings that are valid, with some of them changed."""
    return Settings(api_key=API_KEY, api_secret=Secret(API_SECRET))._replace(**changes)


def settings_read() -> set[str]:
    """The variables that Settings asks for."""

    class Recording(dict[str, str]):
        def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
            asked.add(name)
            return super().get(name, default)

    asked: set[str] = set()
    Settings.from_env(Recording(EXOSCALE_API_KEY=API_KEY, EXOSCALE_API_SECRET=API_SECRET))
    return asked


def user_data(request: str = NONCE, key: str = KEY) -> str:
    """What get-instance shows of an instance of ours, as far as anybody reads it back."""
    header = json.dumps({"v": 1, "request": request, "key": key})
    return base64.b64encode(f"#cloud-config\n# exollama {header}\nruncmd: []\n".encode()).decode()


def label_map(
    *, activity: datetime | str = NOW, deadline: datetime | str = NOW + 6 * DAY, **changes: str
) -> dict[str, str]:
    """The labels of an instance of ours; a change is given without the prefix, and an empty one takes a label out."""
    given = {
        labels.OWNER: labels.VERSION,
        labels.NAME: "nexollama",
        labels.MODEL: "ngranite3!2E1-dense!3A8b",
        labels.REQUEST: f"r{NONCE}",
        labels.ACTIVITY: activity if isinstance(activity, str) else labels.time(activity),
        labels.IDLE: "s1800",
        labels.BOOT: "s1800",
        labels.RETENTION: "s86400",
        labels.DEADLINE: deadline if isinstance(deadline, str) else labels.time(deadline),
        labels.ACTION: "destroy",
        labels.REACH: "any",
    }
    given |= {"exollama" if name == "owner" else f"exollama-{name}": value for name, value in changes.items()}
    return {name: value for name, value in given.items() if value}


def instance(**changes: Any) -> Instance:
    """An instance of ours, an hour old, running, as a list shows it, with some of that changed."""
    plain = Instance(
        id="an-id",
        zone=ZONE,
        name="exollama",
        state="running",
        created=NOW - timedelta(hours=1),
        address="127.0.0.9",
        labels=label_map(),
    )
    return dataclasses.replace(plain, **changes)


def status(
    *,
    idle_s: float = 0.0,
    in_flight: int = 0,
    phase: str = "ready",
    failed: str | None = None,
    fence: dict[str, Any] | None = None,
    keep_failed: bool = False,
) -> dict[str, Any]:
    """What an agent says of its instance."""
    error = {"phase": failed, "message": "it broke"} if failed else None
    return {
        "v": 1,
        "idle_s": idle_s,
        "in_flight": in_flight,
        "requests": 0,
        "boot": {
            "phase": "failed" if failed else phase,
            "percent": None,
            "elapsed_s": 1.0,
            "phases": [],
            "error": error,
            "log": ["first line", "last line"],
        },
        "fence": fence,
        "policy": {"v": 1, "keep_failed": keep_failed},
        "versions": {"agent": 1},
    }


@dataclass(kw_only=True)
class Machine:
    """One instance; times are seconds on the world's clock, `request` the nonce in its user-data (None: not ours)."""

    id: str
    state: str = "running"
    created: datetime = NOW
    labels: dict[str, str] = field(default_factory=label_map)
    request: str | None = NONCE
    address: str | None = "127.0.0.9"
    managed: bool = False
    listed_at: float = 0.0
    running_at: float = 0.0
    reachable: bool = True
    ready_at: float = 0.0
    failed: str | None = None
    idle_s: float = 0.0
    in_flight: int = 0
    fence: dict[str, Any] | None = None
    keep_failed: bool = False
    touches: int = 0


class World:
    """One zone. `calls` lists what was asked for, as (name, id or None)."""

    def __init__(self, *machines: Machine, zone: str = ZONE) -> None:
        self.zone = zone
        self.elapsed_s = 0.0
        self.machines = {machine.id: machine for machine in machines}
        self.calls: list[tuple[str, str | None]] = []
        self.operations: dict[str, dict[str, Any]] = {}
        self.new: dict[str, Any] = {}
        self.before: dict[str, Callable[[], object]] = {}
        self.sleep: Callable[[float], None] = self._sleep
        self._faults: dict[tuple[str, str], deque[Exception]] = defaultdict(deque)
        self._events: list[tuple[float, Callable[[], object]]] = []

    # -- what tests arrange

    def fail(self, call: str, *errors: Exception, after: bool = False) -> None:
        """Have the next calls of that name fail, before the deed or after it."""
        self._faults[call, "after" if after else "before"].extend(errors)

    def at(self, elapsed_s: float, event: Callable[[], object]) -> None:
        """Have something happen once so many seconds were slept."""
        self._events.append((elapsed_s, event))

    def named(self, *names: str) -> list[tuple[str, str | None]]:
        """The calls of these names, in order."""
        return [call for call in self.calls if call[0] in names]

    def deeds(self) -> list[tuple[str, str | None]]:
        """All calls that change something."""
        return self.named("create_instance", "delete_instance", "stop_instance", "start_instance", "put_labels")

    def monotonic(self) -> float:
        return self.elapsed_s

    def connect(self, instance: Instance, key: Secret) -> "Agent":
        return Agent(self, instance.id)

    # -- the Cloud of the protocols

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.elapsed_s)

    def check_clock(self) -> None:
        self._enter("check_clock", None)

    def list_instances(self) -> list[Instance]:
        self._enter("list_instances", None)
        return [self._seen(m, whole=False) for m in self.machines.values() if self.elapsed_s >= m.listed_at]

    def list_known_zone(self) -> list[Instance]:
        return self.list_instances()

    def get_instance(self, instance_id: str) -> Instance:
        self._enter("get_instance", instance_id)
        return self._seen(self._machine("get_instance", instance_id), whole=True)

    def put_labels(self, instance_id: str, labels: Mapping[str, str]) -> None:
        self._enter("put_labels", instance_id)
        self._machine("put_labels", instance_id).labels = dict(labels)
        self._leave("put_labels")

    def create_instance(self, body: Secret) -> Mapping[str, Any]:
        self._enter("create_instance", None)
        sent = json.loads(body.reveal())
        header = read_header(sent["user-data"])
        given: dict[str, Any] = {
            "id": f"new-{len(self.named('create_instance'))}",
            "created": self.now(),
            "labels": dict(sent["labels"]),
            "request": header and header.request,
        }
        made = Machine(**(given | self.new))
        self.machines[made.id] = made
        self._leave("create_instance")
        return self._operation("create_instance", made.id)

    def start_instance(self, instance_id: str) -> Mapping[str, Any]:
        self._enter("start_instance", instance_id)
        self._machine("start_instance", instance_id).state = "running"
        self._leave("start_instance")
        return self._operation("start_instance", instance_id)

    def stop_instance(self, instance_id: str) -> Mapping[str, Any]:
        self._enter("stop_instance", instance_id)
        machine = self._machine("stop_instance", instance_id)
        if "stop_instance" not in self.operations:
            machine.state = "stopped"
        self._leave("stop_instance")
        return self._operation("stop_instance", instance_id)

    def delete_instance(self, instance_id: str) -> Mapping[str, Any]:
        self._enter("delete_instance", instance_id)
        self._machine("delete_instance", instance_id)
        if "delete_instance" not in self.operations:
            del self.machines[instance_id]
        self._leave("delete_instance")
        return self._operation("delete_instance", instance_id)

    def wait(self, operation: Mapping[str, Any], what: str, timeout_s: float) -> Mapping[str, Any]:
        self._enter("wait", None)
        until = self.elapsed_s + timeout_s
        while operation["state"] == "pending":
            machine = self.machines.get(operation["reference"]["id"])
            if machine is None or machine.state in {"stopped", *GONE}:
                return {**operation, "state": "success"}
            if self.elapsed_s >= until:
                raise OperationFailed(what, f"no end after {timeout_s:.0f} s", "still pending", None)
            self.sleep(3)
        if operation["state"] != "success":
            raise OperationFailed(what, operation["state"], operation.get("reason"), operation.get("message"))
        return operation

    # -- inside

    def _sleep(self, seconds: float) -> None:
        until = self.elapsed_s + seconds
        for event in sorted((e for e in self._events if e[0] <= until), key=lambda e: e[0]):
            self._events.remove(event)
            self.elapsed_s = max(self.elapsed_s, event[0])
            event[1]()
        self.elapsed_s = until

    def _enter(self, call: str, instance_id: str | None) -> None:
        self.calls.append((call, instance_id))
        if hook := self.before.get(call):
            hook()
        if waiting := self._faults[call, "before"]:
            raise waiting.popleft()

    def _leave(self, call: str) -> None:
        if waiting := self._faults[call, "after"]:
            raise waiting.popleft()

    def _machine(self, call: str, instance_id: str) -> Machine:
        if instance_id not in self.machines:
            raise NotFound(call, instance_id, 404, "Not Found")
        return self.machines[instance_id]

    def _seen(self, machine: Machine, *, whole: bool) -> Instance:
        if machine.state == "starting" and self.elapsed_s >= machine.running_at:
            machine.state = "running"
        shown = base64.b64encode(b"#!/bin/sh\n").decode() if machine.request is None else user_data(machine.request)
        return Instance(
            id=machine.id,
            zone=self.zone,
            name="exollama",
            state=machine.state,
            created=machine.created,
            address=machine.address,
            labels=dict(machine.labels),
            managed=machine.managed,
            user_data=Secret(shown) if whole else None,
        )

    def _operation(self, call: str, instance_id: str) -> Mapping[str, Any]:
        return {"id": "op", "state": "success", "reference": {"id": instance_id}} | self.operations.get(call, {})


class Agent:
    """The endpoint of one machine."""

    def __init__(self, world: World, instance_id: str) -> None:
        self.world = world
        self.id = instance_id

    def status(self) -> dict[str, Any]:
        self.world._enter("status", self.id)
        machine = self._machine()
        booted = self.world.elapsed_s >= machine.ready_at
        return status(
            idle_s=machine.idle_s,
            in_flight=machine.in_flight,
            phase="ready" if booted else "model",
            failed=machine.failed if booted else None,
            fence=machine.fence,
            keep_failed=machine.keep_failed,
        )

    def touch(self) -> None:
        self.world._enter("touch", self.id)
        machine = self._machine()
        if machine.fence:
            raise Draining("fenced")
        machine.touches += 1

    def fence(self, owner: str) -> None:
        self.world._enter("fence", self.id)
        machine = self._machine()
        if machine.fence and machine.fence.get("owner") != owner:
            raise FenceRefused("another owner holds the fence")
        machine.fence = {"owner": owner, "committed": False, "lease_s": 120.0, "mark": machine.touches}
        self.world._leave("fence")

    def commit(self, owner: str) -> None:
        self.world._enter("commit", self.id)
        machine = self._machine()
        if not machine.fence or machine.fence.get("owner") != owner:
            raise FenceRefused("no lease stands")
        if machine.in_flight or machine.touches != machine.fence["mark"]:
            raise FenceRefused(f"{machine.in_flight} in flight, or touched")
        machine.fence["committed"] = True
        self.world._leave("commit")

    def unfence(self, owner: str) -> None:
        self.world._enter("unfence", self.id)
        machine = self._machine()
        if machine.fence and machine.fence.get("owner") != owner:
            raise FenceRefused("another owner holds the fence")
        machine.fence = None
        self.world._leave("unfence")

    def _machine(self) -> Machine:
        machine = self.world.machines.get(self.id)
        if machine is None or not machine.reachable or machine.state != "running":
            raise Unreachable(f"https://{self.id}:11435 cannot be reached: refused.")
        return machine


def order(world: World) -> Callable[[], Draft]:
    """Drafts create calls, each with a nonce of its own, as `functions.plan` would."""
    count = 0

    def draft() -> Draft:
        nonlocal count
        count += 1
        request = f"{count:032x}"
        return Draft(
            body={"labels": label_map(activity=world.now(), request=f"r{request}")},
            user_data=Secret(user_data(request)),
            request=request,
            instance_type="standard.large",
            zone=world.zone,
            hourly_cost=0.1,
        )

    return draft


class Run:
    """One provisioning over a world; `notes` is what a person was told."""

    def __init__(self, world: World, *, keep_failed: bool = False, **how: Any) -> None:
        self.world = world
        self.notes: list[str] = []
        self.protocol = Provisioning(
            world,
            world.connect,
            order(world),
            "exollama",
            note=self.notes.append,
            progress=lambda *_: None,
            monotonic=world.monotonic,
            keep_failed=keep_failed,
            **how,
        )

    def __call__(self, *, wait: bool = True) -> Found:
        found = self.protocol.run(wait=wait)
        assert found.key.reveal() == KEY
        assert not wait or (found.status and found.status["boot"]["phase"] == "ready")
        return found


def a_day_old(**changes: Any) -> Machine:
    """A running machine, used two hours ago."""
    given: dict[str, Any] = {"id": "a", "created": NOW - DAY, "labels": label_map(activity=NOW - timedelta(hours=2))}
    return Machine(**(given | changes))
