"""What answers a machine beyond its network: Exoscale's metadata, and a registry with one image. A script.

QEMU starts it for each connection, `python gateway.py FOLDER`, and hands it that as standard input and output. The
answers are files: FOLDER/PATH for what is asked for, with `.type` beside it for its type; every path is noted in
FOLDER/asked. Standard library only.
"""

import http.server
import io
import os
import sys
from pathlib import Path


class Gateway(http.server.BaseHTTPRequestHandler):
    """Files by GET and HEAD."""

    protocol_version = "HTTP/1.1"
    timeout = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rfile, self.wfile = io.BufferedReader(io.FileIO(0)), io.BufferedWriter(io.FileIO(1, "w"))
        self.client_address = ("guest", 0)
        self.handle()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        with (self.folder / "asked").open("a") as asked:
            asked.write(f"/{path}\n")
        file = self.folder / path
        if ".." in path or not (file.is_file() or (file / "index").is_file()):
            self._answer(404, b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}')
            return
        if file.is_dir():
            file /= "index"
        kind = Path(f"{file}.type")
        self._answer(200, file.read_bytes(), kind.read_text() if kind.exists() else "application/octet-stream")

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if "/manifests/sha256:" in self.path or "/blobs/" in self.path:
            self.send_header("Docker-Content-Digest", self.path.rpartition("/")[2].partition("?")[0])
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    try:
        Gateway(Path(sys.argv[1]))
    except (BrokenPipeError, ConnectionError):
        os._exit(0)
