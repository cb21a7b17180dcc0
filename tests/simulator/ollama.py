"""A stand-in for Ollama: its HTTP API, streamed token by token, with no model behind it, and it says so.

Run as a script: `ollama.py ADDRESS PORT STATE_DIRECTORY CONTROL_FILE VERSION`. STATE_DIRECTORY keeps which models were
pulled, as the container's volume does. CONTROL_FILE holds `Controls` as JSON and is read again at each request and
token, so that a running stream can be slowed down, held or cut. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import socketserver
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Body = dict[str, Any]


@dataclass(kw_only=True)
class Controls:
    """What a test may turn. Seconds are real ones; counts are of tokens within one answer."""

    token_s: float = 0.01
    load_s: float = 0.0  # before the first token
    tokens: int | None = None  # length of an answer, by repetition or cut; None: as it comes
    hold_after: int | None = None  # stand still after so many, until this is changed
    cut_after: int | None = None  # close the connection after so many, in the middle of the stream
    error_after: int | None = None  # an {"error": …} line after so many, as Ollama reports a runner that died
    pull_s: float = 0.2
    pull_hold_percent: float | None = None  # a pull stands still there
    fail_pull: str | None = None  # message
    fail_generate: str | None = None  # message, status 500
    unpullable: str = "^(no-such|missing|nonexistent)"  # models that the registry does not have
    silent: bool = False  # connections are accepted, nothing is answered

    @classmethod
    def read(cls, path: Path) -> Controls:
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            given = {}
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})


class Models:
    """The models that were pulled, by full name."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "models.json"
        self.loaded: set[str] = set()

    def names(self) -> dict[str, str]:
        try:
            names: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except OSError:
            return {}
        return names

    def keep(self, names: dict[str, str]) -> None:
        draft = self._path.with_suffix(".new")
        draft.write_text(json.dumps(names), encoding="utf-8")
        os.replace(draft, self._path)

    @staticmethod
    def full(name: str) -> str:
        return name if ":" in name.rpartition("/")[2] else name + ":latest"


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], models: Models, control: Path, version: str) -> None:
        self.models = models
        self.control = control
        self.version = version
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Cut(Exception):
    """The stream ends here, without its end."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        self.controls = Controls.read(self.server.control)
        while self.controls.silent:
            time.sleep(0.05)
            self.controls = Controls.read(self.server.control)
        raw = self._read()
        path = self.path.partition("?")[0]
        if path.startswith("/api/blobs/"):
            self._json(200 if self.command == "HEAD" else 201, None)
            return
        try:
            body = json.loads(raw or b"{}")
        except ValueError as error:
            self._json(400, {"error": str(error)})
            return
        deed = _ROUTES.get(("GET" if self.command == "HEAD" else self.command, path))
        if deed is None:
            self._json(404, {"error": "404 page not found"})
            return
        try:
            deed(self, body)
        except (Cut, OSError):
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_HEAD = do_PUT = _serve

    def _read(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # -- answers

    def _json(self, status: int, value: object) -> None:
        raw = b"" if value is None else json.dumps(value).encode()
        self._head(status, "application/json; charset=utf-8", len(raw))
        self.wfile.write(b"" if self.command == "HEAD" else raw)

    def _head(self, status: int, content_type: str, length: int | None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", content_type)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _stream(self, lines: Iterator[bytes], content_type: str = "application/x-ndjson") -> None:
        self._head(200, content_type, None)
        for line in lines:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def _ndjson(self, body: Body, values: Iterator[Body], whole: Any) -> None:
        """A stream of objects, or the one object that `whole` makes of them."""
        if body.get("stream", True):
            self._stream(json.dumps(value).encode() + b"\n" for value in values)
        else:
            answer = whole(list(values))
            self._json(500 if "error" in answer else 200, answer)

    # -- models

    def root(self, body: Body) -> None:
        raw = b"Ollama is running"
        self._head(200, "text/plain; charset=utf-8", len(raw))
        self.wfile.write(b"" if self.command == "HEAD" else raw)

    def version(self, body: Body) -> None:
        self._json(200, {"version": self.server.version})

    def tags(self, body: Body) -> None:
        self._json(200, {"models": [_entry(n, t) for n, t in self.server.models.names().items()]})

    def running(self, body: Body) -> None:
        names = self.server.models.names()
        loaded = [n for n in names if n in self.server.models.loaded]
        self._json(200, {"models": [{**_entry(n, names[n]), "expires_at": now(), "size_vram": 0} for n in loaded]})

    def show(self, body: Body) -> None:
        if name := self._wanted(body):
            details = _entry(name, "")["details"]
            self._json(200, {"modelfile": f"FROM {name}", "details": details, "capabilities": ["completion"]})

    def create(self, body: Body) -> None:
        name = Models.full(str(body.get("model") or body.get("name")))
        self.server.models.keep({**self.server.models.names(), name: now()})
        self._ndjson(body, iter([{"status": "writing manifest"}, {"status": "success"}]), lambda all_: all_[-1])

    def pull(self, body: Body) -> None:
        self._ndjson(
            body,
            self._pull(str(body.get("model") or body.get("name") or "missing")),
            lambda all_: next((v for v in all_ if "error" in v), all_[-1]),
        )

    def _pull(self, name: str) -> Iterator[Body]:
        control = self.controls
        yield {"status": "pulling manifest"}
        if control.fail_pull or re.search(control.unpullable, name):
            yield {"error": control.fail_pull or "pull model manifest: file does not exist"}
            return
        digest = hashlib.sha256(name.encode()).hexdigest()
        total, steps = 4_900_000_000, 20
        if Models.full(name) not in self.server.models.names():
            for step in range(steps + 1):
                percent = 100 * step / steps
                while (hold := Controls.read(self.server.control).pull_hold_percent) is not None and percent >= hold:
                    time.sleep(0.1)
                    yield self._layer(digest, total, percent)
                yield self._layer(digest, total, percent)
                time.sleep(control.pull_s / steps)
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self.server.models.keep({**self.server.models.names(), Models.full(name): now()})
        yield {"status": "success"}

    @staticmethod
    def _layer(digest: str, total: int, percent: float) -> Body:
        said = {"status": f"pulling {digest[:12]}", "digest": f"sha256:{digest}", "total": total}
        return {**said, "completed": int(total * percent / 100)}

    def _wanted(self, body: Body) -> str | None:
        """The full name of the model that is asked for; None once 404 was answered."""
        name = str(body.get("model") or body.get("name") or "")
        if Models.full(name) in self.server.models.names():
            return Models.full(name)
        message = f"model '{name}' not found"
        error = {"message": message, "type": "api_error", "param": None, "code": None}
        self._json(404, {"error": error if self.path.startswith("/v1/") else message})
        return None

    # -- words

    def _words(self, body: Body, prompt: str) -> Iterator[str]:
        """The tokens of an answer, at their pace. Raises Cut."""
        control = self.controls
        time.sleep(control.load_s)
        text = "No model answers here: this is the simulator's stand-in for Ollama. "
        text += f"You asked {body['model']}: {prompt}"
        text += f" System prompt: {body['system']}" if body.get("system") else ""
        if body.get("format"):
            text = json.dumps({"answer": text})
        tokens = re.findall(r"\s*\S+\s*?", text)
        limit = (body.get("options") or {}).get("num_predict", body.get("max_tokens"))
        length = control.tokens if control.tokens is not None else len(tokens)
        length = min(length, limit) if isinstance(limit, int) and limit >= 0 else length
        for index in range(length):
            control = Controls.read(self.server.control)
            while control.hold_after is not None and index >= control.hold_after:
                time.sleep(0.02)
                self._still_there()
                control = Controls.read(self.server.control)
            if control.cut_after is not None and index >= control.cut_after:
                self.connection.shutdown(socket.SHUT_RDWR)
                raise Cut
            yield tokens[index % len(tokens)]
            time.sleep(control.token_s)

    def _still_there(self) -> None:
        """Raises Cut where the client has gone, as Ollama stops for it."""
        self.connection.setblocking(False)
        try:
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise Cut
        except BlockingIOError:
            pass
        finally:
            self.connection.setblocking(True)

    def generate(self, body: Body) -> None:
        self._complete(body, str(body.get("prompt") or ""), lambda word: {"response": word})

    def chat(self, body: Body) -> None:
        self._complete(body, _last_said(body), lambda word: {"message": {"role": "assistant", "content": word}})

    def _complete(self, body: Body, prompt: str, shape: Any) -> None:
        if not self._wanted(body):
            return
        if self.controls.fail_generate:
            self._json(500, {"error": self.controls.fail_generate})
            return

        def whole(values: list[Body]) -> Body:
            if "error" in values[-1]:
                return values[-1]
            return {**values[-1], **shape("".join(_word(value) for value in values))}

        self._ndjson(body, self._parts(body, prompt, shape), whole)

    def _parts(self, body: Body, prompt: str, shape: Any) -> Iterator[Body]:
        started = time.monotonic()
        count = 0
        base = {"model": body["model"]}
        for word in self._words(body, prompt) if prompt else ():
            if self.controls.error_after is not None and count >= self.controls.error_after:
                yield {"error": "llama runner process has terminated: signal: killed"}
                return
            count += 1
            yield {**base, "created_at": now(), **shape(word), "done": False}
        self.server.models.loaded.add(Models.full(str(body["model"])))
        spent = int((time.monotonic() - started) * 1e9)
        yield {**base, "created_at": now(), **shape(""), "done": True, "done_reason": "stop" if prompt else "load",
               "total_duration": spent, "load_duration": int(self.controls.load_s * 1e9),
               "prompt_eval_count": len(prompt.split()), "prompt_eval_duration": 1000, "eval_count": count,
               "eval_duration": spent}  # fmt: skip

    def embed(self, body: Body) -> None:
        if self._wanted(body):
            given = body.get("input", body.get("prompt", ""))
            texts = given if isinstance(given, list) else [given]
            vectors = [[byte / 255 for byte in hashlib.sha256(str(text).encode()).digest()] for text in texts]
            single = self.path == "/api/embeddings"
            self._json(200, {"embedding": vectors[0]} if single else {"model": body["model"], "embeddings": vectors})

    # -- OpenAI's dialect

    def openai_models(self, body: Body) -> None:
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "library"} for n in self.server.models.names()]
        self._json(200, {"object": "list", "data": data})

    def openai_chat(self, body: Body) -> None:
        if not self._wanted(body):
            return
        base = {"id": "chatcmpl-simulator", "created": int(time.time()), "model": body["model"]}
        words = self._words(body, _last_said(body))

        def choice(delta: str, content: Body, reason: str | None) -> Body:
            return {"choices": [{"index": 0, delta: content, "finish_reason": reason}]}

        if not body.get("stream", False):
            message = {"role": "assistant", "content": "".join(words)}
            self._json(200, {**base, "object": "chat.completion", **choice("message", message, "stop")})
            return

        def events() -> Iterator[bytes]:
            for word in words:
                part = {**base, "object": "chat.completion.chunk", **choice("delta", {"content": word}, None)}
                yield b"data: " + json.dumps(part).encode() + b"\n\n"
            last = {**base, "object": "chat.completion.chunk", **choice("delta", {}, "stop")}
            yield b"data: " + json.dumps(last).encode() + b"\n\ndata: [DONE]\n\n"

        self._stream(events(), "text/event-stream")


def _entry(name: str, modified: str) -> Body:
    digest = hashlib.sha256(name.encode()).hexdigest()
    details = {"format": "gguf", "family": "simulator", "parameter_size": "0B", "quantization_level": "none"}
    entry = {"name": name, "model": name, "modified_at": modified, "size": 4_900_000_000, "digest": digest}
    return {**entry, "details": details}


def _word(value: Body) -> str:
    return str(value.get("response") or (value.get("message") or {}).get("content") or "")


def _last_said(body: Body) -> str:
    content = (body.get("messages") or [{}])[-1].get("content", "")
    return content if isinstance(content, str) else json.dumps(content)


_ROUTES: dict[tuple[str, str], Any] = {
    ("GET", "/"): Handler.root,
    ("GET", "/api/version"): Handler.version,
    ("GET", "/api/tags"): Handler.tags,
    ("GET", "/api/ps"): Handler.running,
    ("POST", "/api/show"): Handler.show,
    ("POST", "/api/pull"): Handler.pull,
    ("POST", "/api/create"): Handler.create,
    ("POST", "/api/generate"): Handler.generate,
    ("POST", "/api/chat"): Handler.chat,
    ("POST", "/api/embed"): Handler.embed,
    ("POST", "/api/embeddings"): Handler.embed,
    ("GET", "/v1/models"): Handler.openai_models,
    ("POST", "/v1/chat/completions"): Handler.openai_chat,
}


def main() -> None:
    address, port, state, control, version = sys.argv[1:]
    Server((address, int(port)), Models(Path(state)), Path(control), version).serve_forever()


if __name__ == "__main__":
    main()
