"""An Exoscale endpoint with nothing to do, on a port of loopback: eight zones, and in each as many busy instances."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from threading import Thread
from typing import Any

from tests.fakes import label_map

ZONES = ("at-vie-1", "at-vie-2", "bg-sof-1", "ch-dk-2", "ch-gva-2", "de-fra-1", "de-muc-1", "hr-zag-1")


class _Canned(asyncio.Protocol):
    """One connection. No framework: what the endpoint takes for itself is measured, too."""

    def __init__(self, answers: Mapping[str, bytes], latency_s: float) -> None:
        self._answers = answers
        self._latency_s = latency_s
        self._transport = asyncio.Transport()
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        while b"\r\n\r\n" in self._head:  # requests without bodies
            head, _, self._head = self._head.partition(b"\r\n\r\n")
            path = head.decode().split(" ", 2)[1]
            answer = self._answers.get(path.partition("?")[0].rpartition("/")[2])
            body = answer or b'{"message": "Not Found"}'
            status = "200 OK" if answer else "404 Not Found"
            said = (
                f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            asyncio.get_running_loop().call_later(self._latency_s, self._answer, said.encode() + body)

    def _answer(self, said: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(said)


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
def endpoint(latency_s: float = 0.0, *, instances: int = 0, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve it for the duration, and give its EXOSCALE_API_ENDPOINT, with `{zone}` to be filled in.

    Each answer is `latency_s` late, as one from another city would be. Each zone has so many instances, in use. With
    a `context` it speaks TLS.
    """
    answers = {
        "zone": json.dumps({"zones": [{"name": zone} for zone in ZONES]}).encode(),
        "instance": json.dumps({"instances": [_in_use(number) for number in range(instances)]}).encode(),
    }
    loop = asyncio.new_event_loop()
    # With a short backlog, the last of eight connections at once would wait a second.
    listening = loop.create_server(lambda: _Canned(answers, latency_s), "127.0.0.1", 0, ssl=context, backlog=128)
    server = loop.run_until_complete(listening)
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        scheme = "https" if context else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/{{zone}}/v2"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
