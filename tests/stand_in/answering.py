"""How a prompt is answered, in the values of Ollama's own chat; words.py is where the words come from.

As in Ollama, every other dialect is a translation of these: native.py of generate, openai.py and responses.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.stand_in import canned, runner
from tests.stand_in.exchange import Exchange, Refused
from tests.stand_in.models import Body, now
from tests.stand_in.words import Asked, Died, Source, Spent


def answers(exchange: Exchange, asked: Asked) -> Iterator[Body]:
    """The values of a chat, the last of them done. Raises Refused before the first, Cut and Left at any time."""
    full = exchange.wanted(asked.model)
    control = exchange.controls
    if control.fail_generate:
        raise Refused(500, control.fail_generate)
    started = time.monotonic()
    source: Source = runner.words if control.runner else canned.words
    base = {"model": asked.model}
    spent = None
    said = False
    try:
        for piece in source(exchange, asked):
            if isinstance(piece, Spent):
                spent = piece
                break
            message = {"content": piece} if isinstance(piece, str) else {"content": "", **piece}
            yield {**base, "created_at": now(), "message": {"role": "assistant", **message}, "done": False}
            said = True
    except Died as died:
        if not said:
            raise Refused(500, str(died)) from None
        yield {"error": str(died)}
        return
    assert spent is not None, "a source ends with what it cost"
    exchange.models.loaded.add(full)
    if not asked.keep:
        exchange.models.loaded.discard(full)
        runner.RUNNER.stop()
    reason = ("load" if asked.keep else "unload") if asked.load else "length" if spent.limited else "stop"
    yield {**base, "created_at": now(), "message": {"role": "assistant", "content": ""},
           "done": True, "done_reason": reason, "total_duration": int((time.monotonic() - started) * 1e9),
           "load_duration": spent.load_ns, "prompt_eval_count": spent.read, "prompt_eval_duration": spent.reading_ns,
           "eval_count": spent.said, "eval_duration": spent.saying_ns}  # fmt: skip


def whole(values: Iterable[Body]) -> Body:
    """The one value that a chat without streaming answers with. Raises Refused for an error among them."""
    values = list(values)
    if "error" in values[-1]:
        raise Refused(500, values[-1]["error"])
    message: Body = {"role": "assistant", "content": "".join(value["message"]["content"] for value in values)}
    if calls := [one for value in values for one in value["message"].get("tool_calls", ())]:
        message["tool_calls"] = calls
    return {**values[-1], "message": message}


def wished_tool(tools: list[Body] | None, last: Mapping[str, Any]) -> Body | None:
    """The first tool, unless what it was called for has come back."""
    return tools[0] if tools and last.get("role") != "tool" else None


def embedded(exchange: Exchange, model: object, given: object) -> list[list[float]]:
    """One embedding per text, for a request, which loads the model. Raises Refused."""
    full = exchange.wanted(model)
    if exchange.controls.runner:
        raise Refused(501, "this model does not support embeddings")
    if exchange.controls.fail_generate:
        raise Refused(500, exchange.controls.fail_generate)
    exchange.pause(exchange.controls.load_s)
    exchange.models.loaded.add(full)
    return canned.vectors(given)
