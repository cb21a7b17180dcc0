"""What the stand-in says to a prompt, at the pace that its controls set, in the values of Ollama's own chat.

As in Ollama, every other dialect is a translation of these: native.py of generate, openai.py and responses.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.stand_in.controls import Controls
from tests.stand_in.exchange import Cut, Exchange, Refused
from tests.stand_in.models import Body, now
from tests.stand_in.schemas import plausible


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for words, in whatever dialect it came."""

    model: str
    prompt: str
    system: str = ""
    tool: Body | None = None  # the one to call instead of answering in words
    format: Any = None
    limit: int | None = None  # tokens at most
    load: bool = False  # nothing is asked: the model is loaded, or unloaded where it is to be kept for no time
    keep: bool = True
    read: int | None = None  # words, of a whole conversation; of the prompt alone where that is all there is


def answers(exchange: Exchange, asked: Asked) -> Iterator[Body]:
    """The values of a chat, the last of them done. Raises Refused before the first, Cut and Left at any time."""
    full = exchange.wanted(asked.model)
    control = exchange.controls
    if control.fail_generate:
        raise Refused(500, control.fail_generate)
    started = time.monotonic()
    if not (asked.load and not asked.keep):
        exchange.pause(control.load_s)
    tokens = _tokens(asked)
    length = control.tokens if control.tokens is not None and tokens and not asked.tool else len(tokens)
    limited = isinstance(asked.limit, int) and 0 <= asked.limit < length
    length = asked.limit if limited and asked.limit is not None else length
    base = {"model": asked.model}
    count = 0
    for token in _paced(exchange, tokens, length):
        if control.error_after is not None and count >= control.error_after:
            died = "llama runner process has terminated: signal: killed"
            if not count:
                raise Refused(500, died)
            yield {"error": died}
            return
        count += 1
        said = {"content": token} if isinstance(token, str) else {"content": "", **token}
        yield {**base, "created_at": now(), "message": {"role": "assistant", **said}, "done": False}
    exchange.models.loaded.add(full)
    if not asked.keep:
        exchange.models.loaded.discard(full)
    reason = ("load" if asked.keep else "unload") if asked.load else "length" if limited else "stop"
    spent = int((time.monotonic() - started) * 1e9)
    read = len(asked.prompt.split()) if asked.read is None else asked.read
    yield {**base, "created_at": now(), "message": {"role": "assistant", "content": ""},
           "done": True, "done_reason": reason, "total_duration": spent, "load_duration": int(control.load_s * 1e9),
           "prompt_eval_count": read, "prompt_eval_duration": 1000, "eval_count": count,
           "eval_duration": spent}  # fmt: skip


def _tokens(asked: Asked) -> Sequence[str | Body]:
    if asked.load:
        return []
    return [{"tool_calls": [call(asked.tool)]}] if asked.tool else _words(asked)


def _paced(exchange: Exchange, tokens: Sequence[str | Body], length: int) -> Iterator[str | Body]:
    """So many of the tokens, over and over, as the controls say while they go."""
    pace_s = exchange.controls.token_s
    for index in range(length):
        control = Controls.read(exchange.server.control)
        while control.hold_after is not None and index >= control.hold_after:
            exchange.pause(0.02)
            control = Controls.read(exchange.server.control)
        if control.cut_after is not None and index >= control.cut_after:
            exchange.connection.shutdown(socket.SHUT_RDWR)
            raise Cut
        yield tokens[index % len(tokens)]
        exchange.pause(pace_s)


def _words(asked: Asked) -> list[str]:
    text = "No model answers here: this is the simulator's stand-in for Ollama. "
    text += f"You asked {asked.model}: {asked.prompt}"
    text += f" System prompt: {asked.system}" if asked.system else ""
    if isinstance(asked.format, dict) and asked.format.get("properties"):
        text = json.dumps(plausible(asked.format))
    elif asked.format:
        text = json.dumps({"answer": text})
    return re.findall(r"\s*\S+\s*?", text)


def whole(values: Iterable[Body]) -> Body:
    """The one value that a chat without streaming answers with. Raises Refused for an error among them."""
    values = list(values)
    if "error" in values[-1]:
        raise Refused(500, values[-1]["error"])
    message: Body = {"role": "assistant", "content": "".join(value["message"]["content"] for value in values)}
    if calls := [one for value in values for one in value["message"].get("tool_calls", ())]:
        message["tool_calls"] = calls
    return {**values[-1], "message": message}


def call(tool: Mapping[str, Any]) -> Body:
    """A call of this tool, with arguments of the types that its parameters have."""
    function = tool["function"]
    id_ = "call_" + hashlib.sha256(function["name"].encode()).hexdigest()[:8]
    arguments = plausible({"type": "object", **(function.get("parameters") or {})})
    return {"id": id_, "function": {"index": 0, "name": function["name"], "arguments": arguments}}


def text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, whose content is words or, with OpenAI, parts of which some are words."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part["text"]) for part in content if "text" in part)


def wished_tool(tools: list[Body] | None, last: Mapping[str, Any]) -> Body | None:
    """The first tool, unless what it was called for has come back."""
    return tools[0] if tools and last.get("role") != "tool" else None


def vectors(given: object) -> list[list[float]]:
    """One embedding per text, always the same for the same text."""
    texts = given if isinstance(given, list) else [given]
    return [[byte / 255 for byte in hashlib.sha256(str(text).encode()).digest()] for text in texts]


def embedded(exchange: Exchange, model: object, given: object) -> list[list[float]]:
    """The same for a request, which loads the model. Raises Refused."""
    full = exchange.wanted(model)
    if exchange.controls.fail_generate:
        raise Refused(500, exchange.controls.fail_generate)
    exchange.pause(exchange.controls.load_s)
    exchange.models.loaded.add(full)
    return vectors(given)
