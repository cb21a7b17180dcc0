"""An Exoscale endpoint with nothing to do, on a port of loopback: eight zones and no instance in any."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

ZONES = ("at-vie-1", "at-vie-2", "bg-sof-1", "ch-dk-2", "ch-gva-2", "de-fra-1", "de-muc-1", "hr-zag-1")


class _Canned(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: a delayed ACK between them would be measured

    latency_s = 0.0

    def do_GET(self) -> None:
        time.sleep(self.latency_s)
        answers = {"zone": {"zones": [{"name": zone} for zone in ZONES]}, "instance": {"instances": []}}
        answer = answers.get(self.path.partition("?")[0].rpartition("/")[2])
        body = json.dumps(answer or {"message": "Not Found"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: the table is the output."""


@contextmanager
def endpoint(latency_s: float = 0.0) -> Iterator[str]:
    """Serve it for the duration, and give its EXOSCALE_API_ENDPOINT, with `{zone}` to be filled in.

    Each answer is `latency_s` late, as one from another city would be.
    """
    handler = type("Handler", (_Canned,), {"latency_s": latency_s})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{{zone}}/v2"
        finally:
            server.shutdown()
            thread.join()
