"""The words where no model runs: always the same, at the pace that the controls set, and they say what they are."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tests.stand_in.controls import Controls
from tests.stand_in.exchange import Cut, Exchange
from tests.stand_in.models import Body
from tests.stand_in.schemas import plausible
from tests.stand_in.words import Asked, Died, Spent, text_of


def words(exchange: Exchange, asked: Asked) -> Iterator[str | Body | Spent]:
    """The answer, word by word, or the call of a tool. Raises Died where a control says so, Cut and Left."""
    control = exchange.controls
    started = time.monotonic()
    if not (asked.load and not asked.keep):
        exchange.pause(control.load_s)
    tokens = _tokens(asked)
    length = control.tokens if control.tokens is not None and tokens and not asked.tool else len(tokens)
    limited = isinstance(asked.limit, int) and 0 <= asked.limit < length
    length = asked.limit if limited and asked.limit is not None else length
    for count, token in enumerate(_paced(exchange, tokens, length)):
        if control.error_after is not None and count >= control.error_after:
            raise Died("llama runner process has terminated: signal: killed")
        yield token
    read = sum(len(text_of(message).split()) for message in asked.messages or [{"content": asked.prompt}])
    spent = int((time.monotonic() - started) * 1e9)
    yield Spent(limited=limited, load_ns=int(control.load_s * 1e9), read=read, reading_ns=1000, said=length,
                saying_ns=spent)  # fmt: skip


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


def call(tool: Mapping[str, Any]) -> Body:
    """A call of this tool, with arguments of the types that its parameters have."""
    function = tool["function"]
    id_ = "call_" + hashlib.sha256(function["name"].encode()).hexdigest()[:8]
    arguments = plausible({"type": "object", **(function.get("parameters") or {})})
    return {"id": id_, "function": {"index": 0, "name": function["name"], "arguments": arguments}}


def vectors(given: object) -> list[list[float]]:
    """One embedding per text, always the same for the same text."""
    texts = given if isinstance(given, list) else [given]
    return [[byte / 255 for byte in hashlib.sha256(str(text).encode()).digest()] for text in texts]
