"""What is answered while no instance runs: enough for a program to find the configured model and choose it.

Also which requests are uses of a model: those wake an instance and count as activity, the same ones as on the
instance itself (`cloudinit/nginx.conf`, `$activity`). Shapes: docs/api.md and openai/openai.go of
github.com/ollama/ollama. Pure. Neighbours: `client.forwarder`. Imports exchange only.
"""

import hashlib
import json
import re
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from client.exchange import Reply, error

_USES: Final = re.compile(rb"/api/(?:generate|chat|embed|embeddings|pull|create|blobs/.*)|/v1/.*", re.DOTALL)
_OURS: Final = re.compile(rb"(?:^|/)\.exollama", re.IGNORECASE)
_SHOW: Final = b"/api/show"
_LOADS: Final = (b"/api/generate", b"/api/chat")
_EMBEDS: Final = re.compile(r"embed|bge|minilm|e5", re.IGNORECASE)
_EPOCH: Final = "1970-01-01T00:00:00Z"


def is_use(method: bytes, path: bytes) -> bool:
    """Whether a request uses a model, or brings one. A path is read as nginx reads it, escapes, dots and all."""
    return method == b"POST" and _USES.fullmatch(_plain(path)) is not None


def is_ours(path: bytes) -> bool:
    """Whether a path is one of the agent's or of the forwarder's own, however it is written."""
    return _OURS.search(unquote_to_bytes(path) if b"%" in path else path) is not None


def needs_body(method: bytes, path: bytes) -> bool:
    """Whether `answer` or `unloaded` has to see the body."""
    return method == b"POST" and path in (_SHOW, *_LOADS)


def unloaded(path: bytes, body: bytes) -> Reply | None:
    """The answer to a request that only has a model unloaded, as `ollama stop` does: none is loaded. Else None."""
    said = _object(body) if path in _LOADS else {}
    stays = said.get("keep_alive")
    if (
        isinstance(stays, bool)
        or stays not in (0, "0", "0s")
        or any(said.get(name) for name in ("prompt", "messages", "input"))
    ):
        return None
    answer = {"model": said.get("model"), "created_at": _EPOCH, "done": True, "done_reason": "unload"}
    if path == b"/api/chat":
        return _json(answer | {"message": {"role": "assistant", "content": ""}})
    return _json(answer | {"response": ""})


def answer(method: bytes, path: bytes, body: bytes, *, model: str, version: str) -> Reply:
    """The answer to a request that wakes nobody. `body` is that of POST /api/show."""
    if method in (b"GET", b"HEAD"):
        found = _listed(path, model, version)
        if found is not None:
            return found
        if path.startswith(b"/api/blobs/"):
            return error(404, "no instance is running, and none keeps blobs from one life to the next")
    elif method == b"POST" and path == _SHOW:
        asked = _asked(body)
        if asked in ("", model, model.removesuffix(":latest"), f"{model}:latest"):
            return _json(_shown(model))
        return error(404, f"model '{asked}' not found")
    return error(
        503,
        "no instance is running, and this request does not wake one: the first generate, chat, embed, pull or create "
        "does",
        path=path,
    )


def _listed(path: bytes, model: str, version: str) -> Reply | None:
    if path == b"/":
        return Reply(200, b"Ollama is running", content_type=b"text/plain; charset=utf-8")
    if path == b"/api/version":
        return _json({"version": version})
    if path == b"/api/tags":
        return _json({"models": [_entry(model)]})
    if path == b"/api/ps":
        return _json({"models": []})
    card = {"id": model, "object": "model", "created": 0, "owned_by": "library"}
    if path == b"/v1/models":
        return _json({"object": "list", "data": [card]})
    if path.startswith(b"/v1/models/"):
        asked = unquote_to_bytes(path.removeprefix(b"/v1/models/")).decode("utf-8", "replace")
        if asked == model:
            return _json(card)
        return error(404, f"model '{asked}' not found", path=path)
    return None


def _asked(body: bytes) -> str:
    said = _object(body)
    return str(said.get("model") or said.get("name") or "")


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        said = None
    return said if isinstance(said, dict) else {}


def _plain(path: bytes) -> bytes:
    """A path without escapes, empty parts and dots."""
    if b"%" not in path and b"//" not in path and b"/." not in path:
        return path
    parts: list[bytes] = []
    for part in unquote_to_bytes(path).split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/" + b"/".join(parts)


def _entry(model: str) -> dict[str, Any]:
    digest = hashlib.sha256(model.encode()).hexdigest()  # of its name: the model's own is not known here
    return {
        "name": model,
        "model": model,
        "modified_at": _EPOCH,
        "size": 0,
        "digest": digest,
        "details": _details(model),
    }


def _details(model: str) -> dict[str, Any]:
    """What a name tells: the family before the colon, the parameters behind it."""
    name, _, tag = model.rpartition("/")[2].partition(":")
    parameters = re.search(r"[0-9]+(?:\.[0-9]+)?(?:x[0-9]+)?[bm]", tag or name, re.IGNORECASE)
    quantisation = re.search(r"(?:q[0-9]\w*|fp16|bf16)$", tag, re.IGNORECASE)
    return {
        "parent_model": "",
        "format": "gguf",
        "family": name,
        "families": [name],
        "parameter_size": parameters[0].upper() if parameters else "",
        "quantization_level": quantisation[0].upper() if quantisation else "",
    }


def _shown(model: str) -> dict[str, Any]:
    # Tools are claimed for what is no embedding model: a program that sees none would not offer the model at all, and
    # Ollama itself refuses them in words where the model has none.
    capabilities = ["embedding"] if _EMBEDS.search(model) else ["completion", "tools"]
    return {
        "modelfile": f"FROM {model}\n",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": {},
        "capabilities": capabilities,
        "modified_at": _EPOCH,
    }


def _json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode())
