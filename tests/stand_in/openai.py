"""OpenAI's dialect as Ollama speaks it: models, chat completions, completions, embeddings; not responses.py's."""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from tests.stand_in.answering import answers, embedded, whole, wished_tool
from tests.stand_in.exchange import Exchange, Refused
from tests.stand_in.models import Body, unix
from tests.stand_in.words import Asked, text_of

EVENTS = "text/event-stream"


def models(exchange: Exchange) -> None:
    data = [_model(name, when) for name, when in exchange.models.names().items()]
    exchange.json(200, {"object": "list", "data": data})


def model(exchange: Exchange) -> None:
    name = unquote(exchange.route.rpartition("/")[2])
    exchange.json(200, _model(name, exchange.models.names()[exchange.wanted(name)]))


def _model(name: str, when: str) -> Body:
    return {"id": name, "object": "model", "created": unix(when), "owned_by": "library"}


def chat(exchange: Exchange) -> None:
    body = exchange.body()
    messages = body.get("messages") or []
    if not messages:
        raise Refused(400, "[] is too short - 'messages'")
    tools = None if body.get("tool_choice") == "none" else body.get("tools")
    asked = Asked(
        model=str(body.get("model") or ""),
        prompt=text_of(messages[-1]),
        messages=messages,
        options=body,
        tool=wished_tool(tools, messages[-1]),
        format=_format(body.get("response_format") or {}),
        limit=body.get("max_completion_tokens", body.get("max_tokens")),
    )

    def part(value: Body, called: bool) -> Body:
        reason = value.get("done_reason")
        delta = _message(value["message"])
        return {"index": 0, "delta": delta, "finish_reason": "tool_calls" if reason and called else reason}

    def choice(value: Body) -> Body:
        message = _message(value["message"])
        reason = "tool_calls" if "tool_calls" in message else value["done_reason"]
        return {"index": 0, "message": message, "finish_reason": reason}

    base = {"id": "chatcmpl-simulator", "model": asked.model}
    kinds = ("chat.completion", "chat.completion.chunk")
    _complete(exchange, body, asked, base=base, kinds=kinds, choice=choice, part=part)


def completions(exchange: Exchange) -> None:
    body = exchange.body()
    prompt = body.get("prompt")
    if not isinstance(prompt, str):
        raise Refused(400, "json: cannot unmarshal what is no string into field prompt")
    model_ = str(body.get("model") or "")
    asked = Asked(model=model_, prompt=prompt, options=body, limit=body.get("max_tokens"), load=not prompt)

    def choice(value: Body) -> Body:
        return {"text": value["message"]["content"], "index": 0, "finish_reason": value.get("done_reason")}

    base = {"id": "cmpl-simulator", "model": asked.model}
    kinds = ("text_completion", "text_completion")
    _complete(exchange, body, asked, base=base, kinds=kinds, choice=choice, part=lambda value, called: choice(value))


def _complete(
    exchange: Exchange,
    body: Body,
    asked: Asked,
    *,
    base: Body,
    kinds: tuple[str, str],
    choice: Callable[[Body], Body],
    part: Callable[[Body, bool], Body],
) -> None:
    """Answer with one object, or with an event for each value; with the usage in a last one where that is asked."""
    base = {**base, "created": int(time.time()), "system_fingerprint": "fp_ollama"}
    values = answers(exchange, asked)
    if not body.get("stream"):
        value = whole(values)
        exchange.json(200, {**base, "object": kinds[0], "choices": [choice(value)], "usage": usage(value)})
        return
    base["object"] = kinds[1]
    counted = (body.get("stream_options") or {}).get("include_usage")

    def events() -> Iterator[bytes]:
        called = False
        for value in values:
            if "error" in value:
                yield event(exchange.error(500, value["error"]))
                return
            called = called or "tool_calls" in value["message"]
            yield event({**base, "choices": [part(value, called)]})
            if value["done"] and counted:
                yield event({**base, "choices": [], "usage": usage(value)})
        yield b"data: [DONE]\n\n"

    exchange.stream(events(), EVENTS)


def event(value: Body) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def usage(value: Body) -> Body:
    asked, answered = value["prompt_eval_count"], value["eval_count"]
    return {"prompt_tokens": asked, "completion_tokens": answered, "total_tokens": asked + answered}


def _message(message: Body) -> Body:
    """A message of Ollama's own chat as OpenAI writes it."""
    calls = [
        {
            "id": call["id"],
            "index": call["function"]["index"],
            "type": "function",
            "function": {
                "name": call["function"]["name"],
                "arguments": json.dumps(call["function"]["arguments"]),
            },
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}


def _format(wished: Body) -> Any:
    if wished.get("type") == "json_schema":
        return (wished.get("json_schema") or {}).get("schema")
    return "json" if wished.get("type") == "json_object" else None


def embeddings(exchange: Exchange) -> None:
    body = exchange.body()
    given = body.get("input")
    if not given:
        raise Refused(400, "invalid input")
    found = [vector[: body.get("dimensions") or None] for vector in embedded(exchange, body.get("model"), given)]
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if packed else vector}
        for index, vector in enumerate(found)
    ]
    count = sum(len(str(text).split()) for text in (given if isinstance(given, list) else [given]))
    usage_ = {"prompt_tokens": count, "total_tokens": count}
    exchange.json(200, {"object": "list", "data": data, "model": body["model"], "usage": usage_})


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
