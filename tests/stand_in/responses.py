"""OpenAI's responses as Ollama speaks them, without state: one message, or one call of a function.

openai.py has the rest of the dialect.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from tests.stand_in.answering import answers, whole, wished_tool
from tests.stand_in.exchange import Exchange
from tests.stand_in.models import Body
from tests.stand_in.openai import EVENTS
from tests.stand_in.words import Asked, text_of


def create(exchange: Exchange) -> None:
    body = exchange.body()
    asked = _asked(body)
    values = answers(exchange, asked)
    if body.get("stream"):
        exchange.stream(_numbered(_events(exchange, body, values)), EVENTS)
        return
    exchange.json(200, _response(body, whole(values)))


def _asked(body: Body) -> Asked:
    given = body.get("input") or ""
    items: list[Body] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    last = items[-1] if items else {}
    if last.get("type") == "function_call_output":
        last = {"role": "tool", "content": last.get("output")}
    instructions = str(body.get("instructions") or "")
    spoken = [item for item in items if "role" in item]
    tools = [{"function": tool} for tool in body.get("tools") or () if tool.get("type") == "function"]
    return Asked(
        model=str(body.get("model") or ""),
        prompt=text_of(last),
        system=instructions,
        messages=[{"role": "system", "content": instructions}, *spoken] if instructions else spoken,
        options=body,
        tool=wished_tool(tools, last),
        limit=body.get("max_output_tokens"),
    )


def _response(body: Body, value: Body | None) -> Body:
    """The response so far: in progress without the chat's whole value, completed with it."""
    answered: Body = {"status": "in_progress", "output": [], "usage": None}
    if value:
        counts = (value["prompt_eval_count"], value["eval_count"])
        spent = {"input_tokens": counts[0], "output_tokens": counts[1], "total_tokens": sum(counts)}
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        answered = {"status": "completed", "output": [_item(value)], "usage": {**spent, **details}}
    return {
        "id": "resp_simulator",
        "object": "response",
        "created_at": int(time.time()),
        "model": body.get("model"),
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "parallel_tool_calls": True,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        **answered,
    }


def _item(value: Body, status: str = "completed") -> Body:
    for call in value["message"].get("tool_calls", ()):
        function = call["function"]
        arguments = json.dumps(function["arguments"])
        said = {"call_id": call["id"], "name": function["name"], "arguments": arguments}
        return {"id": "fc_simulator", "type": "function_call", "status": status, **said}
    content = [_text(value["message"]["content"])] if status == "completed" else []
    return {"id": "msg_simulator", "type": "message", "status": status, "role": "assistant", "content": content}


def _text(text: str) -> Body:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _events(exchange: Exchange, body: Body, values: Iterator[Body]) -> Iterator[Body]:
    seen = [next(values)]
    called = "tool_calls" in seen[0]["message"]
    yield {"type": "response.created", "response": _response(body, None)}
    yield {"type": "response.in_progress", "response": _response(body, None)}
    yield {"type": "response.output_item.added", "output_index": 0, "item": _item(seen[0], "in_progress")}
    yield from _called(seen[0]) if called else _begun()
    while True:
        if not called and (word := seen[-1]["message"]["content"]):
            yield {"type": "response.output_text.delta", **_WHERE, "delta": word, "logprobs": []}
        if seen[-1]["done"]:
            break
        value = next(values)
        if "error" in value:
            yield {"type": "error", "code": None, "param": None, "message": value["error"]}
            return
        seen.append(value)
    done = whole(seen)
    if not called:
        text = done["message"]["content"]
        yield {"type": "response.output_text.done", **_WHERE, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **_WHERE, "part": _text(text)}
    yield {"type": "response.output_item.done", "output_index": 0, "item": _item(done)}
    yield {"type": "response.completed", "response": _response(body, done)}


_WHERE: dict[str, Any] = {"item_id": "msg_simulator", "output_index": 0, "content_index": 0}


def _begun() -> Iterator[Body]:
    yield {"type": "response.content_part.added", **_WHERE, "part": _text("")}


def _called(value: Body) -> Iterator[Body]:
    item = _item(value)
    where = {"item_id": item["id"], "output_index": 0}
    yield {"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]}
    done = {"arguments": item["arguments"], "name": item["name"]}
    yield {"type": "response.function_call_arguments.done", **where, **done}


def _numbered(events: Iterator[Body]) -> Iterator[bytes]:
    for number, event in enumerate(events):
        data = json.dumps({**event, "sequence_number": number})
        yield f"event: {event['type']}\ndata: {data}\n\n".encode()
