"""For tests of the simulator and of the instance: signed calls, an instance launched, its endpoint asked.

It uses neither the project's signer nor its client, so that a test of the one does not rest on the other; only the
user-data is the project's, rendered as provision renders it.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from client.settings import Secret
from functions.userdata import render
from tests.simulator import signing
from tests.simulator.simulator import Seen, Simulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def sign(
    simulator: Simulator,
    method: str,
    path: str,
    query: str,
    body: bytes,
    *,
    secret: str | None = None,
    for_s: int = 600,
) -> str:
    """The Authorization header of one request; `for_s` is how long it holds, from the machine's own clock."""
    expires = str(int(time.time()) + for_s)
    value = signing.signature(secret or simulator.secret, method, path, query, body, expires)
    names = sorted(pair.partition("=")[0] for pair in query.split("&")) if query else []
    signed = f",signed-query-args={';'.join(names)}" if names else ""
    return f"{signing.SCHEME} credential={simulator.key}{signed},expires={expires},signature={value}"


def call(
    simulator: Simulator,
    method: str,
    path: str,
    body: Any = None,
    *,
    query: str = "",
    zone: str | None = None,
    authorization: str | None = None,
    timeout_s: float = 10,
) -> Answer:
    """One request to the API, signed; `path` without zone and version. An empty `authorization` leaves it unsigned."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    full = f"/{zone or next(iter(simulator.zones))}/v2{path}"
    header = sign(simulator, method, full, query, raw) if authorization is None else authorization
    headers = {"Content-Type": "application/json"} if raw else {}
    if header:
        headers["Authorization"] = header
    connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=timeout_s)
    try:
        connection.request(method, full + (f"?{query}" if query else ""), raw or None, headers)
        response = connection.getresponse()
        return Answer(status=response.status, headers=dict(response.getheaders()), body=response.read())
    finally:
        connection.close()


def user_data(**changes: Any) -> str:
    """The project's user-data, with a key and a nonce of its own."""
    given: dict[str, Any] = {
        "name": "exollama",
        "model": "granite3.1-dense:8b",
        "key": Secret(secrets.token_hex(32)),
        "request": secrets.token_hex(16),
        "image": "ollama/ollama:0.12.6",
        "idle_s": 1800,
        "boot_s": 1800,
        "retention_s": 86400,
        "deadline": int(time.time()) + 604800,
        "action": "destroy",
        "version": "0.1.0",
    }
    return render(**{**given, **changes})


def create_body(simulator: Simulator, **changes: Any) -> dict[str, Any]:
    """The body of a create-instance that is in order."""
    zone = next(iter(simulator.zones.values()))
    kind = next(t for t in zone.types.values() if (t["family"], t["size"]) == ("standard", "large"))
    body = {"name": "exollama", "disk-size": 50, "template": {"id": next(iter(zone.templates))}}
    return {**body, "instance-type": {"id": kind["id"]}, "labels": {"exollama": "v1"}, **changes}


def launch(simulator: Simulator, **changes: Any) -> Seen:
    """An instance with the project's user-data, as soon as it runs."""
    answer = call(simulator, "POST", "/instance", create_body(simulator, **{"user-data": user_data(**changes)}))
    assert answer.status == 200, answer.body
    id_ = answer.json["reference"]["id"]
    simulator.wait(lambda: simulator.instance(id_).state == "running", "running")
    return simulator.instance(id_)


def boot_report(seen: Seen) -> dict[str, Any]:
    """boot.json, {} where there is none yet."""
    assert seen.root is not None
    try:
        report: dict[str, Any] = json.loads((seen.root / "run/exollama/boot.json").read_text())
    except OSError:
        return {}
    return report


def ready(simulator: Simulator, seen: Seen, timeout_s: float = 30) -> Seen:
    """The instance, once its boot has reached `ready`. Raises AssertionError with its logs where the boot failed."""

    def over() -> bool:
        report = boot_report(seen)
        assert not report.get("error"), simulator.logs(seen.id)
        return report.get("phase") == "ready"

    simulator.wait(over, "ready", timeout_s)
    return simulator.instance(seen.id)


def ask(
    seen: Seen, method: str, path: str, body: Any = None, *, key: str | None = None, timeout_s: float = 10
) -> Answer:
    """One request to the instance's endpoint, with its key (or another; an empty one sends none), unverified TLS."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(seen.ip or "", 11435, context=context, timeout=timeout_s)
    sent = seen.key if key is None else key
    try:
        raw = None if body is None else json.dumps(body)
        connection.request(method, path, raw, {"X-Ollama-Key": sent} if sent else {})
        response = connection.getresponse()
        return Answer(status=response.status, headers=dict(response.getheaders()), body=response.read())
    finally:
        connection.close()


def status(seen: Seen) -> dict[str, Any]:
    """What the instance's agent says."""
    answer = ask(seen, "GET", "/.exollama/status")
    assert answer.status == 200, answer.body
    said: dict[str, Any] = answer.json
    return said
