"""Zones of the API behind `responses`: each request is checked for its signature, kept, and answered."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

from exoscale_auth import ExoscaleV2Auth
from requests import PreparedRequest

from client.model import Instance
from client.settings import Secret
from tests import fakes
from tests.fakes import API_KEY, API_SECRET, NOW, label_map, user_data

Answer = tuple[int, dict[str, str], str]
ID = "0a1b2c3d-0000-4000-8000-000000000001"
NEW = "0a1b2c3d-0000-4000-8000-0000000000ff"
IDLE = NOW - timedelta(hours=5)
TYPES = [
    {"id": f"type-{size}", "family": "standard", "size": size, "memory": gib << 30, "authorized": True, "cpus": 2}
    for size, gib in (("medium", 4), ("large", 8))
]
TEMPLATES = [{"id": "the-template", "name": "Linux Ubuntu 22.04 LTS 64-bit", "created-at": "2026-01-01T00:00:00Z"}]
OPERATION = {"id": "the-operation", "state": "pending"}


class Zones:
    """Zones of the API behind `responses`: every request is checked for its signature, answered, and kept."""

    def __init__(self, *names: str) -> None:
        self.instances: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        self.groups: list[dict[str, Any]] = []
        self.faults: dict[str, Callable[[], Answer | Exception]] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.said: dict[str, Any] = {"idle_s": 9999.0}
        self.asked: list[tuple[str, Secret]] = []
        self.shut: list[str] = []
        self.elapsed_s = 0.0
        self.date = NOW
        self._lock = threading.RLock()

    # -- what the functions are given

    @property
    def injected(self) -> dict[str, Any]:
        return {"clock": lambda: NOW.timestamp() + self.elapsed_s, "sleep": self.sleep}

    def sleep(self, seconds: float) -> None:
        self.elapsed_s += seconds

    def endpoint(self, instance: Instance, key: Secret) -> "Agent":
        self.asked.append((instance.id, key))
        return Agent(self)

    # -- what tests look at

    def made(self, *methods: str) -> list[str]:
        return [f"{method} {path}" for method, path, _ in self.calls if not methods or method in methods]

    def body(self, method: str, path: str) -> Any:
        (body,) = [body for m, p, body in self.calls if (m, p.partition("/v2")[2]) == (method, path)]
        return body

    # -- the API

    def answer(self, request: PreparedRequest) -> Answer:
        with self._lock:
            return self._answer(request)

    def _answer(self, request: PreparedRequest) -> Answer:
        assert request.url
        host, path = re.fullmatch(r"https://api-([a-z0-9-]+)\.exoscale\.com(/v2/.*)", request.url).groups()  # type: ignore[union-attr]
        raw = request.body or b""
        assert isinstance(raw, bytes)
        self._check_signature(request, path)
        self.calls.append((str(request.method), f"{host}{path}", json.loads(raw) if raw else None))
        headers = {"Date": format_datetime(self.date + timedelta(seconds=self.elapsed_s), usegmt=True)}
        if fault := self.faults.get(f"{request.method} {path.removeprefix('/v2')}"):
            given = fault()
            if isinstance(given, Exception):
                raise given
            return given[0], headers | given[1], given[2]
        found = self.route(str(request.method), host, path.removeprefix("/v2"), json.loads(raw) if raw else None)
        if found is None:
            return 404, headers, json.dumps({"message": "Not Found"})
        return 200, headers, json.dumps(found)

    def _check_signature(self, request: PreparedRequest, path: str) -> None:
        header = request.headers.get("authorization")
        if path == "/v2/zone" or (path == "/v2/instance-type" and header is None):
            assert header is None
            return
        expires = re.search(r"expires=(\d+)", str(header))
        assert expires, f"not signed: {request.method} {path}"
        again = SimpleNamespace(method=request.method, url=request.url, body=request.body, headers={})
        ExoscaleV2Auth(API_KEY, API_SECRET)._sign_request(again, int(expires[1]))
        assert header == again.headers["Authorization"]
        assert int(expires[1]) == int(NOW.timestamp() + self.elapsed_s) + 600

    def route(self, method: str, zone: str, path: str, body: Any) -> dict[str, Any] | None:
        """Do what a request asks for, with no regard to faults; None is a 404."""
        here, parts = self.instances.get(zone, []), path.strip("/").split("/")
        return self._shown(here, parts) if method == "GET" else self._changed(here, method, parts, body)

    def _shown(self, here: list[dict[str, Any]], parts: list[str]) -> dict[str, Any] | None:
        match parts:
            case ["zone"]:
                return {"zones": [{"name": name} for name in self.instances]}
            case ["instance"]:
                hidden = {"user-data", "disk-size"}
                return {"instances": [{k: v for k, v in i.items() if k not in hidden} for i in here]}
            case ["instance", instance_id]:
                return next((i for i in here if i["id"] == instance_id), None)
            case ["template?visibility=public"]:
                return {"templates": TEMPLATES}
            case ["template?visibility=private"]:
                return {"templates": []}
            case ["instance-type"]:
                return {"instance-types": TYPES}
            case ["security-group?visibility=private"]:
                return {"security-groups": self.groups}
            case ["security-group", group]:
                return next((g for g in self.groups if g["id"] == group), None)
            case ["quota"]:
                return {"quotas": [{"resource": "instance", "usage": len(here), "limit": 20}]}
            case ["operation", "the-operation"]:
                return OPERATION | {"state": "success", "reference": {"id": NEW}}
            case ["operation", _]:
                return None
            case _:
                raise AssertionError(f"nothing that the contract knows: GET {parts}")

    def _changed(self, here: list[dict[str, Any]], method: str, parts: list[str], body: Any) -> dict[str, Any]:
        target = next((i for i in here if i["id"] == parts[-1].partition(":")[0]), {})
        match method, parts:
            case "POST", ["security-group"]:
                self.groups.append({"id": "the-group", "name": body["name"], "rules": []})
            case "POST", ["security-group", _, "rules"]:
                self.groups[0]["rules"].append(body)
            case "POST", ["instance"]:
                here.append({"id": NEW, "state": "running", "created-at": "2026-11-24T12:00:00Z"} | body)
                here[-1]["public-ip"] = "127.0.0.9"
            case "PUT", ["instance", name] if target and ":" in name:
                target["state"] = {"start": "running", "stop": "stopped"}[name.partition(":")[2]]
            case "PUT", ["instance", _] if target:
                target.update(body)
            case "DELETE", ["instance", _] if target:
                here.remove(target)
            case _:
                raise AssertionError(f"nothing that the contract knows: {method} {parts}")
        return OPERATION


class Agent:
    """The endpoint of whichever instance it is."""

    def __init__(self, zones: Zones) -> None:
        self.zones = zones

    def status(self) -> dict[str, Any]:
        return fakes.status(**self.zones.said)

    def touch(self) -> None:
        self.zones.said["idle_s"] = 0.0

    def fence(self, owner: str) -> None:
        self.zones.shut.append(f"fence {owner}")

    def commit(self, owner: str) -> None:
        self.zones.shut.append(f"commit {owner}")

    def unfence(self, owner: str) -> None:
        self.zones.shut.append(f"unfence {owner}")

    @contextmanager
    def request(self, method: str, path: str, payload: object, **_: object) -> Iterator[Any]:
        self.zones.calls.append((method, path, payload))
        yield SimpleNamespace(read=lambda: b"{}", readline=lambda _limit: b'{"status": "success"}\n')


def instance(**changes: Any) -> dict[str, Any]:
    """An instance as get-instance shows it: ours, a day old, running, idle by its label."""
    return {
        "id": ID,
        "name": "exollama",
        "state": "running",
        "created-at": "2026-11-23T12:00:00Z",
        "public-ip": "127.0.0.9",
        "labels": label_map(activity=IDLE),
        "disk-size": 50,
        "user-data": user_data(),
    } | changes


def refusal(code: int, message: str, **headers: str) -> Callable[[], Answer]:
    return lambda: (code, headers, json.dumps({"message": message}))
