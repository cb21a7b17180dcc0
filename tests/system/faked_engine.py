"""A script in the place of the engine that runs a model: as much of llama.cpp's HTTP API as the stand-in uses.

Its template is the messages' JSON. The first piece of an answer is the request itself with this server's port, what
follows is `x`, as often as was asked for; a prompt with `die` ends the process, one with `wait` is never answered, and
one with `long` is beyond the context.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apply-template":
            self._answer(200, {"prompt": json.dumps(asked["messages"])})
        elif "long" in asked["prompt"]:
            self._answer(400, {"error": {"message": "so long", "type": "exceed_context_size_error"}})
        elif "wait" in asked["prompt"]:
            self.rfile.read(1)  # until whoever asked has gone
            self.close_connection = True
        else:
            self._stream(asked)

    def _answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = asked["n_predict"]
        for number in range(count):
            if number and "die" in asked["prompt"]:
                os._exit(3)
            self._event({"content": "x" if number else json.dumps({**asked, "port": PORT}), "stop": False})
        took = {"prompt_ms": 2.5, "prompt_n": 3, "predicted_ms": 4.5}
        last = {"stop_type": "limit", "tokens_evaluated": 3, "tokens_predicted": count, "timings": took}
        self._event({"content": "", "stop": True, **last})
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, value: Any) -> None:
        data = b"data: " + json.dumps(value).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    PORT = server.server_port
    print(f"http://127.0.0.1:{PORT}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    server.shutdown()
