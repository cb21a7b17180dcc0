"""What a run makes in an account, and how all of it goes again: by its name, whoever died meanwhile.

The name has the run's nonce in it and is in the label of each instance and in the name of the group, so that what a
lost answer or a killed run left behind is found; nothing without such a name is ever touched. Each instance carries
the project's own labels with a short deadline, and switches itself off. Imports client and functions.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from client import labels, prices
from client.endpoint import PORT
from client.errors import ApiError, Denied, ExollamaError, NotFound, Unanswered
from client.model import Instance, type_name
from client.settings import Secret, Settings
from client.transport import Request, Response, Send
from functions.cloud import Cloud, Operation
from functions.plan import find_template, find_type, owned_labels
from functions.protocol import vouched
from tests.live import guest

LIMIT_S: Final = 1800
"""Wall clock for the checks; then everything is removed."""
BOOT_LIMIT_S: Final = 2700
"""So much more with --boot."""
OFF_S: Final = 2700
"""After so long of any boot a machine of ours switches itself off."""
DISK_GIB: Final = 10
_NAME: Final = "exollama-live"
_NAME_RE: Final = re.compile(rf"{_NAME}-[0-9a-f]{{12}}")
_GROUP: Final = "exollama, a live check until "
_LOOKS, _ROUNDS, _PAUSE_S = 6, 120, 5.0
_OVER: Final = frozenset({"destroyed", "expunging"})


@dataclass(slots=True, kw_only=True)
class Made:
    """One instance: what an hour costs, when it was asked for, and when it was seen to be gone (monotonic seconds)."""

    hourly: float
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Course:
    """What an operation and its instance went through: seconds, the operation's state, the instance's, an address."""

    steps: tuple[tuple[float, str, str, bool], ...]
    reached: bool

    @property
    def text(self) -> str:
        steps = (f"{at:.0f} s {op}/{state}{' with address' * has}" for at, op, state, has in self.steps)
        return ", ".join(steps) + ("" if self.reached else ", and no further")


class Traffic:
    """A Send that remembers the shapes of what came back, and no value that would tell an account from another."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.calls = 0
        self.limits: set[str] = set()
        self.operations: dict[str, set[str]] = {}
        self.refusals: set[str] = set()

    def __call__(self, request: Request) -> Response:
        response = self._send(request)
        self.calls += 1
        self.limits |= {name for name in response.headers if "limit" in name or name == "retry-after"}
        try:
            body = json.loads(response.body)
        except ValueError:
            body = None
        keys = ", ".join(sorted(body)) if isinstance(body, dict) else "no JSON object"
        if response.status >= 400:
            self.refusals.add(f"{response.status} with {keys}")
        elif isinstance(body, dict) and (request.method != "GET" or "/operation/" in request.url):
            self.operations.setdefault(str(body.get("state")), set()).add(keys)
        return response


class Account:
    """One zone of an account, as one run uses it."""

    def __init__(self, settings: Settings, send: Send, *, note: Callable[[str], None], lifetime_s: float) -> None:
        self.name = f"{_NAME}-{secrets.token_hex(6)}"
        self.settings = settings._replace(name=self.name)
        self.traffic = Traffic(send)
        self.cloud = Cloud(self.settings, settings.zone, self.traffic)
        self.note = note
        self.made: dict[str, Made] = {}
        self.sent: dict[str, tuple[str, dict[str, str]]] = {}
        """User-data and labels of each create call."""
        self.began = False
        """Whether anything was asked for that may have to be removed."""
        self._lifetime = timedelta(seconds=lifetime_s)
        self.asked = 0
        """Instances that were asked for, and may be there whether or not they are in `made`."""
        self._tried = set[str]()

    # -- making

    def create_group(self) -> None:
        """The run's own group, without a rule. Raises Conflict where it is there and names are unique."""
        self.began = True
        until = labels.time(self.cloud.now() + self._lifetime)
        self.cloud.create_security_group(self.name, _GROUP + until)

    def groups(self, name: str) -> list[str]:
        """The ids of the groups of one run."""
        return [
            str(group["id"])
            for group in self.cloud.list_security_groups()
            if group.get("name") == name and str(group.get("description")).startswith(_GROUP)
        ]

    def create(self, group: str, off_s: int) -> tuple[str, Operation]:
        """Ask for an instance; its id and the operation. One whose answer was lost is looked for."""
        template = find_template(self.cloud, self.settings)
        kind = find_type(self.cloud, self.settings, lambda _: None)
        request, now = secrets.token_hex(16), self.cloud.now()
        # Kept over its stops by any reaper that comes by meanwhile, but not for long.
        held = self.settings._replace(reap_action="stop", idle_s=LIMIT_S, retention_s=60, model="none")
        tags = owned_labels(held, request, now, now + self._lifetime)
        user_data = guest.user_data(request, Secret(secrets.token_hex(32)), off_s)
        body = {
            "name": self.name,
            "labels": tags,
            "instance-type": {"id": kind["id"]},
            "template": {"id": template["id"]},
            "disk-size": DISK_GIB,
            "security-groups": [{"id": group}],
            "public-ip-assignment": "inet4",
            "user-data": user_data,
        }
        self.asked += 1
        operation: Operation = {}
        try:
            operation = self.cloud.create_instance(Secret(json.dumps(body)))
        except ApiError as error:
            if not (isinstance(error, Unanswered) or error.status >= 500 or error.status == 200):
                self.asked -= 1  # certainly not made
                raise
        known = (operation.get("reference") or {}).get("id") or self._by_request(request)
        self.made[known] = Made(hourly=_hourly(type_name(kind), DISK_GIB), began=time.monotonic())
        self.sent[known] = (user_data, tags)
        return known, operation

    def _by_request(self, request: str) -> str:
        for _ in range(_LOOKS):
            for instance in self.cloud.list_instances():
                if instance.owned and instance.request == request:
                    return instance.id
            self.cloud.sleep(_PAUSE_S)
        raise ExollamaError("The create call's answer was lost, and nothing of it is listed.")

    def follow(self, operation: Operation, instance_id: str, wanted: frozenset[str], timeout_s: float) -> Course:
        """Look every two seconds until the operation is over and the instance in a wanted state, or 404 if wanted."""
        began, slept_s = time.monotonic(), 0.0
        steps: list[tuple[float, str, str, bool]] = []
        while True:
            state, has_address = "404", False
            with suppress(NotFound):
                seen = self.cloud.get_instance(instance_id)
                state, has_address = seen.state, seen.address is not None
            over = operation.get("state") != "pending"
            at, now = time.monotonic() - began, (str(operation.get("state", "no operation")), state, has_address)
            if not steps or steps[-1][1:] != now:
                steps.append((at, *now))
            reached = over and state in wanted
            if reached or max(at, slept_s) >= timeout_s:
                if state in _OVER | {"404"} and instance_id in self.made:
                    self.made[instance_id].ended = time.monotonic()
                return Course(tuple(steps), reached)
            self.cloud.sleep(2.0)
            slept_s += 2.0
            if not over:
                operation = self.cloud.call("GET", f"/operation/{operation['id']}", operation="get-operation")

    def protect(self, instance_id: str, verb: str) -> None:
        """`add` or `remove` the delete protection."""
        path, of = f"/instance/{instance_id}:{verb}-protection", f"{verb}-instance-protection"
        self.cloud.wait(self.cloud.call("PUT", path, operation=of), f"{verb} protection", 60.0)

    # -- removing

    def earlier(self) -> dict[str, datetime]:
        """The runs before this one of which something is left, with their deadlines."""
        found: dict[str, datetime] = {}
        for one in self.cloud.list_known_zone():
            if one.owned and _NAME_RE.fullmatch(one.owned_name) and one.state not in _OVER:
                until = one.policy.deadline or datetime.max.replace(tzinfo=UTC)
                found[one.owned_name] = max(until, found.get(one.owned_name, until))
        for group in self.cloud.list_security_groups():
            name, said = str(group.get("name")), str(group.get("description"))
            until_label = labels.read_time(said.removeprefix(_GROUP)) if said.startswith(_GROUP) else None
            if _NAME_RE.fullmatch(name) and until_label:
                found.setdefault(name, until_label)
        found.pop(self.name, None)
        return found

    def remove(self, name: str) -> list[str]:
        """End every instance of one run and its group; what is left, in words. Bounded, and raises no Exception."""
        mine = name == self.name
        if mine and not self.began:
            return []
        known = [one for one, made in self.made.items() if made.ended is None] if mine else []
        looks = _LOOKS if mine and self.asked > len(self.made) else 1  # a list may lag behind a lost answer
        left = self._until_none(lambda: self._instances(name), self._delete, looks, "instance", known)
        if mine and not left and self.asked > len(self.made):
            self.note("The answer of a create call was lost, and nothing of it is listed. Look later with --clean.")
        return left or self._until_none(lambda: self.groups(name), self._delete_group, 1, f"security group {name}", [])

    def _until_none(
        self, look: Callable[[], list[str]], end: Callable[[str], None], looks: int, what: str, there: list[str]
    ) -> list[str]:
        """Look and end until nothing is there; where a look fails, what is `there` is ended all the same."""
        trouble, empty, denied = " that may be there", 0, False
        for _ in range(_ROUNDS):
            try:
                there = look()
                empty = 0 if there else empty + 1
                if empty >= looks:
                    return []
            except Exception as error:  # noqa: BLE001 - an answer that nobody thought of must not end the cleaning up
                trouble = f" ({error if isinstance(error, ExollamaError) else repr(error)})"
            for one in there:
                try:
                    end(one)
                except Exception as error:  # noqa: BLE001 - the same
                    trouble = f" ({error if isinstance(error, ExollamaError) else repr(error)})"
                    denied = denied or isinstance(error, Denied)
            if denied:
                break  # by the key's role, which no patience changes
            self.cloud.sleep(_PAUSE_S)
        return [f"{what} {one}{trouble}" for one in there] or [f"{what}{trouble}"]

    def _instances(self, name: str) -> list[str]:
        """The ids of what a run made that still is there: by label and the nonce in its user-data, or made just now."""
        assert _NAME_RE.fullmatch(name), name
        for made in list(self.made) if name == self.name else ():
            if self.made[made].ended is None and self._state(made) in _OVER:
                self.made[made].ended = time.monotonic()
        found = {one for one, made in self.made.items() if made.ended is None} if name == self.name else set()
        for listed in self.cloud.list_instances():
            if listed.owned and listed.owned_name == name and listed.state not in _OVER and listed.id not in found:
                with suppress(NotFound):
                    seen = self.cloud.get_instance(listed.id)
                    if vouched(seen):
                        found.add(seen.id)
                        if name == self.name:
                            self.account_for(seen)
        return sorted(found)

    def account_for(self, seen: Instance) -> None:
        """One that a verb made, or whose answer was lost."""
        types: dict[str, str] = {}
        with suppress(ExollamaError):  # an unknown price is no reason to leave it running
            types = self.cloud.type_names()
        age_s = (self.cloud.now() - seen.created).total_seconds() if seen.created else 0.0
        hourly = prices.hourly_cost(types.get(seen.type_id or "", ""), seen.disk_gib or DISK_GIB) or 0.0
        self.made[seen.id] = Made(hourly=hourly, began=time.monotonic() - age_s)

    def _state(self, instance_id: str) -> str:
        try:
            return self.cloud.get_instance(instance_id).state
        except NotFound:
            return "destroyed"

    def _delete(self, instance_id: str) -> None:
        with suppress(NotFound):
            if self._state(instance_id) == "destroying":
                return
            if instance_id in self._tried:  # a protected one is refused, or its operation fails: which, nobody knows
                with suppress(ExollamaError):
                    self.protect(instance_id, "remove")
            self._tried.add(instance_id)
            self.cloud.delete_instance(instance_id)

    def _delete_group(self, group: str) -> None:
        operation = self.cloud.call("DELETE", f"/security-group/{group}", operation="delete-security-group")
        self.cloud.wait(operation, f"deleting the security group {group}", 60.0)

    def spent(self) -> float:
        """About what all of it has cost so far, as if it had run all the time."""
        now = time.monotonic()
        return sum(made.hourly * ((made.ended or now) - made.began) / 3600 for made in self.made.values())


def allow(account: Account, group: str, network: str = "0.0.0.0/0") -> None:
    """Open the one port, as provisioning does."""
    account.cloud.allow(group, network, PORT)


def worst_cost(instance_type: str, limit_s: float, boot: tuple[str, int] | None) -> float:
    """What a run may cost at most, per account's currency: two machines, and with --boot that type and disk as well.

    Each as long as it can run where this program dies at the worst moment, and a day of its disk until a reaper comes.
    Raises ExollamaError for a type without a price.
    """
    day_of_disk = 24 * prices.disk_hourly_cost(DISK_GIB)
    cost = 2 * (_hourly(instance_type, DISK_GIB) * (limit_s + OFF_S) / 3600 + day_of_disk)
    if boot:
        kind, disk_gib = boot
        # Its own watchdog ends it an hour past its deadline, which is BOOT_LIMIT_S after it was made.
        cost += _hourly(kind, disk_gib) * (BOOT_LIMIT_S + 3600) / 3600 + 24 * prices.disk_hourly_cost(disk_gib)
    return cost


def _hourly(instance_type: str, disk_gib: int) -> float:
    cost = prices.hourly_cost(instance_type, disk_gib)
    if cost is None:
        raise ExollamaError(f"No price of {instance_type or 'this type'} is known (client/prices.json).")
    return cost
