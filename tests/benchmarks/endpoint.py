"""An Exoscale endpoint with nothing to do, on a port of loopback: eight zones, and in each as many busy instances."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.fakes import label_map

ZONES = ("at-vie-1", "at-vie-2", "bg-sof-1", "ch-dk-2", "ch-gva-2", "de-fra-1", "de-muc-1", "hr-zag-1")


class _Canned(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: a delayed ACK between them would be measured

    latency_s = 0.0
    answers: Mapping[str, bytes] = {}

    def do_GET(self) -> None:
        time.sleep(self.latency_s)
        answer = self.answers.get(self.path.partition("?")[0].rpartition("/")[2])
        body = answer or json.dumps({"message": "Not Found"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the table is the output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, the last of eight connections at once would wait a second


def _in_use(number: int) -> dict[str, Any]:
    """An instance as list-instances shows it, used until after this benchmark."""
    now = datetime.now(UTC)
    given = label_map(activity=now, deadline=now + timedelta(days=6))
    return {
        "id": f"00000000-0000-4000-8000-{number:012x}",
        "name": "exollama",
        "state": "running",
        "created-at": "2026-11-23T12:00:00Z",
        "public-ip": "198.51.100.7",
        "mac-address": "06:0c:8e:00:00:01",
        "public-ip-assignment": "inet4",
        "instance-type": {"id": "b6cd1ff5-3a2f-4e9d-a4d1-8988c1191fe8"},
        "template": {"id": "0a1b2c3d-0000-4000-8000-000000000001"},
        "security-groups": [{"id": "0a1b2c3d-0000-4000-8000-000000000002", "name": "exollama-0123456789ab"}],
        "labels": given,
    }


@contextmanager
def endpoint(latency_s: float = 0.0, *, instances: int = 0) -> Iterator[str]:
    """Serve it for the duration, and give its EXOSCALE_API_ENDPOINT, with `{zone}` to be filled in.

    Each answer is `latency_s` late, as one from another city would be. Each zone has so many instances, in use.
    """
    answers = {
        "zone": json.dumps({"zones": [{"name": zone} for zone in ZONES]}).encode(),
        "instance": json.dumps({"instances": [_in_use(number) for number in range(instances)]}).encode(),
    }
    handler = type("Handler", (_Canned,), {"latency_s": latency_s, "answers": answers})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{{zone}}/v2"
        finally:
            server.shutdown()
            thread.join()
