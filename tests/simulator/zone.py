"""One zone of the cloud: the deeds behind the API's operations. Neighbours: server.py calls `serve`, machine.py runs
what is created here. Imports nothing of the project."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from tests.simulator import catalogue
from tests.simulator.clock import Clock
from tests.simulator.document import Violation
from tests.simulator.faults import Fault
from tests.simulator.records import Machine, Operation, Options, Record, Refused

Body = dict[str, Any]
T = TypeVar("T")


class Zone:
    """The state of one zone. Its methods are called under the simulator's lock."""

    def __init__(
        self,
        name: str,
        zones: list[str],
        *,
        options: Options,
        clock: Clock,
        later: Callable[[float, Callable[[], None]], None],
        address: Callable[[], str],
        machine: Callable[[Record], Machine],
    ) -> None:
        self.name = name
        self.options = options
        self.clock = clock
        self.later = later
        self.address = address
        self.machine = machine
        self.endpoints = dict.fromkeys(zones, "")
        self.instances: dict[str, Record] = {}
        self.groups: dict[str, Body] = {}
        self.operations: dict[str, Operation] = {}
        self.templates = {t["id"]: t for t in catalogue.templates(name)}
        self.types = {t["id"]: t for t in catalogue.instance_types(zones) if name in t["zones"]}
        self._group("default", "Default Security Group")

    def serve(
        self,
        operation_id: str,
        params: tuple[str, ...],
        query: dict[str, str],
        body: Any,
        fault: Fault | None,
        signed: bool,
    ) -> Body:
        """Do one operation and return its answer. Raises Refused, and Violation for what no schema can say."""
        if fault and fault.kind in ("op-failure", "op-timeout", "op-never", "busy"):
            return self._fail(operation_id, params, body, fault)
        id_ = params[0] if params else ""
        deeds: dict[str, Callable[[], Body]] = {
            "list-zones": lambda: {"zones": [{"name": z, "api-endpoint": url} for z, url in self.endpoints.items()]},
            "list-templates": lambda: {"templates": self._templates(query)},
            "get-template": lambda: _found(self.templates, id_, "Template"),
            "list-instance-types": lambda: {"instance-types": self._types(signed)},
            "get-instance-type": lambda: self._authorized(_found(self.types, id_, "Instance type")),
            "list-quotas": lambda: {"quotas": self._quotas()},
            "list-instances": self._list,
            "get-instance": lambda: self._instance(id_).details(self.groups),
            "create-instance": lambda: self._create(body, fault),
            "update-instance": lambda: self._update(self._instance(id_), body),
            "delete-instance": lambda: self._delete(self._instance(id_)),
            "start-instance": lambda: self._start(self._instance(id_), fault),
            "stop-instance": lambda: self._stop(self._instance(id_)),
            "add-instance-protection": lambda: self._protect(self._instance(id_), True),
            "remove-instance-protection": lambda: self._protect(self._instance(id_), False),
            "get-operation": lambda: _found(self.operations, id_, "Operation").shown(),
            "list-security-groups": lambda: {
                "security-groups": [] if query.get("visibility") == "public" else list(self.groups.values())
            },
            "get-security-group": lambda: _found(self.groups, id_, "Security group"),
            "create-security-group": lambda: self._create_group(body),
            "delete-security-group": lambda: self._delete_group(_found(self.groups, id_, "Security group")),
            "add-rule-to-security-group": lambda: self._add_rule(_found(self.groups, id_, "Security group"), body),
        }
        if operation_id not in deeds:
            raise Refused(501, f"the simulator does not do {operation_id}")
        return deeds[operation_id]()

    # -- instances

    def _list(self) -> Body:
        now = time.monotonic()  # the query's filters are not applied: their grammar is not documented
        return {"instances": [r.item(self.groups) for r in self.instances.values() if r.visible_at <= now]}

    def _create(self, body: Body, fault: Fault | None) -> Body:
        kind = self.types.get(body["instance-type"].get("id", ""))
        template = self.templates.get(body["template"].get("id", ""))
        if kind is None:
            raise Refused(404, "Instance type not found")
        if template is None:
            raise Refused(404, "Template not found")
        if not self._authorized(kind)["authorized"]:
            raise Refused(400, f"Instance type {kind['family']}.{kind['size']} is not authorized")
        groups = [group.get("id", "") for group in body.get("security-groups", [])]
        for group in groups:
            _found(self.groups, group, "Security group")
        if self._live() >= self.options.instance_quota:
            raise Refused(409, f"Quota exceeded: instance limit of {self.options.instance_quota} reached")
        _check_user_data(body.get("user-data"))
        record = self.add(
            Record(
                id=str(uuid.uuid4()),
                zone=self.name,
                created_at=self.clock.rfc3339(self.name),
                type_id=kind["id"],
                template_id=template["id"],
                disk_gib=body["disk-size"],
                state="starting",
                name=body.get("name", f"VM-{uuid.uuid4()}"),
                labels=dict(body.get("labels") or {}),
                user_data=body.get("user-data"),
                groups=groups or [next(iter(self.groups))],
                visible_at=time.monotonic() + self.options.list_lag_s,
            )
        )
        operation = self._operation("create-instance", "instance", record.id)
        answer = operation.shown()

        def done() -> None:
            record.ip_known = True
            operation.state = "success"
            if body.get("auto-start") is False:
                record.state = "stopped"

        self.later(self.options.operation_s, done)
        if body.get("auto-start") is not False:
            self.later(self.options.start_s, lambda: self._up(record, fault))
        return answer

    def add(self, record: Record) -> Record:
        """Give a new record its address and its machine, and keep it."""
        record.ip = self.address()
        record.mac = f"06:{record.id[0:2]}:{record.id[2:4]}:{record.id[4:6]}:{record.id[6:8]}:01"
        if self.options.machines:
            record.machine = self.machine(record)
        self.instances[record.id] = record
        return record

    def _up(self, record: Record, fault: Fault | None) -> None:
        if record.state != "starting" or (fault and fault.kind == "no-start"):
            return
        record.state = "error" if fault and fault.kind == "instance-error" else "running"
        if record.machine and record.state == "running":
            record.machine.boot()

    def _update(self, record: Record, body: Body) -> Body:
        _check_user_data(body.get("user-data"))
        if "labels" in body:
            record.labels = dict(body["labels"] or {})  # the whole map is replaced
        if "name" in body:
            record.name = body["name"]
        if "user-data" in body:
            record.user_data = body["user-data"]
        return self._soon(self._operation("update-instance", "instance", record.id))

    def _delete(self, record: Record) -> Body:
        if record.protected:
            raise Refused(409, "Instance is protected against deletion")
        if record.state in ("destroying", "destroyed", "expunging"):
            raise Refused(409, "Instance is already being destroyed")
        record.state = "destroying"
        return self._soon(self._operation("delete-instance", "instance", record.id), lambda: self.remove(record))

    def remove(self, record: Record) -> None:
        """The instance is gone, at once."""
        record.state = "destroyed"
        self.instances.pop(record.id, None)
        if record.machine:
            record.machine.destroy()

    def _start(self, record: Record, fault: Fault | None) -> Body:
        if record.state != "stopped":
            raise Refused(400, "Only stopped instances can be started")
        record.state = "starting"
        if self.options.new_address_on_start:
            record.ip = self.address()
        self.later(self.options.start_s, lambda: self._up(record, fault))
        return self._soon(self._operation("start-instance", "instance", record.id))

    def _stop(self, record: Record) -> Body:
        if record.state != "running":
            raise Refused(400, "Only running instances can be stopped")
        record.state = "stopping"

        def down() -> None:
            if record.state == "stopping":
                record.state = "stopped"
                if record.machine:
                    record.machine.power_off()

        return self._soon(self._operation("stop-instance", "instance", record.id), down)

    def _protect(self, record: Record, protected: bool) -> Body:
        record.protected = protected
        verb = "add" if protected else "remove"
        return self._soon(self._operation(f"{verb}-instance-protection", "instance", record.id))

    def powered_off(self, record: Record) -> None:
        """The machine switched itself off."""
        if record.state in ("running", "stopping"):
            record.state = "stopped"
            if record.machine:
                record.machine.power_off()

    # -- security groups

    def _group(self, name: str, description: str) -> Body:
        group: Body = {"id": str(uuid.uuid4()), "name": name, "description": description, "rules": []}
        self.groups[group["id"]] = group
        return group

    def _create_group(self, body: Body) -> Body:
        if self.options.unique_group_names and any(g["name"] == body["name"] for g in self.groups.values()):
            raise Refused(409, f"Security group {body['name']} already exists")
        group = self._group(body["name"], body.get("description", ""))
        return self._soon(self._operation("create-security-group", "security-group", group["id"]))

    def _delete_group(self, group: Body) -> Body:
        if any(group["id"] in record.groups for record in self.instances.values()):
            raise Refused(412, "Security group is still in use")
        operation = self._operation("delete-security-group", "security-group", group["id"])
        return self._soon(operation, lambda: self.groups.pop(group["id"], None))

    def _add_rule(self, group: Body, body: Body) -> Body:
        if ("network" in body) == ("security-group" in body):
            raise Refused(400, "Exactly one of network and security-group is needed")
        try:
            ipaddress.ip_network(body.get("network", "0.0.0.0/0"))
        except ValueError as error:
            raise Refused(400, f"Invalid network: {error}") from None
        first, last = body.get("start-port", 0), body.get("end-port", 0)
        if body["protocol"] in ("tcp", "udp") and not 0 < first <= last:
            raise Refused(400, "start-port and end-port are needed, in order")
        rule = {"id": str(uuid.uuid4()), **body}
        operation = self._operation("add-rule-to-security-group", "security-group", group["id"])
        return self._soon(operation, lambda: group["rules"].append(rule))

    # -- catalogue

    def _templates(self, query: dict[str, str]) -> list[Body]:
        if query.get("visibility", "public") == "private":
            return []
        family = query.get("family")
        return [t for t in self.templates.values() if family is None or t["family"] == family]

    def _types(self, signed: bool) -> list[Body]:
        shown = [self._authorized(t) for t in self.types.values()]
        if not signed:
            return [{**t, "authorized": "gpus" not in t} for t in shown]
        return [t for t in shown if t["authorized"] or self.options.list_unauthorized]

    def _authorized(self, kind: Body) -> Body:
        return {**kind, "authorized": "gpus" not in kind or kind["family"] in self.options.authorized_gpus}

    def _live(self) -> int:
        return sum(r.state not in ("destroyed", "expunging") for r in self.instances.values())

    def _quotas(self) -> list[Body]:
        """Instances and GPUs, named as Exoscale's own command line shows them; a GPU family's is 0 unless raised."""
        families = sorted({t["family"] for t in self.types.values() if "gpus" in t})
        limits = {family: int(family in self.options.authorized_gpus) for family in families}
        usages = dict.fromkeys(families, 0)
        for record in self.instances.values():
            kind = self.types[record.type_id]
            if "gpus" in kind:
                usages[kind["family"]] += kind["gpus"]
        rows = {"instance": (self._live(), self.options.instance_quota)}
        rows |= {"gpu": (sum(usages.values()), sum(limits.values()))}
        rows |= {family: (usages[family], limits[family]) for family in families}
        return [{"resource": name, "usage": usage, "limit": limit} for name, (usage, limit) in rows.items()]

    # -- operations

    def _operation(self, command: str, resource: str | None, resource_id: str | None) -> Operation:
        operation = Operation(command=command, resource=resource, resource_id=resource_id)
        self.operations[operation.id] = operation
        return operation

    def _soon(self, operation: Operation, deed: Callable[[], object] | None = None) -> Body:
        """The operation's answer now, its deed and its success after the usual latency."""
        answer = operation.shown()

        def done() -> None:
            if deed:
                deed()
            operation.state = "success"

        self.later(self.options.operation_s, done)
        return answer

    def _fail(self, operation_id: str, params: tuple[str, ...], body: Any, fault: Fault) -> Body:
        resource = "security-group" if "security-group" in operation_id else "instance"
        target = params[0] if params else str(uuid.uuid4())
        if params and target not in self.groups and target not in self.instances:
            raise Refused(404, f"Resource not found: {target}")
        if fault.options.get("leaves") and operation_id == "create-instance":
            target = self._create(body, Fault(operation_id="", kind="instance-error", times=0, skip=0, zone=None))[
                "reference"
            ]["id"]
        operation = self._operation(operation_id, resource, target)
        answer = operation.shown()

        def done() -> None:
            operation.state = "timeout" if fault.kind == "op-timeout" else "failure"
            operation.reason = "busy" if fault.kind == "busy" else fault.options.get("reason", "unknown")

        if fault.kind != "op-never":
            self.later(self.options.operation_s, done)
        return answer

    def without_reference(self, answer: Body) -> Body:
        """The same operation, naming no resource, now and later."""
        operation = self.operations.get(answer.get("id", ""))
        if operation:
            operation.resource_id = None
        return {key: value for key, value in answer.items() if key != "reference"}

    def _instance(self, id_: str) -> Record:
        return _found(self.instances, id_, "Instance")


def _found(table: dict[str, T], id_: str, what: str) -> T:
    if id_ not in table:
        raise Refused(404, f"{what} not found: {id_}")
    return table[id_]


def _check_user_data(user_data: str | None) -> None:
    try:
        base64.b64decode(user_data or "", validate=True)
    except binascii.Error as error:
        raise Violation(f"user-data is not base64: {error}") from None
