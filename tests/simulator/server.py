"""The API over HTTP: `/{zone}/v2/...` on 127.0.0.1, signatures verified, both sides checked against the document.

A request that violates the document gets 400 and is kept in `violations`, an answer that does gets 500 and is kept too.
Imports nothing of the project.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from tests.simulator import document, signing
from tests.simulator.clock import Clock
from tests.simulator.faults import Fault, Faults
from tests.simulator.records import Call, Options, Refused
from tests.simulator.zone import Zone

if TYPE_CHECKING:
    from tests.simulator.policies import Policy

UNSIGNED = frozenset({"list-zones", "list-instance-types"})
DENIAL = "Forbidden by role policy for compute"
JSON = "application/json"
PROXY_PAGE = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What goes back: an answer, or with status None a closed connection, after `wait_s` seconds."""

    status: int | None = None
    raw: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    reset: bool = False
    truncated: bool = False


class Api:
    """What the requests share."""

    def __init__(
        self,
        zones: Mapping[str, Zone],
        *,
        secrets: dict[str, str],
        clock: Clock,
        faults: Faults,
        options: Options,
    ) -> None:
        self.zones = zones
        self.secrets = secrets
        self.policies: dict[str, Policy] = {}
        self.clock = clock
        self.faults = faults
        self.options = options
        self.document = document.load()
        self.lock = threading.RLock()
        self.calls: list[Call] = []
        self.violations: list[str] = []
        self.denied: list[str] = []
        self.closing = threading.Event()

    def new_key(self, policy: Mapping[str, Any]) -> tuple[str, str]:
        """A further API key and its secret, with a role of that policy. Raises Violation and ValueError, as Policy."""
        from tests.simulator.policies import Policy  # its CEL library is large, and few need it

        key, secret = f"EXOrole{token_hex(12)}", token_hex(32)
        self.policies[key] = Policy(policy)  # before the key is good for anything
        self.secrets[key] = secret
        return key, secret

    def authorise(
        self, key: str | None, operation_id: str, params: tuple[str, ...], fields: Mapping[str, str], body: Any
    ) -> None:
        """Raises Refused where the key has a role whose policy does not allow this. Unsigned ones have no key."""
        policy = self.policies.get(key) if key else None
        if policy and not policy.allows(operation_id, self.document.parameters(operation_id, params, fields, body)):
            self.denied.append(f"{operation_id}: not allowed by the role's policy")
            raise Refused(403, DENIAL)


class Server(ThreadingHTTPServer):
    """A server that forgets nothing it has open, so that closing it ends every connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: Api, port: int = 0) -> None:
        self.api = api
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)

    def server_bind(self) -> None:  # the inherited one asks the resolver for a name
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away

    def close(self) -> None:
        """Stop serving and close every connection."""
        self.api.closing.set()
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one segment: two would meet the client's delayed acknowledgement
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        api = self.server.api
        length = self.headers.get("Content-Length", "0")
        body = self.rfile.read(int(length)) if length.isdigit() else b""
        path, _, query = self.path.partition("?")
        _, zone_name, version, *rest = [*path.split("/", 3), "", ""]
        zone = api.zones.get(zone_name) if version == "v2" else None
        found = api.document.match(self.command, "/" + rest[0]) if zone else None
        if zone is None or found is None:
            if zone:
                api.violations.append(f"{self.command} {path}: no such operation in the document")
            self.zone = zone_name
            self._send(_message(404, "Not Found"))
            return
        self.zone = zone.name
        operation_id, params = found
        header = self.headers.get("Authorization")
        fault: Fault | None = None
        key, parsed = None, None
        try:
            if header or operation_id not in UNSIGNED:
                now = api.clock.now(zone.name) if api.options.check_expiry else 0.0
                key = signing.verify(
                    header, secrets=api.secrets, method=self.command, path=path, query=query, body=body, now=now
                )
            content_type = self.headers.get("Content-Type", "")
            fields, parsed = api.document.check_request(operation_id, params, query, body, content_type)
            api.authorise(key, operation_id, params, fields, parsed)
            fault = api.faults.take(operation_id, zone.name)
            reply = _instead(fault) if fault else None
            if reply is None:
                with api.lock:
                    answer = zone.serve(operation_id, params, fields, parsed, fault, bool(header))
                    if fault and fault.kind == "no-reference":
                        answer = zone.without_reference(answer)
                    raw = json.dumps(answer).encode()
                api.document.check_answer(operation_id, 200, raw)
                reply = _marred(fault, raw)
        except signing.Denied as error:
            api.denied.append(f"{operation_id}: {error}")
            reply = _message(403, "Invalid request signature")
        except Refused as error:
            refusal = _message(error.status, error.message)
            reply = _marred(fault, refusal.raw, error.status)  # refusals get lost, too
        except document.Violation as error:
            api.violations.append(str(error))
            ours = " answer: " in str(error)
            reply = _message(500 if ours else 400, str(error))
        # Kept before the answer goes out: whoever has it may look.
        api.calls.append(
            Call(
                operation_id=operation_id,
                zone=zone.name,
                method=self.command,
                path=path,
                query=query,
                body=parsed,
                status=reply.status,
                fault=fault.kind if fault else None,
                signed=bool(header),
                at=time.monotonic(),
            )
        )
        if fault and "then" in fault.options:
            fault.options["then"]()
        self._send(reply)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

    def _send(self, reply: Reply) -> None:
        self.server.api.closing.wait(reply.wait_s)
        if reply.status is None:
            self.close_connection = True
            if reply.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        self.send_response_only(reply.status)
        self.send_header("Date", self.server.api.clock.date(self.zone))
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.raw)))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.raw[: len(reply.raw) // 2] if reply.truncated else reply.raw)
        self.wfile.flush()
        self.close_connection = self.close_connection or reply.truncated


def _message(status: int, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status=status, raw=json.dumps({"message": message}).encode(), headers=headers or {})


def _instead(fault: Fault) -> Reply | None:
    """The reply of a fault that keeps the deed from being done; None where it is to be done."""
    options = fault.options
    if fault.kind == "reset":
        return Reply(reset=True)
    if fault.kind == "hang":
        return Reply(wait_s=options.get("seconds", 60))
    if fault.kind == "html":
        return Reply(status=options.get("status", 502), raw=PROXY_PAGE.encode(), content_type="text/html")
    messages = {
        "403-iam": (403, DENIAL),
        "403-signature": (403, "Invalid request signature"),
        "quota": (409, "Quota exceeded: instance limit reached"),
        "denied-delete": (409, "Instance is protected against deletion"),
    }
    if fault.kind not in messages and not fault.kind.isdigit():
        return None
    status, message = messages.get(fault.kind) or (int(fault.kind), f"the simulator answers {fault.kind}")
    headers = {"Retry-After": str(options["retry_after"])} if "retry_after" in options else {}
    if "body" in options:
        raw = options["body"].encode() if isinstance(options["body"], str) else options["body"]
        return Reply(status=status, raw=raw, content_type=options.get("content_type", JSON), headers=headers)
    return _message(status, options.get("message", message), headers)


def _marred(fault: Fault | None, raw: bytes, status: int = 200) -> Reply:
    """The reply to a deed that was done or refused, or what a fault makes of it."""
    match fault.kind if fault else "":
        case "lost":
            return Reply()
        case "garbage":
            return Reply(status=status, raw=raw[: len(raw) // 2] + b"\x00")
        case "truncated":
            return Reply(status=status, raw=raw, truncated=True)
        case "slow":
            return Reply(status=status, raw=raw, wait_s=fault.options.get("seconds", 1) if fault else 0)
    return Reply(status=status, raw=raw)
