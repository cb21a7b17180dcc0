"""What a zone keeps: instances, security groups, operations; and the simulator's options. Plain data."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any, Protocol


class Refused(Exception):
    """An answer that is no success: `status` and the message for its body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True, kw_only=True)
class Options:
    """How the simulated cloud behaves; may be changed while it runs. Seconds are real ones."""

    operation_s: float = 0.05
    start_s: float = 0.15  # from create or :start to running; longer than operation_s, as create may succeed before
    at_once: bool = False  # operations and starts are over before the next call, so that all runs are the same
    list_lag_s: float = 0.0  # a new instance shows in lists only after this
    instance_quota: int = 20  # per zone
    authorized_gpus: set[str] = field(default_factory=set)  # GPU families with a quota; there are none by default
    # Signed, list-instance-types omits what one may not use (seen in a live test by others); True shows it with
    # authorized false, as the unsigned answer does.
    list_unauthorized: bool = False
    unique_group_names: bool = True  # not documented, so both have to be survived
    new_address_on_start: bool = False  # not documented, so both have to be survived
    check_expiry: bool = True
    machines: bool = True  # False: instances are records only, no process is started


class Machine(Protocol):
    """What a zone needs of the machine behind an instance."""

    def boot(self) -> None:
        """Power on; returns at once."""

    def power_off(self) -> None:
        """End all of its processes; the disk stays."""

    def destroy(self) -> None:
        """End all of its processes and remove its disk."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One instance as the zone knows it."""

    id: str
    zone: str
    created_at: str
    type_id: str
    template_id: str
    disk_gib: int
    state: str
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    user_data: str | None = None
    groups: list[str] = field(default_factory=list)
    ip: str | None = None
    ip_known: bool = False
    manager: dict[str, str] | None = None
    visible_at: float = 0.0  # time.monotonic()
    protected: bool = False
    mac: str = "06:0c:8e:00:00:01"
    machine: Machine | None = None

    def item(self, groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """As list-instances shows it: without user-data and disk-size."""
        shown: dict[str, Any] = {
            "id": self.id,
            "state": self.state,
            "created-at": self.created_at,
            "instance-type": {"id": self.type_id},
            "template": {"id": self.template_id},
            "labels": dict(self.labels),
            "security-groups": [{"id": g, "name": groups[g]["name"]} for g in self.groups if g in groups],
            "mac-address": self.mac,
            "public-ip-assignment": "inet4",
        }
        if self.name is not None:
            shown["name"] = self.name
        if self.ip is not None and self.ip_known:
            shown["public-ip"] = self.ip
        if self.manager:
            shown["manager"] = dict(self.manager)
        return shown

    def details(self, groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """As get-instance shows it."""
        shown = self.item(groups)
        shown["security-groups"] = [{"id": group["id"]} for group in shown["security-groups"]]
        shown["disk-size"] = self.disk_gib
        shown["secureboot-enabled"] = False
        shown["tpm-enabled"] = False
        if self.user_data is not None:
            shown["user-data"] = self.user_data
        return shown


@dataclass(slots=True, kw_only=True)
class Operation:
    """One asynchronous operation."""

    command: str
    resource: str | None
    resource_id: str | None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "pending"
    reason: str | None = None

    def shown(self) -> dict[str, Any]:
        """As get-operation shows it."""
        answer: dict[str, Any] = {"id": self.id, "state": self.state}
        if self.reason:
            answer["reason"] = self.reason
        if self.state in ("failure", "timeout"):
            answer["message"] = f"the simulator let {self.command} end so"
        if self.resource_id:
            answer["reference"] = {
                "id": self.resource_id,
                "link": f"/v2/{self.resource}/{self.resource_id}",
                "command": f"get-{self.resource}",
            }
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that was served: what it was, what it got, which fault it met."""

    operation_id: str
    zone: str
    method: str
    path: str
    query: str
    body: Any
    status: int | None  # None where the connection was closed without an answer
    fault: str | None
    signed: bool
    at: float  # time.monotonic()
