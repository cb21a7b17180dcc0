"""Ollama's own API, where models are listed, described, pulled, made, copied, pushed, deleted, and blobs uploaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator

from tests.stand_in.controls import Controls
from tests.stand_in.exchange import Exchange, Refused
from tests.stand_in.models import SIZE, Body, Models, entry, is_digest, now


def root(exchange: Exchange) -> None:
    exchange.raw(200, "text/plain; charset=utf-8", b"Ollama is running")


def version(exchange: Exchange) -> None:
    exchange.json(200, {"version": exchange.server.version})


def tags(exchange: Exchange) -> None:
    about = exchange.controls.about
    exchange.json(200, {"models": [entry(name, when, about) for name, when in exchange.models.names().items()]})


def running(exchange: Exchange) -> None:
    names = exchange.models.names()
    on_card = "NVIDIA_VISIBLE_DEVICES" in os.environ  # as a container has it that was given graphics cards
    more = {"expires_at": now(), "size_vram": SIZE if on_card else 0, "context_length": 4096}
    loaded = [name for name in names if name in exchange.models.loaded]
    exchange.json(200, {"models": [{**entry(name, names[name], exchange.controls.about), **more} for name in loaded]})


def show(exchange: Exchange) -> None:
    name = exchange.wanted(_named(exchange.body()))
    about = exchange.controls.about
    shown = entry(name, exchange.models.names()[name], about)
    parameters, more = (about["parameters"], []) if about else (0, ["tools", "vision", "embedding"])
    told = {
        **({} if about else {"license": "none"}),
        "modelfile": f"FROM {name}",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": shown["details"],
        "model_info": {"general.architecture": shown["details"]["family"], "general.parameter_count": parameters},
        "capabilities": ["completion", *more],
        "modified_at": shown["modified_at"],
    }
    exchange.json(200, told)


def create(exchange: Exchange) -> None:
    body = exchange.body()
    name, files = _named(body), body.get("files") or {}
    if not name:
        raise Refused(400, "invalid model name")
    if not (files or body.get("from") or body.get("modelfile")):
        raise Refused(400, "neither 'from' or 'files' was specified")
    for digest in files.values():
        if not exchange.models.has_blob(digest):
            raise Refused(400, f"blob {digest} not found")

    def values() -> Iterator[Body]:
        if body.get("from"):
            yield {"status": "using existing layer sha256:" + "0" * 64}
        yield {"status": "writing manifest"}
        exchange.models.add(name)
        yield {"status": "success"}

    _progress(exchange, body, values())


def copy(exchange: Exchange) -> None:
    body = exchange.body()
    exchange.wanted(body.get("source"))
    exchange.models.add(str(body["destination"]))
    exchange.json(200, None)


def delete(exchange: Exchange) -> None:
    exchange.models.remove(exchange.wanted(_named(exchange.body())))
    exchange.json(200, None)


def push(exchange: Exchange) -> None:
    body = exchange.body()
    name = exchange.wanted(_named(body))
    digest = hashlib.sha256(name.encode()).hexdigest()

    def values() -> Iterator[Body]:
        yield {"status": "retrieving manifest"}
        for percent in (0, 50, 100):
            exchange.pause(exchange.controls.pull_s / 3)
            yield _layer("pushing", digest, percent)
        yield {"status": "pushing manifest"}
        yield {"status": "success"}

    _progress(exchange, body, values())


def pull(exchange: Exchange) -> None:
    body = exchange.body()
    _progress(exchange, body, _pull(exchange, _named(body) or "missing"))


def _pull(exchange: Exchange, name: str) -> Iterator[Body]:
    control = exchange.controls
    yield {"status": "pulling manifest"}
    if control.fail_pull or re.search(control.unpullable, name):
        yield {"error": control.fail_pull or "pull model manifest: file does not exist"}
        return
    digest, steps = hashlib.sha256(name.encode()).hexdigest(), 20
    if Models.full(name) not in exchange.models.names():
        for step in range(steps + 1):
            percent = 100 * step / steps
            while (hold := Controls.read(exchange.server.control).pull_hold_percent) is not None and percent >= hold:
                exchange.pause(0.1)
                yield _layer("pulling", digest, percent)
            yield _layer("pulling", digest, percent)
            exchange.pause(control.pull_s / steps)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    exchange.models.add(name)
    yield {"status": "success"}


def _layer(doing: str, digest: str, percent: float) -> Body:
    said = {"status": f"{doing} {digest[:12]}", "digest": f"sha256:{digest}", "total": SIZE}
    return {**said, "completed": int(SIZE * percent / 100)}


def _progress(exchange: Exchange, body: Body, values: Iterator[Body]) -> None:
    exchange.ndjson(values, streamed=body.get("stream", True), whole=lambda all_: all_[-1])


def _named(body: Body) -> str:
    return str(body.get("model") or body.get("name") or "")


# -- blobs


def find_blob(exchange: Exchange) -> None:
    exchange.json(200 if exchange.models.has_blob(_digest(exchange)) else 404, None)


def take_blob(exchange: Exchange) -> None:
    """Hash what comes, in pieces: a blob may be larger than memory. The digest is all that is kept."""
    digest = _digest(exchange)
    known = exchange.models.has_blob(digest)
    sum_ = hashlib.sha256()
    for piece in exchange.pieces():
        sum_.update(piece)
    found = f"sha256:{sum_.hexdigest()}"
    if found != digest:
        raise Refused(400, f'digest mismatch, expected "{digest}", got "{found}"')
    exchange.models.add_blob(digest)
    exchange.json(200 if known else 201, None)


def _digest(exchange: Exchange) -> str:
    digest = exchange.route.rpartition("/")[2]
    if not is_digest(digest):
        raise Refused(400, "invalid digest format")
    return digest
