"""An account of Exoscale behind a `Send`, as far as planning a create call looks at it."""

import json
from collections.abc import Callable
from typing import Any

from client.transport import Request, Response
from functions.cloud import Cloud
from functions.plan import Draft, draft
from tests.fakes import NOW, ZONE, settings
from tests.scripted import reply

GIB = 1 << 30
TEMPLATE = "Linux Ubuntu 22.04 LTS 64-bit"


def a_type(name: str, gib: int, **changes: Any) -> dict[str, Any]:
    family, size = name.split(".")
    return {"id": f"type-{name}", "family": family, "size": size, "memory": gib * GIB, "authorized": True} | changes


def a_rule(network: str | None, **changes: Any) -> dict[str, Any]:
    rule = {"flow-direction": "ingress", "protocol": "tcp", "network": network, "start-port": 11435, "end-port": 11435}
    return rule | changes


class Account:
    """The catalogue and security groups of an account, per zone, behind a `Send`."""

    def __init__(self, **changes: Any) -> None:
        self.templates: dict[str, list[dict[str, Any]]] = {
            ZONE: [
                {"id": "t-old", "name": TEMPLATE, "created-at": "2025-01-01T00:00:00Z"},
                {"id": "t-new", "name": TEMPLATE, "created-at": "2026-01-01T00:00:00Z"},
                {"id": "t-24", "name": "Linux Ubuntu 24.04 LTS 64-bit", "created-at": "2026-02-01T00:00:00Z"},
                {"id": "t-debian", "name": "Linux Debian 13", "created-at": "2026-02-01T00:00:00Z"},
            ]
        }
        self.types: dict[str, list[dict[str, Any]]] = {
            ZONE: [
                a_type("standard.huge", 32),
                a_type("standard.large", 8),
                a_type("standard.medium", 4),
                a_type("memory.large", 8),
                a_type("gpua30.small", 56),
            ]
        }
        self.groups: list[dict[str, Any]] = []
        self.faults: dict[str, Callable[[], Response]] = {}
        self.changes: list[tuple[str, str, Any]] = []
        self.notes: list[str] = []
        self.__dict__.update(changes)
        self.cloud = Cloud(settings(), ZONE, self.send, clock=NOW.timestamp, sleep=lambda _: None)

    def send(self, request: Request) -> Response:
        host, _, path = request.url.removeprefix("https://api-").partition(".exoscale.com/v2")
        path, _, query = path.partition("?")
        if request.method != "GET":
            self.changes.append((request.method, path, json.loads(request.body)))
        if fault := self.faults.get(f"{request.method} {path}"):
            return fault()
        return reply(self._answer(request, host, path, query))

    def _answer(self, request: Request, zone: str, path: str, query: str) -> dict[str, Any]:
        match request.method, path.split("/")[1:]:
            case "GET", ["zone"]:
                return {"zones": [{"name": name} for name in dict.fromkeys([*self.templates, *self.types])]}
            case "GET", ["template"]:
                return {"templates": self.templates.get(zone, []) if "public" in query else []}
            case "GET", ["instance-type"]:
                return {"instance-types": self.types.get(zone, [])}
            case "GET", ["security-group"]:
                return {"security-groups": [{"id": g["id"], "name": g["name"]} for g in self.groups]}
            case "GET", ["security-group", group]:
                return next(g for g in self.groups if g["id"] == group)
            case "POST", ["security-group"]:
                self.groups.append({"id": f"g-{len(self.groups)}", "rules": []} | json.loads(request.body))
            case "POST", ["security-group", group, "rules"]:
                next(g for g in self.groups if g["id"] == group)["rules"].append(json.loads(request.body))
        return {"id": "op", "state": "success"}

    def draft(self, **changes: Any) -> Draft:
        return draft(self.cloud, settings(**changes), note=self.notes.append)
