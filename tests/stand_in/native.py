"""Ollama's own API, where a model answers: generate, chat, embed. What is done with models is in library.py."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tests.stand_in.answering import answers, embedded, whole, wished_tool
from tests.stand_in.exchange import Exchange
from tests.stand_in.models import Body
from tests.stand_in.words import Asked, text_of


def generate(exchange: Exchange) -> None:
    body = exchange.body()
    prompt = str(body.get("prompt") or "")
    asked = Asked(**_common(body), prompt=prompt, system=str(body.get("system") or ""), load=not prompt)

    def values() -> Iterator[Body]:
        for value in answers(exchange, asked):
            yield value if "error" in value else _generated(value)

    def all_of_it(parts: list[Body]) -> Body:
        return {**parts[-1], "response": "".join(part["response"] for part in parts)}

    exchange.ndjson(values(), streamed=body.get("stream", True), whole=all_of_it)


def chat(exchange: Exchange) -> None:
    body = exchange.body()
    messages = body.get("messages") or []
    last = messages[-1] if messages else {}
    tool = wished_tool(body.get("tools"), last)
    asked = Asked(**_common(body), prompt=text_of(last), messages=messages, tool=tool, load=not messages)
    exchange.ndjson(answers(exchange, asked), streamed=body.get("stream", True), whole=whole)


def _common(body: Body) -> dict[str, Any]:
    options = body.get("options") or {}
    return {
        "model": str(body.get("model") or ""),
        "format": body.get("format"),
        "options": options,
        "limit": options.get("num_predict"),
        "keep": body.get("keep_alive") not in {0, "0", "0s"},
    }


def _generated(value: Body) -> Body:
    """A value of a chat as generate gives it: words instead of a message."""
    rest = {name: one for name, one in value.items() if name not in {"message", "done"}}
    return {**rest, "response": value["message"]["content"], "done": value["done"]}


def embed(exchange: Exchange) -> None:
    body = exchange.body()
    began = time.monotonic()
    given = body.get("input", "")
    found = [vector[: body.get("dimensions") or None] for vector in embedded(exchange, body.get("model"), given)]
    texts = given if isinstance(given, list) else [given]
    counts = {"load_duration": 1000, "prompt_eval_count": sum(len(str(text).split()) for text in texts)}
    spent = int((time.monotonic() - began) * 1e9)
    exchange.json(200, {"model": body["model"], "embeddings": found, "total_duration": spent, **counts})


def embeddings(exchange: Exchange) -> None:
    """The older one, of a single prompt."""
    body = exchange.body()
    [found] = embedded(exchange, body.get("model"), str(body.get("prompt") or ""))
    exchange.json(200, {"embedding": found})
